"""The language of litmus tests: what a CPU does, as a text, and what page-table entries say, by name.

A program is operations, separated by `;`. Locations are x, y, z, u, v.

    x=1             store                               pte x=y-A       store the entry of x: frame of y, A clear
    r x             load                                r pte x         load it
    x<>1            exchange: store, and load           pte x<>y        exchange it
    fence           MFENCE                              pte x=z if y    compare and exchange: z, if it is y
    lock            a locked operation elsewhere        lock pte x-A    locked: clear A; the bit as it was
                                                        pte x-A         the same by a plain load and a plain store
    invlpg x        INVLPG                              send x          ask all other CPUs to invalidate x, by IPIs
    cr3             load CR3 with what is in it         wait            until all have
                                                        shoot x         both: send x; wait

An entry is `0`, or a location and what is clear of its flags P, W, A and D: `y-AD` maps the frame that y's page had when
the image was loaded, present and writable, accessed and dirty clear. With `+` in a locked or plain change flags are set.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, NamedTuple

from kstack.base.errors import ConfigError

NAMES: Final = "xyzuv"
"""Locations."""
FLAGS: Final = "PWAD"
"""Flags of an entry, in the order in which they are written."""
LARGEST: Final = (1 << 31) - 1
"""That is stored by one instruction as it is."""


class Entry(NamedTuple):
    """A page-table entry.

    Attributes:
        frame: location whose frame it maps, by the frames that pages have when the image is loaded; empty for frame 0.
        flags: those of FLAGS that are set, in that order.
    """

    frame: str = ""
    flags: str = ""

    def __str__(self) -> str:
        if not self.frame:
            return "0+" + self.flags if self.flags else "0"
        missing = "".join(flag for flag in FLAGS if flag not in self.flags)
        return f"{self.frame}-{missing}" if missing else self.frame

    def changed(self, flag: str, sets: bool) -> Entry:
        """This with a flag set, or clear."""
        return self._replace(flags="".join(one for one in FLAGS if (sets if one == flag else one in self.flags)))

    @classmethod
    def of(cls, text: str) -> Entry:
        """The entry that a text names.

        Raises:
            ConfigError: it names none.
        """
        word = text.strip()
        if match := re.fullmatch(f"0(?:[+](W?A?D?))?|([{NAMES}])(?:-([{FLAGS}]+))?", word):
            kept, frame, missing = match.groups()
            return (
                cls(frame, "".join(one for one in FLAGS if one not in (missing or "")))
                if frame
                else cls("", kept or "")
            )
        raise ConfigError(
            f"entry {word!r}: write 0, or a location ({', '.join(NAMES)}) and flags that are clear, as in y-AD "
            f"(of {', '.join(FLAGS)})"
        )


class Operation(NamedTuple):
    """One operation.

    Attributes:
        what: `store`, `load`, `exchange`, `fence`, `lock`; `entry-store`, `entry-load`, `entry-exchange`,
            `entry-compare`, `entry-lock`, `entry-change`; `invlpg`, `cr3`, `send`, `wait`.
        where: location, by number.
        value: stored.
        entry: stored.
        expected: by `entry-compare`.
        flag: that is changed, behind `+` or `-`.
    """

    what: str
    where: int = 0
    value: int = 0
    entry: Entry | None = None
    expected: Entry | None = None
    flag: str = ""

    @property
    def name(self) -> str:
        """Of its location."""
        return NAMES[self.where]

    @property
    def accesses(self) -> bool:
        """It goes through a location's page, and may fault."""
        return self.what in ("store", "load", "exchange")

    @property
    def gives(self) -> bool:
        """It has a result."""
        return self.what in ("load", "exchange", "entry-load", "entry-exchange", "entry-compare", "entry-lock")

    @property
    def pages(self) -> bool:
        """It is about entries or translations."""
        return self.what not in ("store", "load", "exchange", "fence", "lock")

    def __str__(self) -> str:
        x, entry = self.name, self.entry
        return {
            "store": f"{x}={self.value}",
            "load": f"r {x}",
            "exchange": f"{x}<>{self.value}",
            "entry-store": f"pte {x}={entry}",
            "entry-load": f"r pte {x}",
            "entry-exchange": f"pte {x}<>{entry}",
            "entry-compare": f"pte {x}={entry} if {self.expected}",
            "entry-lock": f"lock pte {x}{self.flag}",
            "entry-change": f"pte {x}{self.flag}",
            "invlpg": f"invlpg {x}",
            "send": f"send {x}",
        }.get(self.what, self.what)


