"""Every policy that comes with kstack keeps the rules of the interface."""

from __future__ import annotations

from typing import Any

import pytest

from vm.stacks import Policy, Steps, Thread
from vm.stacks.registry import find_policy, policies
from vm.testing import PolicyConformance

CHECKS = [name for name in dir(PolicyConformance) if name.startswith("test_")]


def conformance(policy: type[Policy]) -> Any:
    kit = PolicyConformance()
    kit.policy = policy  # type: ignore[misc] # a class variable of the derived class, usually
    return kit


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("policy", sorted(policies()))
def test_a_policy_conforms(policy: str, check: str) -> None:
    getattr(conformance(find_policy(policy)), check)()


class Moody(find_policy("switch-sp-ipi")):  # type: ignore[misc] # a class found at run time
    """Does something in every second object made of it."""

    id = "moody"
    made = 0

    def __init__(self) -> None:
        type(self).made += 1
        self.lazy = type(self).made % 2

    def switch_out(self, cpu: int, thread: Thread) -> Steps:
        """Now so, now otherwise."""
        if not self.lazy:
            yield from super().switch_out(cpu, thread)


class Nameless(find_policy("fixed-16k")):  # type: ignore[misc] # as above
    """Says nothing of itself."""

    source = " "


def test_a_hook_that_depends_on_more_than_its_arguments_is_noticed() -> None:
    with pytest.raises(AssertionError, match="two runs with one seed differ"):
        conformance(Moody).test_it_does_the_same_again()


def test_a_policy_without_a_source_is_noticed() -> None:
    with pytest.raises(AssertionError, match="source is empty"):
        conformance(Nameless).test_it_says_who_proposed_it_and_where()
