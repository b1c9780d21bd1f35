"""What the machine finds of each policy; if a change of the machine changes a line here, the machine is right or broken."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest

from kstack.explore.breadth_first import Problem, search
from kstack.hw.modes import Modes
from kstack.judge.verdict import Portfolio, judge
from kstack.kernels.kstack.scenarios import find_scenario
from kstack.policies import switch_sp_deferred
from kstack.policies.switch_sp import SwitchSp
from kstack.run.options import RunOptions
from kstack.run.spec import boot
from kstack.sanitizer.findings import Kind
from kstack.schedule import RoundRobin
from kstack.stacks import Sleepers, Steps, Thread
from kstack.stacks.loading.registry import find_policy, policies
from kstack.testing import without
from kstack.testing.mutants import Sites, mutants_of
from tests.support.boots import booted, verdict
from tests.support.memory_order import write_guest

STALE = {Kind.STALE_TRANSLATION, Kind.USE_AFTER_FREE}
NO_STACK = {Kind.DOUBLE_FAULT, Kind.UNHANDLED_FAULT}


@pytest.mark.parametrize("scenario", ["laight", "quiet-then-deep"])
@pytest.mark.parametrize("policy", ["entry-exit", "switch-sp", "switch-sp-local"])
def test_a_discard_that_is_not_broadcast_is_used_stale(policy: str, scenario: str) -> None:
    found = verdict(policy, scenario, 1)
    assert found.safe is False
    assert found.finding is not None
    assert found.finding.kind in STALE


@pytest.mark.parametrize("scenario", ["laight", "quiet-then-deep"])
@pytest.mark.parametrize("policy", ["fixed-8k", "fixed-4k"])
def test_a_stack_too_small_for_the_scenario_dies(policy: str, scenario: str) -> None:
    found = verdict(policy, scenario, 1)
    assert found.safe is False
    assert {finding.kind for finding in found.findings} <= NO_STACK


@pytest.mark.parametrize("policy", ["switch-sp-ipi"])
def test_a_broadcast_before_the_free_is_exercised_and_clean(policy: str) -> None:
    found = verdict(policy, "quiet-then-deep", 1)
    assert found.safe is True
    assert found.exercised > 0


@pytest.mark.parametrize("policy", ["fixed-16k", "entry-keep"])
def test_a_policy_that_never_shrinks_a_living_stack_has_nothing_stale(policy: str) -> None:
    found = verdict(policy, "quiet-then-deep", 1)
    assert found.safe is True
    assert found.reason.startswith("never reclaims, by design, in ")


@pytest.mark.parametrize("policy", ["accessed-plain", "accessed-atomic", "dirty-atomic"])
def test_without_speculation_a_page_that_was_read_is_never_reclaimed_while_cached(policy: str) -> None:
    found = verdict(policy, "quiet-then-deep", 1)
    assert found.safe is None, "not exercised: only fills that nobody asked for could tell these apart"
    assert not found.findings


def test_less_memory_is_mapped_than_by_full_stacks() -> None:
    kib = {}
    for policy in ("fixed-16k", "switch-sp-ipi", "accessed-atomic", "request-hybrid", "fixed-8k", "fixed-4k"):
        run = verdict(policy, "laight", 1).reference
        assert run is not None
        assert run.kib_per_thread is not None
        kib[policy] = run.kib_per_thread
    assert kib["fixed-4k"] == pytest.approx(4, rel=0.01)
    assert kib["fixed-8k"] == pytest.approx(8, rel=0.01)
    assert all(kib[policy] < kib["fixed-16k"] for policy in kib if policy != "fixed-16k")


def test_pages_are_collected_below_the_stack_pointer_that_a_thread_sleeps_with_now() -> None:
    """It may have run and gone to sleep deeper between the list of sleepers and its lock."""
    result = (
        booted("futex-sleepers", Modes(tlb="adversarial"))
        .session(find_policy("sleeper-gc")(), RoundRobin(100), RunOptions())
        .run()
    )
    assert (result.ended, result.exit_value) == ("exit", 0x10)


class Asking(SwitchSp):
    """Asks for sleepers in parts at each switch."""

    id = "asking"
    asked: ClassVar[list[tuple[list[int], list[int]]]] = []

    def switch_out(self, cpu: int, thread: Thread) -> Steps:
        """All of them, two at a time, and all again: only where nobody has come or gone is the answer clear."""
        before = yield Sleepers(0)
        parts: list[int] = []
        while part := (yield Sleepers(0, parts[-1] if parts else 0, 2)):
            assert len(part) <= 2
            parts += [one.id for one in part]
        after = yield Sleepers(0)
        if before == after:
            self.asked.append(([one.id for one in before], parts))


def test_sleepers_are_answered_in_parts_by_id() -> None:
    Asking.asked.clear()
    booted("futex-sleepers").session(Asking(), RoundRobin(100_000), RunOptions(2_000_000)).run()
    assert max(len(everybody) for everybody, _ in Asking.asked) > 10
    assert all(parts == everybody for everybody, parts in Asking.asked)


@pytest.mark.parametrize("dropped", [pytest.param(None, marks=pytest.mark.long), "WaitForAck", "PostFlush", "Invlpg"])
def test_a_full_list_of_deferred_invalidations_falls_back_to_a_shootdown(
    dropped: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switch_sp_deferred, "ENTRIES", 0)
    policy = switch_sp_deferred.SwitchSpDeferred
    if dropped is not None:
        policy = without(policy, [dropped], "switch_out")
    found = {
        judge(policy, find_scenario(name), boot(find_scenario(name), modes=modes), Portfolio(schedules=60), modes).safe
        for name in ("litmus-laight", "litmus-migrate", "crowd")
        for modes in (Modes(tlb="adversarial"),)
    }
    assert found == {True} if dropped is None else False in found


def test_every_policy_is_one_class_with_its_source() -> None:
    assert len(policies()) >= 12


MIGRATES = """.text
program_0:
    L_ENTER 0
    mov qword ptr [r15], 1
    L_AWAIT 8, 1
    jmp litmus_end
