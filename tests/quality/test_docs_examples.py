"""The commands that README.md and docs/ show print what the pages show.

A fenced block marked `console` is a session: lines that begin with `$ ` are commands, the lines
behind each are its output. Commands of `kstack` are run, in an empty folder of the page's own, in
order. A line `...` in a page stands for any number of lines. Times, rates and paths of temporary
folders differ from run to run and are not compared. Other commands (`make`, `git`) are not run.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
COLUMNS = "100"
SECONDS = 280
VARYING = (
    (re.compile(r"\b\d[\d,.]*(?: ?)(ns|us|µs|ms|s|min|MIPS|kIPS|k/s|/s)(?![\w])"), r"# \1"),
    (re.compile(r"/tmp/\S+"), "/tmp/#"),
    (re.compile(r"[ \t]+"), " "),
)


class Example(NamedTuple):
    """One command of a page and the output the page shows; `line` is the command's."""

    page: str
    line: int
    command: str
    shown: list[str]


def examples_in(text: str, page: str) -> list[Example]:
    """The commands in the `console` blocks of a page, in order."""
    found: list[Example] = []
    inside = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip().startswith("```"):
            inside = not inside and line.strip() == "```console"
        elif inside and line.lstrip().startswith("$ "):
            found.append(Example(page, number, line.lstrip()[2:], []))
        elif inside and found:
            found[-1].shown.append(line)
    return found


def normalised(lines: list[str]) -> list[str]:
    """Lines without what differs from run to run, and without blank ends."""
    for pattern, placeholder in VARYING:
        lines = [pattern.sub(placeholder, line) for line in lines]
    return [line.strip() for line in lines if line.strip()]


def matches(shown: list[str], printed: list[str]) -> bool:
    """Whether output fits a page, where a line `...` stands for any number of lines."""
    parts = [r"(?:.*\n)*?" if line in ("...", "…") else re.escape(line) + r"\n" for line in shown]
    return re.fullmatch("".join(parts), "".join(line + "\n" for line in printed)) is not None


def pages() -> list[Path]:
    """README.md and everything under docs/."""
    return [page for page in [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))] if page.exists()]


def printed_by(command: str, folder: Path) -> list[str]:
    """What a command prints, standard error included, as a reader at a terminal sees it."""
    environment = os.environ | {"COLUMNS": COLUMNS, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "NO_COLOR": "1"}
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
    )
    return done.stdout.splitlines()


@pytest.mark.docs
@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_kstack_command_prints_what_the_page_shows(page: Path, tmp_path: Path) -> None:
    for example in examples_in(page.read_text(), page.name):
        if shlex.split(example.command, comments=True)[:1] not in (["kstack"], [".venv/bin/kstack"]):
            continue
        printed = printed_by(example.command.removeprefix(".venv/bin/"), tmp_path)
        assert matches(normalised(example.shown), normalised(printed)), (
            f"{page.relative_to(ROOT)}:{example.line}: `{example.command}` now prints\n" + "\n".join(printed)
        )


@pytest.mark.docs
def test_a_page_is_compared_modulo_times_and_elisions() -> None:
    page = "```console\n$ kstack a\nfirst   1.2 s\n...\nlast\n$ kstack b\n```\n```sh\n$ kstack c\n```\n"
    first, second = examples_in(page, "page")
    assert (first.line, first.command, second.command, second.shown) == (2, "kstack a", "kstack b", [])
    assert matches(normalised(first.shown), normalised(["first 33 s", "x", "y", "last", ""]))
    assert not matches(normalised(first.shown), normalised(["first 33 s", "x", "y"]))
    assert not matches(normalised(first.shown), normalised(["other 33 s", "last"]))
