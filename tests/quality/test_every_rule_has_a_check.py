"""No rule is without a check, and docs/rules.md says so of each."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Final

import pytest

from kstack.hw.rules import Rule
from tests.hw.apic import test_apic
from tests.hw.cpu import test_breakpoints, test_events, test_fred
from tests.hw.mmu import test_tlb, test_translation_caches

MODULES: Final[tuple[ModuleType, ...]] = (
    test_translation_caches,
    test_events,
    test_apic,
    test_tlb,
    test_breakpoints,
    test_fred,
)
CHECKS: Final = test_translation_caches.CHECKS | test_events.CHECKS | test_apic.CHECKS
DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "rules.md"


def rows() -> Iterator[tuple[set[str], set[str]]]:
    """The rules and the checks that each row of the tables names."""
    for line in DOCUMENT.read_text().splitlines():
        names = set(re.findall(r"`(\w+)`", line)) if line.startswith("|") else set()
        checks = {name for name in names if name.startswith(("check_", "test_"))}
        if checks:
            yield names - checks, checks


def test_every_rule_has_exactly_one_check_named_after_it() -> None:
    assert set(CHECKS) == set(Rule)
    assert len(CHECKS) == sum(len(module.CHECKS) for module in MODULES[:3])
    assert {rule: check.__name__ for rule, check in CHECKS.items()} == {
        rule: f"check_{rule.name.lower()}" for rule in Rule
    }


@pytest.mark.parametrize("rule", Rule, ids=lambda rule: rule.name)
def test_the_document_names_the_rule_and_its_check_in_one_row(rule: Rule) -> None:
    assert [CHECKS[rule].__name__ in checks for rules, checks in rows() if rule.name in rules] == [True]


def test_every_rule_and_check_that_the_document_names_exists() -> None:
    known = {name for module in MODULES for name in vars(module)}
    for rules, checks in rows():
        assert rules <= set(Rule.__members__)
        assert checks <= known
