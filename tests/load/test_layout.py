"""What a loader hands over lies in RAM and outside of the image, wherever the image lies; or the image is refused."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import pairwise
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kstack.base.errors import ImageError
from kstack.load import load
from kstack.machine import Machine
from kstack.x86.registers import Gpr
from tests.support.images import ADDRESSES, Segment, elf, multiboot_header, pvh_note
from tests.support.reset import machine_at_reset

PAGE: Final = 4096
RAM: Final = 0x140000
LOW_END: Final = 0x9FC00
SIZES: Final = {"pvh": 1, "multiboot": 1, "addresses": 1, "long": 10}
"""Pages of what is handed over in one piece."""
Ranges = list[tuple[int, int]]


def fresh(ram: int = RAM) -> Machine:
    """A machine at reset; the same one each time."""
    return machine_at_reset(1, ram)


def image(kind: str, segments: list[Segment]) -> bytes:
    """An image of a kind, entered at its first segment; one with addresses is that segment alone."""
    entry = segments[0].physical
    if kind == "pvh":
        return elf([*segments, pvh_note(entry)], entry)
    if kind == "multiboot":
        return elf([Segment(0, multiboot_header(), kind=0), *segments], entry)
    if kind == "addresses":
        data, size = segments[0].data, segments[0].size or 0
        end = entry + 32 + len(data)
        return multiboot_header(ADDRESSES, (entry, entry, end, max(end, entry + size), entry)) + data
    return elf(segments, entry)


def handed_over(machine: Machine, kind: str) -> Ranges:
    """Where the structures are that the boot CPU has been told of."""
    registers, memory = machine.cpus[0].registers, machine.memory
    info = registers.gpr[Gpr.RBX]
    if kind == "pvh":
        table, count = struct.unpack("<QI", memory.read(info + 40, 12))
        return [(info, info + 56), (table, table + 24 * count)]
    if kind in ("multiboot", "addresses"):
        length, table = struct.unpack("<II", memory.read(info + 44, 8))
        return [(info, info + 128), (table, table + length)]
    top = registers.gpr[Gpr.RSP]
    return [(top - 4 * PAGE, top), *((table, table + PAGE) for table in tables(machine, registers.cr[3], 3))]


def tables(machine: Machine, table: int, level: int) -> Iterator[int]:
    """A table and those below it."""
    yield table
    for entry in struct.unpack("<512Q", machine.memory.read(table, PAGE)) if level > 1 else ():
        if entry & 1:
            yield from tables(machine, entry & ~0xFFF, level - 1)


def has_room(taken: Ranges, size: int) -> bool:
    """Whether so many bytes go somewhere, by trying every page."""
    blocked = [*taken, (0, PAGE), (LOW_END, 0x100000)]
    return any(all(at + size <= a or b <= at for a, b in blocked) for at in range(0, RAM - size + 1, PAGE))


@st.composite
def layouts(draw: st.DrawFn) -> list[Segment]:
    """Segments that do not overlap: RAM is cut at random, and pieces of it taken, whole or with zeros at their end."""
    near = st.sampled_from((0x1000, 0x8000, 0x9000, 0xA000, 0xD000, LOW_END, 0x100000, RAM))
    cut = st.one_of(st.integers(0, RAM), near, near.flatmap(lambda at: st.integers(max(0, at - 40), min(RAM, at + 40))))
    cuts = sorted(draw(st.sets(cut, min_size=2, max_size=14)))
    pieces = [piece for piece in pairwise(cuts) if draw(st.integers(0, 3))] or [(cuts[0], cuts[1])]
    segments = []
    for number, (start, end) in enumerate(pieces):
        filled = draw(st.sampled_from((0, 1, (end - start) // 2, end - start)))
        segments.append(Segment(start, bytes([number + 1]) * filled, end - start))
    return draw(st.permutations(segments))


@pytest.mark.parametrize("kind", SIZES)
@settings(max_examples=80, deadline=None)
@given(segments=layouts())
def test_what_is_handed_over_is_in_ram_and_outside_of_all_segments(kind: str, segments: list[Segment]) -> None:
    machine = fresh()
    binary = image(kind, segments)
    if kind == "addresses":
        first = segments[0]
        whole = binary[: 32 + len(first.data)]
        segments = [Segment(first.physical, whole, max(len(whole), first.size or 0))]
    taken = [(one.physical, one.physical + (one.size or 0)) for one in segments]
    if any(end > RAM for _, end in taken) or not has_room(taken, SIZES[kind] * PAGE):
        with pytest.raises(ImageError, match=r"needs RAM|leaves no room"):
            load(machine, binary)
        return
    load(machine, binary)
    given_out = handed_over(machine, kind)
    for start, end in given_out:
        assert 0 < start < end <= RAM
        assert all(end <= a or b <= start for a, b in taken), "over the image"
        assert end <= LOW_END or start >= 0x100000, "where a PC has firmware's data and video memory"
    expected = bytearray(RAM)
    for start, end in given_out:
        expected[start:end] = machine.memory.read(start, end - start)
    for one in segments:
        expected[one.physical : one.physical + len(one.data)] = one.data
    assert machine.memory.read(0, RAM) == expected, "nothing else is written"


@pytest.mark.parametrize("kind", SIZES)
def test_an_image_at_the_usual_address_leaves_the_usual_places(kind: str) -> None:
    machine = fresh()
    load(machine, image(kind, [Segment(0x100000, b"\x90" * 100)]))
    assert min(start for start, _ in handed_over(machine, kind)) == 0x9000


def test_below_640_kib_comes_before_what_follows_the_image() -> None:
    machine = fresh()
    load(machine, image("pvh", [Segment(0x9000, b"x", 0x2000), Segment(0x100000, b"y", 0x1000)]))
    assert handed_over(machine, "pvh")[0][0] == 0xB000
    load(machine := fresh(), image("pvh", [Segment(0x9000, b"x", LOW_END - 0x9000), Segment(0x100000, b"y")]))
    assert handed_over(machine, "pvh")[0][0] == 0x1000
    load(machine := fresh(), image("pvh", [Segment(0x800, b"x", LOW_END - 0x800), Segment(0x100000, b"y")]))
    assert handed_over(machine, "pvh")[0][0] == RAM - PAGE, "an allocator begins behind the image"


def test_an_image_that_fills_ram_is_refused() -> None:
    with pytest.raises(
        ImageError, match=r"leaves no room for 0x1000 bytes of PVH start info beside it; give more --ram"
    ):
        load(fresh(), image("pvh", [Segment(0, b"x", RAM)]))


def test_segments_that_overlap_are_refused() -> None:
    with pytest.raises(ImageError, match=r"segments overlap in memory, 0x100000 to 0x101001 and 0x101000 to 0x101001"):
        load(fresh(), image("pvh", [Segment(0x101000, b"y"), Segment(0x100000, b"x", 0x1001)]))


def test_segments_that_touch_and_empty_ones_are_not() -> None:
    empty = Segment(0xFFFF_FFFF_0000, b"")
    load(fresh(), image("pvh", [Segment(0x100000, b"x", 0x1000), Segment(0x101000, b"y"), empty]))


def test_what_does_not_fit_into_ram_is_said_with_the_way_out() -> None:
    with pytest.raises(ImageError, match=r"needs RAM from 0x13ff00 to 0x140100, .* give more with --ram"):
        load(fresh(), image("long", [Segment(RAM - 0x100, b"x", 0x200)]))
    for where in (0xFFFF_FFFF_8010_0000, (1 << 64) - 1, 3 << 30):
        with pytest.raises(ImageError, match=r"no machine has RAM there; give its segments physical addresses"):
            load(fresh(), image("long", [Segment(where, b"x", 0x200)]))


def test_of_an_image_that_does_not_fit_nothing_is_in_memory() -> None:
    machine = fresh()
    with pytest.raises(ImageError):
        load(machine, image("pvh", [Segment(0x100000, b"x"), Segment(RAM, b"y")]))
    assert machine.memory.read(0, RAM) == bytes(RAM)
