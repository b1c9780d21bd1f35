"""Recordings: what has to be saved so that a run can be repeated exactly.

A JSON document with a version of its own: the image's name and hash, the machine, the policy, the
choices of the schedule (packed), and how it ended. Everything else is derived by replay. A digest
over the document finds damage. While a run is being recorded the file is a journal (journal.py).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from kstack.base.digests import digest
from kstack.base.errors import RecordingError
from kstack.hw.rules import RULES_VERSION
from kstack.load import Format
from kstack.recording.document import parsed, read_document, write_document
from kstack.recording.journal import read_journal
from kstack.recording.packed import pack, unpack
from kstack.schedule.base import Choice

VERSION: Final = 6
READABLE: Final = (2, 3, 4, 5, 6)
"""3 has faults, 4 what a debugger has written, 5 the version of the machine's rules, 6 what the image is taken for and a
bound of host work."""
UNNAMED_RULES: Final = 1  # of files that do not name the version of the machine's rules
UNFINISHED: Final = "unfinished"
"""How a recording ended that never did."""


class Recording(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One run.

    Attributes:
        version: of this format.
        image, image_hash: name or path, and BLAKE2b of its bytes (hex).
        booted: it starts where a scenario's guest has booted, not at reset.
        cpus, ram, modes: the machine (ram in bytes).
        policy, policy_hash: id or path, and BLAKE2b of its source file (hex); None without one.
        pool: order, pages a CPU (None: the policy's), seed, shared pages, reserve (None: all).
        max_time, stop_at_finding: bounds of the run.
        adversary: seed of speculative fills and evictions.
        choices: CPU and quantum of each slice, packed.
        ended, time, state_hash: how it ended.
        finding: kind of the first finding, or None.
        faults: injected ones, as `kstack.fault.Fault` has them.
        writes: what a debugger has written into the run, as `kstack.run.writes.Write` has it.
        ignored: kinds of findings at which it did not stop.
        rules: version of the machine's rules (`RULES_VERSION`).
        format: what the image is taken for.
        strict: what is not modelled ends the run.
        max_work: bound of the run, in units of the host's work; None without one.
    """

    version: int
    image: str
    image_hash: str
    booted: bool
    cpus: int
    ram: int
    modes: dict[str, str]
    policy: str | None
    policy_hash: str | None
    pool: tuple[str, int | None, int, int, int | None]
    max_time: int
    stop_at_finding: bool
    adversary: int
    choices: str
    ended: str
    time: int
    state_hash: str
    finding: str | None = None
    faults: list[dict[str, Any]] = []
    writes: list[dict[str, Any]] = []
    ignored: list[str] = []
    rules: int = UNNAMED_RULES
    format: Format = "auto"
    strict: bool = False
    max_work: int | None = None

    @property
    def is_cut(self) -> bool:
        """Whether it broke off, so that nobody knows the state at its end."""
        return self.ended == UNFINISHED and not self.state_hash

    def schedule(self) -> Iterator[Choice]:
        """The choices, unpacked as they are asked for.

        Raises:
            RecordingError: they cannot be unpacked.
        """
        try:
            yield from unpack(self.choices)
        except (ValueError, zlib.error) as error:
            raise RecordingError(f"the recording's schedule is damaged: {error}") from error


def image_hash(image: bytes) -> str:
    """What identifies an image."""
    return digest(image)


def other_rules(rules: object) -> str | None:
    """Why what was saved under a version of the machine's rules is of another machine than this; None if it is not."""
    if rules == RULES_VERSION:
        return None
    return f"was made under version {rules} of the machine's rules, and this kstack has version {RULES_VERSION}"


def check_rules(what: object, rules: int, anyway: bool) -> None:
    """Find out whether this machine is the one that something was saved by.

    Args:
        what: its file, or what it is of.
        rules: version of the machine's rules that it names.
        anyway: it is to be repeated on another machine, too.

    Raises:
        RecordingError: it is another one.
    """
    why = other_rules(rules)
    if why is not None and not anyway:
        raise RecordingError(
            f"{what} {why}: use the kstack of that time, or --anyway, which repeats no such run exactly"
        )


def write_recording(path: Path, recording: Recording) -> None:
    """Write a recording, whole or not at all.

    Raises:
        RecordingError: the file cannot be written.
    """
    write_document(path, "recording", msgspec.to_builtins(recording))


def read_recording(path: Path) -> Recording:
    """Read and check a recording.

    Raises:
        RecordingError: it cannot be read, is damaged, or is of another version.
    """
    document = read_journal(path)
    if document is None:
        _, document = read_document(path, {"recording": READABLE})
    elif document.get("version") not in READABLE:
        raise RecordingError(
            f"recording {path} has version {document.get('version')!r}; this kstack reads {READABLE[0]} to {VERSION}"
        )
    return parsed(path, document, Recording)


__all__ = [
    "READABLE",
    "RULES_VERSION",
    "UNFINISHED",
    "UNNAMED_RULES",
    "VERSION",
    "Recording",
    "check_rules",
    "image_hash",
    "other_rules",
    "pack",
    "parsed",
    "read_document",
    "read_recording",
    "unpack",
    "write_document",
    "write_recording",
]
