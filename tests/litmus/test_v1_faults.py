"""The faults of the code that was posted in March 2024, each found in its scenario and gone where it is mended."""

from __future__ import annotations

from functools import lru_cache

import pytest

from kstack.hw.modes import Modes
from kstack.judge.verdict import Judgement, Portfolio, judge
from kstack.kernels.kstack.scenarios import find_scenario
from kstack.run.session import BootedScenario
from kstack.run.spec import boot
from kstack.sanitizer.findings import Kind
from kstack.stacks.loading.registry import find_policy

# #DF as v1 needs it: the state saved there can be returned to. Without that nothing of it works.
RESTARTABLE = Modes(df_restart="exact", stack_fault_delivery="df")
FATAL = {Kind.DOUBLE_FAULT, Kind.UNHANDLED_FAULT}


@lru_cache(maxsize=8)
def booted(scenario: str, modes: Modes) -> BootedScenario:
    return boot(find_scenario(scenario), modes=modes)


def verdict(policy: str, scenario: str, modes: Modes = RESTARTABLE) -> Judgement:
    return judge(find_policy(policy), find_scenario(scenario), booted(scenario, modes), Portfolio(schedules=2), modes)


def kinds(found: Judgement) -> set[Kind]:
    return {finding.kind for finding in found.findings}


@pytest.mark.parametrize(
    ("scenario", "fault"),
    [
        ("skip-page", "the number of pages is not advanced in the loop"),
        ("switch-window", "a fault is accepted on the stack of `current` alone"),
        ("two-faults", "three pages serve both threads around a switch"),
        ("pool-decay", "the refill stops at the first slot that was not taken"),
    ],
)
def test_a_fault_of_v1_is_found_and_gone_in_the_mended_policy(scenario: str, fault: str) -> None:
    posted, mended = verdict("v1-as-posted", scenario), verdict("fault-df", scenario)
    assert posted.safe is False, fault
    assert kinds(posted) & FATAL, fault
    assert not mended.findings, fault


def test_v1_would_sleep_for_memory_inside_schedule_and_the_mended_refill_would_not() -> None:
    posted = [found for found in verdict("v1-as-posted", "pool-decay").findings if found.kind is Kind.DEADLOCK]
    assert posted
    assert "would sleep for memory in switch_in" in posted[0].text
    assert Kind.DEADLOCK not in kinds(verdict("fault-df", "pool-decay"))


@pytest.mark.parametrize(
    "policy", ["v1-as-posted", *(pytest.param(policy, marks=pytest.mark.long) for policy in ("fault-df", "fault-ist"))]
)
def test_an_interrupt_whose_frame_faults_is_lost_where_the_hardware_gives_it_once(policy: str) -> None:
    modes = RESTARTABLE.with_option("interrupted-delivery=lost").with_option(
        "stack-fault-delivery=" + find_policy(policy).delivery
    )
    scenario = find_scenario("interrupt-deep")
    options = Portfolio(schedules=0, enough=1)
    lost = judge(find_policy(policy), scenario, booted("interrupt-deep", modes), options, modes)
    assert lost.safe is False
    assert Kind.LOST_INTERRUPT in kinds(lost)
    assert verdict(policy, "interrupt-deep").safe is True, "restarted, it is only late"


def test_a_full_stack_loses_no_interrupt() -> None:
    modes = RESTARTABLE.with_option("interrupted-delivery=lost")
    assert verdict("fixed-16k", "interrupt-deep", modes).safe is True


@pytest.mark.parametrize("policy", ["v1-as-posted", "fault-df"])
def test_growth_on_df_dies_where_df_cannot_be_returned_from(policy: str) -> None:
    found = verdict(policy, "skip-page", Modes(stack_fault_delivery="df"))
    assert found.safe is False
    assert Kind.DOUBLE_FAULT in kinds(found)


def test_growth_on_an_ist_stack_does_not_depend_on_df() -> None:
    assert verdict("fault-ist", "skip-page", Modes(stack_fault_delivery="ist")).safe is True
