"""Frames, their owners, and translations that have outlived them: for the kernel of any guest, with no policy."""

from kstack.sanitizer.findings import Finding, Kind
from kstack.sanitizer.frames import Frame, FrameSource, FrameState, Owner
from kstack.sanitizer.history import Occurrence
from kstack.sanitizer.sanitizer import Sanitizer

__all__ = ["Finding", "Frame", "FrameSource", "FrameState", "Kind", "Occurrence", "Owner", "Sanitizer"]
