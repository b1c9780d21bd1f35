"""Scenarios and images by name, with errors in kstack's own family."""

from __future__ import annotations

import difflib
from pathlib import Path

from guest import images as guest_images
from guest import scenario as guest_scenario
from guest.asm import AsmError
from guest.scenario import Scenario
from vm.errors import ImageError, ScenarioError


def scenarios() -> dict[str, Scenario]:
    """All scenarios by id.

    Raises:
        ScenarioError: a scenario file is wrong.
    """
    try:
        return guest_scenario.scenarios()
    except guest_scenario.ScenarioFileError as error:
        raise ScenarioError(str(error)) from error


def find_scenario(name: str) -> Scenario:
    """A scenario by id.

    Raises:
        ScenarioError: there is none, with the nearest ids.
    """
    known = scenarios()
    if name not in known:
        raise ScenarioError(f"scenario {name!r} does not exist; {_hint(name, list(known), 'kstack scenarios')}")
    return known[name]


def find_image(name: str) -> bytes:
    """The bytes of an image: a built-in name, or a file.

    Raises:
        ImageError: there is neither, or the file cannot be read.
    """
    known = guest_images.images()
    if name in known:
        try:
            return guest_images.build_image(name).to_elf()
        except AsmError as error:
            raise ImageError(f"image {name}: {error}") from error
    path = Path(name)
    if not path.exists():
        raise ImageError(f"image {name!r} is neither built in nor a file; {_hint(name, list(known), 'kstack images')}")
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"image {name}: {error.strerror}") from error


def _hint(name: str, known: list[str], command: str) -> str:
    near = difflib.get_close_matches(name, known, 3, 0.4)
    return f"did you mean {', '.join(near)}?" if near else f"see: {command}"
