"""The guest images that come with kstack: the kernel linked with what it is to run, and probes, which have no kernel.

Every image is one ELF64 file that this machine and QEMU (`-kernel`, PVH) both boot. A probe asks a processor which values
of a mode it refutes (probes/lib_probe.s); it has a multiboot header, too, so that other loaders boot it.
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
PROBES: Final = Path(__file__).parent / "probes"
PROBE_CORE: Final = "defs boot trampoline desc spin apic console".split()
"""What of the kernel a probe is linked with."""
PROBE_PREFIX: Final = "probe-"
PROBE_TITLES: Final = {
    "speculation": "what a fill that no instruction asked for does to Accessed",
    "dirty-rewalk": "whether a write through an entry cached with D=0 walks again",
    "df-restart": "whether the state saved at #DF can be returned to",
    "interrupted-delivery": "what becomes of an interrupt whose delivery faults",
    "memory-order": "what other CPUs and page walks see of a store at once",
    "not-present": "whether an entry that is not present is cached",
    "spurious-fault": "whether rights that have grown are refused once more, and only once",
    "structure-caches": "whether entries that point to tables are cached, and dropped by INVLPG",
    "global-invlpg": "whether INVLPG drops global translations while PCIDs are on",
}
_CORE: Final = tuple(KERNEL / f"{part}.s" for part in CORE)
SELFTEST: Final = "user selftest test_trap test_interrupt test_memory test_smp test_thread test_user".split()


class ImageInfo(NamedTuple):
    """An image by name; all its sources, in the order in which they are joined."""

    name: str
    title: str
    sources: tuple[Path, ...]


def images() -> dict[str, ImageInfo]:
    """All images, by name: the self-test, the probes, and one a scenario."""
    selftest = tuple(KERNEL / f"{name}.s" for name in SELFTEST)
    found = {"selftest": ImageInfo("selftest", "the kernel's self-test: PASS and FAIL lines", (*_CORE, *selftest))}
    found |= {info.name: info for info in map(_probe, PROBE_TITLES)}
    for scenario in scenarios().values():
        sources = tuple(FOLDER / name for name in scenario.sources)
        found[scenario.id] = ImageInfo(scenario.id, scenario.title, (*_CORE, *sources))
    return found


def _probe(name: str) -> ImageInfo:
    kernel = [KERNEL / f"{part}.s" for part in PROBE_CORE]
    own = [PROBES / f"{part}.s" for part in ("multiboot", "lib_probe", "bodies", name.replace("-", "_"))]
    return ImageInfo(PROBE_PREFIX + name, f"probe: {PROBE_TITLES[name]}", (*kernel, *own))


def sources(name: str) -> tuple[Path, ...]:
    """The source files of an image, in the order in which they are joined.

    Raises:
        KeyError: there is no such image.
    """
    return images()[name].sources


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
    return begin(_CORE, include=[KERNEL])
