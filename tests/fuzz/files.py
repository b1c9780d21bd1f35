"""A folder of this process's own, into which targets write what they let kstack read."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory


@cache
def _folder() -> TemporaryDirectory[str]:
    return TemporaryDirectory(prefix="kstack-fuzz-")


def written(name: str, data: bytes) -> Path:
    """A file with these bytes; the next of the same name replaces it."""
    path = Path(_folder().name) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path
