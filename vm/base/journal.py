"""Logs: files to which lines are added while work goes on, so that whatever stops it loses what was in flight alone.

A line is a JSON document with a digest, and on the disk when `Log.add` returns. What a crash leaves behind the last of them
is a *torn* line, which has no newline: it is dropped, and its work done again. A line that has one and is not what was
written is *damaged*: something else has changed the file, and nothing that comes behind it is believed.

Lines have two forms, both of files that users keep:

    INSIDE    {"time": 5, "digest": "<32 digits>"}    the digest of the document without it (`kstack.base.digests`)
    BEFORE    <16 digits> {"time":5}                  the digest of the text behind it, as it stands

Who may be damaged without harm, what the first line says, and what the documents mean is their readers' to know.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple

from kstack.base.digests import digest, digest_of
from kstack.base.documents import Document, JsonValue

SHORT: Final = 8  # bytes of a digest that stands before its text


class LineForm(NamedTuple):
    """How a line is written and read, without its newline.

    Attributes:
        written: a document's line; ASCII.
        read: a line's document; any of `WRONG` if it is not what was written.
    """

    written: Callable[[Document], str]
    read: Callable[[str], Document]


WRONG: Final = (ValueError, KeyError, AttributeError, TypeError, RecursionError)
"""What reading a text that may be anything as a JSON document of some content raises."""


def _written_inside(document: Document) -> str:
    return json.dumps({**document, "digest": digest_of(document)})


def _read_inside(text: str) -> Document:
    document: Document = json.loads(text)
    if document.pop("digest") != digest_of(document):
        raise ValueError("its digest does not fit")
    return document


def _written_before(document: Document) -> str:
    text = json.dumps(document, ensure_ascii=True, separators=(",", ":"))
    return f"{digest(text, SHORT)} {text}"


def _read_before(text: str) -> Document:
    found, _, content = text.partition(" ")
    if found != digest(content, SHORT):
        raise ValueError("its digest does not fit")
    document: JsonValue = json.loads(content)
    if not isinstance(document, dict):
        raise ValueError("it is no document")
    return document


INSIDE: Final = LineForm(_written_inside, _read_inside)
BEFORE: Final = LineForm(_written_before, _read_before)


class Damage(NamedTuple):
    """The first line that is not what was written, though it has its newline.

    Attributes:
        line: its number, from 1.
        why: what is wrong with it.
        last: nothing comes behind it, not even a torn line.
    """

    line: int
    why: str
    last: bool


class Contents(NamedTuple):
    """What stands in a log.

    Attributes:
        documents: of the lines before the damaged or the torn one, in order: all that is believed.
        size: bytes of these lines; what is written next belongs there.
        damage: or None; a torn line is none.
    """

    documents: list[Document]
    size: int
    damage: Damage | None


def parse(data: bytes, form: LineForm) -> Contents:
    """What stands in a log, as far as it can be believed.

    Args:
        data: the file's.
        form: of its lines.
    """
    *lines, torn = data.split(b"\n")
    documents: list[Document] = []
    size = 0
    for number, line in enumerate(lines, 1):
        try:
            documents.append(form.read(line.rstrip(b"\r").decode()))
        except WRONG as error:
            return Contents(documents, size, Damage(number, str(error), number == len(lines) and not torn))
        size += len(line) + 1
    return Contents(documents, size, None)


class Log:
    """A log that is written.

    The system's errors are left to its user, who knows what to call the file (`kstack.base.files.refused_as`). After one
    nothing more can be added: there may be a torn line now.

    Args:
        path: the file, which is made if it is not there.
        form: of its lines.
        emptied: what stands in it goes.
        locked: no other log of this file is, until it is closed, here or in another process.

    Raises:
        BlockingIOError: another log of this file is locked.
        OSError: the file cannot be opened.
    """

    def __init__(self, path: Path, form: LineForm, *, emptied: bool = False, locked: bool = False) -> None:
        self._form = form
        self._file = path.open("wb" if emptied else "a+b")
        try:
            if locked:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise

    def data(self) -> bytes:
        """All that stands in the file, for `parse`; not of one that was emptied."""
        self._file.seek(0)
        return self._file.read()

    def cut(self, size: int) -> None:
        """Keep so many bytes (`Contents.size`): a torn line goes, so that the next one begins a line."""
        self._file.truncate(size)

    def add(self, document: Document) -> None:
        """Add a line, on the disk when this returns: a crash of the host takes nothing that was told to be saved."""
        self._file.write(f"{self._form.written(document)}\n".encode("ascii"))
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Let others use the file."""
        self._file.close()

    def __enter__(self) -> Log:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
