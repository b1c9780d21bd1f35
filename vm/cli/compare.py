"""kstack compare: the main job. Every policy against every scenario."""

from __future__ import annotations

import os
import re
import sys
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from cyclopts import Parameter
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from kstack.base.documents import Document
from kstack.base.errors import ConfigError
from kstack.cli.options import Json, ModeList, ModesFrom, PoolOptions, measured_modes, split
from kstack.cli.output import console, print_json
from kstack.hw.modes import Modes
from kstack.judge.pairs import PairCheckpoint, judge_pairs
from kstack.judge.verdict import JudgedPair, Judgement, Portfolio
from kstack.kernels.known import usual_guests
from kstack.recording import write_recording
from kstack.report.comparison import Comparison
from kstack.report.decisions import shipped_breaks
from kstack.report.fleet import Fleet, estimate, find_fleet
from kstack.report.table import print_fleet, print_judgements
from kstack.stacks.loading.registry import find_policy
from kstack.stacks.loading.registry import policies as known_policies
from kstack.stacks.measure.costs import cost_model

ADVERSARIAL: Final = Modes(tlb="adversarial")  # whatever the architecture allows is done to a policy that is judged
INTERRUPTED: Final = 130
DEFAULT_BUDGET: Final = 60.0  # seconds to explore a pair


@Parameter(name="*")
@dataclass(frozen=True)
class Outputs:
    """What is made of the results, and where they are kept.

    Attributes:
        report: HTML file to write.
        witnesses: folder for recordings of what was found.
        resume: checkpoint.
        costs: cost model.
        fleet: fleet to estimate for.
    """

    report: Annotated[Path | None, Parameter(help="HTML report to write: one file that needs no network.")] = None
    witnesses: Annotated[
        Path | None, Parameter(help="Folder for recordings of what was found, for `kstack replay`.")
    ] = None
    resume: Annotated[
        Path | None, Parameter(help="Checkpoint: pairs are saved in it as they finish, and not judged again.")
    ] = None
    costs: Annotated[
        Path | None, Parameter(help="Cost model of your own (TOML, like vm/stacks/measure/costs.toml).")
    ] = None
    fleet: Annotated[str | None, Parameter(help="Estimate for a fleet: intel, arm64 or a TOML file.")] = None

    def check(self) -> None:
        """Find out before hours of work whether it can be written.

        Raises:
            ConfigError: it cannot.
        """
        if self.report is not None:
            from kstack.report.html import check_can_write

            check_can_write(self.report)
        for path in (self.witnesses, self.resume):
            if path is not None and path.exists() and path.is_dir() == (path is self.resume):
                raise ConfigError(f"{path} is {'a folder' if path.is_dir() else 'no folder'}")


def compare(
    *,
    policies: str | None = None,
    scenarios: str | None = None,
    schedules: int | None = None,
    mode: ModeList = None,
    modes_from: ModesFrom = None,
    pool: PoolOptions = PoolOptions(),
    outputs: Outputs = Outputs(),
    explore: Annotated[bool, Parameter(negative=(), help="Try all interleavings of litmus scenarios.")] = False,
    budget: float | None = None,
    jobs: int | None = None,
    strict: Annotated[
        bool, Parameter(negative=(), help="Exit with 1 if any policy is not safe; one that did nothing is not.")
    ] = False,
    json: Json = False,
) -> int:
    """Judge every policy against every scenario: verdicts, memory, cost.

    Parameters
    ----------
    policies
        Ids or files, separated by commas (default: all).
    scenarios
        Ids, separated by commas (default: all).
    schedules
        Random schedules a pair, of every scenario (default: 20, and 200 of a litmus scenario; long ones have fewer).
    budget
        Seconds that exploring a pair may take (default: 60); where it ends, the pair is undecided.
    jobs
        Processes to use (default: one a core); the result does not depend on it.
    """
    if schedules is not None and schedules < 0:
        raise ConfigError("--schedules: give 0 or more")
    seconds = _budget(explore, budget, pool)
    jobs = jobs if jobs is not None else min(8, os.cpu_count() or 1)
    if jobs < 1:
        raise ConfigError("--jobs: give 1 or more")
    model = cost_model() if outputs.costs is None else cost_model(outputs.costs)
    fleet = None if outputs.fleet is None else find_fleet(outputs.fleet)
    outputs.check()
    modes, taken = measured_modes(modes_from, mode, ADVERSARIAL)
    pairs = _pairs(policies, scenarios, Portfolio(schedules, pool.config(), explore=seconds), modes)
    done, interrupted = _judge(pairs, jobs, outputs.resume)
    judgements = [done[index] for index in sorted(done)]
    shipped = {find_policy(name).id: shipped_breaks(name) for name in dict.fromkeys(pair.policy for pair in pairs)}
    comparison = Comparison(
        tuple(judgements), modes, model, _name(outputs.costs), ADVERSARIAL, shipped, taken.lines, taken.mark
    )
    written = {} if outputs.witnesses is None else _write_witnesses(outputs.witnesses, judgements)
    if json:
        print_json(_document(comparison, fleet, written, complete=not interrupted) | taken.as_dict())
    else:
        _show(comparison, fleet)
    if interrupted:
        _say_interrupted(len(judgements), len(pairs), outputs.resume)
        return INTERRUPTED
    if outputs.report is not None:
        from kstack.report.html import write_report

        write_report(outputs.report, comparison, fleet)
    return int(strict and any(judgement.safe is not True for judgement in judgements))


