"""One service's engine: lanes, tenants, plan and decisions, without I/O."""
