"""All that a session is, as plain values that can be compared: every attribute of every object that it reaches.

What is left out is named here: caches that decide nothing, wiring, and what depends on where a run was cut into pieces. So an
attribute that somebody adds is compared, whether it is saved with a session or not.
"""

from __future__ import annotations

import enum
import random
from collections import deque
from collections.abc import Mapping
from types import FunctionType, GeneratorType, MethodType
from typing import Any, Final

import msgspec

from kstack.fault import Injector
from kstack.hw.engine import Registers
from kstack.hw.instruments import Hooks, Slot
from kstack.hw.memory import PhysicalMemory
from kstack.load import Symbols
from kstack.machine import Machine
from kstack.run.session import Session
from kstack.run.writes import Writes
from kstack.stacks.host.call import HookCall
from kstack.stacks.host.watch import Watch
from kstack.stacks.oracle import Oracle

_LEFT_OUT: Final = {"saved", "_saved", "_actions", "_draw"}  # shared with states, or made of what is compared
_WIRING: Final = (Symbols, Hooks, Watch, PhysicalMemory)  # RAM is compared as the machine's


def everything(session: Session) -> Any:
    """A session as plain values; two are the same run at the same place if these are equal."""
    return _Plain(session).of(session)


class _Plain:
    """Makes values plain. An object that comes a second time is its number, so that who has the same one is compared, too.

    Args:
        session: whose hooks in flight are those that count.
    """

    def __init__(self, session: Session) -> None:
        self._numbers: dict[int, int] = {}
        self._in_flight = [call for calls in session.runtime.calls for call in calls]

    def of(self, value: Any) -> Any:
        """Anything."""
        if value is None or isinstance(value, bool | int | float | str | bytes | bytearray):
            return value
        if isinstance(value, enum.Enum):
            return str(value)
        if isinstance(value, deque):
            return [value.maxlen, *(self.of(part) for part in value)]
        if isinstance(value, tuple | list):
            return [self.of(part) for part in value]
        if isinstance(value, set | frozenset):
            return sorted(repr(self.of(part)) for part in value)
        if isinstance(value, Mapping):
            return [(self.of(key), self.of(part)) for key, part in value.items()]
        if isinstance(value, random.Random):
            return value.getstate()
        if isinstance(value, msgspec.Struct):
            return repr(value)
        if isinstance(value, MethodType):
            return type(value.__self__).__name__, value.__name__
        if isinstance(value, FunctionType | type):
            return value.__qualname__
        if isinstance(value, GeneratorType):
            return self._generator(value)
        if isinstance(value, _WIRING):
            return type(value).__name__
        return self._object(value)

    def _object(self, value: Any) -> Any:
        number = self._numbers.get(id(value))
        if number is not None:
            return f"#{number}"
        self._numbers[id(value)] = len(self._numbers)
        if isinstance(value, Machine):
            return self._machine(value)
        if isinstance(value, Slot):
            return self.of(value.held)
        found = {name: part for name, part in vars(value).items() if name not in _LEFT_OUT}
        if isinstance(value, Oracle):
            found["holders"] = {frame: call for frame, call in sorted(value.holders.items()) if self._counts(call)}
        if isinstance(value, Injector):
            places = [place for place, (call, _) in value._tried.items() if self._counts(call)]
            found |= {"_tried": {place: value._tried[place] for place in places}}
            found |= {"_hit": {place: value._hit[place] for place in places}}
        if isinstance(value, Writes):
            del found["writes"]  # those to come are its owner's
        return type(value).__name__, [(name, self.of(part)) for name, part in found.items()]

    def _counts(self, call: HookCall) -> bool:
        """Whether a hook has not ended: one that has is the same as none."""
        return any(call is other for other in self._in_flight)

    def _generator(self, hook: GeneratorType[Any, Any, Any]) -> Any:
        """Where a hook stands, with all that it has there."""
        frame = hook.gi_frame
        if frame is None:
            return "ended"
        inner = hook.gi_yieldfrom
        inside = self._generator(inner) if isinstance(inner, GeneratorType) else None
        own = {name: part for name, part in frame.f_locals.items() if not isinstance(part, GeneratorType)}
        return frame.f_lineno, frame.f_lasti, self.of(own), inside

    def _machine(self, machine: Machine) -> Any:
        """Softmmus, translated code and what tracks them are no state, nor is what the host has done."""
        snapshot = machine.snapshot()
        cpus = [(Registers.canonical_of(cpu[0]), self.of(cpu[1:-1])) for cpu in snapshot.cpus]  # without the last stops
        rest = self.of(snapshot[2:])
        kept = [
            machine.memory.digest(),
            machine.stalls,
            machine.told,
            machine.strict,
            machine.hold_ipis,
            machine.decides_send.held,
        ]
        asked = [(cpu.mmu.decides_invlpg.held, cpu.hears_return.held) for cpu in machine.cpus]
        return cpus, rest, self.of(kept), self.of(asked), machine.state_hash()


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    """Where two plain values differ: the path to each difference, with both."""
    if one == other:
        return []
    both = isinstance(one, list | tuple) and isinstance(other, list | tuple)
    if not both or len(one) != len(other):
        return [f"{where}: {one!r:.100} and {other!r:.100}"]
    name = one[0] if one and isinstance(one[0], str) else ""
    return [
        line
        for number, (part, another) in enumerate(zip(one, other, strict=True))
        for line in differences(part, another, f"{where}/{name if number and name else number}")
    ]
