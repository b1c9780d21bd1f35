"""No rule is without a check, and docs/rules.md says so of each."""

from __future__ import annotations

import pytest

from kstack.hw.rules import Rule
from tests.support.definitions import TESTS, functions_of_tests, is_defined
from tests.support.rules import PREFIX, document_rows, name_of_check


def test_every_rule_has_exactly_one_check_named_after_it() -> None:
    found = {path: [name for name in names if name.startswith(PREFIX)] for path, names in functions_of_tests().items()}
    assert sorted(name for checks in found.values() for name in checks) == sorted(map(name_of_check, Rule))
    assert [
        path for path, checks in found.items() if checks and not set(TESTS) <= set(functions_of_tests()[path])
    ] == []


@pytest.mark.parametrize("rule", Rule, ids=lambda rule: rule.name)
def test_the_document_names_the_rule_and_its_check_in_one_row(rule: Rule) -> None:
    assert [name_of_check(rule) in checks for rules, checks in document_rows() if rule.name in rules] == [True]


def test_every_rule_and_check_that_the_document_names_exists() -> None:
    for rules, checks in document_rows():
        assert rules <= set(Rule.__members__)
        assert all(map(is_defined, checks))
