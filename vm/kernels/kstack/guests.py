"""All guests of kstack's own kernel: the self-test, the scenarios that come with kstack, those of users, and other images.

An image that is no scenario of ours may be anything: it gets our kernel's port, by which it may ask for a policy or not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kstack import guest
from kstack.guest.asm import Access
from kstack.guest.images import build_image, images
from kstack.guest.scenario import Scenario
from kstack.kernels.guests import Listing, Section
from kstack.kernels.kstack.guest import KstackKernel
from kstack.kernels.kstack.scenarios import contents_of, find_image, find_scenario, is_scenario, scenarios
from kstack.load import Symbols
from kstack.machine import Machine


@dataclass(frozen=True)
class KstackGuests:
    """Has no state: two are the same."""

    def kernel(self, machine: Machine, symbols: Symbols) -> KstackKernel:
        """Ours."""
        return KstackKernel(machine)

    def titles(self) -> Mapping[str, str]:
        """The self-test, and an image a scenario."""
        return {image.name: image.title for image in images().values()}

    def image(self, name: str) -> bytes:
        """Assembled, if it is one of ours.

        Raises:
            ImageError: there is none, or its source is wrong.
        """
        return find_image(name)

    def listing(self, name: str) -> Listing | None:
        """Of images that come with kstack."""
        if name not in images():
            return None
        image = build_image(name)
        sections = tuple(
            Section(one.vaddr, one.paddr, one.size, one.data, Access.X in one.access) for one in image.sections
        )
        code = {one.name for one in image.sections if Access.X in one.access}
        symbols = [one for one in image.symbols.values() if one.section in code and not one.name.startswith(".")]
        symbols.sort(key=lambda one: (one.value, one.name), reverse=True)
        return Listing(sections, image.lines, {one.value: one.name for one in symbols})

    def scenarios(self) -> Mapping[str, Scenario]:
        """Those that come with kstack."""
        return scenarios()

    def is_scenario(self, name: str) -> bool:
        """Whether it is one of these, or named as a file of one."""
        return is_scenario(name)

    def scenario(self, name: str) -> Scenario:
        """One of these, or out of a file.

        Raises:
            ScenarioError: there is none, or the file is wrong.
        """
        return find_scenario(name)

    def contents(self, name: str) -> str:
        """Of a user's scenario."""
        return contents_of(name)

    @property
    def folder(self) -> Path:
        """The kernel, the scenarios, and what assembles them."""
        return Path(guest.__file__).parent

    @property
    def scenario_keys(self) -> frozenset[str]:
        """Of its TOML."""
        return frozenset(Scenario.__struct_fields__)
