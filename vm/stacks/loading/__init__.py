"""Policies by name and in files: found, read, and held to what a policy must be."""
