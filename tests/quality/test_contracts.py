"""Contracts on imports name every room there is: one that is added is in them, or this fails."""

from __future__ import annotations

import re
import tomllib
from typing import Any, Final

import pytest

from tests.support.command import ROOT

CONTRACTS: Final[dict[str, dict[str, Any]]] = {
    one["id"]: one for one in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
}
BESIDE: Final = {"guest", "policies"}
"""Rooms that are on no floor."""


def floors() -> list[set[str]]:
    """Rooms, from the top floor down."""
    return [set(re.findall(r"\w+", floor)) for floor in CONTRACTS["layers"]["layers"]]


def rooms() -> set[str]:
    return set().union(*floors())


def named(contract: str, key: str) -> set[str]:
    return {module.removeprefix("kstack.") for module in CONTRACTS[contract][key]}


def test_every_room_has_a_floor() -> None:
    there = {path.stem for path in (ROOT / "kstack").iterdir()} - {"__init__", "py", "__pycache__"}
    assert rooms() | BESIDE == there


def test_all_but_our_kernel_are_forbidden_to_know_our_guest() -> None:
    there = {path.stem for path in (ROOT / "vm" / "kernels").iterdir()} - {"__init__", "__pycache__", "kstack"}
    inside = {f"kernels.{name}" for name in there}
    assert named("kernel", "source_modules") == rooms() - {"kernels"} | inside | {"policies"}
    assert named("kernel", "forbidden_modules") == {"kernels.kstack", "guest"}


def test_few_places_are_excepted_from_that_and_one_of_them_names_a_kernel() -> None:
    excepted = [line for line in CONTRACTS["kernel"]["ignore_imports"] if not line.startswith("kstack.testing")]
    assert excepted == [
        "kstack.kernels.known -> kstack.kernels.kstack.guests",
        "kstack.probe.code -> kstack.guest.asm",  # the assembler, and no guest
    ]


@pytest.mark.parametrize(
    ("contract", "source", "allowed"),
    [
        ("sanitizer", {"sanitizer"}, {"load", "devices", "machine", "hw", "x86", "base"}),
        ("hardware", {"hw", "x86"}, {"base"}),
        ("guest", {"guest"}, set()),
    ],
)
def test_a_room_is_forbidden_all_that_is_above_it(contract: str, source: set[str], allowed: set[str]) -> None:
    assert named(contract, "source_modules") == source
    assert named(contract, "forbidden_modules") == (rooms() | BESIDE) - source - allowed


def test_policies_are_forbidden_all_but_what_policies_are_made_of() -> None:
    made_of = {"area", "idioms", "policy", "steps"}
    rest = {path.stem for path in (ROOT / "vm" / "stacks").iterdir()} - made_of - {"__init__", "__pycache__"}
    expected = (rooms() | BESIDE) - {"policies", "stacks"} | {f"stacks.{name}" for name in rest}
    assert named("policies", "forbidden_modules") == expected
