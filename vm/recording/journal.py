"""A recording that is being made: a head, and the choices so far, a line at a time.

What the host's crash leaves is a journal, from which all but the last second can be repeated. It is a log
(`kstack.base.journal`) whose lines have the digest of the line before, too: a lost or moved one is an error as a damaged one
is. The last one may be damaged: it was being written when the host crashed, and parts of it are on the disk.
"""

from __future__ import annotations

import time
import zlib
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

from kstack.base.digests import digest_of
from kstack.base.documents import Document
from kstack.base.errors import RecordingError
from kstack.base.files import refused_as
from kstack.base.journal import INSIDE, Log, parse
from kstack.recording.document import MAX_BYTES
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

    def __init__(self, path: Path, head: Document, scheduler: Scheduler) -> None:
        self.name = scheduler.name
        self._path, self._head, self._scheduler = path, head, scheduler
        self._new: list[Choice] = []
        self._written, self._time = 0.0, 0  # the clock at the last line, virtual time at the last choice
        self._before = ""  # the digest of the last line
        self._log: Log | None = None

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
        if self._log is None:
            with self._refused():
                self._log = Log(self._path, INSIDE, emptied=True)
            self._line(self._log, {"kstack": KIND, **self._head})
        choice = self._scheduler.choose(view)
        self._new.append(choice)
        self._time = view.time
        if _CLOCK() - self._written > SECONDS:
            self._write(self._log)
        return choice

    def event(self, cpu: int, name: str) -> None:
        """The scheduler hears of it."""
        self._scheduler.event(cpu, name)

    def close(self) -> None:
        """The run has ended: its recording is about to be written, or, where it has failed, this is all that there is.

        Raises:
            RecordingError: the file cannot be written.
        """
        if self._log is None:
            return
        with self._log as log:
            if self._new:
                self._write(log)

    def _write(self, log: Log) -> None:
        """Write down the choices since the last line."""
        self._line(log, {"time": self._time, "choices": pack(self._new), "after": self._before})
        self._new.clear()

    def _line(self, log: Log, document: Document) -> None:
        self._before = digest_of(document)
        with self._refused():
            log.add(document)
        self._written = _CLOCK()

    def _refused(self) -> AbstractContextManager[None]:
        return refused_as(f"recording {self._path} cannot be written", RecordingError)


def read_journal(path: Path) -> Document | None:
    """The fields of a recording that was never finished; None if this is no journal.

    Raises:
        RecordingError: it is damaged.
    """
    with refused_as(f"recording {path}", RecordingError), path.open("rb") as file:
        first = file.readline(MAX_BYTES)
        if f'"kstack": "{KIND}"'.encode() not in first[:64]:
            return None
        data = first + file.read(MAX_BYTES)
    documents, _, damage = parse(data, INSIDE)
    if not documents:
        raise RecordingError(f"recording {path} is damaged: its first line is not what was written; record it again")
    head, *lines = documents
    choices: list[Choice] = []
    reached, before = 0, digest_of(head)
    for number, line in enumerate(lines, 2):
        try:
            packed, until = line["choices"], line["time"]
            if not isinstance(packed, str) or not isinstance(until, int | float | str):
                raise TypeError("choices are a text, and a time is a number")
            choices += unpack(packed)
            reached = int(until)
            if line.get("after", before) != before:  # earlier versions do not say
                raise ValueError("lines between are missing")
            before = digest_of(line)
        except (KeyError, TypeError, ValueError, OverflowError, zlib.error) as error:
            raise _damaged(path, number) from error
    if damage is not None and not damage.last:
        raise _damaged(path, damage.line)
    head.pop("kstack")
    return {**head, "choices": pack(choices), "time": reached}


def _damaged(path: Path, line: int) -> RecordingError:
    return RecordingError(f"recording {path} is damaged in line {line}; record it again")
