"""The one error this package raises: what is wrong, where, and what to write instead."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """Where a statement was written: a file and a line counted from 1.

    ``macro`` names the macro whose body the line is from, when it is from one.
    """

    file: str
    line: int
    macro: str = ""

    def __str__(self) -> str:
        inside = f" (in macro {self.macro})" if self.macro else ""
        return f"{self.file}:{self.line}{inside}"


NOWHERE = Place("<link>", 0)


class AsmError(Exception):
    """The source, or what was asked of the linker, is wrong.

    The message reads ``boot.s:17: what is wrong; write this instead``.  ``file`` and ``line``
    carry the place (``<link>`` and 0 when no single line is to blame).
    """

    def __init__(self, place: Place, message: str) -> None:
        super().__init__(f"{place}: {message}" if place.line else message)
        self.place = place
        self.message = message

    @property
    def file(self) -> str:
        """The source file's name as it was given to `build`."""
        return self.place.file

    @property
    def line(self) -> int:
        """The line, counted from 1; 0 when no single line is to blame."""
        return self.place.line
