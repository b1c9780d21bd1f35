"""Stack policies, one a file: who proposed it, where, and its mechanism in micro-steps."""

if __name__ != "kstack.policies":
    raise ImportError(f"{__name__} is a folder of kstack's source; import it as kstack.policies")
