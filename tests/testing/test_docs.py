"""The examples of docs/testing.md run as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.command import ROOT
from tests.support.inner_pytest import outcomes, pytest_in

PAGE = ROOT / "docs" / "testing.md"


def test_every_python_example_of_the_page_passes(tmp_path: Path) -> None:
    examples = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    for number, example in enumerate(examples):
        (tmp_path / f"test_example_{number}.py").write_text(example)
    done = pytest_in(tmp_path, "-q")
    found = outcomes(done)
    assert {name.partition("::")[0] for name in found} == {
        f"test_example_{number}.py" for number in range(len(examples))
    }
    assert set(found.values()) == {"PASSED"}, done.stdout
    assert len(examples) == 4


def test_the_page_names_all_there_is() -> None:
    text = PAGE.read_text()
    import kstack.testing
    from kstack.testing import plugin, strategies

    for marker in plugin.MARKERS:
        assert f"`{marker.partition('(')[0]}(" in text, marker
    for name in strategies.__all__:
        assert name in ("Mapping", "Tables") or f"`{name}(" in text, name
    for name in kstack.testing.__all__:
        assert not name.endswith("Conformance") or f"`{name}`" in text, name
