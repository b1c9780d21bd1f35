"""Digests of texts, documents and files: BLAKE2b, in hexadecimal digits.

They find damage and identify sources, images and results in files that users keep, so what they come to never changes.
What identifies a state of the machine is made where that state is (`kstack.machine`, `kstack.explore.components`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from kstack.base.documents import JsonValue

BYTES: Final = 16
"""Bytes of a digest, where nothing else is said: two files in 2**64 have the same."""


def digest(data: str | bytes, size: int = BYTES) -> str:
    """Of bytes, or of a text's UTF-8.

    Args:
        data: all of it.
        size: of the digest (bytes; a byte is two digits).
    """
    return hashlib.blake2b(data.encode() if isinstance(data, str) else data, digest_size=size).hexdigest()


def digest_of(document: Mapping[str, JsonValue]) -> str:
    """Of a document, as JSON with its keys in order: whoever wrote it, the same content has the same digest."""
    return digest(json.dumps(document, sort_keys=True))


def digest_of_file(path: Path) -> str:
    """Of a file, which may be larger than memory.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=BYTES)).hexdigest()
