"""Files that are written whole or not at all, and errors of the system told as kstack's.

What a user has asked for takes a while to write, and may not come to its end: the disk is full, Ctrl-C is pressed, the
host crashes. Then the file of that name is still the old one, or none; half a file is never found under it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kstack.base.errors import ConfigError, KstackError


@contextmanager
def refused_as(what: str, kind: type[KstackError] = ConfigError) -> Iterator[None]:
    """Tell what the system refuses inside as an error of kstack's: `what`, a colon, and the system's reason.

    Args:
        what: names the file, as the user knows it.
        kind: of the error.
    """
    try:
        yield
    except OSError as error:
        raise kind(f"{what}: {error.strerror or error}") from error


@contextmanager
def whole(path: Path, what: str = "", kind: type[KstackError] = ConfigError) -> Iterator[Path]:
    """A file beside `path` to write to, which takes its place when the block ends, and is removed if that fails.

    It is on the disk before it takes the place: a file system may carry out the renaming first, and after a crash of the
    host the old file would be gone and the new one empty. The folder is not: either of the two is a whole file.

    Args:
        path: of the file; one that is there is replaced.
        what: how an error begins; by default that this file cannot be written.
        kind: of the error.

    Raises:
        ConfigError: or another `kind`: the file cannot be written.
    """
    temporary = (
        path.parent / f".{path.name}.{os.getpid()}.part"
    )  # in its folder: nothing is renamed across file systems
    with refused_as(what or f"{path} cannot be written", kind):
        try:
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            with suppress(OSError):  # what went wrong before is what is told
                temporary.unlink(missing_ok=True)


def write_whole(path: Path, data: str | bytes, what: str = "", kind: type[KstackError] = ConfigError) -> None:
    """Write a file whole or not at all.

    Args:
        path: of the file; one that is there is replaced.
        data: all of it; text is written as UTF-8.
        what: how an error begins; by default that this file cannot be written.
        kind: of the error.

    Raises:
        ConfigError: or another `kind`: the file cannot be written.
    """
    content = data.encode() if isinstance(data, str) else data
    with whole(path, what, kind) as temporary:
        temporary.write_bytes(content)


def replace_folder(made: Path, folder: Path) -> None:
    """Give a folder the name of another, or of none: the old one is put back if that fails, and removed if not.

    Its files are not waited for: who reads them has their digests, and finds what a crash of the host has taken.

    Args:
        made: the new one, in the same file system.
        folder: its name from now on.

    Raises:
        OSError: the system refuses it.
    """
    old = made.with_suffix(".old")
    if not folder.exists():
        made.rename(folder)
        return
    folder.rename(old)
    try:
        made.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    shutil.rmtree(old)
