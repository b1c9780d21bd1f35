"""Frames, their owners, and translations that have outlived them: for the kernel of any guest, with no policy."""
