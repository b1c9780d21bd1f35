"""The file of a probe, as it is read for `--modes-from`.

It has a digest: what was changed after it was written is refused. That keeps accidents and touched-up figures out; it is no
signature.
"""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any, Final

import msgspec

from kstack.base.digests import digest_of
from kstack.base.errors import ConfigError
from kstack.base.files import refused_as
from kstack.hw.modes import VALUES
from kstack.probe.cpu import CpuModel

VERSION: Final = 1
LARGEST: Final = 1 << 24  # bytes; a probe's file has some 30,000
AGAIN: Final = "kstack probe -o FILE writes one"
_KEYS: Final = {"version", "cpu", "modes", "digest"}


class FileMode(msgspec.Struct, frozen=True):
    """What a file says of one mode.

    Attributes:
        value: to which the trials point, or None.
        conclusive: whether they do.
        why: in a sentence.
        refuted: by value, what has refuted it.
        not_contradicted: the other values.
    """

    value: str | None
    conclusive: bool
    why: str
    refuted: dict[str, list[str]]
    not_contradicted: list[str]


class ProbeFile(msgspec.Struct, frozen=True):
    """What others read of a probe.

    Attributes:
        version: of the file.
        cpu: that was measured; None if its system did not say.
        modes: by name.
    """

    version: int
    cpu: CpuModel | None
    modes: dict[str, FileMode]


def read_probe(path: Path) -> ProbeFile:
    """Read what a probe has found.

    Raises:
        ConfigError: it cannot be read, is no such file, is of another version, or was changed.
    """
    content = _content(path, _bytes(path))
    if content["version"] != VERSION:
        raise ConfigError(f"{path} has version {content['version']}, and this kstack reads {VERSION}: measure again")
    said = content.pop("digest")
    if said != digest_of(content):
        raise ConfigError(f"{path} was changed after it was written: measure again")
    try:
        found = msgspec.convert(content, ProbeFile)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path} is no file of kstack probe: {error}; {AGAIN}") from error
    _check_values(path, found)
    return found


def _bytes(path: Path) -> bytes:
    """What a file has in it, if it is one and no larger than any probe's.

    Raises:
        ConfigError: it is a pipe or a device, or far too large, or cannot be read.
    """
    with refused_as(f"{path} cannot be read"):
        about = path.stat()
        if not stat.S_ISREG(about.st_mode) and not stat.S_ISDIR(about.st_mode):
            raise ConfigError(f"{path} is no file; {AGAIN}")
        if about.st_size > LARGEST:
            raise ConfigError(f"{path} is too large for a file of kstack probe ({about.st_size} bytes); {AGAIN}")
        return path.read_bytes()


def _content(path: Path, data: bytes) -> dict[str, Any]:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is no JSON, so no file of kstack probe; {AGAIN}") from error
    if not isinstance(content, dict) or not content.keys() >= _KEYS:
        raise ConfigError(f"{path} is no file of kstack probe; {AGAIN}")
    return content


def _check_values(path: Path, found: ProbeFile) -> None:
    """What a file names is there.

    Raises:
        ConfigError: it is not.
    """
    for mode, said in found.modes.items():
        named = {*said.refuted, *said.not_contradicted, *([] if said.value is None else [said.value])}
        if not named <= set(VALUES.get(mode, ())):
            raise ConfigError(f"{path}: no mode {mode} with values {', '.join(sorted(named))}")
