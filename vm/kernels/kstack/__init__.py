"""kstack's own guest kernel: hypercalls and scenarios."""
