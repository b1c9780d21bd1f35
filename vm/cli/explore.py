"""kstack explore: all interleavings of a litmus scenario under a policy."""

from __future__ import annotations

import sys
import time
from collections import deque
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.markup import escape
from rich.text import Text

from kstack.base.documents import Document
from kstack.base.errors import ConfigError
from kstack.cli.options import Json, ModeList, ModesFrom, measured_modes
from kstack.cli.outcomes import print_outcomes
from kstack.cli.output import console, print_json, show_taken
from kstack.explore.explorer import Engine, check
from kstack.explore.explorer import explore as search
from kstack.explore.minimise import minimised
from kstack.explore.path import write_path
from kstack.explore.problem import Bounds, Outcome, Problem
from kstack.explore.transitions import StateSpace
from kstack.explore.witness import PathWitness, WitnessLine, witness
from kstack.explore.workers import executor_of
from kstack.hw.modes import Modes
from kstack.report.decisions import in_words, readings_of, shipped_breaks
from kstack.report.table import before_line, path_lanes
from kstack.report.words import modes_line
from kstack.stacks.loading.registry import find_policy

CODES = {"safe": 0, "unsafe": 1, "undecided": 4}
ASKED_NOTHING = 4
LAYERS = 5  # by which it is judged how many states are left
ORDERS = {
    "sc": "sequentially consistent",
    "tso": "x86-TSO",
    "tso-walks-memory": "x86-TSO with walks that do not see their own CPU's stores",
}


@Parameter(name="*")
@dataclass(frozen=True)
class Limits:
    """Where a search stops.

    Attributes:
        preemptions: the engine dpor's bound.
        depth: visible operations from the beginning.
        states: states kept at the most.
        budget: seconds.
        executions: walks of the engine sample.
        every_move: leave no move out that commutes with what others do.
    """

    preemptions: Annotated[int | None, Parameter(help="The engine dpor's bound (default: none).")] = None
    depth: Annotated[int | None, Parameter(help="Visible operations from the beginning (default: no bound).")] = None
    states: Annotated[int, Parameter(help="States kept at the most.")] = 2_000_000
    budget: Annotated[float | None, Parameter(help="Seconds (default: no bound).")] = None
    executions: Annotated[int, Parameter(help="Walks of the engine sample.")] = 1000
    every_move: Annotated[
        bool,
        Parameter(
            negative=(),
            help="Make every move from every state, also those that commute with all that other CPUs can do "
            "(stateful; so it is with --depth).",
        ),
    ] = False

    @property
    def bounds(self) -> Bounds:
        """What the engines take."""
        return Bounds(
            self.depth,
            self.states,
            self.budget,
            self.every_move,
            preemptions=self.preemptions,
            executions=self.executions,
        )


@Parameter(name="*")
@dataclass(frozen=True)
class Workers:
    """Who expands states, and where the search is kept.

    Attributes:
        jobs: processes.
        dask: address of a scheduler.
        checkpoint: file.
    """

    jobs: Annotated[int, Parameter(help="Processes that expand states; the outcome does not depend on it.")] = 1
    dask: Annotated[
        str | None, Parameter(help="Address of a dask.distributed scheduler whose workers expand states instead.")
    ] = None
    checkpoint: Annotated[
        Path | None, Parameter(help="File to save the search in from time to time, and to go on from if it exists.")
    ] = None


