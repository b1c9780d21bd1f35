"""What kstack knows of the kernels that guests run: one folder a kernel."""
