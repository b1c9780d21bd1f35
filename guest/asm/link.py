"""The linker: sections to addresses, symbols to values, slots to bytes."""

from __future__ import annotations

import difflib
from collections import Counter
from dataclasses import dataclass

from kstack.guest.asm.assemble import Program
from kstack.guest.asm.encode import Slot
from kstack.guest.asm.errors import NOWHERE, AsmError, Place
from kstack.guest.asm.expr import Linear, signed
from kstack.guest.asm.image import Image
from kstack.guest.asm.layout import Layout, Placement
from kstack.guest.asm.output import OutputSection, Symbol
from kstack.guest.asm.relax import Relaxed, Relaxer, length
from kstack.guest.asm.section import Align, Chunk, Item, Jump, Label, Section, Space

_MASK = (1 << 64) - 1


@dataclass(frozen=True)
class _Placed:
    """An output section and the inputs in it with their virtual addresses."""

    placement: Placement
    vaddr: int
    paddr: int
    size: int
    inputs: tuple[tuple[Relaxed, int], ...]


def link(program: Program, layout: Layout, entry: str | None) -> Image:
    """Place, resolve and patch.

    Parameters: what was assembled, where it goes, and the entry symbol (None: the first byte of
    the first section).  Raises AsmError for undefined symbols, values out of range, sections
    that overlap or do not fit the layout.
    """
    return Linker(program, layout).image(entry)


