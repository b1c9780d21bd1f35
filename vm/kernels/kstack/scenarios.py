"""Scenarios and images by name, with errors in kstack's own family."""

from __future__ import annotations

import difflib
import stat
from pathlib import Path
from typing import Final

from msgspec import structs

from kstack.base.digests import digest
from kstack.base.errors import ImageError, ScenarioError
from kstack.guest import images as guest_images
from kstack.guest import scenario as guest_scenario
from kstack.guest.asm import AsmError
from kstack.guest.scenario import Scenario
from kstack.kernels.scenario import FILE

MAX_IMAGE_BYTES: Final = 256 << 20


def scenarios() -> dict[str, Scenario]:
    """All scenarios by id.

    Raises:
        ScenarioError: a scenario file is wrong.
    """
    try:
        return guest_scenario.scenarios()
    except guest_scenario.ScenarioFileError as error:
        raise ScenarioError(str(error)) from error


def is_scenario(name: str) -> bool:
    """Whether an image is a scenario, whose runs start when its guest has booted."""
    return name.endswith(FILE) or name in scenarios()


def find_scenario(name: str) -> Scenario:
    """A scenario by id, or by the path of its TOML, which is its id then.

    Raises:
        ScenarioError: there is none, with the nearest ids; or the file is wrong.
    """
    if name.endswith(FILE):
        try:
            return structs.replace(guest_scenario.read_scenario(Path(name)), id=name)
        except guest_scenario.ScenarioFileError as error:
            raise ScenarioError(str(error)) from error
    known = scenarios()
    if name not in known:
        raise ScenarioError(f"scenario {name!r} does not exist; {_hint(name, list(known), 'kstack scenarios')}")
    return known[name]


def find_image(name: str) -> bytes:
    """The bytes of an image: a built-in name, a scenario's TOML, or a file.

    Raises:
        ImageError: there is neither, or the file cannot be read.
    """
    known = guest_images.images()
    if name in known or name.endswith(FILE):
        try:
            if name in known:
                return guest_images.build_image(name).to_elf()
            return guest_images.build_scenario(find_scenario(name), Path(name).parent).to_elf()
        except AsmError as error:
            raise ImageError(f"image {name}: {error}") from error
    try:
        return _read(Path(name))
    except (FileNotFoundError, NotADirectoryError) as error:
        hint = _hint(name, list(known), "kstack images")
        raise ImageError(f"image {name!r} is neither built in nor a file; {hint}") from error
    except OSError as error:
        raise ImageError(f"image {name}: {error.strerror}") from error


def _read(path: Path) -> bytes:
    """The bytes of a file, which is one that can be read again."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        what = "a folder" if stat.S_ISDIR(found.st_mode) else "no regular file"
        raise ImageError(f"image {path} is {what}; give a file")
    if found.st_size > MAX_IMAGE_BYTES:
        raise ImageError(f"image {path}: {found.st_size} bytes are more than an image may have ({MAX_IMAGE_BYTES})")
    return path.read_bytes()


def _hint(name: str, known: list[str], command: str) -> str:
    near = difflib.get_close_matches(name, known, 3, 0.4)
    return f"did you mean {', '.join(near)}?" if near else f"see: {command}"


def contents_of(name: str) -> str:
    """What a scenario's own files hold (hex digest); nothing for those that come with kstack."""
    if name in scenarios():
        return ""
    path = Path(name)
    sources = [path.parent / source for source in find_scenario(name).sources]
    files = [path, *(source for source in sources if source.exists())]
    return digest(b"".join(file.read_bytes() for file in files))
