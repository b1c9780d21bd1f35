"""Modes that are named in a file or on the command line."""

from __future__ import annotations

import pytest

from kstack.base.errors import ConfigError
from kstack.hw.modes import Modes

OTHER = Modes(tlb="capacity 8", df_restart="exact", kernel_pages="pcid")


@pytest.mark.parametrize("modes", [Modes(), OTHER])
def test_modes_are_what_their_names_and_values_say(modes: Modes) -> None:
    assert Modes.of(modes.as_dict()) == modes


def test_modes_that_are_not_named_are_the_defaults() -> None:
    assert Modes.of({}) == Modes()
    assert Modes.of({"df-restart": "exact"}) == Modes(df_restart="exact")


def test_of_two_options_for_one_mode_the_later_holds() -> None:
    options = ("df-restart=exact", "tlb=adversarial", "tlb=capacity:8")
    assert Modes(kernel_pages="pcid").with_options(options) == OTHER
    assert OTHER.with_options(()) == OTHER


@pytest.mark.parametrize(
    ("named", "says"),
    [
        ({"tbl": "retain"}, "mode 'tbl=retain': write name=value with a name of speculation, tlb"),
        ({"df-restart": "maybe"}, "mode df-restart=maybe: one of exact, undefined"),
        ({"tlb": "capacity 0"}, "mode tlb=capacity 0: one of retain, adversarial, capacity:N with N >= 1"),
    ],
)
def test_a_mode_or_value_that_does_not_exist_is_told_with_those_that_do(named: dict[str, str], says: str) -> None:
    for make in (lambda: Modes.of(named), lambda: Modes().with_options(f"{k}={v}" for k, v in named.items())):
        with pytest.raises(ConfigError) as told:
            make()
        assert str(told.value).startswith(says)
