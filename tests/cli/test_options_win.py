"""An explicit number or choice wins over a scenario's or a policy's own, or is refused; it is never changed in silence.

Every option of every command is in a table: one that a scenario or a policy has a say in has a check, which asks what
became of it; a new option has to be given its place.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from cyclopts import App

from kstack.base.errors import ConfigError
from kstack.cli import app
from kstack.cli.options import PoolOptions
from kstack.explore.problem import Bounds
from kstack.hw.modes import VALUES, Modes
from kstack.judge.verdict import JudgedPair, Portfolio, judge
from kstack.kernels.kstack.scenarios import find_scenario, scenarios
from kstack.run.options import RunOptions
from kstack.run.spec import RunSpec, boot
from kstack.schedule import RandomSchedule, RoundRobin, Scheduler
from kstack.stacks.loading.registry import find_policy, policies
from kstack.stacks.policy import Policy
from kstack.testing.bench import Bench
from kstack.testing.guests import Schedule, portfolio
from tests.nightly import alarms, hostile, injected
from tests.support.command import ROOT

compare, run, explore, inject, gdb = (
    importlib.import_module(f"kstack.cli.{name}") for name in ("compare", "run", "explore", "inject", "gdb")
)

OURS: Final = "nobody else has a say in it"
FILE: Final = "a file or an address"
LONG: Final = [name for name, scenario in scenarios().items() if scenario.schedules is not None]


class Enough(Exception):
    """All that was to be known is known."""


def stopped(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, call: Callable[[], Any]) -> tuple[Any, ...]:
    """With which arguments a command calls a function, in which it ends."""
    seen: list[tuple[Any, ...]] = []

    def stop(*arguments: Any) -> None:
        seen.append(arguments)
        raise Enough

    monkeypatch.setattr(module, name, stop)
    with pytest.raises(Enough):
        call()
    return seen[0]


def pairs_of(monkeypatch: pytest.MonkeyPatch, **options: Any) -> list[JudgedPair]:
    found: list[JudgedPair] = stopped(monkeypatch, compare, "_judge", lambda: compare.compare(**options))[0]
    return found


def setup_of(monkeypatch: pytest.MonkeyPatch, image: str, **options: Any) -> tuple[RunSpec, Scheduler]:
    seen = stopped(monkeypatch, RunSpec, "session", lambda: run.run(image, **options))
    return seen[0], seen[1]


# --- checks, by command and option


def compare_schedules(patched: pytest.MonkeyPatch) -> None:
    for number in (0, 7, 30):
        for pair in pairs_of(patched, policies="fixed-16k", scenarios=",".join(scenarios()), schedules=number):
            made = [one for one in pair.portfolio.runs(find_scenario(pair.scenario)) if isinstance(one, RandomSchedule)]
            assert len(made) == number, f"{pair.scenario}: {len(made)} of {number} random schedules"


def compare_pool(patched: pytest.MonkeyPatch) -> None:
    options = PoolOptions(pool="fifo", pool_pages=5, pool_shared=6, pool_reserve=7)
    for pair in pairs_of(patched, policies="fault-df,switch-sp-ipi", scenarios="pool-dry", pool=options):
        assert find_policy("fault-df").pool_pages == 3, "this policy has a number of its own"
        scenario, policy = find_scenario(pair.scenario), find_policy(pair.policy)
        booted = boot(scenario, modes=Modes().resolved(policy.delivery))
        options_of_run = RunOptions(pool=pair.portfolio.pool, exact_pools=True)
        pools = booted.session(policy(), RoundRobin(1), options_of_run).runtime.pools
        assert pools is not None
        assert ([len(one) for one in pools.per_cpu], len(pools.shared), len(pools.reserve)) == ([5, 5], 6, 7)
        assert pair.portfolio.pool.order == "fifo"


def compare_budget(patched: pytest.MonkeyPatch) -> None:
    for pair in pairs_of(patched, policies="fixed-16k", scenarios="litmus-laight", explore=True, budget=7.5):
        assert pair.portfolio.explore == 7.5
    with pytest.raises(ConfigError, match="--budget is for --explore"):
        compare.compare(policies="fixed-16k", scenarios="litmus-laight", budget=7.5)
    with pytest.raises(ConfigError, match="leave --pool"):
        compare.compare(policies="fixed-16k", scenarios="litmus-laight", explore=True, pool=PoolOptions(pool_pages=4))


def compare_jobs(patched: pytest.MonkeyPatch) -> None:
    call = lambda: compare.compare(policies="fixed-16k", scenarios="laight", jobs=13)  # noqa: E731
    assert stopped(patched, compare, "_judge", call)[1] == 13


def modes_win(modes: Modes, delivery: str) -> None:
    """Each value of each mode stays as it was given, whatever the policy's way of taking faults is."""
    for name, values in VALUES.items():
        for value in values:
            if value != "policy":
                assert modes.with_option(f"{name}={value}").resolved(delivery).as_dict()[name] == value
    for value in ("retain", "adversarial", "capacity 4"):
        assert modes.with_option(f"tlb={value}").resolved(delivery).tlb == value


