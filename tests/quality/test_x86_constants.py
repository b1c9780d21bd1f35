"""What the manuals give a name is written as a number in vm/x86 alone.

A finder walks the syntax trees of the other rooms. By what stands around a number it knows exception vectors, shifts that are
bits (`1 << 21` in a mask), fields (`>> 13 & 3`), masks of what holds architectural bits (control registers, RFLAGS,
entries, selectors, descriptors), attributes of segments, and numbers of registers and MSRs. What only looks like one is in
ALLOWED, with the reason.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from kstack.x86.msrs import Msr
from kstack.x86.vectors import MNEMONICS
from tests.support.command import ROOT

ROOMS: Final = ROOT / "vm"
LEAF: Final = ROOMS / "x86"

ALLOWED: Final = {
    ("hw/cpu/encoding.py", "self.modrm >> 3 & 7"): "the one place that takes a ModRM apart",
    ("hw/devices/cmos.py", "127"): "of a port of the RTC's, whose names stand there",
    ("hw/devices/pit.py", "word >> 4 & 3"): "fields of the 8254's control word, which this alone knows",
    ("hw/devices/pit.py", "word >> 1 & 7"): "as above",
    ("hw/mmu/softmmu.py", "64"): "of what Softmmu tells the engine, which the processor has not",
    ("probe/child.py", "2147483648"): "a flag of Linux's sigaction",
    ("probe/memory.py", "16"): "a flag of Linux's mmap",
    ("load/multiboot.py", "1 << 16"): "flags of the Multiboot Specification, which this alone knows",
    ("load/multiboot.py", "1 << 2"): "as above",
    ("load/multiboot.py", "1 << 0"): "as above",
    ("load/multiboot.py", "1 << 6"): "as above",
}
"""By file in vm/ and by text; a line that is gone must leave this, too."""

VECTORS: Final = frozenset(name.lstrip("#") for name in MNEMONICS) | {
    "DIVIDE_ERROR",
    "DOUBLE_FAULT",
    "GENERAL_PROTECTION",
    "MACHINE_CHECK",
    "PAGE_FAULT",
}
RAISES: Final = frozenset({"GuestFault", "Fault", "Event", "exception"})
"""Calls whose first argument is a vector."""
HOLDERS: Final = frozenset(
    "cr cr0 cr3 cr4 cs descriptor dr dr6 dr7 eflags efer entry error flags gate mxcsr pte rex rflags selector ss tpr".split()
)
"""Names of what holds architectural bits, so that a mask of it is one."""
WIDTHS: Final = frozenset((1 << bits) - 1 for bits in (8, 16, 32, 64))
MASKS: Final = (ast.BitAnd, ast.BitOr, ast.BitXor)
SHIFTS: Final = (ast.LShift, ast.RShift)
SMALL: Final = 16  # a constant below this is hardly ever a mask


class Found(NamedTuple):
    """A number that should have a name: where, what it is taken for, and its text."""

    line: int
    kind: str
    text: str


def number(node: ast.AST | None) -> int | None:
    """The value of an integer that is written out, also behind a ~ or a -."""
    if isinstance(node, ast.UnaryOp):
        return number(node.operand)
    return node.value if isinstance(node, ast.Constant) and type(node.value) is int else None


def is_shift(node: ast.AST) -> bool:
    """Whether it is `1 << 21`, of two numbers."""
    return (
        isinstance(node, ast.BinOp)
        and isinstance(node.op, ast.LShift)
        and number(node.left) is not None
        and number(node.right) is not None
    )


def last_name(node: ast.AST) -> str:
    """The last name of `a.b.c[d]`, which is c."""
    if isinstance(node, ast.Subscript):
        return last_name(node.value)
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


class Finder:
    """Finds numbers in one module."""

    def __init__(self, source: str) -> None:
        self._tree = ast.parse(source)
        self._above = {child: node for node in ast.walk(self._tree) for child in ast.iter_child_nodes(node)}
        loaded = (
            node for node in ast.walk(self._tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
        )
        self._masked = {node.id for node in loaded if self._is_masked(node)}

    def found(self) -> list[Found]:
        """All of them, in order, each once."""
        every = {(node.lineno, kind, ast.unparse(node)) for node, kind in self._find() if not self._is_named(node)}
        return sorted(Found(*one) for one in every)

    def _find(self) -> Iterator[tuple[ast.expr, str]]:
        for node in ast.walk(self._tree):
            if isinstance(node, ast.Compare):
                yield from self._comparison(node)
            elif isinstance(node, ast.Call):
                yield from self._call(node)
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                yield from self._assignment(node)
            elif isinstance(node, ast.Dict):
                yield from self._names_of_vectors(node)
            elif isinstance(node, ast.Subscript) and last_name(node.value) == "gpr" and number(node.slice) is not None:
                yield node, "register"
            elif isinstance(node, ast.Constant) and node.value in MSRS:
                yield node, "MSR"
            elif isinstance(node, ast.BinOp):
                yield from self._operation(node)

    def _comparison(self, node: ast.Compare) -> Iterator[tuple[ast.expr, str]]:
        sides = [node.left, *node.comparators]
        if any(last_name(side).lower().endswith("vector") for side in sides):
            for side in sides:
                items = side.elts if isinstance(side, ast.Tuple | ast.Set | ast.List) else [side]
                if any(number(item) is not None for item in items):
                    yield node, "vector"

    def _call(self, node: ast.Call) -> Iterator[tuple[ast.expr, str]]:
        name = last_name(node.func)
        if name in RAISES and node.args and number(node.args[0]) is not None:
            yield node, "vector"
        if name == "Segment" and len(node.args) > 3 and number(node.args[3]):
            yield node, "attributes"

    def _assignment(self, node: ast.Assign | ast.AnnAssign) -> Iterator[tuple[ast.expr, str]]:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        names = [each for target in targets for each in (target.elts if isinstance(target, ast.Tuple) else [target])]
        values = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
        if len(names) != len(values):
            return
        for target, value in zip(names, values, strict=True):
            if value is None:
                continue
            name, is_constant = last_name(target), isinstance(self._above[node], ast.Module)
            if is_constant and name.lstrip("_") in VECTORS and number(value) is not None:
                yield value, "vector"
            elif isinstance(target, ast.Subscript) and name == "cr" and number(value):
                yield value, "bits"
            elif is_constant and name in self._masked:
                if is_shift(value):
                    yield value, "bit"
                elif (number(value) or 0) >= SMALL and number(value) not in WIDTHS:
                    yield value, "mask"

    def _names_of_vectors(self, node: ast.Dict) -> Iterator[tuple[ast.expr, str]]:
        for key, value in zip(node.keys, node.values, strict=True):
            if number(key) is not None and isinstance(value, ast.Constant) and value.value in MNEMONICS:
                yield value, "vector"

    def _operation(self, node: ast.BinOp) -> Iterator[tuple[ast.expr, str]]:
        above = self._above[node]
        is_width = isinstance(above, ast.BinOp) and isinstance(above.op, ast.Sub)  # (1 << 32) - 1
        if is_shift(node) and self._is_masked(node) and not is_width:
            yield node, "bit"
        if not isinstance(node.op, MASKS):
            return
        for one, other in ((node.left, node.right), (node.right, node.left)):
            mask, holds = number(other), self._holds_bits(one)
            if mask is None or (mask in WIDTHS and not (holds and isinstance(one, ast.BinOp))):
                continue
            shifted = isinstance(one, ast.BinOp) and isinstance(one.op, ast.RShift) and number(one.right) is not None
            if shifted and isinstance(node.op, ast.BitAnd):
                yield node, "field"
            elif holds and mask not in WIDTHS:
                yield node, "mask"

    def _holds_bits(self, node: ast.expr) -> bool:
        """Whether an expression is of what holds architectural bits."""
        return any(last_name(part).lstrip("_") in HOLDERS for part in ast.walk(node))

    def _is_masked(self, node: ast.AST) -> bool:
        """Whether a value goes into a mask; the number of places that something is shifted by does not."""
        below, above = node, self._above.get(node)
        while isinstance(above, ast.BinOp | ast.UnaryOp | ast.AugAssign):
            if isinstance(above, ast.UnaryOp):
                if isinstance(above.op, ast.Invert):
                    return True
            elif isinstance(above.op, MASKS):
                return True
            elif not isinstance(above.op, SHIFTS) or (isinstance(above, ast.BinOp) and above.right is below):
                return False
            below, above = above, self._above.get(above)
        return False

    def _is_named(self, node: ast.AST) -> bool:
        """Whether it is the value of a member of an enum: a device's registers have names of their own."""
        above = self._above.get(node)
        while above is not None and not isinstance(above, ast.ClassDef | ast.FunctionDef):
            above = self._above.get(above)
        return isinstance(above, ast.ClassDef) and any("enum" in ast.unparse(base) for base in above.bases)


