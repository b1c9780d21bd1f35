"""What an exploring CPU has in place of hardware's own choices: store buffers, page tables that are watched."""
