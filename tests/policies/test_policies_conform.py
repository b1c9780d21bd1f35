"""The policies that come with kstack keep the rules of the interface. What must not pass is in `tests.support.broken_subjects`.

Here some of them do, and runs are made again, saved and restored in one of the kit's scenarios; all of them in all with
`KSTACK_LONG=1`, which is part of `make nightly`.
"""

from __future__ import annotations

import os

import pytest

from kstack.stacks.loading.registry import find_policy, policies
from kstack.testing import PolicyConformance
from kstack.testing.policies import SAVED

CHECKS = [name for name in dir(PolicyConformance) if name.startswith("test_")]
USUAL = ("accessed-latch", "fault-df", "fixed-16k", "request", "sleeper-gc", "switch-sp-deferred", "switch-sp-ipi")


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize(
    "policy",
    [pytest.param(policy, marks=[] if policy in USUAL else [pytest.mark.long]) for policy in sorted(policies())],
)
def test_a_policy_conforms(policy: str, check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not os.environ.get("KSTACK_LONG"):
        monkeypatch.setattr("kstack.testing.policies.SAVED", SAVED[:1])
    kit = PolicyConformance()
    kit.policy = find_policy(policy)  # type: ignore[misc] # a class variable of the derived class, usually
    getattr(kit, check)()
