"""Everything that the engine's decoder accepts is something that processors execute, or said to be none."""

from __future__ import annotations

import pytest

from tests.support.decoder import SOME, Decoder, unexplained

FEW = (0x15, 0x3D, 0xD9)


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_what_is_decoded_is_an_instruction_and_of_its_length(bits: int) -> None:
    assert _unexplained(bits, FEW) == []


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("bits", [16, 32, 64])
def test_what_is_decoded_with_every_digit_is_an_instruction_and_of_its_length(bits: int) -> None:
    assert _unexplained(bits, SOME) == []


def _unexplained(bits: int, modrms: tuple[int, ...]) -> list[str]:
    return [f"{row}: {why}" for row in Decoder(bits).rows(modrms) if (why := unexplained(row))]
