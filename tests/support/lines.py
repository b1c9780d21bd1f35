"""Runs that are gone back in: what is different about each, and recordings of them."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from kstack.fault import At, Fault, Flush, Moment, Send, Step, Where
from kstack.fault.records import When
from kstack.hw.modes import Modes
from kstack.kernels.kstack.scenarios import find_scenario
from kstack.machine import size
from kstack.recording import Recording
from kstack.run.options import RunOptions
from kstack.run.session import Session
from kstack.run.spec import RunSpec, script_of
from kstack.schedule import parse
from kstack.stacks.host.pool import PoolConfig

UNITS = 15_000


class Line(NamedTuple):
    """A run.

    Attributes:
        scenario, policy, schedule, seed: as `kstack run` takes them.
        modes: NAME=VALUE.
        faults: what goes wrong.
        order: of the pools.
    """

    scenario: str
    policy: str
    schedule: str = "random:64"
    seed: int = 3
    modes: tuple[str, ...] = ()
    faults: tuple[Fault, ...] = ()
    order: str = "lifo"

    @property
    def setup(self) -> RunSpec:
        """All but the schedule."""
        found, modes = find_scenario(self.scenario), Modes()
        for mode in self.modes:
            modes = modes.with_option(mode)
        options = RunOptions(UNITS, pool=PoolConfig(self.order, seed=self.seed), adversary=self.seed)
        return RunSpec(self.scenario, found.cpus, size(found.ram), modes, self.policy, options, self.faults)

    def session(self) -> Session:
        """It, from its beginning."""
        script = script_of(find_scenario(self.scenario)) if self.schedule == "scripted" else None
        return self.setup.session(parse(self.schedule, self.seed, script))


ADVERSARIAL = ("tlb=adversarial",)


def _fault(what: str, when: When, policy: str = "switch-sp-ipi", **fields: int | str) -> Line:
    return Line("laight", policy, faults=(Fault(what, when, **fields),))  # type: ignore[arg-type] # its own fields


LINES: dict[str, Line] = {
    "one CPU, #DF": Line("recursion", "fault-df", modes=ADVERSARIAL),
    "one CPU, FRED": Line("recursion", "fault-fred"),
    "two CPUs": Line("laight", "switch-sp-ipi", modes=ADVERSARIAL),
    "two CPUs, findings": Line("laight", "entry-exit", "scripted"),
    "two CPUs, capacity": Line("laight", "entry-exit", modes=("tlb=capacity:8",)),
    "two CPUs, PCIDs": Line("laight", "switch-sp-ipi", modes=("kernel-pages=pcid", "tlb=adversarial")),
    "two CPUs, exits": Line("exit-reuse", "switch-sp-ipi", order="seeded", modes=ADVERSARIAL),
    "three CPUs": Line("crowd", "switch-sp-deferred", modes=ADVERSARIAL),
    "three CPUs, locks": Line("litmus-gc", "multiplex", seed=4),
    "stall": _fault("stall", Moment(90_500), cpu=0, units=3_000),
    "late IPI": _fault("delay-ipi", Send(), units=900),
    "IPIs in another order": _fault("reorder-ipi", Send(2)),
    "late acknowledgement": _fault("delay-ack", Step("WaitForAck"), units=700),
    "failing hook": _fault("raise", Step("TakePage", 3), str(Path(__file__).with_name("goes_on.py"))),
    "no page": _fault("fail-alloc", Step("TakePage", 3)),
    "INVLPG that does nothing": _fault("drop-invlpg", Flush(2), "switch-sp-local"),
    "register": _fault("flip-register", Where("rax", 7), register="r11", bit=3),
    "behind an instruction": _fault("evict-tlb", At("event", nth=3, after=True), address=0xFFFFC90000016000),
    "NMI at an instruction": _fault("nmi", At("event", nth=4)),
}


@lru_cache(maxsize=32)
def recording_of(name: str) -> Recording:
    """A recording of one of LINES."""
    session = LINES[name].session()
    return LINES[name].setup.recording(session.choices, session.run())


SHRINKS_AND_KEEPS = '''
from kstack.policies.switch_sp_ipi import SwitchSpIpi
class Counts(SwitchSpIpi):
    """Keeps in its object what changes, against the contract."""
    id = "counts"
    def __init__(self):
        self.switches = START
    def switch_out(self, cpu, thread):
        CHANGE
        if self.switches ODD:
            yield from super().switch_out(cpu, thread)
'''


def hiding(folder: Path, start: str, change: str, odd: str) -> str:
    """A policy that goes by what it keeps in its object: the path of its file."""
    text = SHRINKS_AND_KEEPS.replace("START", start).replace("CHANGE", change).replace("ODD", odd)
    path = folder / "counts.py"
    path.write_text(text)
    return str(path)
