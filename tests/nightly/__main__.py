"""Long runs, `python -m tests.nightly mutation|alarms [--policies a,b] [--jobs N] [--schedules N]`: Markdown on stdout."""

from __future__ import annotations

import argparse
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat

from tests.nightly import alarms, mutation
from vm.stacks.registry import policies


def main() -> None:
    """Run what is asked for; exit with 1 if an alarm was false."""
    parser = argparse.ArgumentParser(prog="python -m tests.nightly")
    parser.add_argument("what", choices=("mutation", "alarms"))
    parser.add_argument("--policies", default="")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--schedules", type=int, default=10_000, help="a policy, for alarms")
    arguments = parser.parse_args()
    chosen = [name for name in arguments.policies.split(",") if name]
    started = time.monotonic()
    with ProcessPoolExecutor(arguments.jobs) as executor:
        if arguments.what == "mutation":
            wrong = _mutation(executor, chosen or list(policies()))
        else:
            wrong = _alarms(executor, chosen or list(alarms.SAFE), arguments.schedules)
    print(f"{time.monotonic() - started:.0f} s with {arguments.jobs} processes", file=sys.stderr)
    sys.exit(int(wrong))


def _mutation(executor: ProcessPoolExecutor, names: list[str]) -> bool:
    sites = dict(zip(names, executor.map(mutation.sites_of, names), strict=True))
    work = [(name, site, reached) for name in names for site, reached in sites[name]]
    fates = list(executor.map(mutation.fate, *zip(*work, strict=True), chunksize=1))
    killed = sum(fate.scenario is not None for fate in fates)
    print(f"{killed} of {len(fates)} mutants found.\n")
    print("| policy | step | change | found by | as |\n|---|---|---|---|---|")
    for fate in fates:
        scenario, finding = fate.scenario or "**nobody**", (fate.finding or f"nothing in {fate.runs} runs")[:90]
        print(f"| {fate.policy} | {fate.site} | {fate.change} | {scenario} | {finding} |", flush=True)
    return False


def _alarms(executor: ProcessPoolExecutor, names: list[str], schedules: int) -> bool:
    each = max(1, schedules // len(alarms.SCENARIOS))
    wrong = False
    print("| policy | scenario | schedules | stale-possible accesses | false alarms |\n|---|---|---|---|---|")
    for name in names:
        for scenario in alarms.SCENARIOS:
            starts = range(0, each, alarms.BATCH)
            counts = [min(alarms.BATCH, each - start) for start in starts]
            found = list(executor.map(alarms.batch, repeat(name), repeat(scenario), starts, counts))
            bad = [batch.alarm for batch in found if batch.alarm]
            runs, exercised = sum(batch.runs for batch in found), sum(batch.exercised for batch in found)
            wrong = wrong or bool(bad)
            print(f"| {name} | {scenario} | {runs} | {exercised} | {bad[0] if bad else 0} |", flush=True)
    return wrong


if __name__ == "__main__":
    main()
