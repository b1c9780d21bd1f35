"""From counts to cycles: exact arithmetic, a range and a source for each figure, a strict file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kstack.base.errors import ConfigError
from kstack.stacks import steps
from kstack.stacks.host.call import StepCounts
from kstack.stacks.measure.costs import OPERATIONS, STEP_OPERATIONS, Cycles, cost_model, cycles, operations

MINE = """
version = 1
[ipi]
low = 1
nominal = 2
high = 3
source = "measured here"
"""


def test_cycles_are_counts_times_the_model_with_its_range() -> None:
    model = cost_model()
    found = cycles(operations(StepCounts(invlpg=2, ipis=3), page_faults=1, guest_invlpg=4))
    assert found.nominal == model.page_fault.nominal + 6 * model.invlpg.nominal + 3 * model.ipi.nominal
    assert found.low < found.nominal < found.high


def test_every_operation_has_figures_in_order_and_says_where_they_come_from() -> None:
    for name, cost in cost_model().costs().items():
        assert cost.low <= cost.nominal <= cost.high, name
        assert len(cost.source) > 10, name


def test_what_nobody_has_published_is_called_an_estimate() -> None:
    costs = cost_model().costs()
    for name in ("double_fault", "fred_fault", "walk", "zero_page", "lock", "pte_exchange", "alloc_page"):
        assert "estimate" in costs[name].source, name


def test_each_kind_of_count_is_charged_to_its_own_operation() -> None:
    counts = StepCounts(pte_reads=1, pte_writes=2, pte_exchanges=3, locks=4, variables=5, pages_taken=6, pages_given=7)
    found = operations(counts, double_faults=8, fred_faults=9, walks=10)
    assert set(found) == set(OPERATIONS)
    assert {name: number for name, number in found.items() if number} == {
        "pte_read": 1,
        "pte_write": 2,
        "pte_exchange": 3,
        "lock": 4,
        "variable": 5,
        "pool": 13,
        "double_fault": 8,
        "fred_fault": 9,
        "walk": 10,
    }


def test_every_step_that_touches_memory_or_tlbs_is_charged() -> None:
    free = {"Step", "PteStore", "OtherCpus", "PoolLevel", "PostFlush", "WaitForAck", "Unlock", "Sleepers", "ThreadAt"}
    kinds = {kind for kind in vars(steps).values() if isinstance(kind, type) and issubclass(kind, steps.Step)}
    assert {kind.__name__ for kind in kinds} - {kind.__name__ for kind in STEP_OPERATIONS} == free
    assert set(STEP_OPERATIONS.values()) <= set(OPERATIONS)


def test_costs_add_and_scale_end_by_end() -> None:
    assert Cycles(1, 2, 3) + Cycles(10, 20, 30).scaled(0.5) == Cycles(6, 12, 18)


def test_a_users_model_changes_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(MINE)
    mine = cost_model(path)
    assert (mine.ipi.low, mine.ipi.nominal, mine.ipi.high) == (1, 2, 3)
    assert mine.walk == cost_model().walk
    assert cycles({"ipi": 5}, mine) == Cycles(5, 10, 15)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("[ipi]", "[ipis]"), r"key 'ipis' does not exist; did you mean 'ipi'"),
        (("nominal", "nominel"), r"key 'ipi.nominel' does not exist; did you mean 'nominal'"),
        (("version = 1", "version = 9"), "version 9"),
        (("version = 1", ""), "version"),
        (("low = 1", "low = 7"), "low <= nominal"),
        (("low = 1", "low = -1"), "low <= nominal"),
        (("low = 1", 'low = "1"'), "ipi.low"),
        (("low = 1", ""), "low"),
        (('"measured here"', '" "'), "source"),
        (("[ipi]", "[ipi"), "mine.toml"),
    ],
)
def test_a_wrong_model_is_named_with_file_and_key(tmp_path: Path, change: tuple[str, str], says: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(MINE.replace(*change))
    with pytest.raises(ConfigError, match=says) as caught:
        cost_model(path)
    assert re.search(r"mine\.toml", str(caught.value))


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml"):
        cost_model(tmp_path / "none.toml")
