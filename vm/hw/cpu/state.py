"""What a CPU is doing and what it is made of, and what it needs of the machine around it."""

from __future__ import annotations

import enum
from typing import NamedTuple, Protocol

from kstack.hw.apic.apic import ApicState
from kstack.hw.cpu.counts import CountState
from kstack.hw.cpu.declared import Declared
from kstack.hw.cpu.hooks import CpuHooks
from kstack.hw.cpu.msr import MsrState
from kstack.hw.engine import (
    RegisterState,
)
from kstack.hw.memory import PhysicalMemory
from kstack.hw.mmu.broadcast import Broadcast
from kstack.hw.mmu.moments import MmuHooks
from kstack.hw.mmu.state import MmuState
from kstack.hw.mmu.tracking import FrameTracker
from kstack.hw.modes import Modes
from kstack.hw.rules import Rule


class ActivityState(enum.Enum):
    """What a CPU is doing (SDM volume 3, 25.4.2)."""

    RUNNING = "running"
    HALTED = "halted"
    WAIT_FOR_SIPI = "waiting for SIPI"
    SHUTDOWN = "shut down"


class SliceEnd(enum.Enum):
    """Why a slice ended."""

    BUDGET = "budget"
    HALTED = "halted"
    YIELDED = "pause, or a port asked for it"
    SHUTDOWN = "shutdown"
    WORK = "bound of host work"


class Slice(NamedTuple):
    """One slice: why it ended, and the units of virtual time it took."""

    end: SliceEnd
    elapsed: int


class EventState(NamedTuple):
    """What a CPU is doing, and what waits for it.

    Attributes:
        activity: the name of its `ActivityState`.
        nmi_pending: NMIs that wait.
        nmi_blocked: they are held off, up to a return.
        unsupported: what ended it that is not modelled.
        resumed: the linear RIP to which it has returned with RF set, if nothing has run since.
        init_comes: it has sent itself an INIT.
    """

    activity: str
    nmi_pending: int
    nmi_blocked: bool
    unsupported: str | None
    resumed: int | None
    init_comes: bool


class CpuState(NamedTuple):
    """The whole of a CPU; `recent` are linear RIPs that only reports show."""

    registers: RegisterState
    mmu: MmuState
    msrs: MsrState
    apic: ApicState
    counts: CountState
    events: EventState
    recent: tuple[int, ...]


class Board(Protocol):
    """What a CPU needs of the machine it sits in."""

    memory: PhysicalMemory
    tracker: FrameTracker
    broadcast: Broadcast
    modes: Modes
    rules: frozenset[Rule]
    mmu_hooks: MmuHooks
    cpu_hooks: CpuHooks
    cpu_count: int
    work: int
    work_limit: int

    def elapse(self, units: int) -> None:
        """Virtual time has passed on the running CPU."""
        ...

    def slice_limit(self) -> int:
        """Units until the next timer, at least 1; timers that are due have fired."""
        ...

    def port_read(self, cpu: int, port: int, size: int) -> int:
        """IN."""
        ...

    def port_write(self, cpu: int, port: int, size: int, value: int) -> None:
        """OUT."""
        ...

    def external_vector(self, cpu: int) -> int | None:
        """Acknowledge a vector from the interrupt controllers of `cpu`, None if none is deliverable."""
        ...

    def withdraw(self, cpu: int, vector: int) -> None:
        """Undo `external_vector`: the vector could not be delivered and waits again."""
        ...

    def tell(self, cpu: int, declared: Declared) -> None:
        """A CPU has something set up that is not modelled."""
        ...

    def has_external(self, cpu: int) -> bool:
        """Whether a vector is deliverable to `cpu`."""
        ...

    def now(self) -> int:
        """Virtual time."""
        ...