def compare_mode(patched: pytest.MonkeyPatch) -> None:
    (pair,) = pairs_of(
        patched, policies="fault-df", scenarios="laight", mode=["tlb=retain", "stack-fault-delivery=ist"]
    )
    assert (pair.modes.tlb, pair.modes.stack_fault_delivery) == ("retain", "ist")
    for policy in policies().values():
        modes_win(compare.ADVERSARIAL, policy.delivery)


def run_cpus(patched: pytest.MonkeyPatch) -> None:
    assert [setup_of(patched, "laight", cpus=number)[0].cpus for number in (2, 5)] == [2, 5]
    patched.undo()
    with pytest.raises(ConfigError, match="1 to 64"):
        run.run("selftest", cpus=0)


def run_ram(patched: pytest.MonkeyPatch) -> None:
    assert setup_of(patched, "laight", ram="80M")[0].ram == 80 << 20
    assert setup_of(patched, "selftest", ram="8M")[0].ram == 8 << 20


def run_format(patched: pytest.MonkeyPatch) -> None:
    assert setup_of(patched, "selftest", format="flat")[0].format == "flat"
    patched.undo()
    with pytest.raises(ConfigError, match="is a scenario"):
        run.run("laight", format="flat")


def run_bound(patched: pytest.MonkeyPatch) -> None:
    assert setup_of(patched, "laight", max_instructions=17)[0].options.max_time == 17
    assert setup_of(patched, "laight", max_instructions=10**12)[0].options.max_time == 10**12


def run_work(patched: pytest.MonkeyPatch) -> None:
    assert setup_of(patched, "laight")[0].options.max_work == 2_000_000
    assert setup_of(patched, "selftest")[0].options.max_work == 200_000
    assert setup_of(patched, "laight", max_work=17)[0].options.max_work == 17


def run_schedule(patched: pytest.MonkeyPatch) -> None:
    setup, scheduler = setup_of(patched, "crowd", schedule="round-robin:77", seed=9)
    assert isinstance(scheduler, RoundRobin) and vars(scheduler)["_quantum"] == 77
    assert (setup.options.adversary, setup.options.pool.seed) == (9, 9)


def run_pool(patched: pytest.MonkeyPatch) -> None:
    pool = PoolOptions(pool="seeded", pool_pages=5, pool_shared=6, pool_reserve=7)
    found = setup_of(patched, "laight", policy="fault-df", pool=pool)[0].options.pool
    assert (found.order, found.per_cpu, found.shared, found.reserve) == ("seeded", 5, 6, 7)


def too_many_pages(patched: pytest.MonkeyPatch) -> None:
    """A guest that has not so many refuses, whichever of the pools is too large."""
    for more in ({"pool_pages": 17}, {"pool_shared": 17}, {"pool_reserve": 17}):
        with pytest.raises(ConfigError, match=r"this guest has 32 for its stacks; give less"):
            run.run("pool-dry", pool=PoolOptions(**more))
    (pair,) = pairs_of(
        patched, policies="fixed-16k", scenarios="pool-dry", schedules=0, pool=PoolOptions(pool_pages=17)
    )
    judgement = pair.judge()
    assert (judgement.safe, judgement.runs) == (None, 0) and "--pool-pages 17" in judgement.reason


def explore_limits(patched: pytest.MonkeyPatch) -> None:
    limits = explore.Limits(depth=12, states=13, budget=14.5, executions=15)
    assert limits.bounds == Bounds(12, 13, 14.5, False, executions=15)


def inject_limit(patched: pytest.MonkeyPatch) -> None:
    call = lambda: inject.inject("crowd", policy="fault-df", faults="nmi", work=inject.Work(limit=333, jobs=3))  # noqa: E731
    work, jobs, *_ = stopped(patched, inject, "run", call)
    assert jobs == 3
    assert {batch.limit for batch in work} == {333}


def inject_mode(patched: pytest.MonkeyPatch) -> None:
    call = lambda: inject.inject("laight", policy="fault-df", faults="nmi", mode=["stack-fault-delivery=ist"])  # noqa: E731
    assert {batch.pair.modes.stack_fault_delivery for batch in stopped(patched, inject, "run", call)[0]} == {"ist"}


def gdb_setup(patched: pytest.MonkeyPatch) -> None:
    setup = gdb._setup("laight", "fault-df", 4, ["stack-fault-delivery=ist"], "flat")
    assert (setup.cpus, setup.policy, setup.modes.stack_fault_delivery) == (4, "fault-df", "ist")
    assert setup.format == "flat"


