"""kstack's emulated machine, and what observes and steers it."""