def _budget(explore: bool, budget: float | None, pool: PoolOptions) -> float | None:
    """Seconds for exploring a pair; None if nothing is explored.

    Raises:
        ConfigError: an option has no meaning beside the others, or is out of range.
    """
    if not explore and budget is not None:
        raise ConfigError("--budget is for --explore; leave one out or give both")
    if budget is not None and budget <= 0:
        raise ConfigError("--budget: give more than 0 seconds")
    if explore and pool != PoolOptions():
        raise ConfigError("--explore tries everything with the policy's own pools; leave --pool, --pool-... out")
    return (DEFAULT_BUDGET if budget is None else budget) if explore else None


def _name(costs: Path | None) -> str:
    return "kstack's own" if costs is None else str(costs)


def _pairs(policies: str | None, scenarios: str | None, portfolio: Portfolio, modes: Modes) -> list[JudgedPair]:
    """All pairs of what was asked for.

    Raises:
        KstackError: a policy or scenario does not exist.
    """
    wanted = list(dict.fromkeys(split(policies) or known_policies()))
    usual = [name for name, scenario in usual_guests().scenarios().items() if not scenario.long]
    chosen = list(dict.fromkeys(split(scenarios) or usual))
    for name in wanted:
        find_policy(name)
    for name in chosen:
        usual_guests().scenario(name)
    return [JudgedPair(policy, scenario, portfolio, modes) for scenario in chosen for policy in wanted]


def _judge(pairs: list[JudgedPair], jobs: int, resume: Path | None) -> tuple[dict[int, Judgement], bool]:
    """Judgements by the pairs' places, and whether the user interrupted."""
    done: dict[int, Judgement] = {}
    with ExitStack() as stack:
        checkpoint = None if resume is None else stack.enter_context(closing(PairCheckpoint(resume, pairs)))
        progress = stack.enter_context(_progress())
        task = progress.add_task("starting", total=len(pairs))
        results = stack.enter_context(closing(judge_pairs(pairs, jobs, checkpoint)))
        try:
            for index, judgement in results:
                done[index] = judgement
                text = f"{judgement.policy} / {judgement.scenario}"
                progress.update(task, advance=1, description=text)
        except KeyboardInterrupt:
            return done, True
    return done, False


def _progress() -> Progress:
    """A bar on stderr, on a terminal only, that leaves nothing behind."""
    columns = (
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    return Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())


def _say_interrupted(done: int, total: int, resume: Path | None) -> None:
    again = f"the same command with --resume {resume} goes on" if resume else "with --resume FILE nothing would be lost"
    print(f"kstack: interrupted after {done} of {total} pairs; {again}", file=sys.stderr)


def _show(comparison: Comparison, fleet: Fleet | None) -> None:
    """Print what was found as tables."""
    print_judgements(console(), comparison)
    if fleet is not None:
        print_fleet(console(), estimate(fleet, comparison))


def _document(comparison: Comparison, fleet: Fleet | None, written: dict[int, str], complete: bool) -> Document:
    """What was found as one document."""
    marked: Document = {"mark": comparison.mark} if comparison.mark else {}
    results = [
        {
            **judgement.as_dict(written.get(index), comparison.model),
            "broken_in": _breaks(comparison, judgement),
            **marked,
        }
        for index, judgement in enumerate(comparison.judgements)
    ]
    document: Document = {"version": 1, "modes": comparison.modes.as_dict(), "results": results}
    if fleet is not None:
        document["fleet"] = estimate(fleet, comparison).as_dict()
    if not complete:
        document["complete"] = False
    return document


def _breaks(comparison: Comparison, judgement: Judgement) -> list[Document]:
    """Litmus scenarios in which a policy is broken; those explored before with their modes."""
    return [{"scenario": one.scenario, "modes": one.modes} for one in comparison.broken_in(judgement.policy)]


def _write_witnesses(folder: Path, judgements: list[Judgement]) -> dict[int, str]:
    """Write a recording for each pair that has a finding; by the pair's place, the file."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--witnesses {folder}: {error.strerror}") from error
    written: dict[int, str] = {}
    for index, judgement in enumerate(judgements):
        if judgement.witness is not None:
            name = re.sub(r"[^\w.-]", "_", f"{judgement.policy}-{judgement.scenario}")  # an id may be anything
            path = folder / f"{name}.json"
            write_recording(path, judgement.witness)
            written[index] = str(path)
    return written
