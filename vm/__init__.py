"""Runs guest kernels on an emulated multi-core x86-64 machine, and judges policies for dynamic kernel stacks."""

if __name__ != "kstack":
    raise ImportError(
        f"{__name__} is a folder of kstack's source; import it as kstack (kstack.stacks, kstack.testing, ...)"
    )
