"""What a drawing says that a CPU held, it held: beside what the CPUs' TLBs themselves tell."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest

from kstack.hw.mmu.moments import Drop, Fill
from kstack.hw.modes import Modes
from kstack.judge.verdict import Portfolio
from kstack.kernels.kstack.scenarios import find_scenario
from kstack.machine import Machine
from kstack.report.witness import HEAD, ROW, lanes
from kstack.run.options import RunOptions
from kstack.run.spec import boot
from kstack.sanitizer.findings import Finding
from kstack.stacks.loading.registry import find_policy

PAIRS: Final = (
    ("switch-sp-shared", "quiet-then-deep-migrate"),
    ("entry-exit", "laight"),
    ("switch-sp-local", "wilcox"),
    ("accessed-plain", "walker-race"),
)
END: Final = 1 << 62


class Held:
    """While which CPU's data or code TLB had a translation of which page to which frame, of virtual time."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.spans: list[tuple[int, int, int, int, int]] = []  # CPU, page, frame, from, to
        self._open: dict[tuple[int, int, int], int] = {}

    def on_fill(self, moment: Fill) -> None:
        key = moment.cpu, moment.address & ~0xFFF, moment.translation.frame
        self._open.setdefault(key, self._machine.now())

    def on_drop(self, moment: Drop) -> None:
        key = moment.cpu, moment.address, moment.frame
        if key in self._open:
            self.spans.append((*key, self._open.pop(key), self._machine.now()))

    def covers(self, cpu: int, page: int, frame: int, first: int, last: int) -> bool:
        spans = [*self.spans, *((*key, start, END) for key, start in self._open.items())]
        return any(span[:3] == (cpu, page, frame) and span[3] <= first and last <= span[4] for span in spans)


def found(policy: str, name: str) -> Iterator[tuple[Finding, Held]]:
    """The first findings of some runs, each with the truth."""
    scenario, kind = find_scenario(name), find_policy(policy)
    booted = boot(scenario, modes=Modes(tlb="adversarial").resolved(kind.delivery))
    for seed, schedule in enumerate(Portfolio(2).runs(scenario)):
        session = booted.session(kind(), schedule, RunOptions(scenario.max_instructions, adversary=seed, hashed=False))
        held = Held(session.machine)
        session.machine.instruments.add(held)
        session.run()
        assert session.oracle is not None
        yield from ((finding, held) for finding in session.oracle.findings[:2] if finding.history)


@pytest.mark.parametrize(("policy", "scenario"), PAIRS)
def test_a_cpu_held_what_is_drawn_as_held(policy: str, scenario: str) -> None:
    bars = 0
    for finding, held in found(policy, scenario):
        drawn, pages = (
            lanes(finding),
            {getattr(one, "owner", ""): getattr(one, "address", 0) for one in finding.history},
        )
        for bar in (bar for bar in drawn.bars if bar.kind == "tlb"):
            first, last = (finding.history[(y - HEAD - ROW // 2) // ROW].time for y in (bar.top, bar.bottom))
            words = bar.title.split()  # CPU 1 holds thread 3 page 1 → 0x1000
            page = pages[" ".join(words[3:7])]
            if (
                bar.top > HEAD + ROW // 2
            ):  # one that was there before the drawing begins may have come before the run did
                assert held.covers(int(words[1]), page, int(words[-1], 16), first, last), (bar.title, first, last)
                bars += 1
    assert bars, "something is drawn"
