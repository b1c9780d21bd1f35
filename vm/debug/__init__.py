"""The debugger: a recording or a live run behind GDB's remote serial protocol, forwards and backwards."""
