"""Runs guest kernels on an emulated multi-core x86-64 machine, and judges policies for dynamic kernel stacks.

What users may import, and what documents and the template use:

    kstack.stacks      what policies are made of: hooks, micro-steps, idioms
    kstack.sanitizer   stale translations and their use, for any kernel
    kstack.fault       faults as values, and who injects them
    kstack.explore     all interleavings of a litmus scenario
    kstack.run         runs: set up, run, recorded, repeated
    kstack.testing     pytest plugin, strategies, conformance kits, mutants
    kstack.devices     devices of one's own

The names are those in each `__all__`; `kstack.testing.plugin` and `kstack.testing.strategies` are public too. Everything else is
private, and may be another thing in the next version.
"""

PUBLIC = ("stacks", "sanitizer", "fault", "explore", "run", "testing", "devices")

if __name__ != "kstack":
    raise ImportError(
        f"{__name__} is a folder of kstack's source; import it as kstack (kstack.stacks, kstack.testing, ...)"
    )
