"""Long runs, `python -m tests.nightly mutation|exploring|seeded|decisions|injected|alarms|hostile|transistency [--policies a,b] [--scenarios x,y] [--write] [--jobs N] [--schedules N] [--count N] [--report FILE]`: Markdown on stdout."""

from __future__ import annotations

import argparse
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path

from kstack.hw.modes import READINGS, Modes
from kstack.inject.campaign import TrialBatch
from kstack.report.decisions import FILE, Reading, write_decisions
from kstack.report.faults import write_matrix
from kstack.report.words import modes_line
from kstack.stacks.loading.registry import policies
from tests.nightly import alarms, decisions, exploring, hostile, injected, mutation, seeded, transistency
from tests.support.shapes import SHAPES


def main() -> None:
    """Run what is asked for; exit with 1 if an alarm was false, a guest did harm, or two machines differ."""
    parser = argparse.ArgumentParser(prog="python -m tests.nightly")
    kinds = ("mutation", "exploring", "seeded", "decisions", "injected", "alarms", "hostile", "transistency")
    parser.add_argument("what", choices=kinds)
    parser.add_argument("--policies", default="")
    parser.add_argument("--scenarios", default="", help="litmus ones, for decisions")
    parser.add_argument("--write", action="store_true", help="keep decisions as those that come with kstack")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--sites", type=int, help="a fault and pair, for injected (default: 500, and 25 of some faults)"
    )
    parser.add_argument("--report", type=Path, help="HTML page, of injected")
    parser.add_argument("--schedules", type=int, default=10_000, help="a policy, for alarms")
    parser.add_argument("--count", type=int, default=100_000, help="of hostile guests, of each generator")
    parser.add_argument("--seeds", type=int, default=1_000, help="random programs, for transistency")
    arguments = parser.parse_args()
    chosen = [name for name in arguments.policies.split(",") if name]
    started = time.monotonic()
    with ProcessPoolExecutor(arguments.jobs) as executor:
        if arguments.what == "mutation":
            wrong = _mutation(executor, chosen or list(policies()))
        elif arguments.what == "exploring":
            wrong = _exploring(executor, chosen or list(policies()))
        elif arguments.what == "seeded":
            wrong = _seeded(executor, chosen)
        elif arguments.what == "decisions":
            places = [name for name in arguments.scenarios.split(",") if name]
            wrong = _decisions(executor, chosen, places, arguments.write)
        elif arguments.what == "injected":
            wrong = _injected(executor, chosen or list(policies()), arguments.sites, arguments.report)
        elif arguments.what == "hostile":
            wrong = _hostile(executor, arguments.count)
        elif arguments.what == "transistency":
            wrong = _transistency(executor, arguments.seeds)
        else:
            wrong = _alarms(executor, chosen or list(alarms.SAFE), arguments.schedules)
    print(f"{time.monotonic() - started:.0f} s with {arguments.jobs} processes", file=sys.stderr)
    sys.exit(int(wrong))


def _mutation(executor: ProcessPoolExecutor, names: list[str]) -> bool:
    sites = dict(zip(names, executor.map(mutation.sites_of, names), strict=True))
    work = [(name, site, reached) for name in names for site, reached in sites[name]]
    for modes in (mutation.MODES, mutation.SILENT):
        print(modes_line(modes) + "\n")
    print("| policy | step | change | found by | as |\n|---|---|---|---|---|")
    fates: list[mutation.Fate] = []
    for one in executor.map(mutation.fate, *zip(*work, strict=True), chunksize=1):
        fate = mutation.as_elsewhere(one, fates)
        fates.append(fate)
        scenario = fate.scenario or ("nobody" if fate.equivalent else "**nobody**")
        finding = (fate.finding or f"{fate.equivalent or 'nothing'} ({fate.runs} runs)")[:160]
        print(f"| {fate.policy} | {fate.site} | {fate.change} | {scenario} | {finding} |", flush=True)
    killed = sum(fate.scenario is not None for fate in fates)
    same = sum(fate.equivalent is not None for fate in fates)
    left = len(fates) - killed - same
    print(f"\n{killed} of {len(fates)} mutants found, {same} are no different from the policy, {left} survive.")
    return False


