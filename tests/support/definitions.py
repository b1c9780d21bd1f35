"""What test modules define, read and not run."""

from __future__ import annotations

import ast
from functools import cache
from typing import Final

from tests.support.command import ROOT

TESTS: Final = ("test_rule_holds", "test_the_rules_check_fails_without_the_rule")
"""What `tests.support.rules.each_rule_of` makes."""


@cache
def functions_of_tests() -> dict[str, list[str]]:
    """The names of the functions that each test module defines, by its path, those of `each_rule_of` too; read, not run."""
    found = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        body = ast.parse(path.read_text()).body
        names = [node.name for node in body if isinstance(node, ast.FunctionDef)]
        assigned = [node for part in body if isinstance(part, ast.Assign) for node in ast.walk(part)]
        names += [node.id for node in assigned if isinstance(node, ast.Name) and node.id in TESTS]
        found[str(path.relative_to(ROOT))] = names
    return found


def is_defined(name: str) -> bool:
    """Whether a test module has a function of this name."""
    return any(name in names for names in functions_of_tests().values())
