"""Every policy that comes with kstack keeps the rules of the interface. What must not pass is in `tests.plugin.broken`.

Runs are made again, saved and restored in one of the kit's scenarios here; in all of them with `KSTACK_LONG=1`, which is
part of `make nightly`.
"""

from __future__ import annotations

import os

import pytest

from vm.stacks.registry import find_policy, policies
from vm.testing import PolicyConformance
from vm.testing.policies import SAVED

CHECKS = [name for name in dir(PolicyConformance) if name.startswith("test_")]


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("policy", sorted(policies()))
def test_a_policy_conforms(policy: str, check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not os.environ.get("KSTACK_LONG"):
        monkeypatch.setattr("vm.testing.policies.SAVED", SAVED[:1])
    kit = PolicyConformance()
    kit.policy = find_policy(policy)  # type: ignore[misc] # a class variable of the derived class, usually
    getattr(kit, check)()