def replay_to(patched: pytest.MonkeyPatch) -> None:
    """Where it cannot be, it says so (`test_a_time_outside_of_a_recording_is_said`)."""


CHECKS: Final[dict[str, Callable[[pytest.MonkeyPatch], None] | str]] = {
    "compare --policies": OURS,
    "compare --scenarios": OURS,
    "compare --schedules": compare_schedules,
    "compare --mode": compare_mode,
    "compare --modes-from": FILE,
    "compare --pool": compare_pool,
    "compare --pool-pages": compare_pool,
    "compare --pool-shared": compare_pool,
    "compare --pool-reserve": too_many_pages,
    "compare --report": FILE,
    "compare --witnesses": FILE,
    "compare --resume": FILE,
    "compare --costs": FILE,
    "compare --fleet": FILE,
    "compare --explore": OURS,
    "compare --budget": compare_budget,
    "compare --jobs": compare_jobs,
    "compare --strict": OURS,
    "compare --json": OURS,
    "run IMAGE": OURS,
    "run --cpus": run_cpus,
    "run --ram": run_ram,
    "run --policy": OURS,
    "run --schedule": run_schedule,
    "run --seed": run_schedule,
    "run --max-instructions": run_bound,
    "run --max-work": run_work,
    "run --stop-at-finding": OURS,
    "run --strict": OURS,
    "run --record": FILE,
    "run --mode": compare_mode,
    "run --modes-from": FILE,
    "run --pool": run_pool,
    "run --pool-pages": run_pool,
    "run --pool-shared": run_pool,
    "run --pool-reserve": too_many_pages,
    "run --anyway": OURS,
    "run --format": run_format,
    "run --json": OURS,
    "explore SCENARIO": OURS,
    "explore --policy": OURS,
    "explore --engine": OURS,
    "explore --preemptions": OURS,
    "explore --depth": explore_limits,
    "explore --states": explore_limits,
    "explore --budget": explore_limits,
    "explore --executions": explore_limits,
    "explore --every-move": OURS,
    "explore --jobs": OURS,
    "explore --dask": FILE,
    "explore --checkpoint": FILE,
    "explore --witness": FILE,
    "explore --mode": compare_mode,
    "explore --modes-from": FILE,
    "explore --outcomes": OURS,
    "explore --json": OURS,
    "replay FILE": FILE,
    "replay --to": replay_to,
    "replay --anyway": OURS,
    "replay --json": OURS,
    "inject SCENARIO": OURS,
    "inject --policy": OURS,
    "inject --faults": OURS,
    "inject --campaign": FILE,
    "inject --limit": inject_limit,
    "inject --jobs": inject_limit,
    "inject --resume": FILE,
    "inject --recordings": FILE,
    "inject --every": OURS,
    "inject --mode": inject_mode,
    "inject --modes-from": FILE,
    "inject --report": FILE,
    "inject --json": OURS,
    "trace show FILE": FILE,
    "trace show --from": OURS,
    "trace show --to": OURS,
    "trace show --cpu": OURS,
    "trace show --registers": OURS,
    "trace show --anyway": OURS,
    "trace show --json": OURS,
    "trace query FILE": FILE,
    "trace query NAME": OURS,
    "trace query ARGUMENTS": OURS,
    "trace query --sql": OURS,
    "trace query --anyway": OURS,
    "trace query --json": OURS,
    "trace export FILE": FILE,
    "trace export --format": OURS,
    "trace export --output": FILE,
    "trace export --registers": OURS,
    "trace export --anyway": OURS,
    "trace view FILE": FILE,
    "trace view --port": OURS,
    "trace view --anyway": OURS,
    "trace diff ONE": FILE,
    "trace diff OTHER": FILE,
    "trace diff --anyway": OURS,
    "trace diff --json": OURS,
    "gdb IMAGE": OURS,
    "gdb --port": OURS,
    "gdb --policy": gdb_setup,
    "gdb --cpus": gdb_setup,
    "gdb --mode": gdb_setup,
    "gdb --record": FILE,
    "gdb --anyway": OURS,
    "gdb --format": gdb_setup,
    "probe --trials": OURS,
    "probe --seed": OURS,
    "probe --cpu": OURS,
    "probe --output": FILE,
    "probe --json": OURS,
    "image NAME": FILE,
    "image --output": FILE,
    "image --json": OURS,
    "policies --json": OURS,
    "scenarios --json": OURS,
    "images --json": OURS,
}


