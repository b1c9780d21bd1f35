"""Estimates for a fleet, and what the ranking owes to single figures, from made-up runs whose sums are known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kstack.base.errors import ConfigError
from kstack.report.fleet import V1_SAVED, estimate, find_fleet
from kstack.report.sensitivity import sensitivity
from kstack.stacks.measure.costs import cost_model
from tests.support.judgements import comparison, judged, used

MINE = """
name = "mine"
threads = 1024
switches_per_second = 10.0
syscalls_per_second = 100.0
ghz = 2.0
lifetime_seconds = 100.0
[depth]
"1K" = 0
"2K" = 0
"4K" = 9
"8K" = 1
"16K" = 0
"""


def fleet_file(folder: Path, text: str = MINE) -> str:
    path = folder / "mine.toml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("name", ["intel", "arm64"])
def test_the_published_depths_agree_with_what_was_measured_of_v1(name: str) -> None:
    fleet = find_fleet(name)
    assert V1_SAVED[0] <= fleet.structural_saving <= V1_SAVED[1]
    assert fleet.threads == sum(fleet.depth.counts)


def test_the_published_depths_are_those_of_the_counters() -> None:
    assert sum(find_fleet("intel").depth.shares[:3]) == pytest.approx(0.97945, abs=1e-5)
    assert sum(find_fleet("arm64").depth.shares[:3]) == pytest.approx(0.9390, abs=1e-4)


def test_memory_saved_is_by_depth_over_the_fleets_histogram(tmp_path: Path) -> None:
    usage = used(kib_by_depth=(None, None, 4.0, 8.0, 16.0))
    found = estimate(find_fleet(fleet_file(tmp_path)), comparison(judged("p", "s", usage))).policies[0]
    assert found.kib.nominal == pytest.approx(0.9 * 4 + 0.1 * 8)
    assert found.saved_mib.nominal == pytest.approx(1024 * (16 - 4.4) / 1024)
    assert found.saved_percent.nominal == pytest.approx(100 * (1 - 4.4 / 16))
    assert found.borrowed == ()


def test_the_range_of_memory_is_over_scenarios(tmp_path: Path) -> None:
    one, two = used(kib_by_depth=(4.0, None, None, 8.0, None)), used(kib_by_depth=(None, 6.0, None, 8.0, None))
    found = estimate(find_fleet(fleet_file(tmp_path)), comparison(judged("p", "s", one), judged("p", "t", two)))
    kib = found.policies[0].kib
    assert (kib.low, kib.nominal, kib.high) == pytest.approx((0.9 * 4 + 0.8, 0.9 * 5 + 0.8, 0.9 * 6 + 0.8))


def test_a_depth_that_nobody_measured_gets_the_nearest_deeper_figure_and_that_is_said(tmp_path: Path) -> None:
    usage = used(kib_by_depth=(None, None, None, None, 12.0))
    found = estimate(find_fleet(fleet_file(tmp_path)), comparison(judged("p", "s", usage))).policies[0]
    assert found.kib.nominal == 12
    assert found.borrowed == ("up to 4K", "8K")


def test_cycles_are_rates_times_costs_a_unit(tmp_path: Path) -> None:
    usage = used(
        calls={"switch_in": 10, "switch_out": 10, "enter_kernel": 20},
        operations={"switch_out": {"ipi": 10}, "exit_kernel": {"pte_write": 40}, "create_thread": {"zero_page": 4}},
        threads=2,
    )
    found = estimate(find_fleet(fleet_file(tmp_path)), comparison(judged("p", "s", usage))).policies[0]
    model = cost_model()
    each = 10 * model.ipi.nominal + 100 * 2 * model.pte_write.nominal + 2 * model.zero_page.nominal / 100
    assert found.cycles.nominal == pytest.approx(1024 * each)
    assert found.cores.nominal == pytest.approx(1024 * each / 2e9)
    assert found.cores.low < found.cores.nominal < found.cores.high


@pytest.mark.parametrize(("unmaps", "faults_a_second"), [(0, 2 / 4 / 100), (1, 10 * 2 / 10)])
def test_deep_threads_fault_once_or_at_switches_as_the_policy_shrinks(
    tmp_path: Path, unmaps: int, faults_a_second: float
) -> None:
    usage = used(calls={"switch_in": 10, "stack_fault": 2}, threads=4, page_faults=2)
    found = estimate(find_fleet(fleet_file(tmp_path)), comparison(judged("p", "s", usage, unmaps=unmaps))).policies[0]
    assert found.cycles.nominal == pytest.approx(1024 * 0.1 * faults_a_second * cost_model().page_fault.nominal)


def test_walks_are_counted_beyond_those_of_the_fully_backed_policy(tmp_path: Path) -> None:
    base = judged("fixed-16k", "s", used(calls={"switch_in": 10}, walks=30), switches=10)
    more = judged("p", "s", used(calls={"switch_in": 10}, walks=50), switches=10)
    fleet = find_fleet(fleet_file(tmp_path))
    alone, both = estimate(fleet, comparison(more)), estimate(fleet, comparison(base, more))
    assert "fixed-16k was not compared" in alone.assumptions[-1]
    assert alone.policies[0].cycles.nominal == 0
    cost = {one.policy: one.cycles.nominal for one in both.policies}
    assert cost["fixed-16k"] == 0
    assert cost["p"] == pytest.approx(1024 * 10 * 2 * cost_model().walk.nominal)


def test_a_policy_whose_guest_never_came_to_its_end_is_left_out_by_name(tmp_path: Path) -> None:
    dead = judged("dead", "s", used(), exit_value=0x12)
    found = estimate(find_fleet(fleet_file(tmp_path)), comparison(dead, judged("p", "s", used())))
    assert [one.policy for one in found.policies] == ["p"]
    assert found.left_out == ("dead",)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("ghz", "gigahertz"), "'gigahertz' does not exist"),
        (("syscalls_per_second", "syscals_per_second"), "did you mean 'syscalls_per_second'"),
        (('"8K"', '"9K"'), "depth.9K"),
        (('"8K" = 1', ""), "8K"),
        (("threads = 1024", "threads = 0"), "threads must be more than 0"),
        (("ghz = 2.0", "ghz = nan"), "ghz must be"),
        (("switches_per_second = 10.0", "switches_per_second = -1"), "switches_per_second"),
        (('"4K" = 9\n"8K" = 1', '"4K" = 0\n"8K" = 0'), "not all 0"),
    ],
)
def test_a_wrong_fleet_is_named_with_file_and_key(tmp_path: Path, change: tuple[str, str], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        find_fleet(fleet_file(tmp_path, MINE.replace(*change)))
    assert "mine.toml" in str(caught.value)


def test_an_unknown_fleet_is_told_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean intel"):
        find_fleet("intle")


def test_pairs_that_swap_when_one_figure_goes_to_its_end_are_named() -> None:
    model = cost_model()
    writes = model.ipi.nominal // model.pte_write.nominal + 1  # a little more than one IPI
    one = judged("sender", "s", used(), counts={"ipis": 1})
    other = judged("writer", "s", used(), counts={"pte_writes": writes})
    found = sensitivity(comparison(one, other))
    assert found.ranking == (("sender", 1), ("writer", 0))
    swaps = {(swing.operation, swing.end): swing.swaps for swing in found.swings}
    assert swaps["ipi", "high"] == (("sender", "writer"),)
    assert swaps["ipi", "low"] == ()
    assert swaps["pte_write", "low"] == (("sender", "writer"),)
    assert not any(operation == "walk" for operation, _ in swaps), "what nobody pays is not listed"


def test_policies_are_ranked_over_scenarios_that_both_finished() -> None:
    cheap = judged("a", "s", used(), counts={"ipis": 1})
    dear = judged("b", "s", used(), counts={"ipis": 2})
    only = judged("a", "t", used(), counts={"ipis": 100})
    assert sensitivity(comparison(cheap, dear, only)).ranking[0] == ("a", 1)


def test_an_undecided_verdict_does_not_stop_an_estimate(tmp_path: Path) -> None:
    found = estimate(find_fleet("intel"), comparison(replace(judged("p", "s", used()), safe=None)))
    assert (found.policies[0].safe, found.policies[0].undecided) == (0, 1)
