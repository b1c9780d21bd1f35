"""Which kstack this is: its version, and the commit where it runs out of its repository."""

from __future__ import annotations

import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Final

from kstack.base.documents import Document

ROOT: Final = Path(__file__).resolve().parents[2]


@cache
def release() -> Document:
    """Version and commit, for JSON; the commit is None where there is no repository, or no git."""
    return {"version": version("kstack"), "commit": _commit()}


def _commit() -> str | None:
    if not (ROOT / ".git").exists():  # installed: a repository further up is somebody else's
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return None
    return done.stdout.strip() or None
