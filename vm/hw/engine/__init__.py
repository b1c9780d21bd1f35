"""Unicorn behind one door: everything that depends on its insides is in this package."""

from kstack.hw.engine.checks import Check, CheckKind, Look
from kstack.hw.engine.engine import Access, Engine, Host, Intercept, MmuIndex, Stop, StopKind
from kstack.hw.engine.registers import CC_FLAGS, Flags, Gpr, Registers, Seg, Segment, SegmentAttribute

__all__ = [
    "CC_FLAGS",
    "Access",
    "Check",
    "CheckKind",
    "Engine",
    "Flags",
    "Gpr",
    "Host",
    "Intercept",
    "Look",
    "MmuIndex",
    "Registers",
    "Seg",
    "Segment",
    "SegmentAttribute",
    "Stop",
    "StopKind",
]
