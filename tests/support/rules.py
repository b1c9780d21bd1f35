"""Rules of the architecture (`kstack.hw.rules`) and their checks, and the rows of docs/rules.md that name them.

A check is a function `check_...` of a test module, named after its rule. It makes a machine with the rules that it is given;
it passes with all of them and fails without its own. `each_rule_of` makes both tests of each.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import pytest

from kstack.hw.rules import ALL, Rule
from tests.support.command import ROOT

DOCUMENT: Final = ROOT / "docs" / "rules.md"
PREFIX: Final = "check_"
Check = Callable[[frozenset[Rule]], None]
Test = Callable[[Rule], None]


def name_of_check(rule: Rule) -> str:
    """The name that the check of a rule has."""
    return PREFIX + rule.name.lower()


def checks_in(module: Mapping[str, Any]) -> dict[Rule, Check]:
    """The checks in a module's names; each must be named after a rule."""
    rules = {name_of_check(rule): rule for rule in Rule}
    return {rules[name]: check for name, check in module.items() if name.startswith(PREFIX)}


def each_rule_of(module: Mapping[str, Any]) -> tuple[Test, Test]:
    """Two tests for each check in a module's names: with all rules it passes, without its own it fails."""
    checks = checks_in(module)
    each = pytest.mark.parametrize("rule", checks, ids=lambda rule: rule.name)

    @each
    def test_rule_holds(rule: Rule) -> None:
        checks[rule](ALL)

    @each
    def test_the_rules_check_fails_without_the_rule(rule: Rule) -> None:
        with pytest.raises(AssertionError):
            checks[rule](ALL - {rule})

    return test_rule_holds, test_the_rules_check_fails_without_the_rule


def document_rows() -> Iterator[tuple[set[str], set[str]]]:
    """The rules, and the checks and tests, that each row of the document's tables names."""
    for line in DOCUMENT.read_text().splitlines():
        names = set(re.findall(r"`(\w+)`", line)) if line.startswith("|") else set()
        checks = {name for name in names if name.startswith((PREFIX, "test_"))}
        if checks:
            yield names - checks, checks
