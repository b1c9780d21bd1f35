"""What carries a policy's steps out on a machine."""
