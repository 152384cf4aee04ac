"""Programs on the other side of the gate: workers, job clients, pacers and alert consumers."""
