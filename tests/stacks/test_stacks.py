"""What policies are made of: stack areas, entries, pools, modes, scenario files, policies by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from kstack.base.errors import ConfigError, PolicyError
from kstack.guest.scenario import ScenarioFileError, read_scenario
from kstack.hw.modes import Modes
from kstack.stacks import Pte, Thread
from kstack.stacks.area import Areas
from kstack.stacks.host.pool import PoolConfig, Pools
from kstack.stacks.loading.registry import find_policy, policies

TOP = 0xFFFFC90000008000
GOOD = """
id = "x"
title = "t"
question = "q"
source = "s"
cpus = 2
sources = []
success = "ok"
events = ["a"]

[mutant]
policy = "fixed-4k"
"""


def thread() -> Thread:
    return Thread(7, TOP - 16384, 16384)


def test_pages_are_counted_from_the_top() -> None:
    assert [page.address for page in thread().pages] == [TOP - 4096 * n for n in (1, 2, 3, 4)]
    assert thread().top.index == 0
    assert thread().page_at(TOP - 1).index == 0
    assert thread().page_at(TOP - 16384).index == 3


@pytest.mark.parametrize(
    ("below", "unused"), [(TOP, [0, 1, 2, 3]), (TOP - 1, [1, 2, 3]), (TOP - 4096, [1, 2, 3]), (TOP - 4097, [2, 3])]
)
def test_only_pages_wholly_below_the_stack_pointer_are_unused(below: int, unused: list[int]) -> None:
    assert [page.index for page in thread().pages_below(below)] == unused


def test_an_address_is_found_in_the_stack_of_the_thread_that_has_it_now() -> None:
    areas, first, other = Areas(), Thread(1, 0x10000, 0x4000), Thread(2, 0x20000, 0x4000)
    for thread in (first, other):
        areas.add(thread)
    living = {1: first, 2: other}
    assert [areas.find(living, address) for address in (0xFFFF, 0x10000, 0x13FFF, 0x14000, 0x23FFF, 0x24000)] == [
        None,
        first,
        first,
        None,
        other,
        None,
    ]
    again = Thread(3, 0x10000, 0x4000)  # in the same place, after the first has gone
    areas.add(again)
    assert areas.find({2: other}, 0x11000) is None
    assert areas.find({2: other, 3: again}, 0x11000) is again
    moved = Thread(3, 0x30000, 0x4000)  # the same id in another place
    areas.add(moved)
    assert areas.find({3: moved}, 0x11000) is None
    assert areas.find(living, 0x11000) is first, "a state of before the third thread is looked at again"


def test_an_entry_is_made_present_writable_global_and_without_accessed_or_dirty() -> None:
    pte = Pte.of(0x5000)
    assert pte.present
    assert pte.frame == 0x5000
    assert not pte.accessed
    assert not pte.dirty
    assert pte.value >> 63 == 1
    assert pte.value >> 8 & 1


def order_of(order: str, seed: int = 0) -> list[int]:
    pools = Pools(PoolConfig(order, 4, seed), 1, [n * 4096 for n in range(4)])
    found = [pools.take(0) for _ in range(4)]
    assert pools.take(0) is None, "a pool without reserve runs dry"
    return [frame // 4096 for frame in found if frame is not None]


def test_the_order_of_a_pool_is_a_parameter() -> None:
    assert order_of("lifo") == [3, 2, 1, 0]
    assert order_of("fifo") == [0, 1, 2, 3]
    assert sorted(order_of("seeded", 1)) == [0, 1, 2, 3]
    assert order_of("seeded", 1) == order_of("seeded", 1)
    assert len({tuple(order_of("seeded", seed)) for seed in range(8)}) > 1


def test_an_empty_pool_is_refilled_from_the_reserve_and_each_cpu_has_its_own() -> None:
    pools = Pools(PoolConfig("fifo", 1), 2, [0, 4096, 8192])
    assert pools.take(0) == 0
    assert pools.take(1) == 4096
    assert pools.take(1) == 8192
    pools.give(1, 4096)
    assert 4096 in pools
    assert pools.take(0) is None, "what another CPU's pool holds is not taken"


def test_pools_are_restored_with_their_random_state() -> None:
    pools = Pools(PoolConfig("seeded", 8, 3), 1, [n * 4096 for n in range(8)])
    pools.take(0)
    state = pools.snapshot()
    first = [pools.take(0) for _ in range(5)]
    pools.restore(state)
    assert [pools.take(0) for _ in range(5)] == first


def test_modes_are_read_and_written_by_their_names() -> None:
    modes = Modes().with_option("tlb=capacity:8").with_option("df-restart=exact")
    assert modes.capacity == 8
    assert modes.as_dict()["df-restart"] == "exact"
    assert Modes().with_option("tlb=" + modes.as_dict()["tlb"]) == Modes(tlb="capacity 8")


@pytest.mark.parametrize("option", ["tlb=capacity:0", "tlb=capacity", "tlb", "df-restart=maybe", "=x"])
def test_a_mode_that_does_not_exist_is_refused(option: str) -> None:
    with pytest.raises(ConfigError):
        Modes().with_option(option)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("cpus = 2", 'cpus = "two"'), "cpus"),
        (('id = "x"', 'id = "x"\ncolour = "red"'), "colour"),
        (("success", "succes"), "succes"),
        (('events = ["a"]', 'events = ["a"]\nscript = [{cpu = 0, until = "b"}]'), "'b'"),
        (('events = ["a"]', 'events = ["a"]\nscript = [{cpu = 5, until = "a"}]'), "CPU 5"),
        (("title", "title = = "), "x.toml"),
    ],
)
def test_a_wrong_scenario_file_is_named_with_its_key(tmp_path: Path, change: tuple[str, str], says: str) -> None:
    path = tmp_path / "x.toml"
    path.write_text(GOOD.replace(*change))
    with pytest.raises(ScenarioFileError, match=says) as caught:
        read_scenario(path)
    assert str(path) in str(caught.value)


def test_the_good_scenario_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text(GOOD)
    assert read_scenario(path).cpus == 2


def test_every_policy_that_comes_with_kstack_says_who_proposed_it_and_where() -> None:
    known = policies()
    assert {"fixed-16k", "entry-exit", "switch-sp-ipi"} <= set(known)
    assert all(policy.proposer and policy.source and policy.title for policy in known.values())


def test_the_policies_that_never_take_a_page_from_a_living_thread_say_so() -> None:
    """Seen by running each against every scenario: these nine cleared no entry before a thread's exit."""
    fixed, grow = {"fixed-4k", "fixed-8k", "fixed-16k"}, {"fault-df", "fault-ist", "fault-fred", "v1-as-posted"}
    assert {name for name, policy in policies().items() if not policy.reclaims} == fixed | grow | {
        "entry-keep",
        "probe",
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x = 1", "0 policy classes"),
        ("import kstack.stacks as s\nclass A(s.Policy): pass", "lacks id"),
        ("raise KeyError('k')", "KeyError"),
    ],
)
def test_a_policy_file_that_is_none_is_refused(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "p.py"
    path.write_text(text)
    with pytest.raises(PolicyError, match=says):
        find_policy(str(path))
