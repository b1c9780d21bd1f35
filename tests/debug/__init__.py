"""The debugger: packets, timeline, stops, and real GDB sessions."""
