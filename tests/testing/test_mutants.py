"""Mutants of a policy: one step left out, taken apart, or made after the next one."""

from __future__ import annotations

from typing import Any

from kstack.stacks import Decision, GiveBack, Invlpg, Policy, Step, Steps, Store, Swap, Thread
from kstack.testing.mutants import Sites, mutants_of, swaps_of

THREAD = Thread(1, 0x10000, 0x4000)


class Three(Policy):
    """Three steps in a hook."""

    id = "three"

    def switch_out(self, cpu: int, thread: Thread) -> Steps:
        """Store, invalidate, exchange."""
        yield Store("a", 1)
        yield Invlpg(thread.top)
        yield Swap("b", 2)

    def create_thread(self, cpu: int, thread: Thread) -> Decision:
        """One step that is the last."""
        yield GiveBack(0x1000)
        return True


def made(policy: type[Policy], hook: str = "switch_out") -> list[str]:
    """The steps of a hook, each answered with None."""
    steps: Any = getattr(policy(), hook)(0, THREAD)
    found: list[Step] = []
    try:
        while True:
            found.append(steps.send(None))
    except StopIteration:
        return [type(step).__name__ for step in found]


def sites() -> Any:
    watched = Sites(Three)
    for hook in ("switch_out", "create_thread"):
        made(watched.policy, hook)
    return watched.found


def test_each_mutant_leaves_out_or_takes_apart_one_step() -> None:
    found = {mutant.site.step: made(mutant.policy) for mutant in mutants_of(Three, sites())}
    assert found == {
        "GiveBack": ["Store", "Invlpg", "Swap"],
        "Store": ["Invlpg", "Swap"],
        "Invlpg": ["Store", "Swap"],
        "Swap": ["Store", "Invlpg", "Load", "Store"],
    }


def test_each_swap_makes_one_step_after_the_next() -> None:
    found = {mutant.site.step: made(mutant.policy) for mutant in swaps_of(Three, sites())}
    assert found == {
        "GiveBack": ["Store", "Invlpg", "Swap"],
        "Store": ["Invlpg", "Store", "Swap"],
        "Invlpg": ["Store", "Swap", "Invlpg"],
    }, "a step that answers something stays where it is"
    last = next(mutant for mutant in swaps_of(Three, sites()) if mutant.site.step == "GiveBack")
    assert made(last.policy, "create_thread") == ["GiveBack"], "the last step has none behind it"
