"""A scenario that no mutant breaks proves nothing: each is unsafe under a policy with steps left out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from policies.switch_sp_ipi import SwitchSpIpi
from vm.judge import boot, script_of, unexpected
from vm.scenarios import find_scenario
from vm.schedule import RandomSchedule, RoundRobin, Scheduler, ScriptedSchedule
from vm.session import RunOptions
from vm.stacks import Invlpg, OtherCpus, Policy, SendIpi, Step, Thread, WaitForAck

HOOKS = ("create_thread", "exit_thread", "enter_kernel", "exit_kernel", "switch_in", "switch_out")
NO_IPI = (SendIpi, WaitForAck)
NO_INVLPG = (Invlpg, OtherCpus)  # with nobody else to tell, nothing is told


def without(policy: type[Policy], *kinds: type[Step]) -> type[Policy]:
    """A mutant of a policy whose hooks leave out steps of some kinds."""

    def mutated(name: str) -> Any:
        original = getattr(policy, name)

        def hook(self: Policy, cpu: int, thread: Thread) -> Iterator[Step]:
            steps = original(self, cpu, thread)
            answer: Any = None
            while True:
                try:
                    step = steps.send(answer)
                except StopIteration:
                    return
                if isinstance(step, kinds):
                    answer = () if isinstance(step, OtherCpus) else None
                else:
                    answer = yield step

        return hook

    dropped = "-".join(kind.__name__ for kind in kinds)
    return type(
        f"{policy.__name__}Without", (policy,), {**{n: mutated(n) for n in HOOKS}, "id": f"{policy.id}-{dropped}"}
    )


def schedules(scenario: str) -> Iterator[Scheduler]:
    """A few of each kind, the script first."""
    found = find_scenario(scenario)
    if found.script:
        yield ScriptedSchedule(script_of(found))
    yield RoundRobin(100)
    for seed in range(3):
        yield RandomSchedule(seed)


def hits(policy: type[Policy], scenario: str) -> int:
    """In how many runs a policy has an unexpected finding."""
    found = find_scenario(scenario)
    booted = boot(found)
    options = RunOptions(found.max_instructions)
    results = [booted.session(policy(), scheduler, options).run() for scheduler in schedules(scenario)]
    return sum(bool(unexpected(found, result)) for result in results)


@pytest.mark.parametrize(
    ("scenario", "dropped"),
    [
        ("laight", NO_IPI),
        ("wilcox", NO_IPI),
        ("poll", NO_IPI),
        ("migrate", NO_IPI),
        ("pump", NO_IPI),
        ("hotplug", NO_IPI),
        ("quiet-then-deep", NO_IPI),
        ("quiet-then-deep-migrate", NO_IPI),
        ("walker-race", NO_IPI),
        ("deep", NO_INVLPG),
        ("futex-sleepers", NO_INVLPG),
    ],
)
def test_a_mutant_of_the_broadcast_is_found_where_the_broadcast_itself_is_clean(
    scenario: str, dropped: tuple[type[Step], ...]
) -> None:
    assert hits(without(SwitchSpIpi, *dropped), scenario) > 0
    assert hits(SwitchSpIpi, scenario) == 0
