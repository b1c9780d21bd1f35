"""The shootdown protocol of the benchmarks: the machine finds of each variant what it should, and so does Spin."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bench.shootdown import SIZE, VARIANTS, explore, spin

NO_SPIN = shutil.which("spin") is None or shutil.which("gcc") is None


@pytest.mark.parametrize("variant", VARIANTS)
def test_exploring_decides_each_variant(variant: str, tmp_path: Path) -> None:
    outcome, found = explore(tmp_path, variant, *SIZE)
    assert outcome.verdict == ("safe" if VARIANTS[variant] else "unsafe")
    assert found.safe or outcome.finding is not None


@pytest.mark.skipif(NO_SPIN, reason="needs Spin and a C compiler (make setup-system)")
@pytest.mark.parametrize("variant", VARIANTS)
def test_spin_agrees(variant: str, tmp_path: Path) -> None:
    assert spin(tmp_path, variant, *SIZE).safe == VARIANTS[variant]