def options_of(commands: App, prefix: str = "") -> Iterator[str]:
    """Every argument and option of every command."""
    for name in commands:
        command = commands[name]
        if name.startswith("-"):
            continue
        if [inner for inner in command if not inner.startswith("-")]:
            yield from options_of(command, f"{prefix}{name} ")
            continue
        yield from (
            f"{prefix}{name} {one.names[0]}" for one in command.assemble_argument_collection() if one.names[0] != "*"
        )


def test_every_option_of_every_command_has_a_place_in_the_table() -> None:
    there = list(options_of(app))
    assert sorted(there) == sorted(CHECKS), "say who has a say in it, or check that nobody has"


@pytest.mark.parametrize(
    "check", dict.fromkeys(one for one in CHECKS.values() if callable(one)), ids=lambda check: check.__name__
)
def test_what_is_given_is_what_is_done(check: Callable[[pytest.MonkeyPatch], None]) -> None:
    with pytest.MonkeyPatch.context() as patched:
        check(patched)


def test_without_a_number_a_long_scenario_has_its_own() -> None:
    for name in LONG:
        scenario = find_scenario(name)
        assert scenario.schedules is not None
        assert Portfolio().schedules_of(scenario) == min(scenario.schedules, 200 if scenario.litmus else 20)


def test_all_the_runs_that_were_asked_for_are_made_and_named() -> None:
    scenario, policy = find_scenario("two-faults"), find_policy("fixed-16k")
    assert scenario.schedules == 4
    judgement = judge(policy, scenario, boot(scenario), Portfolio(schedules=9), Modes())
    assert judgement.runs == len(scenario.quanta) + 9
    assert judgement.as_dict()["bound"] == {"runs": 11, "random": 9, "round_robin": scenario.quanta}


@pytest.mark.parametrize(("to", "says"), [(5, "begins at virtual time"), (10**9, "ends at virtual time")])
def test_a_time_outside_of_a_recording_is_said(
    to: int, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from kstack.cli.replay import replay

    file = tmp_path / "r.json"
    run.run("litmus-laight", policy="fixed-16k", record=file, json=True)
    capsys.readouterr()
    replay(file, to=to, json=True)
    shown = capsys.readouterr()
    assert says in shown.err and f"--to {to}" in shown.err
    assert json.loads(shown.out)["time"] > 5


def test_a_cut_recording_ends_where_it_was_cut(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from kstack.cli.replay import replay

    monkeypatch.chdir(ROOT)
    assert replay(Path("tests/golden/journal-5.json"), to=10**6, anyway=True, json=True) == 0
    assert "the recording ends at virtual time 2800" in capsys.readouterr().err


# --- in pytest, and in nightly runs


def bench(cpus: int | None = None) -> Bench:
    return Bench(ROOT, None, Modes(), cpus, Schedule("round-robin"))


def test_tests_get_the_numbers_that_they_give() -> None:
    assert [len(portfolio(number)) for number in (1, 3, 30)] == [1, 3, 30]
    assert len(bench(5).machine().cpus) == 5
    assert len(bench(5).machine(cpus=2).cpus) == 2
    assert bench().guest("laight", max_time=1000).result.ended == "bound"
    assert len(bench(3).guest("laight").session.machine.cpus) == 3


@pytest.mark.parametrize("wrong", [lambda: bench(0).machine(), lambda: bench().machine(cpus=0)])
def test_no_cpu_is_no_default(wrong: Callable[[], Any]) -> None:
    with pytest.raises(ConfigError, match="give 1 to 64"):
        wrong()


def test_no_time_at_all_is_no_default() -> None:
    assert bench().guest("laight", max_time=0).result.ended == "bound"


def test_pools_that_a_guest_cannot_fill_are_refused_in_tests_too() -> None:
    with pytest.raises(ConfigError, match="this guest has 32"):
        bench().guest("pool-dry", pool=PoolOptions(pool_pages=17).config())


def test_nightly_runs_make_as_many_as_they_are_told() -> None:
    for number in (1, 100, 12_345):
        assert sum(alarms.schedules_of(number).values()) == number
        assert sum(count for _, count in hostile.batches(number)) == number
    assert {batch.limit for batch in injected.work(["fixed-16k"], 100)} == {100}
    assert {batch.limit for batch in injected.work(["fixed-16k"])} == {500, 25}


class Mine(Policy):
    """A policy with a number of its own."""

    id, title, proposer, source = "mine", "mine", "me", "here"
    pool_pages = 2


def test_a_policys_number_counts_where_none_is_given() -> None:
    booted = boot(find_scenario("laight"))
    for pool, pages in ((PoolOptions(), 2), (PoolOptions(pool_pages=9), 9), (PoolOptions(pool_pages=0), 0)):
        session = booted.session(Mine(), RoundRobin(1), RunOptions(pool=pool.config(), exact_pools=True))
        assert session.runtime.pools is not None
        assert [len(one) for one in session.runtime.pools.per_cpu] == [pages, pages]