def _exploring(executor: ProcessPoolExecutor, names: list[str]) -> bool:
    sites = dict(zip(names, executor.map(exploring.sites_of, names), strict=True))
    work = [(name, *site) for name in names for site in sites[name]]
    print(modes_line(Modes(df_restart="exact"), explored=True) + "\n")
    hunted: list[exploring.Hunted] = []
    for one in executor.map(exploring.hunt, *zip(*work, strict=True), chunksize=1):
        hunted.append(one)
        print(
            f"{len(hunted)} of {len(work)}: {one.policy} {one.site}: {one.program or one.otherwise[:80]}",
            file=sys.stderr,
            flush=True,
        )
    print(exploring.table(hunted))
    return False


def _seeded(executor: ProcessPoolExecutor, names: list[str]) -> bool:
    work = [one for one in seeded.seeds() if not names or one[0].policy in names]
    found = list(executor.map(seeded.hunt, *zip(*work, strict=True), chunksize=1))
    if not names:
        found += executor.map(seeded.hunt_guest, range(len(seeded.GUEST)))
    print(modes_line(seeded.MODES, explored=True) + "\n\n" + seeded.table(found))
    return False


def _decisions(executor: ProcessPoolExecutor, names: list[str], places: list[str], write: bool) -> bool:
    work, readings, wrong = decisions.pairs(names, places), [], False
    for speculation in READINGS:
        decided: list[decisions.Decided] = []
        for one in executor.map(decisions.decide, *zip(*work, strict=True), repeat(speculation), chunksize=1):
            decided.append(one)
            print(f"{len(decided)} of {len(work)}: {one.decision.verdict} {one.differs}", file=sys.stderr, flush=True)
        found = [one.decision for one in decided]
        print(f"speculation={speculation}: {decisions.table(found, speculation)}\n", flush=True)
        print(decisions.took(decided) + "\n", flush=True)
        for one in decided:
            if one.differs:
                wrong = True
                print(f"**Differs**: {one.differs}\n", flush=True)
        readings.append(Reading(decisions.modes_of(speculation).as_dict(), found))
    for line in decisions.not_included(readings):
        wrong = True
        print(f"**Not included**: {line}\n", flush=True)
    if write:
        write_decisions(FILE, readings)
    return wrong


def _injected(executor: ProcessPoolExecutor, names: list[str], sites: int | None, report: Path | None) -> bool:
    work = injected.work(names, sites)
    found = list(zip(work, executor.map(TrialBatch.tried, work, chunksize=1), strict=True))
    print(modes_line(injected.MODES) + "\n\n" + injected.table(found))
    if report is not None:
        write_matrix(report, [(batch, outcomes) for batch, outcomes in found if not isinstance(outcomes, str)], [])
    return False


def _hostile(executor: ProcessPoolExecutor, count: int) -> bool:
    wrong = False
    for generator, what in (("states", "States of a machine"), ("kinds", "Images of eighteen kinds")):
        work = hostile.batches(count)
        found = list(executor.map(hostile.batch, *zip(*work, strict=True), repeat(generator), chunksize=1))
        print(f"{what}\n\n{hostile.table(found)}\n", flush=True)
        wrong = wrong or any(one.wrong for one in found)
    return wrong


def _transistency(executor: ProcessPoolExecutor, seeds: int) -> bool:
    shapes = list(executor.map(transistency.shape, SHAPES, chunksize=1))
    programs = list(executor.map(transistency.program, range(seeds), chunksize=1))
    print(transistency.table(shapes, programs))
    return any(row.differences for row in (*shapes, *programs))


def _alarms(executor: ProcessPoolExecutor, names: list[str], schedules: int) -> bool:
    wrong = False
    print(modes_line(alarms.MODES) + "\n")
    print("| policy | scenario | schedules | stale-possible accesses | false alarms |\n|---|---|---|---|---|")
    for name in names:
        for scenario, each in alarms.schedules_of(schedules).items():
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
