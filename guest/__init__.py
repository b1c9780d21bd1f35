"""Guest kernels in assembly, their assembler and linker, and the scenarios that run them."""
