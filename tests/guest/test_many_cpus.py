"""The guest kernel on 1 to 64 CPUs, and what a scenario cannot do with so many is refused before it runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from kstack.base.errors import ConfigError, ScenarioError
from kstack.guest.images import build_image
from kstack.kernels.kstack.scenarios import find_scenario, scenarios
from kstack.run.expected import unexpected
from kstack.run.options import RunOptions
from kstack.run.session import Session
from kstack.run.spec import RunSpec, boot
from kstack.schedule import parse
from kstack.stacks.host.pool import PoolConfig
from tests.support.consoles import selftest_console
from tests.support.qemu import on_qemu

MOST = 64
USUAL = 8  # CPUs up to which a scenario's usual pool has been enough


def session_on(scenario: str, cpus: int, policy: str = "switch-sp-ipi", pool: PoolConfig = PoolConfig()) -> Session:
    """A session as `kstack run` makes it."""
    options = RunOptions(max_time=find_scenario(scenario).max_instructions, pool=pool, exact_pools=True)
    return RunSpec(scenario, cpus, policy=policy, options=options).session(parse("round-robin:100", 0, None))


@pytest.mark.slow
@pytest.mark.parametrize("cpus", [USUAL + 1, pytest.param(MOST, marks=pytest.mark.long)])
def test_every_self_test_passes_on_many(cpus: int) -> None:
    console = selftest_console(cpus, limit=400_000_000)
    assert f"cpus {cpus}\n" in console
    assert "47 passed, 0 failed\n" in console


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.system("qemu-system-x86_64")
def test_qemu_says_the_same_of_many(tmp_path: Path) -> None:
    image = tmp_path / "selftest.elf"
    image.write_bytes(build_image("selftest").to_elf())
    done = on_qemu(image, cpus=USUAL + 1, ram=64)
    assert selftest_console(USUAL + 1).replace("\r", "") == done.stdout.replace("\r", "")


@pytest.mark.slow
@pytest.mark.parametrize("cpus", [USUAL + 1, pytest.param(MOST, marks=pytest.mark.long)])
def test_a_scenario_runs_on_many(cpus: int) -> None:
    result = session_on("futex-sleepers", cpus).run()
    assert (result.ended, result.exit_value, len(result.cpus)) == ("exit", 0x10, cpus)
    assert not unexpected(find_scenario("futex-sleepers"), result)


def test_each_cpu_has_as_much_of_the_pool_as_on_eight() -> None:
    for cpus in (USUAL, USUAL + 1):
        pools = session_on("futex-sleepers", cpus).runtime.pools
        assert pools is not None
        assert [len(pool) for pool in pools.per_cpu] == [pools.target] * cpus
        assert len(pools.reserve) == max(512, 64 * cpus) - pools.target * cpus


def test_a_scenario_with_too_few_pages_for_so_many_is_refused_before_it_runs() -> None:
    with pytest.raises(ConfigError, match=r"--cpus 6: .*8 pages each.* 48 pages .*give --cpus 5 or less"):
        session_on("litmus-cold", 6)
    assert session_on("litmus-cold", 5).run().ended == "exit"
    assert session_on("litmus-cold", 6, pool=PoolConfig(per_cpu=4)).run().ended == "exit"


@pytest.mark.long
def test_no_scenario_is_refused_on_the_cpus_that_it_names() -> None:
    for scenario in scenarios().values():
        if scenario.ram == "64M":
            session_on(scenario.id, scenario.cpus)


def test_fewer_than_a_scenario_needs_are_refused_before_it_runs() -> None:
    with pytest.raises(ScenarioError, match="needs 3 CPUs; give --cpus 3 or more"):
        boot(find_scenario("crowd"), cpus=2)
