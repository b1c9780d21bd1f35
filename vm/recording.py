"""Recordings: what has to be saved so that a run can be repeated exactly.

A JSON document with a version of its own: the image's name and hash, the machine, the policy, the
choices of the schedule (packed), and how it ended. Everything else is derived by replay. A digest
over the document finds damage.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from vm.errors import RecordingError
from vm.schedule.base import Choice

VERSION: Final = 2
MAX_BYTES: Final = 256 << 20
PIECE: Final = 1 << 16
Document = TypeVar("Document")


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
    return hashlib.blake2b(image, digest_size=16).hexdigest()


def pack(choices: list[Choice]) -> str:
    """Choices as text: base64 of deflated variable-length integers."""
    raw = bytearray()
    for choice in choices:
        for number in choice:
            while number >= 0x80:
                raw.append(number & 0x7F | 0x80)
                number >>= 7
            raw.append(number)
    return base64.b64encode(zlib.compress(bytes(raw), 9)).decode()


def unpack(text: str) -> Iterator[Choice]:
    """What `pack` packed, piece by piece, so that little text cannot become much memory."""
    inflater = zlib.decompressobj()
    packed = base64.b64decode(text, validate=True)
    value = shift = 0
    cpu: int | None = None
    while packed:
        raw = inflater.decompress(packed, PIECE)
        packed = inflater.unconsumed_tail
        for byte in raw:
            value |= (byte & 0x7F) << shift
            shift += 7
            if shift > 70:
                raise ValueError("a number in it has no end")
            if byte & 0x80:
                continue
            if cpu is None:
                cpu = value
            else:
                yield Choice(cpu, value)
                cpu = None
            value = shift = 0
    if shift or cpu is not None or not inflater.eof:
        raise ValueError("it ends in the middle of a choice")


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
    _, document = read_document(path, {"recording": VERSION})
    return parsed(path, document, Recording)


# --- documents with a digest, of which a recording is one kind


def _digest(document: dict[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(document, sort_keys=True).encode(), digest_size=16).hexdigest()


def write_document(path: Path, kind: str, document: dict[str, Any]) -> None:
    """Write a document with its kind and digest, whole or not at all.

    Raises:
        RecordingError: the file cannot be written.
    """
    text = json.dumps({"kstack": kind, **document, "digest": _digest(document)}, indent=1) + "\n"
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        temporary.write_text(text)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RecordingError(f"recording {path} cannot be written: {error.strerror}") from error


def read_document(path: Path, versions: dict[str, int]) -> tuple[str, dict[str, Any]]:
    """Read and check a document.

    Args:
        path: the file.
        versions: the kinds it may be of, each with the version that can be read.

    Returns:
        Its kind, and its content.

    Raises:
        RecordingError: it cannot be read, is damaged, or is of another kind or version.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise RecordingError(f"recording {path} is larger than any recording ({MAX_BYTES} bytes)")
        document = json.loads(path.read_text())
    except OSError as error:
        raise RecordingError(f"recording {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise RecordingError(f"{path} is no recording: {error}") from error
    kind = document.pop("kstack", None) if isinstance(document, dict) else None
    if not isinstance(kind, str) or kind not in versions:
        raise RecordingError(f"{path} is no recording of kstack")
    if document.get("version") != versions[kind]:
        found = document.get("version")
        raise RecordingError(f"recording {path} has version {found!r}; this kstack reads {versions[kind]}")
    digest = document.pop("digest", None)
    if digest != _digest(document):
        raise RecordingError(f"recording {path} is damaged: its digest does not fit; record it again")
    return kind, document


def parsed(path: Path, document: dict[str, Any], kind: type[Document]) -> Document:
    """A document's content by its fields.

    Raises:
        RecordingError: they are not what they should be.
    """
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        raise RecordingError(f"recording {path}: {error}") from error
