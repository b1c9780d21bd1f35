"""Documents with a digest: a recording, and a witness of `kstack explore`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from kstack.base.digests import digest_of
from kstack.base.documents import Document
from kstack.base.errors import RecordingError
from kstack.base.files import write_whole

MAX_BYTES: Final = 256 << 20
ContentT = TypeVar("ContentT")


def write_document(path: Path, kind: str, document: Document) -> None:
    """Write a document with its kind and digest, whole or not at all.

    Raises:
        RecordingError: the file cannot be written.
    """
    text = json.dumps({"kstack": kind, **document, "digest": digest_of(document)}, indent=1) + "\n"
    write_whole(path, text, f"recording {path} cannot be written", RecordingError)


def read_document(path: Path, versions: dict[str, tuple[int, ...]]) -> tuple[str, Document]:
    """Read and check a document.

    Args:
        path: the file.
        versions: the kinds it may be of, each with the versions that can be read.

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
        known = f"; it is a {kind} of kstack, which `kstack replay` takes" if kind == "witness" else ""
        raise RecordingError(f"{path} is no recording of kstack{known}")
    if document.get("version") not in versions[kind]:
        found, read = document.get("version"), " or ".join(map(str, versions[kind]))
        raise RecordingError(f"recording {path} has version {found!r}; this kstack reads {read}")
    digest = document.pop("digest", None)
    if digest != digest_of(document):
        raise RecordingError(f"recording {path} is damaged: its digest does not fit; record it again")
    return kind, document


def parsed(path: Path, document: Document, kind: type[ContentT]) -> ContentT:
    """A document's content by its fields.

    Raises:
        RecordingError: they are not what they should be.
    """
    try:
        return msgspec.convert(document, kind)
    except (msgspec.ValidationError, UnicodeEncodeError) as error:  # the latter of half a surrogate pair
        raise RecordingError(f"recording {path}: {error}") from error
