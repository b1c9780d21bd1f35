"""The machine code that is tried."""

from __future__ import annotations

import pytest

from kstack.guest.asm import Layout, build
from kstack.probe.code import SOURCE, gadgets
from kstack.probe.questions import ARMS
from kstack.probe.recipe import SYSTEM_CALLS

LFENCE = bytes.fromhex("0fae e8")
ATTACKS = sorted({recipe.attack for recipe in ARMS.values()} - set(SYSTEM_CALLS))


@pytest.mark.parametrize("attack", ATTACKS)
def test_each_attack_is_a_routine_that_nothing_runs_into_transiently(attack: str) -> None:
    code, at = gadgets()
    assert code[at[attack] :].startswith(LFENCE)


def test_what_follows_an_attack_is_a_routine_too() -> None:
    code, at = gadgets()
    for follow in {recipe.follow for recipe in ARMS.values()} - {""} | {"touch"}:
        assert code[at[follow] :].startswith(LFENCE)


def test_the_code_may_lie_anywhere() -> None:
    assert build([SOURCE], Layout.flat(0x7F00_0000_0000)).to_flat() == gadgets().code
