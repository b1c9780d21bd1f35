"""A recording that is being made: a head, and the choices so far, a line at a time.

What the host's crash leaves is a journal, from which all but the last second can be repeated. Each line has a digest, and
the digest of the line before. A line that was not written to its end is left out; a damaged, lost or moved one before others
is an error.
"""

from __future__ import annotations

import json
import os
import time
import zlib
from pathlib import Path
from typing import Any, Final, TextIO

from kstack.base.errors import RecordingError
from kstack.recording.document import MAX_BYTES, digest_of
from kstack.recording.packed import pack, unpack
from kstack.schedule.base import Choice, Scheduler, View

KIND: Final = "journal"
SECONDS: Final = 0.5  # between two lines, at most, as long as slices are short
_CLOCK = time.monotonic  # decides when a line is written, and nothing else


class Journal:
    """A schedule that writes down its choices before they are made.

    Args:
        path: of the recording that is to be.
        head: its fields; those that say how it ended say that it did not.
        scheduler: makes the choices.

    """

    def __init__(self, path: Path, head: dict[str, Any], scheduler: Scheduler) -> None:
        self.name = scheduler.name
        self._path, self._head, self._scheduler = path, head, scheduler
        self._new: list[Choice] = []
        self._written, self._time = 0.0, 0  # the clock at the last line, virtual time at the last choice
        self._before = ""  # the digest of the last line
        self._file: TextIO | None = None

    @property
    def stuck(self) -> str | None:
        """Why a script was not followed to its end, or None."""
        stuck: str | None = getattr(self._scheduler, "stuck", None)
        return stuck

    def choose(self, view: View) -> Choice:
        """The scheduler's choice.

        Raises:
            RecordingError: the file cannot be written.
        """
        if self._file is None:
            self._file = self._opened()
            self._line(self._file, {"kstack": KIND, **self._head})
        choice = self._scheduler.choose(view)
        self._new.append(choice)
        self._time = view.time
        if _CLOCK() - self._written > SECONDS:
            self._write(self._file)
        return choice

    def event(self, cpu: int, name: str) -> None:
        """The scheduler hears of it."""
        self._scheduler.event(cpu, name)

    def close(self) -> None:
        """The run has ended: its recording is about to be written, or, where it has failed, this is all that there is.

        Raises:
            RecordingError: the file cannot be written.
        """
        if self._file is None:
            return
        with self._file:
            if self._new:
                self._write(self._file)

    def _write(self, file: TextIO) -> None:
        """Write down the choices since the last line."""
        self._line(file, {"time": self._time, "choices": pack(self._new), "after": self._before})
        self._new.clear()

    def _opened(self) -> TextIO:
        try:
            return self._path.open("w", encoding="ascii")
        except OSError as error:
            raise RecordingError(f"recording {self._path} cannot be written: {error.strerror}") from error

    def _line(self, file: TextIO, document: dict[str, Any]) -> None:
        self._before = digest_of(document)
        try:
            file.write(json.dumps({**document, "digest": self._before}) + "\n")
            file.flush()
            os.fsync(file.fileno())
        except OSError as error:
            raise RecordingError(f"recording {self._path} cannot be written: {error.strerror}") from error
        self._written = _CLOCK()


def read_journal(path: Path) -> dict[str, Any] | None:
    """The fields of a recording that was never finished; None if this is no journal.

    Raises:
        RecordingError: it is damaged.
    """
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            first = file.readline(MAX_BYTES)
            if f'"kstack": "{KIND}"' not in first[:64]:
                return None
            rest = file.read(MAX_BYTES).splitlines(keepends=True)
    except OSError as error:
        raise RecordingError(f"recording {path}: {error.strerror}") from error
    head = _parsed(first)
    if head is None:
        raise RecordingError(f"recording {path} is damaged: its first line is not what was written; record it again")
    choices: list[Choice] = []
    reached, before = 0, digest_of(head)
    for number, text in enumerate(rest, 2):
        line = _parsed(text)
        if line is None and number == len(rest) + 1:
            break  # it was being written
        try:
            choices += unpack(line["choices"])  # type: ignore[index] # None is an error too
            reached = int(line["time"])  # type: ignore[index]
            if line.get("after", before) != before:  # type: ignore[union-attr] # earlier versions do not say
                raise ValueError("lines between are missing")
            before = digest_of(line)  # type: ignore[arg-type]
        except (KeyError, TypeError, ValueError, OverflowError, zlib.error) as error:
            raise RecordingError(f"recording {path} is damaged in line {number}; record it again") from error
    head.pop("kstack")
    return {**head, "choices": pack(choices), "time": reached}


def _parsed(text: str) -> dict[str, Any] | None:
    """A whole line, without its digest; None if it is not what was written."""
    try:
        document = json.loads(text)
        found = document.pop("digest")
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError):
        return None
    return document if text.endswith("\n") and digest_of(document) == found else None