class Linker:
    """One linking."""

    def __init__(self, program: Program, layout: Layout) -> None:
        self._program = program
        sections = [s for s in program.sections.values() if s.items]
        self._relaxed = {s.name: Relaxer(s, self._locate).run() for s in sections}
        self._start: dict[str, int] = {}
        self._placed = self._place(_with_orphans(layout, sections))
        self._bounds = self._boundaries(layout)

    # symbols

    def _locate(self, name: str) -> tuple[Label, int] | None:
        label = self._program.labels.get(name)
        if label is not None:
            return label, 0
        constant = self._program.constants.get(name)
        if constant is None or len(constant.value.terms) != 1 or constant.value.terms[0][1] != 1:
            return None
        found = self._locate(constant.value.terms[0][0])
        return (found[0], found[1] + constant.value.const) if found else None

    def value(self, linear: Linear, place: Place, depth: int = 0) -> int:
        """The 64-bit signed value of an expression.

        Raises AsmError when a symbol in it is not defined.
        """
        total = linear.const
        for name, factor in linear.terms:
            total += factor * self._symbol(name, place, depth)
        return signed(total)

    def _symbol(self, name: str, place: Place, depth: int) -> int:
        label = self._program.labels.get(name)
        if label is not None:
            relaxed = self._relaxed.get(label.section)
            if relaxed is None:  # a label in a section with nothing in it
                return self._start.get(label.section, self._end())
            return self._start[label.section] + relaxed.offsets[label.index]
        constant = self._program.constants.get(name)
        if constant is not None:
            if name in self._program.redefined:
                raise AsmError(place, f"{_shown(name)} is used before .set gives it one of its values")
            if depth > 50:
                raise AsmError(place, f"{_shown(name)} is defined by itself")
            return self.value(constant.value, constant.place, depth + 1)
        if name in self._bounds:
            return self._bounds[name]
        raise AsmError(place, f"{_shown(name)} is not defined{self._suggest(name)}")

    def _suggest(self, name: str) -> str:
        known = [n for n in (*self._program.labels, *self._program.constants) if "\0" not in n]
        near = difflib.get_close_matches(_shown(name), known, 1)
        return f"; did you mean {near[0]}?" if near else ""

    def _end(self) -> int:
        return self._placed[-1].vaddr + self._placed[-1].size if self._placed else 0

    def _boundaries(self, layout: Layout) -> dict[str, int]:
        """``__text_start`` and ``__text_end`` for each output section."""
        found: dict[str, int] = {}
        placed = {p.placement.name: p for p in self._placed}
        last = 0
        for placement in layout.placements:
            name = placement.name.lstrip(".").replace(".", "_")
            here = placed.get(placement.name)
            start = here.vaddr if here else last or placement.address or 0
            last = here.vaddr + here.size if here else start
            found[f"__{name}_start"], found[f"__{name}_end"] = signed(start), signed(last)
        return found

    # placement

    def _place(self, layout: Layout) -> list[_Placed]:
        placed: list[_Placed] = []
        cursor: int | None = None
        for placement in layout.placements:
            if placement.address is not None:
                paddr = placement.address - placement.offset
                if cursor is not None and paddr < cursor:
                    raise AsmError(NOWHERE, f"section {placement.name} overlaps the one before it")
                cursor = paddr
            inputs = [r for name, r in self._relaxed.items() if placement.takes(name)]
            if not inputs:
                continue
            if cursor is None:
                raise AsmError(NOWHERE, f"section {placement.name} comes first and has no address")
            align = max([placement.align] + [r.section.align for r in inputs])
            if placement.address is not None and cursor % align and cursor % inputs[0].section.align:
                raise AsmError(
                    inputs[0].section.place,
                    f"{placement.name} at {placement.address:#x} asks for an alignment of {align}",
                )
            if placement.address is None:
                cursor = cursor + -cursor % align
            here = self._one(placement, cursor, inputs)
            placed.append(here)
            cursor += here.size
        return placed

    def _one(self, placement: Placement, paddr: int, inputs: list[Relaxed]) -> _Placed:
        vaddr = paddr + placement.offset
        address, with_addresses = vaddr, []
        for relaxed in inputs:
            address += -address % relaxed.section.align
            self._start[relaxed.section.name] = address
            with_addresses.append((relaxed, address))
            address += relaxed.offsets[-1]
        return _Placed(placement, vaddr, paddr, address - vaddr, tuple(with_addresses))

    # output

    def image(self, entry: str | None) -> Image:
        """The linked image."""
        sections, lines = [], []
        for placed in self._placed:
            content = bytearray()
            for relaxed, address in placed.inputs:
                content += bytes(address - placed.vaddr - len(content))
                for i, item in enumerate(relaxed.section.items):
                    at = address + relaxed.offsets[i]
                    if isinstance(item, Chunk | Jump) and relaxed.offsets[i + 1] > relaxed.offsets[i]:
                        lines.append((at, item.place))
                    if not placed.placement.nobits:
                        content += self._content(relaxed, i, item, at)
            p = placed.placement
            data = b"" if p.nobits else bytes(content)
            sections.append(OutputSection(p.name, p.access, placed.vaddr, placed.paddr, data, placed.size))
        start = sections[0].vaddr if sections else 0
        if entry is not None:
            start = self.value(Linear(0, ((entry, 1),)), NOWHERE) & _MASK
        return Image(tuple(sections), self._symbols(), start, tuple(sorted(lines, key=lambda x: x[0])))

    def _content(self, relaxed: Relaxed, i: int, item: Item, at: int) -> bytes:
        size = relaxed.offsets[i + 1] - relaxed.offsets[i]
        if isinstance(item, Align):
            return item.fill * size
        if isinstance(item, Space):
            return bytes([item.fill]) * size
        if isinstance(item, Chunk):
            for slot in item.slots:
                self._refuse_distance(slot.value, relaxed.section.name, item.place)
            return self._patched(item.data, item.slots, at, item.place)
        near = relaxed.near[i]
        code = item.branch.near if near else item.branch.short
        width = length(item.branch, near) - len(code)
        slot = Slot(len(code), width, item.branch.target, relative=True)
        return self._patched(code + bytes(width), (slot,), at, item.place)

    def _refuse_distance(self, value: Linear, section: str, place: Place) -> None:
        """Refuse a distance between two other sections, for which no relocation exists."""
        if len(value.terms) < 2:
            return
        net: Counter[str] = Counter()
        for name, factor in value.terms:
            found = self._locate(name)
            net[found[0].section if found else name] += factor
        if any(factor < 0 for where, factor in net.items() if where != section):
            raise AsmError(place, "GNU as cannot subtract symbols of another section; give two .quad, or use registers")

    def _patched(self, data: bytes, slots: tuple[Slot, ...], at: int, place: Place) -> bytes:
        if not slots:
            return data
        out = bytearray(data)
        for slot in slots:
            value = self.value(slot.value, place)
            if slot.relative:
                value = signed(value - (at + len(data)))
            bits = 8 * slot.size
            # Without sign extension either reading of the field is meant: -1 and 0xffff.
            highest = 1 << (bits - (slot.signed or slot.relative))
            if not -(1 << (bits - 1)) <= value < highest and not (slot.size == 2 and slot.relative):
                kind = "distance" if slot.relative else "value"
                raise AsmError(place, f"{kind} {value:#x} does not fit {bits} bits; {_way_out(slot)}")
            out[slot.offset : slot.offset + slot.size] = (value % (1 << bits)).to_bytes(slot.size, "little")
        return bytes(out)

    def _symbols(self) -> dict[str, Symbol]:
        program = self._program
        found: dict[str, Symbol] = {}
        for name, label in program.labels.items():
            if "\0" in name:
                continue
            section = next((p.placement.name for p in self._placed if p.placement.takes(label.section)), label.section)
            found[name] = self._make(name, section)
        for name, constant in program.constants.items():
            if "\0" not in name and name not in program.redefined:
                value = self.value(constant.value, constant.place) & _MASK
                found[name] = Symbol(name, value, 0, "notype", "")
        for name, bound in self._bounds.items():
            found.setdefault(name, Symbol(name, bound & _MASK, 0, "notype", ""))
        return found

    def _make(self, name: str, section: str) -> Symbol:
        attributes = self._program.attributes.get(name)
        value = self._symbol(name, NOWHERE, 0) & _MASK
        if attributes is None:
            return Symbol(name, value, 0, "notype", section)
        size = self.value(attributes.size, attributes.place) if attributes.size else 0
        if size < 0:
            raise AsmError(attributes.place, f"the size of {name} is {size}")
        return Symbol(name, value, size, attributes.type, section)


def _shown(name: str) -> str:
    """A symbol's name as it was written."""
    return name.split("\0")[0] or "this label"


def _way_out(slot: Slot) -> str:
    if slot.relative:
        return "the target is too far away: load its address and branch through a register"
    if slot.size == 4:
        return "write movabs reg, offset symbol, or subtract the section's offset"
    return "write a wider directive or register"


def _with_orphans(layout: Layout, sections: list[Section]) -> Layout:
    """The layout with a placement for each section that it does not name."""
    known = list(layout.placements)
    orphans = [s for s in sections if not any(p.takes(s.name) for p in known)]
    if not orphans:
        return layout
    last = max((i for i, p in enumerate(known) if not p.nobits), default=-1)
    model = known[last]
    new = [Placement(s.name, s.access, None, model.offset, model.align, s.nobits) for s in orphans]
    return Layout((*known[: last + 1], *new, *known[last + 1 :]))
