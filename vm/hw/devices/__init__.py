"""Devices behind ports, and the bus that reaches them."""
