"""kstack compare: the main job. Every policy against every scenario."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final

from cyclopts import Parameter

from vm.cli.options import Json, ModeList, PoolOptions, modes_of, split
from vm.cli.output import console, print_json
from vm.errors import ConfigError
from vm.hw.modes import Modes
from vm.judge import DEFAULT_SCHEDULES, Judgement, Pair, Portfolio, judge_all
from vm.recording import write_recording
from vm.report.table import print_judgements
from vm.scenarios import find_scenario
from vm.scenarios import scenarios as known_scenarios
from vm.stacks.registry import find_policy
from vm.stacks.registry import policies as known_policies

ADVERSARIAL: Final = Modes(tlb="adversarial")  # whatever the architecture allows is done to a policy that is judged


def compare(
    *,
    policies: str | None = None,
    scenarios: str | None = None,
    schedules: int = DEFAULT_SCHEDULES,
    mode: ModeList = None,
    pool: PoolOptions = PoolOptions(),
    jobs: int | None = None,
    witnesses: Path | None = None,
    strict: Annotated[bool, Parameter(negative=(), help="Exit with 1 if any policy is not safe.")] = False,
    json: Json = False,
) -> int:
    """Judge every policy against every scenario: verdicts, memory, cost.

    Parameters
    ----------
    policies: ids or files, separated by commas (default: all)
    scenarios: ids, separated by commas (default: all)
    schedules: random schedules a pair
    witnesses: folder for recordings of what was found, for `kstack replay`
    jobs: processes to use (default: one a core); the result does not depend on it
    """
    if schedules < 0:
        raise ConfigError("--schedules: give 0 or more")
    jobs = jobs if jobs is not None else min(8, os.cpu_count() or 1)
    if jobs < 1:
        raise ConfigError("--jobs: give 1 or more")
    wanted = split(policies) or list(known_policies())
    chosen = split(scenarios) or list(known_scenarios())
    for name in wanted:
        find_policy(name)
    for name in chosen:
        find_scenario(name)
    modes = modes_of(mode, ADVERSARIAL)
    portfolio = Portfolio(schedules, pool.config())
    pairs = [Pair(policy, scenario, portfolio, modes) for scenario in chosen for policy in wanted]
    judgements = list(_progress(judge_all(pairs, jobs), pairs))
    written = {} if witnesses is None else _write_witnesses(witnesses, judgements)
    if json:
        results = [judgement.as_dict(written.get(index)) for index, judgement in enumerate(judgements)]
        print_json({"version": 1, "modes": modes.as_dict(), "results": results})
    else:
        print_judgements(console(), judgements)
    return int(strict and any(judgement.safe is not True for judgement in judgements))


def _write_witnesses(folder: Path, judgements: list[Judgement]) -> dict[int, str]:
    """Write a recording for each pair that has a finding; by the pair's place, the file."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--witnesses {folder}: {error.strerror}") from error
    written: dict[int, str] = {}
    for index, judgement in enumerate(judgements):
        if judgement.witness is not None:
            path = folder / f"{judgement.policy}-{judgement.scenario}.json"
            write_recording(path, judgement.witness)
            written[index] = str(path)
    return written


def _progress(judgements: Iterator[Judgement], pairs: list[Pair]) -> Iterator[Judgement]:
    """Pass judgements on; on a terminal, say on stderr which pair is next."""
    shown = sys.stderr.isatty()
    for done, pair in enumerate(pairs, 1):
        if shown:
            text = f"{done}/{len(pairs)} {pair.policy} / {pair.scenario}"
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
        yield next(judgements)
    if shown:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
