"""Fuzz targets for everything that kstack parses. `make fuzz`, or `python -m tests.fuzz TARGET --seconds N`."""
