"""Guest kernels in assembly, their assembler and linker, and the scenarios that run them."""

if __name__ != "kstack.guest":
    raise ImportError(f"{__name__} is a folder of kstack's source; import it as kstack.guest")
