"""Reading source: comments out, includes in, one `Line` for each line that says something.

Comments are ``#`` to the end of the line and ``/* */`` (over lines too), not inside strings.
``;`` and ``//`` are refused: Keystone and GNU as read them differently from what people mean.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kstack.guest.asm.errors import NOWHERE, AsmError, Place

_PIECE = re.compile(
    r"""
    "(?:\\.|[^"\\])*"       # a string
  | '(?:\\.|[^\\])'?        # a character constant
  | \#.*                    # a comment
  | /\*                     # the start of one
  | //
  | ;
  | [^"'#/;]+ | .
""",
    re.VERBOSE,
)
_INCLUDE = re.compile(r'\.include\s+"([^"]+)"\s*$')
_DEPTH = 20


@dataclass(frozen=True)
class Line:
    """One line without its comments; ``text`` is stripped and never empty."""

    text: str
    place: Place


def strip_comments(text: str, name: str) -> list[Line]:
    """Split a file's text into lines without comments.

    Parameters: the text, and the file's name for errors.
    Raises AsmError on ``;`` or ``//`` outside strings, and on a comment that never ends.
    """
    lines: list[Line] = []
    opened = 0
    for index, raw in enumerate(text.split("\n"), 1):
        place = Place(name, index)
        rest = raw
        kept: list[str] = []
        while rest:
            if opened:
                _, end, rest = rest.partition("*/")
                opened = opened if not end else 0
                kept.append(" ")
                continue
            match = _PIECE.match(rest)
            assert match is not None  # the last alternative matches any character
            piece, rest = match[0], rest[match.end() :]
            if piece == "/*":
                opened = index
            elif not piece.startswith("#"):
                _refuse_separator(piece, place)
                kept.append(piece)
        line = "".join(kept).strip()
        if line:
            lines.append(Line(line, place))
    if opened:
        raise AsmError(Place(name, opened), "this /* comment never ends")
    return lines


def _refuse_separator(piece: str, place: Place) -> None:
    if piece == ";":
        raise AsmError(place, "';' separates statements for assemblers; write one statement a line, # for comments")
    if piece == "//":
        raise AsmError(place, "'//' is no comment for assemblers; write # instead")


def find(name: str, beside: Path | None, include: Sequence[Path], place: Place) -> Path:
    """The file that an ``.include`` or ``.incbin`` names.

    It is looked for beside the including file, then in each folder of ``include``.
    Raises AsmError when no such file exists.
    """
    folders = ([beside] if beside is not None else []) + list(include)
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    looked = ", ".join(str(f) for f in folders) or "no folder"
    raise AsmError(place, f"cannot find {name!r} (looked in {looked})")


def read(path: Path, include: Sequence[Path], depth: int = 0) -> Iterator[Line]:
    """The lines of a file with its includes in place.

    Raises AsmError when the file cannot be read or includes nest deeper than 20.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise AsmError(NOWHERE, f"cannot read {path}: {error}") from None
    for line in strip_comments(text, str(path)):
        match = _INCLUDE.match(line.text)
        if match is None:
            yield line
            continue
        if depth == _DEPTH:
            raise AsmError(line.place, f".include nests deeper than {_DEPTH}: does it include itself?")
        yield from read(find(match[1], path.parent, include, line.place), include, depth + 1)


def split_commas(text: str) -> list[str]:
    """Split at commas that are outside strings, character constants, () and []."""
    parts: list[str] = []
    depth = 0
    current: list[str] = []
    for piece in re.findall(r"\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^\\])'?|.", text):
        depth += (piece in "([") - (piece in ")]")
        if piece == "," and depth <= 0:
            parts.append("".join(current).strip())
            current = []
        else:
            current.append(piece)
    last = "".join(current).strip()
    return [*parts, last] if parts or last else []
