"""Going back in GDB: from the nearest kept moment, beside starting the run again each time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from bench.harness import Row, at_most
from kstack.debug.checkpoints import MOST
from kstack.debug.origin import Origin
from kstack.debug.points import Point, PointType
from kstack.debug.target import Target
from kstack.debug.timeline import Timeline
from kstack.kernels.kstack.scenarios import find_scenario
from kstack.machine import size
from kstack.recording import Recording
from kstack.run.options import RunOptions
from kstack.run.spec import RunSpec
from kstack.schedule import RoundRobin

STEPS: Final = 20
RUNS: Final = ("laight", "futex-sleepers")  # of 19,000 and of 305,000 units from where they begin
POLICY: Final = "switch-sp-ipi"
BOUND: Final = 0.25  # of what it takes from the beginning


def recorded(scenario: str) -> Recording:
    """A run to its end."""
    found = find_scenario(scenario)
    setup = RunSpec(scenario, found.cpus, size(found.ram), policy=POLICY, options=RunOptions(50_000_000))
    session = setup.session(RoundRobin(1000))
    return setup.recording(session.choices, session.run())


def target_of(recording: Recording, most: int) -> Target:
    """The run in a debugger, at its end."""
    target = Target(Origin.of_recording(recording), lambda line: None, lambda: False)
    if most != MOST:
        target.timeline = Timeline(target.timeline.origin, most)
    target.resume()
    return target


def steps_back(target: Target) -> None:
    """Twenty `reverse-stepi`."""
    for _ in range(STEPS):
        target.step_back(0)


def continues_back(target: Target) -> None:
    """Two `reverse-continue` to the guest's last context switches."""
    switch = target.timeline.origin.symbols.address("context_switch")
    assert switch is not None
    target.points.add(Point(PointType.HARDWARE, switch, 1))
    for _ in range(2):
        target.resume_back()


def goes_to_and_fro(target: Target) -> None:
    """Ten `monitor goto`, between the middle of the run and its end."""
    end, start = target.timeline.time, target.timeline.beginning.time
    for number in range(5):
        target.goto((start + end) // 2 + number)
        target.goto(end - number)


def seconds(recording: Recording, most: int, does: Callable[[Target], None]) -> tuple[float, int]:
    """How long that takes at the end of a run, and the virtual time at which it comes to stand."""
    target = target_of(recording, most)
    start = time.perf_counter()
    does(target)
    return time.perf_counter() - start, target.timeline.time


def forward(recording: Recording, most: int) -> float:
    """Seconds to the end, what is kept on the way included."""
    target = Target(Origin.of_recording(recording), lambda line: None, lambda: False)
    target.timeline = Timeline(target.timeline.origin, most)
    start = time.perf_counter()
    target.resume()
    return time.perf_counter() - start


def run() -> list[Row]:
    """Seconds, beside those of starting at the beginning each time; and what it costs to keep moments on the way."""
    rows = []
    for scenario in RUNS:
        recording = recorded(scenario)
        for name, does in (
            (f"{STEPS} reverse-stepi", steps_back),
            ("2 reverse-continue", continues_back),
            ("10 monitor goto", goes_to_and_fro),
        ):
            theirs, there = seconds(recording, 0, does)
            several = [seconds(recording, MOST, does) for _ in range(3)]
            if {here for _, here in several} != {there}:
                raise RuntimeError(f"backwards, {scenario}, {name}: at {several} and at {there}")
            ours = min(spent for spent, _ in several)
            target, met = at_most(ours / theirs, BOUND, f"<= {BOUND:g} of the peer")
            rows.append(Row("backwards", f"{scenario}: {name}", ours, "s", "from the beginning", theirs, target, met))
        pairs = [(forward(recording, MOST), forward(recording, 0)) for _ in range(5)]
        ours, theirs = (min(values) for values in zip(*pairs, strict=True))
        rows.append(Row("backwards", f"{scenario}: forward to its end", ours, "s", "keeping nothing", theirs))
    return rows
