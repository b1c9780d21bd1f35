"""Unicorn behind one door: everything that depends on its insides is in this package."""

from kstack.hw.engine.checks import Check, CheckKind, Look
from kstack.hw.engine.engine import Engine, Host, Intercept, MmuIndex, Stop, StopKind
from kstack.hw.engine.registers import Registers

__all__ = [
    "Check",
    "CheckKind",
    "Engine",
    "Host",
    "Intercept",
    "Look",
    "MmuIndex",
    "Registers",
    "Stop",
    "StopKind",
]
