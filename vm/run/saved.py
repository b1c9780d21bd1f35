"""A session saved whole: the types. `Session.save` makes it, `Session.load` goes back to it.

It is made of values alone, so it may be loaded into any session that was set up in the same way, and any number of times.
Whoever saves several of one run shares memory between them: frames that did not change, moments, and lists that only grow.
"""

from __future__ import annotations

from typing import Any, Final, Generic, NamedTuple, Protocol, TypeVar, runtime_checkable

from kstack.hw.cpu.declared import Declared
from kstack.hw.memory import MemorySnapshot
from kstack.hw.rules import ALL
from kstack.machine import Machine, MachineSnapshot
from kstack.run.adversary import AdversaryState
from kstack.run.waiting import WaitingState
from kstack.sanitizer.sanitizer import SanitizerState
from kstack.schedule import Choice
from kstack.stacks.host.state import RuntimeState
from kstack.stacks.measure.usage import UsageState
from kstack.stacks.oracle import OracleState
from kstack.stacks.policy import Policy
from kstack.x86.addresses import PAGE

Item = TypeVar("Item")
_ENTRY: Final = 100  # bytes of an entry of a dict with what it holds, about
_PLAIN: Final = (int, float, str, bytes, type(None))


@runtime_checkable
class Saves(Protocol):
    """A part of a session that has a state of its own."""

    def save(self) -> object:
        """The state; nobody changes it."""
        ...

    def load(self, state: Any) -> None:
        """Become what `save` returned, of this object or of one that was set up in the same way."""
        ...


class Prefix(NamedTuple, Generic[Item]):
    """The first items of a list that only grows: it is shared, not copied, as long as nobody goes back to it."""

    items: list[Item]
    length: int

    @classmethod
    def of(cls, items: list[Item]) -> Prefix[Item]:
        """A list as it is now."""
        return cls(items, len(items))

    def list(self) -> list[Item]:
        """A list of its own."""
        return self.items[: self.length]


class MachineState(NamedTuple):
    """A machine's snapshot, and what is beside it: whom faults have stalled, what was told, what the host has done.

    The last is no state that decides, and not exact: engines that start empty are asked once more than those that do not. A run
    that is bounded by it may end elsewhere once it has been loaded.
    """

    snapshot: MachineSnapshot
    stalls: dict[int, int]
    told: dict[Declared, int]
    work: int

    @classmethod
    def of(cls, machine: Machine) -> MachineState:
        """The state of a machine."""
        return cls(machine.snapshot(), dict(machine.stalls), dict(machine.told), machine.work)

    def load(self, machine: Machine) -> None:
        """Let a machine become this; whoever says what arrives for an IPI goes on saying it."""
        decides = machine.decides_send.held
        machine.restore(self.snapshot)
        machine.decides_send.swap(decides)
        machine.work = self.work
        machine.stalls.update(self.stalls)
        machine.told.clear()
        machine.told.update(self.told)


class SessionState(NamedTuple):
    """All that decides how a run goes on and what it reports, but for its scheduler's."""

    machine: MachineState
    runtime: RuntimeState
    oracle: OracleState | None
    sanitizer: SanitizerState | None
    usage: UsageState | None
    injector: object
    writer: int | None
    adversary: AdversaryState | None
    ending: dict[int, str]
    marked: tuple[tuple[int, str], ...]
    events: Prefix[tuple[int, int, str]]
    choices: Prefix[Choice]
    looked: int
    idle: int
    waiting: WaitingState

    @property
    def memory(self) -> MemorySnapshot:
        """RAM: frames that are the same object in another snapshot take no memory of their own."""
        return self.machine.snapshot.memory

    @property
    def beside(self) -> int:
        """Bytes that it takes beside the frames of RAM, about."""
        entries = len(self.memory) + len(self.runtime.executor.areas.owners) + len(self.runtime.executor.variables)
        if self.oracle is not None:
            sanitizer = self.oracle.sanitizer
            entries += len(self.oracle.frames) + len(sanitizer.occurrences) + len(sanitizer.seen)
        return _ENTRY * entries + PAGE


def attributes_of(policy: Policy | None) -> dict[str, object] | None:
    """What a policy's object has for itself; None where that is more than plain values, which may change unseen."""
    own = dict(getattr(policy, "__dict__", {}))
    hidden = any(getattr(base, "__slots__", ()) for base in type(policy).__mro__)
    return None if hidden or not all(_is_plain(value) for value in own.values()) else own


def _is_plain(value: object) -> bool:
    return isinstance(value, _PLAIN) or (isinstance(value, tuple) and all(_is_plain(part) for part in value))


def set_attributes(policy: Policy | None, own: dict[str, object]) -> None:
    """Let a policy's object have these for itself, and no others."""
    if policy is not None and vars(policy) != own:
        vars(policy).clear()
        vars(policy).update(own)


def can_save(machine: Machine) -> bool:
    """Whether a snapshot of a machine is all there is to it: a broken model may cache what is in none."""
    return machine.rules == ALL