def _where(name: str) -> int:
    if len(name) != 1 or name not in NAMES:
        raise ConfigError(f"location {name!r} does not exist; take one of {', '.join(NAMES)}")
    return NAMES.index(name)


def _value(text: str) -> int:
    if not re.fullmatch("[0-9]{1,10}", text) or int(text) > LARGEST:
        raise ConfigError(f"value {text!r}: give a number from 0 to {LARGEST}")
    return int(text)


def _change(what: str) -> Callable[..., list[Operation]]:
    def made(name: str, sign: str, flag: str) -> list[Operation]:
        if len(flag) != 1 or flag not in FLAGS or sign + flag == "+P":
            raise ConfigError(f"flag {sign + flag!r}: write one of -P, -W, -A, -D, +W, +A, +D")
        return [Operation(what, _where(name), flag=sign + flag)]

    return made


_FORMS: Final[tuple[tuple[str, Callable[..., list[Operation]]], ...]] = (
    (r"(fence|lock|cr3|wait)", lambda what: [Operation(what)]),
    (r"r (\w+)", lambda name: [Operation("load", _where(name))]),
    (r"r pte (\w+)", lambda name: [Operation("entry-load", _where(name))]),
    (r"(invlpg|send) (\w+)", lambda what, name: [Operation(what, _where(name))]),
    (r"shoot (\w+)", lambda name: [Operation("send", _where(name)), Operation("wait")]),
    (r"lock pte (\w+)([-+])(\w+)", _change("entry-lock")),
    (r"pte (\w+)([-+])(\w+)", _change("entry-change")),
    (
        r"pte (\w+)=(\S+) if (\S+)",
        lambda name, new, old: [Operation("entry-compare", _where(name), 0, Entry.of(new), Entry.of(old))],
    ),
    (r"pte (\w+)=(\S+)", lambda name, new: [Operation("entry-store", _where(name), entry=Entry.of(new))]),
    (r"pte (\w+)<>(\S+)", lambda name, new: [Operation("entry-exchange", _where(name), entry=Entry.of(new))]),
    (r"(\w+)=(-?\w+)", lambda name, value: [Operation("store", _where(name), _value(value))]),
    (r"(\w+)<>(-?\w+)", lambda name, value: [Operation("exchange", _where(name), _value(value))]),
)
_SHORT: Final = "x=1, r x, x<>1, fence, lock, pte x=y-A, r pte x, pte x<>y, pte x=z if y, lock pte x-A, pte x-A, invlpg x, cr3, send x, wait, shoot x"


def parse(text: str, place: str = "program") -> tuple[Operation, ...]:
    """The operations of one CPU; none if the text is empty.

    Args:
        text: what it does.
        place: what errors call it.

    Raises:
        ConfigError: something is no operation; the message names its place, and what there is.
    """
    found: list[Operation] = []
    waiting = False  # for the answers to a `send`
    for number, word in enumerate(text.split(";") if text.strip() else (), 1):
        try:
            operations = _operations(" ".join(word.split()))
            for one in operations:
                if one.what in ("send", "wait") and waiting == (one.what == "send"):
                    raise ConfigError("write wait between two sends, and only behind a send")
                waiting = one.what == "send" or (waiting and one.what != "wait")
        except ConfigError as error:
            raise ConfigError(f"{place}, operation {number}, {word.strip()!r}: {error}") from error
        found += operations
    return tuple(found)


def _operations(word: str) -> list[Operation]:
    """What one part of a program stands for."""
    word = re.sub(r" ?(=|<>) ?", r"\1", re.sub(r"(?<=\w) ?([-+]) ?(?=\w)", r"\1", word))
    for form, made in _FORMS:
        if match := re.fullmatch(form, word):
            return made(*match.groups())
    raise ConfigError(f"no operation; write one of: {_SHORT}")


__all__ = ["FLAGS", "NAMES", "Entry", "Operation", "parse"]
