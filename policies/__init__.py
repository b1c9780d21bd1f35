"""Stack policies, one a file: who proposed it, where, and its mechanism in micro-steps."""
