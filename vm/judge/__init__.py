"""A policy against a scenario: runs, what they say together, and many pairs at once."""
