"""The guest images that come with kstack: the kernel linked with what it is to run.

Every image is one ELF64 file that this machine and QEMU (`-kernel`, PVH) both boot.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple

from kstack.guest.asm import KERNEL_LAYOUT, Image, begin, build
from kstack.guest.scenario import FOLDER, Scenario, scenarios

KERNEL: Final = Path(__file__).parent / "kernel"
ENTRY: Final = "_start"
CORE: Final = "defs boot trampoline ap desc vectors trap panic syscall fred switch sched spin lock apic ipi mem pcid hyper console main".split()
SELFTEST: Final = "user selftest test_trap test_interrupt test_memory test_smp test_thread test_user".split()


class ImageInfo(NamedTuple):
    """An image by name."""

    name: str
    title: str
    sources: tuple[Path, ...]


def images() -> dict[str, ImageInfo]:
    """All images, by name: the self-test and one a scenario."""
    selftest = tuple(KERNEL / f"{name}.s" for name in SELFTEST)
    found = {"selftest": ImageInfo("selftest", "the kernel's self-test: PASS and FAIL lines", selftest)}
    for scenario in scenarios().values():
        sources = tuple(FOLDER / name for name in scenario.sources)
        found[scenario.id] = ImageInfo(scenario.id, scenario.title, sources)
    return found


def sources(name: str) -> tuple[Path, ...]:
    """The source files of an image, in the order in which they are joined.

    Raises:
        KeyError: there is no such image.
    """
    return (*(KERNEL / f"{part}.s" for part in CORE), *images()[name].sources)


@lru_cache(maxsize=16)
def build_image(name: str) -> Image:
    """Assemble and link an image by name.

    Raises:
        KeyError: there is no such image.
        guest.asm.AsmError: its source is wrong.
    """
    return build(sources(name), layout=KERNEL_LAYOUT, entry=ENTRY, include=[KERNEL])


def build_scenario(scenario: Scenario, folder: Path) -> Image:
    """Assemble and link the image of a scenario whose own sources may lie elsewhere.

    Args:
        scenario: its sources are taken from `folder`, and those not there from kstack's own scenarios.
        folder: where its TOML is.

    Raises:
        guest.asm.AsmError: a source is wrong, or nowhere.
    """
    own = [
        FOLDER / name if (FOLDER / name).exists() and not (folder / name).exists() else folder / name
        for name in scenario.sources
    ]
    return build(own, layout=KERNEL_LAYOUT, entry=ENTRY, include=[KERNEL], begun=_kernel())


@lru_cache(maxsize=1)
def _kernel() -> bytes:
    """The kernel's own sources, assembled; a scenario's come behind them."""
    return begin([KERNEL / f"{part}.s" for part in CORE], include=[KERNEL])