def explore(
    scenario: str,
    /,
    *,
    policy: str | None = None,
    engine: Engine = "stateful",
    limits: Limits = Limits(),
    workers: Workers = Workers(),
    witness_file: Annotated[
        Path | None, Parameter(name="--witness", help="File to write the witness to, for kstack replay.")
    ] = None,
    mode: ModeList = None,
    modes_from: ModesFrom = None,
    outcomes: Annotated[
        bool, Parameter(negative=(), help="List the final values that can be reached, instead of judging the policy.")
    ] = False,
    json: Json = False,
) -> int:
    """Try all interleavings of a litmus scenario: a proof within bounds, or the shortest way it breaks.

    Parameters
    ----------
    scenario:
        one of the litmus-... scenarios, or the TOML of one of your own; with --outcomes also a litmus test: a TOML
        with programs, or "x=1; r y | y=1; r x"
    policy:
        stack policy by id, or in a Python file: FILE.py, or FILE.py:NAME for one of several; --outcomes does without
    engine:
        all states breadth first, all executions up to the order of what does not depend, or random walks
    """
    started, progress = time.monotonic(), _Progress()
    if outcomes:
        _check_outcomes(engine, limits, workers, witness_file)
        return print_outcomes(scenario, policy, limits.bounds, measured_modes(modes_from, mode), progress, json)
    if policy is None:
        raise ConfigError("give --policy, or --outcomes to list final values")
    chosen = find_policy(policy)
    modes, taken = measured_modes(modes_from, mode)
    _check(engine, limits, workers, Problem(scenario, policy, modes))
    problem = Problem(scenario, policy, modes)
    with executor_of(workers.jobs, workers.dask) as executor:
        outcome = search(problem, limits.bounds, engine, progress, executor, workers.checkpoint)
    seconds = time.monotonic() - started
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    path = outcome.path
    if engine != "stateful" and outcome.finding is not None and path:
        seen = replace(problem, visible=tuple(sorted(outcome.visible.frames)))
        path = minimised(StateSpace(seen.world()), path, outcome.finding.kind)
    found = witness(scenario, chosen, modes, outcome.visible, path) if path else None
    if found is not None and found.finding is not None:
        outcome = replace(outcome, finding=found.finding)
    if found is not None and witness_file is not None:
        write_path(witness_file, scenario, policy, modes, outcome.visible, found)
    if json:
        bound: Document = {"depth": limits.depth, "states": limits.states, "budget": limits.budget}
        bound |= {"cut": outcome.cut, "timers": "off"}
        bound["every_move"] = engine == "stateful" and not limits.bounds.reduces
        document = _document(outcome, found, engine, bound, modes.resolved(chosen.delivery), seconds)
        print_json(document | taken.as_dict())
    else:
        _show(scenario, policy, outcome, found, modes, engine == "stateful" and limits.bounds.reduces)
        console().print(Text(modes_line(modes.resolved(chosen.delivery), given=modes, explored=True), "dim"))
        show_taken(taken)
        _warn(policy if outcome.verdict == "safe" else None, modes)
    return ASKED_NOTHING if outcome.asks_nothing else CODES[outcome.verdict]


def _check(engine: Engine, limits: Limits, workers: Workers, problem: Problem | None) -> None:
    """Find out what does not go together before anything is done.

    Raises:
        ConfigError: an option is out of range, or of another engine.
    """
    positive: dict[str, int | float | None] = {
        **vars(limits),
        "preemptions": None,
        "every_move": None,
        "jobs": workers.jobs,
    }
    for name, value in positive.items():
        if value is not None and value <= 0:
            raise ConfigError(f"--{name} {value}: give more than 0")
    elsewhere = workers.jobs > 1 or workers.dask is not None or workers.checkpoint is not None
    check(engine, limits.bounds, problem, elsewhere)


def _check_outcomes(engine: Engine, limits: Limits, workers: Workers, witness_file: Path | None) -> None:
    """The same of what does not go with --outcomes.

    Raises:
        ConfigError: an option is out of range, or not for it.
    """
    if engine != "stateful" or workers != Workers() or witness_file is not None:
        raise ConfigError(
            "--outcomes is for the engine stateful in one process; leave --jobs, --dask, --checkpoint and --witness out"
        )
    _check(engine, limits, workers, None)


