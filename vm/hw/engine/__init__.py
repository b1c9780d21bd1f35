"""Unicorn behind one door: everything that depends on its insides is in this package."""

from kstack.hw.engine.checks import Check, CheckKind, Look
from kstack.hw.engine.engine import Engine, Features
from kstack.hw.engine.interface import Host, Intercept, MmuIndex, Stop, StopKind
from kstack.hw.engine.registers import ENGINE_MSRS, Registers, RegisterState, X87State

__all__ = [
    "ENGINE_MSRS",
    "Check",
    "CheckKind",
    "Engine",
    "Features",
    "Host",
    "Intercept",
    "Look",
    "MmuIndex",
    "RegisterState",
    "Registers",
    "Stop",
    "StopKind",
    "X87State",
]