program_1:
    cmp qword ptr [r15], 1
    jne program_1
    L_EXIT 0
    mov qword ptr [r15+8], 1
    jmp litmus_end
"""


def test_pages_go_home_from_wherever_a_thread_leaves_the_kernel(tmp_path: Path) -> None:
    """It enters on CPU 0 and leaves on CPU 1; without its note of where a page came from they stay there."""
    scenario = find_scenario(str(write_guest(tmp_path, MIGRATES, 2, 1)))
    right = find_policy("entry-exit-home")
    gained = []
    for policy in (right, without(right, ["Store"], "enter_kernel"), find_policy("entry-exit")):
        session = boot(scenario).session(policy(), RoundRobin(10))
        assert session.run().ended == "exit"
        assert session.oracle is not None
        gained.append(session.oracle.drift.get(1, 0))
    assert gained == [0, 3, 3]


COLLECTS_WHILE_ONE_EXITS = """.text
program_0:
    L_SWITCH_OUT 0, 256
    mov edi, 3
    mov eax, HYPER_PRESSURE
    out PORT_HYPERCALL, eax
    L_SWITCH_IN 0
    mov qword ptr [r15], 1
    jmp litmus_end
program_1:
    cmp qword ptr [r15], 1
    jne program_1
    L_ADDRESS rbx, 0, 0x1800
    mov rax, [rbx]                      # never accessed before: cached by speculation alone, if at all
    jmp litmus_end
program_2:
    L_CALL HYPER_EXIT_THREAD, 1
    jmp litmus_end
"""


def test_a_collection_and_an_exit_do_not_take_each_other_s_request(tmp_path: Path) -> None:
    """CPU 1 has to hear of both; without the lock around the batch's shootdown the exit's request replaces it."""
    toml, right = str(write_guest(tmp_path, COLLECTS_WHILE_ONE_EXITS, 3, 2)), find_policy("accessed-shrinker")
    modes, watched = Modes(speculation="keeps-accessed-clear"), Sites(right)
    boot(find_scenario(toml)).session(watched.policy(), RoundRobin(100), RunOptions(2_000_000)).run()
    lock = [site for site in watched.found if (site.function, site.step) == ("shootdown_everything", "Lock")]
    outcome = search(Problem(toml, mutants_of(right, lock)[0].policy, modes))
    assert outcome.finding is not None
    assert outcome.finding.kind in STALE
    assert search(Problem(toml, right, modes)).verdict == "safe"