class _Progress:
    """The line on a terminal that says how far a search is."""

    def __init__(self) -> None:
        self._layers: deque[int] = deque(maxlen=LAYERS + 1)

    def __call__(self, states: int, frontier: int, depth: int) -> None:
        """Told after each layer, or after each execution, which has no frontier."""
        if sys.stderr.isatty():
            self._layers.append(frontier)
            text = f"{states} states, {frontier} to expand, {depth} operations deep, {left(list(self._layers))}"
            if not frontier:
                text = f"{states} executions, the last of {depth} operations"
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def left(layers: list[int]) -> str:
    """What can be said of how many states are still to come, in words.

    Layers grow, and then shrink until none is left. As long as one of the last grew nothing is known but that these
    are left; then each layer is taken to be the same share of the one before, by the least and the greatest
    of the last shares.

    Args:
        layers: sizes of the last layers, the newest last.
    """
    if len(layers) <= LAYERS or any(after >= before for before, after in pairwise(layers)):
        return f"at least {layers[-1]} left, and no end in sight"
    shares = [after / before for before, after in pairwise(layers)]
    low, high = (round(layers[-1] / (1 - share)) for share in (min(shares), max(shares)))
    return f"{low} to {high} left if it goes on like this"


def _warn(policy: str | None, modes: Modes) -> None:
    """A policy that is safe here may be broken elsewhere, as has been explored before."""
    found = () if policy is None else shipped_breaks(policy)
    if found:
        console().print(Text(f"{policy} is {in_words(found, modes)}.", "red"))
        for reading in readings_of(found):
            console().print(Text(before_line(reading), "dim"))


def _document(
    outcome: Outcome, found: PathWitness | None, engine: str, bound: Document, modes: Modes, seconds: float
) -> Document:
    pair = found.pair if found else None
    return {
        "version": 1,
        "verdict": outcome.verdict,
        "engine": engine,
        "bound": bound,
        "modes": modes.as_dict(),
        "complete": outcome.complete,
        "exercised": outcome.exercised,
        "asks_nothing": outcome.asks_nothing,
        "stronger": list(outcome.stronger),
        "executions": None if engine == "stateful" else outcome.executions,
        "states": outcome.states,
        "steps": outcome.moves,
        "seconds": round(seconds, 3),
        "finding": None if outcome.finding is None else outcome.finding.as_dict(),
        "stuck": outcome.stuck,
        "witness": None if found is None else [_line(line) for line in found.lines],
        "minimised": None if found is None else {"steps": len(found.path), "switches": found.switches},
        "critical_pair": None
        if pair is None
        else {"store": _line(pair.store), "access": _line(pair.access), "flip": pair.flip},
    }


def _line(line: WitnessLine) -> Document:
    return {"number": line.number, "cpu": line.cpu, "what": line.what, "symbol": line.symbol}


def _show(scenario: str, policy: str, outcome: Outcome, found: PathWitness | None, modes: Modes, reduced: bool) -> None:
    out = console()
    if outcome.asks_nothing:
        out.print(
            f"{scenario} asks nothing of this policy: no access could have gone two ways, even had nothing ever been "
            "invalidated",
            style="yellow",
        )
    if outcome.stronger:
        out.print(
            f"one operation here, several in hardware: what stands at {', '.join(outcome.stronger)}; a proof does not hold for them",
            style="yellow",
        )
    if outcome.verdict == "safe":
        out.print(
            f"safe: no violation in all {outcome.states} states of {scenario} under {policy}: {outcome.moves} moves, "
            f"{outcome.depth} visible operations deep, {ORDERS[modes.memory_order]}, IPIs at any time, timers off"
            f"{', what commutes in one order' if reduced else ''}; exercised {outcome.exercised}"
        )
        return
    if outcome.verdict == "undecided":
        out.print(f"undecided: nothing found before the bound ({outcome.cut}); {outcome.moves} moves made")
        return
    what = (
        f"{outcome.finding.kind.value}: {outcome.finding.text}"
        if outcome.finding
        else f"no end can be reached from {outcome.stuck} of {outcome.states} states"
    )
    out.print(f"unsafe: {escape(what)}")
    if found is None:
        if outcome.finding is not None:
            out.print(
                "before there is a choice to make: nothing is left to explore; kstack run shows it, whatever the schedule"
            )
        return  # else it cannot even begin to end
    way = "shortest way" if outcome.shortest else "one way" if reduced else "minimised"
    out.print(f"{way}: {len(found.path)} visible operations, {found.switches} switches of CPU; replays the same")
    out.print(path_lanes(found.lines))
    if found.pair is not None:
        out.print(
            f"line {found.pair.store.number} against line {found.pair.access.number}: {found.pair.flip}, and it passes"
        )