MSRS: Final = frozenset(int(msr) for msr in Msr if msr >= Msr.EFER)
"""Of so high a number that it can be nothing else."""


def numbers_in(rooms: Path) -> Iterator[tuple[str, Found]]:
    """What stands in the rooms but the leaf, with the names of files."""
    for path in sorted(rooms.rglob("*.py")):
        if LEAF.name not in path.relative_to(rooms).parts:
            yield from ((path.relative_to(rooms).as_posix(), one) for one in Finder(path.read_text()).found())


def counts(found: Iterable[tuple[str, Found]]) -> Counter[str]:
    """How many of each kind."""
    return Counter(one.kind for _, one in found)


def test_no_room_but_x86_writes_out_an_architectural_number() -> None:
    found = [(file, one) for file, one in numbers_in(ROOMS) if (file, one.text) not in ALLOWED]
    listed = "\n".join(f"vm/{file}:{one.line}: {one.kind}: {one.text}" for file, one in found)
    assert not found, f"name it in vm/x86, with its section, or say in ALLOWED why it is none:\n{listed}"


def test_what_is_allowed_is_there() -> None:
    assert ALLOWED.keys() <= {(file, one.text) for file, one in numbers_in(ROOMS)}


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        ("vector", "if fault.vector == 13: pass"),
        ("vector", "lost = last.vector in (8, 14)"),
        ("vector", "raise GuestFault(6, None)"),
        ("vector", "UD, LIMIT = 6, 130"),
        ("vector", "_PAGE_FAULT: Final = 14"),
        ("vector", 'NAMES = {14: "#PF"}'),
        ("bit", "on = registers.cr[4] & 1 << 21"),
        ("bit", "flags |= 1 << 9"),
        ("bit", "VALID = 0x3F | 1 << 6"),
        ("bit", "_G: Final = 1 << 8\nentry = entry & ~_G"),
        ("bit", "flags = code.flags | 3 << 13"),
        ("field", "dpl = self.flags >> 13 & 3"),
        ("field", "kind = gate >> 40 & 0xF"),
        ("field", "selector = gate >> 16 & 0xFFFF"),
        ("mask", "if selector & 4: pass"),
        ("mask", "error = selector & ~3"),
        ("mask", "pcid = cr3 & 0xFFF"),
        ("mask", "wide = found.rex & 8"),
        ("mask", "_RESERVED: Final = 0xFFC2802A\nbad = value & _RESERVED"),
        ("bits", "registers.cr[0] = 0x60000010"),
        ("attributes", "data = Segment(0, 0, 0xFFFF, 0x9300)"),
        ("register", "rsp = cpu.registers.gpr[4]"),
        ("MSR", "star = msrs.read(0xC0000081)"),
    ],
)
def test_a_number_that_is_written_out_is_found(kind: str, source: str) -> None:
    assert [one.kind for one in Finder(source).found()] == [kind]


@pytest.mark.parametrize(
    "source",
    [
        "ROWS: Final = 1 << 20",
        "mask = (1 << 64) - 1",
        "value = value & 0xFFFFFFFF",
        "low = rflags & 0xFFFF",
        "page = address & ~0xFFF",
        "bit = 1 << vector",
        "_SHIFT: Final = 21\nentry = at << _SHIFT | PS",
        "class Lsr(enum.IntEnum):\n    READY = 1 << 5",
        "if 0 <= value < 1 << 64: pass",
        "if event.vector == PF: pass",
        "low = registers.gpr[Gpr.RAX] & 0xFF",
    ],
)
def test_what_is_no_architectural_number_is_not(source: str) -> None:
    assert Finder(source).found() == []
