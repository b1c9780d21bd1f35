"""Where faults can happen in a run: all instructions of some functions, all IPIs, steps and invalidations."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final, NamedTuple, TypeVar

from kstack.base.errors import ConfigError
from kstack.fault import Fault, Flush, Moment, Send, Step
from kstack.hw.cpu.state import ActivityState, Slice, SliceEnd
from kstack.inject.trial import TrialPair, Usual, judged
from kstack.machine import Ipi
from kstack.run.session import Session
from kstack.stacks.host.call import HookCall, Interposed
from kstack.stacks.steps import PostFlush

SYSTEMATIC: Final = {
    "nmi": "an NMI at every instruction of the entry, switch and fault windows",
    "timer": "a timer interrupt at every instruction of these windows",
    "spurious-fault": "a page fault without a cause at every instruction of these windows",
    "machine-check": "a machine check at every instruction of these windows",
    "drop-ipi": "each IPI dropped",
    "duplicate-ipi": "each IPI twice",
    "delay-ipi": "each IPI late",
    "reorder-ipi": "each IPI behind the next one",
    "drop-invlpg": "each INVLPG dropped",
    "fail-alloc": "each allocation of a page failed",
    "corrupt-page": "each page that is taken full of something",
    "early-ack": "each acknowledgement believed before it is there",
    "lose-ack": "each acknowledgement lost",
    "delay-ack": "each acknowledgement late",
    "narrow-flush": "each request to flush several pages one page short",
    "raise": "the policy failing at each of its steps",
    "endless-step": "each of its steps never ending",
}
"""Faults that are tried at all their sites by name."""
LATE: Final = 2000  # units that an IPI or an acknowledgement is late
NOWHERE: Final = 0xFFFF_F000_0000_0000  # a linear address that no guest maps


class NoBaselineError(ConfigError):
    """A pair does not come to its end without a fault, so that nothing could be told of one with."""


PlaceT = TypeVar("PlaceT")


class InjectionSite(NamedTuple):
    """An instruction that is about to begin: virtual time, CPU, and where it lies."""

    time: int
    cpu: int
    symbol: str


class SentIpi(NamedTuple):
    """An IPI that was sent: its vector, and the CPU that sent it."""

    vector: int
    cpu: int


class Census(NamedTuple):
    """What happens in a run without a fault.

    Attributes:
        usual: what it takes, and comes to.
        sites: instructions of the kernel's windows.
        sends: IPIs.
        steps: by kind, how many.
        wide: which of the PostFlush steps, from 1, ask for several pages.
        flushes: INVLPGs.
        timer: the kernel's vector of its timer.
    """

    usual: Usual
    sites: tuple[InjectionSite, ...]
    sends: tuple[SentIpi, ...]
    steps: dict[str, int]
    wide: tuple[int, ...]
    flushes: int
    timer: int


class _Counting:
    """Runs a session an instruction at a time, and counts."""

    def __init__(self, session: Session) -> None:
        self._session, self._machine = session, session.machine
        self.sites: list[InjectionSite] = []
        self.sends: list[SentIpi] = []
        self.steps: dict[str, int] = {}
        self.wide: list[int] = []
        self.flushes = 0
        self._tried: dict[int, tuple[HookCall, int]] = {}
        self._names: dict[int, str | None] = {}
        windows = session.kernel.facts.windows
        self._functions = frozenset(name for names in windows.values() for name in names)
        session.injector = self
        session.runtime.decides_step.hold(self._step)
        self._machine.instruments.add(self)
        for cpu in self._machine.cpus:
            cpu.mmu.decides_invlpg.hold(self._flushed)

    def advance(self, cpu: int, units: int) -> Slice:
        """As `Machine.run`."""
        done, processor = 0, self._machine.cpus[cpu]
        while True:
            time, rip = self._machine.time, processor.linear_rip()
            name = self._name(rip)
            if name is not None and processor.state is ActivityState.RUNNING:
                self.sites.append(InjectionSite(time, cpu, name))
            piece = self._machine.run(cpu, 1)
            done += piece.elapsed
            if piece.end is not SliceEnd.BUDGET or done >= units:
                return Slice(piece.end, done)

    @property
    def pending(self) -> bool:
        """Nothing happens by itself."""
        return False

    @property
    def due(self) -> None:
        """As above."""
        return

    def come(self) -> None:
        """As above."""

    def _name(self, rip: int) -> str | None:
        """What to call an instruction of a window; None outside."""
        if rip not in self._names:
            name = self._session.symbols.name(rip)
            self._names[rip] = name if name.partition("+")[0] in self._functions else None
        return self._names[rip]

    def on_ipi(self, ipi: Ipi) -> None:
        """An IPI has left its sender."""
        self.sends.append(SentIpi(ipi.vector, ipi.source))

    def _flushed(self, address: int) -> bool:
        self.flushes += 1
        return True

    def _step(self, cpu: int, call: HookCall) -> Interposed | None:
        this, before = (call, len(call.answers)), self._tried.get(cpu)
        if before is None or before[0] is not call or before[1] != this[1]:
            self._tried[cpu] = this
            name = type(call.step).__name__
            self.steps[name] = self.steps.get(name, 0) + 1
            if isinstance(call.step, PostFlush) and call.step.pages > 1:
                self.wide.append(self.steps[name])
        return None


@lru_cache(maxsize=16)
def census(pair: TrialPair) -> Census:
    """Run a pair once, and count what can be hit; what was counted last is remembered.

    Raises:
        NoBaselineError: it does not come to its end without a fault.
    """
    session = pair.session()
    start = session.machine.time
    counting = _Counting(session)
    result = session.run()
    if result.ended != "exit":
        why = f"ends with {result.ended} without any fault: {result.reason}"
        raise NoBaselineError(f"{pair.scenario} under {pair.policy} {why}")
    found = judged(pair.scenario, result)
    usual = Usual(result.time - start, found.outcome, found.by, found.kind, result.exit_value, result.serial)
    return Census(
        usual,
        tuple(counting.sites),
        tuple(counting.sends),
        counting.steps,
        tuple(counting.wide),
        counting.flushes,
        session.kernel.facts.timer_vector,
    )


def faults_at(what: str, found: Census, limit: int) -> list[tuple[Fault, str]]:
    """A fault at all its sites, or at so many of them, evenly: each with its site in words.

    Args:
        what: one of SYSTEMATIC.
        found: the sites.
        limit: how many at most.

    Raises:
        ConfigError: there is no such fault.
    """
    if what not in SYSTEMATIC:
        raise ConfigError(f"--faults {what}: one of all, {', '.join(SYSTEMATIC)}")
    if what in ("nmi", "timer", "spurious-fault", "machine-check"):
        more: dict[str, Any] = {"timer": {"vector": found.timer}, "spurious-fault": {"address": NOWHERE}}.get(what, {})
        return [
            (Fault(what, Moment(site.time), cpu=site.cpu, **more), f"{site.symbol} on CPU {site.cpu} at {site.time}")
            for site in _evenly(list(found.sites), limit)
        ]
    if what.endswith("-ipi"):
        more = {"units": LATE} if what == "delay-ipi" else {}
        sends = [(number, *send) for number, send in enumerate(found.sends, 1)]
        return [
            (Fault(what, Send(number), **more), f"IPI {number}, {vector:#x} of CPU {cpu}")
            for number, vector, cpu in _evenly(sends, limit)
        ]
    if what == "drop-invlpg":
        return [(Fault(what, Flush(number)), f"INVLPG {number}") for number in _evenly(_upto(found.flushes), limit)]
    steps = {
        "fail-alloc": ("TakePage", "AllocPage"),
        "corrupt-page": ("TakePage", "AllocPage"),
        "narrow-flush": ("PostFlush",),
    }
    steps |= dict.fromkeys(("early-ack", "lose-ack", "delay-ack"), ("WaitForAck",))
    more = {"units": LATE} if what == "delay-ack" else {}
    if what == "narrow-flush":
        places = [("PostFlush", number) for number in found.wide]
    elif what in steps:
        places = [(name, number) for name in steps[what] for number in _upto(found.steps.get(name, 0))]
    else:
        places = [("", number) for number in _upto(sum(found.steps.values()))]
    return [
        (Fault(what, Step(name, number), **more), f"{name or 'step'} {number}")
        for name, number in _evenly(places, limit)
    ]


def _upto(count: int) -> list[int]:
    return list(range(1, count + 1))


def _evenly(places: list[PlaceT], limit: int) -> list[PlaceT]:
    """So many of them, evenly spread, the first and the last among them."""
    if len(places) <= limit:
        return places
    if limit == 1:
        return places[:1]
    return [places[number * (len(places) - 1) // (limit - 1)] for number in range(limit)]
