"""docs/rules.md says what the machine does: every rule of instructions, and everything that is told."""

from __future__ import annotations

import re

from kstack.hw.cpu.checked import RULES
from kstack.hw.cpu.declared import Declared
from tests.support.definitions import is_defined
from tests.support.differential import DECLARED
from tests.support.rules import DOCUMENT

TEXT = re.sub(r"\s+", " ", DOCUMENT.read_text())


def test_every_rule_of_instructions_has_a_row() -> None:
    assert [rule.name for rule in RULES if rule.name.split(",")[0] not in TEXT] == []


def test_everything_that_is_told_has_a_row() -> None:
    assert [one.value for one in Declared if one.value.split(":")[0] not in TEXT] == []


def test_every_instruction_that_differs_has_a_row() -> None:
    assert [name for name in DECLARED if name.upper() not in TEXT] == []


def test_every_check_that_is_named_exists() -> None:
    named = set(re.findall(r"`((?:test|check)_\w+)`", TEXT))
    assert sorted(name for name in named if not is_defined(name)) == []
