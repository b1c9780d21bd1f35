"""kstack inject: what happens to a scenario under a policy when something goes wrong."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter
from rich.text import Text

from kstack.base.documents import Document
from kstack.base.errors import ConfigError
from kstack.base.html import check_can_write
from kstack.cli.options import Json, ModeList, ModesFrom, split
from kstack.cli.output import console, print_json, show_taken
from kstack.inject.campaign import LIMIT, Wanted, batches, read_campaign, run
from kstack.inject.examples import Example, everything, make_folder, record, shortest
from kstack.inject.sites import SYSTEMATIC
from kstack.inject.trial import NOT_FIRED, OUTCOMES, TrialOutcome, TrialPair
from kstack.probe.taken import taken_from
from kstack.report.faults import Found, matrix, write_matrix
from kstack.report.words import modes_line


@Parameter(name="*")
@dataclass(frozen=True)
class Work:
    """How much is tried, by whom, and where it is kept.

    Attributes:
        limit: sites a fault and pair.
        jobs: processes.
        resume: file.
        recordings: folder.
        every: recordings of all trials.
    """

    limit: Annotated[
        int | None,
        Parameter(help=f"Sites that a fault is tried at in a pair, at most, evenly spread (default: {LIMIT})."),
    ] = None
    jobs: Annotated[int, Parameter(help="Worker processes; no outcome depends on it.")] = 1
    resume: Annotated[Path | None, Parameter(help="File to keep outcomes in, and to go on from if it exists.")] = None
    recordings: Annotated[
        Path | None,
        Parameter(
            help="Folder for a recording of the shortest trial of each fault and outcome, its schedule made as simple as can be."
        ),
    ] = None
    every: Annotated[bool, Parameter(help="Record every trial there, as it was.", negative="")] = False


def inject(
    scenario: str | None = None,
    /,
    *,
    policy: str | None = None,
    faults: Annotated[str | None, Parameter(help=f"Comma-separated: all, {', '.join(SYSTEMATIC)}.")] = None,
    campaign: Annotated[Path | None, Parameter(help="TOML file that declares a campaign instead.")] = None,
    work: Work = Work(),
    mode: ModeList = None,
    modes_from: ModesFrom = None,
    report: Annotated[
        Path | None, Parameter(help="HTML page to write: the matrix, and what each cell is made of.")
    ] = None,
    json: Json = False,
) -> int:
    """Inject faults, one a trial, and say what each comes to: masked, detected, wrong data, a hang or a shutdown.

    Parameters
    ----------
    scenario:
        scenarios by name, comma-separated, or all
    policy:
        stack policies by id or file (FILE.py, FILE.py:NAME), comma-separated, or all
    """
    if work.jobs < 1:
        raise ConfigError(f"--jobs {work.jobs}: give 1 or more")
    if work.every and work.recordings is None:
        raise ConfigError("--every: say where, with --recordings FOLDER")
    if report is not None:
        check_can_write(report)
    taken = taken_from(modes_from, mode)
    wanted = _wanted(scenario, policy, faults, campaign, work, [*(mode or []), *taken.options])
    if work.recordings is not None:
        make_folder(work.recordings)
    refused: dict[TrialPair, str] = {}
    found = list(run(batches(wanted), work.jobs, work.resume, _progress, refused.__setitem__))
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    if not any(outcomes for _, outcomes in found):
        raise ConfigError(
            "; ".join(refused.values()) or "nothing to try: none of these faults has a site in these runs"
        )
    for why in refused.values():
        print(f"kstack: not tried: {why}", file=sys.stderr)
    _say_what_did_not_happen([one for _, outcomes in found for one in outcomes])
    examples = [] if work.recordings is None else _record(work.recordings, found, work.every)
    if report is not None:
        write_matrix(report, found, examples, taken.lines)
    if json:
        print_json(_document(found, examples, refused) | taken.as_dict())
    else:
        console().print(matrix(found))
        console().print(Text(modes_line(found[0][0].pair.modes), "dim"))
        show_taken(taken)
        for pair, outcome, place in examples if not work.every else []:
            print(f"{outcome.fault.what}, {outcome.outcome} ({pair.policy}, {pair.scenario}): kstack replay {place}")
    return 1 if any(_is_unexpected(one) for _, outcomes in found for one in outcomes) else 0


def _say_what_did_not_happen(outcomes: list[TrialOutcome]) -> None:
    """On stderr: a trial whose fault did not happen has shown nothing."""
    missed = [one for one in outcomes if one.fired is None]
    if missed:
        first = f"{missed[0].fault.what} {missed[0].site}: {missed[0].text}"
        print(f"kstack: {len(missed)} of {len(outcomes)} faults did not happen, as {first}", file=sys.stderr)


def _is_unexpected(one: TrialOutcome) -> bool:
    """Neither masked, nor detected by the guest or the policy, whose business that is."""
    return one.outcome != "masked" and not (one.outcome == "detected" and one.by in ("guest", "policy"))


def _wanted(
    scenario: str | None,
    policy: str | None,
    faults: str | None,
    campaign: Path | None,
    work: Work,
    mode: list[str],
) -> Wanted:
    if campaign is not None:
        if any(one is not None for one in (scenario, policy, faults, work.limit)) or mode:
            raise ConfigError(
                "--campaign says all of it: give no scenario, --policy, --faults, --limit, --mode or --modes-from beside it"
            )
        return read_campaign(campaign)
    if scenario is None or policy is None:
        raise ConfigError("give a scenario and --policy, or --campaign FILE")
    chosen = split(faults) or ["all"]
    modes = {name: value for name, _, value in (part.partition("=") for part in mode)}
    return Wanted(
        split(policy) or [],
        split(scenario) or [],
        list(SYSTEMATIC) if chosen == ["all"] else chosen,
        [],
        LIMIT if work.limit is None else work.limit,
        modes,
    )


def _progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{done} of {total} batches", end="", file=sys.stderr, flush=True)


def _record(folder: Path, found: Found, every: bool) -> list[Example]:
    if every:
        return record(folder, everything(found))
    from kstack.testing.trials import simpler

    return record(folder, shortest(found), simpler)


def _document(found: Found, examples: list[Example], refused: dict[TrialPair, str]) -> Document:
    places = {(example.pair, example.outcome): str(example.path) for example in examples}
    trials = []
    totals: Counter[str] = Counter()
    for batch, outcomes in found:
        for one in outcomes:
            totals[one.column] += 1
            trials.append(
                {
                    "fault": msgspec.to_builtins(one.fault),
                    "where": one.site,
                    "policy": batch.pair.policy,
                    "scenario": batch.pair.scenario,
                    "fired": one.fired is not None,
                    "outcome": one.outcome,
                    "by": one.by,
                    "finding": one.kind,
                    "text": one.text,
                    "recording": places.get((batch.pair, one)),
                }
            )
    summary = {**{name: totals[name] for name in OUTCOMES}, "not_fired": totals[NOT_FIRED]}
    return {
        "version": 1,
        "modes": found[0][0].pair.modes.as_dict(),
        "trials": trials,
        "refused": list(refused.values()),
        "summary": {"trials": len(trials), **summary},
    }
