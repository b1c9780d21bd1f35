"""Draws docs/laight.svg, the picture in the README (run it as: python docs/draw.py).

The picture is the terminal's own text, recorded by rich: what the oracle remembers of the page and
the frame in question when CPU 1 reads through its stale translation.
"""

from __future__ import annotations

import io
import re
from pathlib import Path

from rich.console import Console, Group
from rich.text import Text

from kstack.hw.modes import Modes
from kstack.judge.verdict import JudgedPair, Portfolio
from kstack.report.table import lanes

_WEB_FONT = re.compile(r"\s*@font-face \{.*?\}", re.DOTALL)  # fetched from elsewhere; readers' own will do
TARGET = Path(__file__).parent / "laight.svg"


def main() -> None:
    """Judge the pair by its script alone and draw the finding's lanes."""
    judgement = JudgedPair("entry-exit", "laight", Portfolio(schedules=0), Modes()).judge()
    finding = judgement.finding
    assert finding is not None
    console = Console(record=True, width=112, file=io.StringIO(), force_terminal=True)
    console.print(Group(Text(f"{finding.kind.value}: {finding.text}", "bold red"), lanes(finding)))
    picture = console.export_svg(title="kstack compare: entry-exit / laight", unique_id="kstack")
    TARGET.write_text(_WEB_FONT.sub("", picture))


if __name__ == "__main__":
    main()
