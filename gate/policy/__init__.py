"""What the user writes: the policy file, its inheritance, and settings."""
