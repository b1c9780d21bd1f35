"""The 4-level page walk: SDM volume 3, chapter 4 (4.5 IA-32e paging, 4.6 rights, 4.7 faults, 4.8 A and D).

The walk reads the guest's own tables, with 4 KiB, 2 MiB and 1 GiB pages, and sets Accessed and
Dirty by a locked update of the entry. A result is a value: a translation, or the fault's error code.

Not modelled: 5-level paging, 32-bit and PAE paging, protection keys, shadow stacks, PCD/PWT/PAT.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from kstack.x86.entries import FRAME_MASK, LARGE_RESERVED, NX, PS, RESERVED_HIGH, RW, US, A, D, G, P
from kstack.x86.errors import PageFault


class TableMemory(Protocol):
    """What a walk reads and updates."""

    def read64(self, address: int) -> int:
        """The word at physical `address`."""
        ...

    def exchange_quietly(self, address: int, expected: int, value: int) -> bool:
        """A locked update that is no store event; whether the word was `expected`."""
        ...

    def write64_quietly(self, address: int, value: int) -> None:
        """A plain store that is no store event."""
        ...


class TranslationState(NamedTuple):
    """A translation as numbers; `marks`: bit 0 dirty, bit 1 global, bit 2 accessed."""

    shift: int
    page: int
    frame: int
    rights: int
    marks: int
    leaf: int


class Translation:
    """One leaf as a TLB holds it (SDM 4.10.2.2).

    Attributes:
        shift: log2 of the page size: 12, 21 or 30.
        page: linear address >> shift.
        frame: physical base address of the page (bytes).
        writable, user: R/W and U/S, ANDed over the levels.
        no_execute: XD, ORed over the levels.
        dirty: whether D was set when it was cached.
        accessed: whether A was; it is not only after a fill under speculation=keeps-accessed-clear.
        is_global: the leaf's G.
        leaf: physical address of the leaf entry.
        checked: generation of the tables in which they were last seen to give it; not part of its value.
    """

    __slots__ = (
        "accessed",
        "checked",
        "dirty",
        "frame",
        "is_global",
        "leaf",
        "no_execute",
        "page",
        "shift",
        "user",
        "writable",
    )

    def __init__(self, shift: int, page: int, frame: int, rights: int, dirty: bool, is_global: bool, leaf: int) -> None:
        self.shift = shift
        self.page = page
        self.frame = frame
        self.writable = bool(rights & RW)
        self.user = bool(rights & US)
        self.no_execute = bool(rights & NX)
        self.dirty = dirty
        self.is_global = is_global
        self.leaf = leaf
        self.accessed = True
        self.checked = -1

    @property
    def rights(self) -> int:
        """R/W, U/S and XD as entry bits."""
        return (RW if self.writable else 0) | (US if self.user else 0) | (NX if self.no_execute else 0)

    def state(self) -> TranslationState:
        """Everything as integers, for snapshots."""
        marks = int(self.dirty) | int(self.is_global) << 1 | int(self.accessed) << 2
        return TranslationState(self.shift, self.page, self.frame, self.rights, marks, self.leaf)

    @classmethod
    def from_state(cls, state: TranslationState) -> Translation:
        """The translation that `state` came from."""
        shift, page, frame, rights, marks, leaf = state
        made = cls(shift, page, frame, rights, bool(marks & 1), bool(marks & 2), leaf)
        made.accessed = bool(marks & 4)
        return made

    def same_target(self, other: Translation | None) -> bool:
        """Same frame and rights: staleness is by value (A and D bits aside)."""
        return (
            other is not None
            and self.frame == other.frame
            and self.shift == other.shift
            and self.writable == other.writable
            and self.user == other.user
            and self.no_execute == other.no_execute
        )


class TableEntry(NamedTuple):
    """A paging-structure-cache entry: the next table, and the rights so far (SDM 4.10.3.1)."""

    table: int
    rights: int


class PagingControl(NamedTuple):
    """The control-register bits that rights depend on."""

    write_protect: bool
    no_execute: bool
    smep: bool
    gigabyte: bool = True


class WalkRules(NamedTuple):
    """Three rules of the walk that only a broken model switches off, and one that a mode of speculation adds."""

    combine: bool = True  # rights are gathered over the levels (4.10.2.2)
    set_accessed: bool = True  # A is set before anything is cached (4.10.2.3)
    locked: bool = True  # A and D are set by a locked update (8.1.2.1)
    needs_accessed: bool = False  # the walk ends at an entry without A, as if nothing were there


class Attempt(NamedTuple):
    """An access to be translated."""

    write: bool
    fetch: bool
    user: bool
    smap: bool = False


class Refusal(NamedTuple):
    """Why a translation was refused: the exception to deliver."""

    vector: int
    error: int
    address: int


class Walk(NamedTuple):
    """What a walk found.

    `translation` is None where no leaf could be reached; `error` is the #PF error code, or None.
    `tables` are the structure entries passed: (level shift, linear >> shift, entry).
    `path` are the (physical address of entry, level shift) that were read.
    """

    translation: Translation | None
    error: int | None
    tables: list[tuple[int, int, TableEntry]]
    path: list[tuple[int, int]]


def forbidding(attempt: Attempt, control: PagingControl) -> Callable[[int], bool]:
    """Whether the rights of a leaf entry forbid an access, whatever the upper levels say."""

    def forbids(entry: int) -> bool:
        leaf = Translation(12, 0, 0, entry & (RW | US | NX), bool(entry & D), False, 0)
        return denied(leaf, attempt, control)

    return forbids


def denied(translation: Translation, attempt: Attempt, control: PagingControl) -> bool:
    """Whether the rights of a translation forbid the access (SDM 4.6.1)."""
    if attempt.user:
        if not translation.user:
            return True
    elif translation.user:
        if attempt.fetch and control.smep:
            return True
        if attempt.smap and not attempt.fetch:
            return True
    if attempt.fetch:
        return translation.no_execute and control.no_execute
    return attempt.write and not translation.writable and (attempt.user or control.write_protect)


def error_code(present: bool, attempt: Attempt, control: PagingControl, reserved: bool = False) -> int:
    """The #PF error code (SDM 4.7)."""
    code = int(PageFault.P) if present or reserved else 0
    if attempt.write:
        code |= PageFault.W
    if attempt.user:
        code |= PageFault.U
    if reserved:
        code |= PageFault.RSVD
    if attempt.fetch and (control.no_execute or control.smep):
        code |= PageFault.ID
    return code


def reserved_bits(entry: int, shift: int, control: PagingControl) -> bool:
    """Whether a present entry has a reserved bit set (SDM 4.5, table 4-14 and following)."""
    if entry & RESERVED_HIGH or (entry & NX and not control.no_execute):
        return True
    if not entry & PS or shift == 12:
        return False
    if shift == 39 or (shift == 30 and not control.gigabyte):
        return True
    return bool(entry & LARGE_RESERVED[shift])


def look(memory: TableMemory, table: int, address: int, control: PagingControl) -> Translation | None:
    """What `walk` with no attempt gives from CR3's table, without its record of the path (a hot path)."""
    read64 = memory.read64
    allowed, forbidden = RW | US, 0
    for shift in (39, 30, 21, 12):
        where = table + (address >> shift & 0x1FF) * 8
        entry = read64(where)
        suspect = entry & RESERVED_HIGH or entry & NX or entry & PS
        if not entry & P or (suspect and reserved_bits(entry, shift, control)):
            return None
        allowed &= entry
        forbidden |= entry
        if shift == 12 or entry & PS:
            break
        table = entry & FRAME_MASK
    frame = entry & FRAME_MASK & -(1 << shift)
    rights = allowed | forbidden & NX
    return Translation(shift, address >> shift, frame, rights, bool(entry & D), bool(entry & G), where)


class _Changed(Exception):
    """An entry changed between the walk's read and its locked update: walk again."""


def walk(
    memory: TableMemory,
    start: TableEntry,
    start_shift: int,
    address: int,
    attempt: Attempt | None,
    control: PagingControl,
    rules: WalkRules = WalkRules(),
) -> Walk:
    """Walk from `start` to the leaf that translates `address`.

    Args:
        memory: where the tables are.
        start: the table to begin in and the rights gathered so far (CR3's, or a structure cache's).
        start_shift: the level of that table: 39, 30, 21 or 12.
        address: linear, canonical.
        attempt: the access; None only looks, sets nothing and checks no rights.
        control: control-register bits.
        rules: what only a broken model does otherwise.
    """
    while True:
        try:
            return _walk(memory, start, start_shift, address, attempt, control, rules)
        except _Changed:
            continue


def _walk(
    memory: TableMemory,
    start: TableEntry,
    shift: int,
    address: int,
    attempt: Attempt | None,
    control: PagingControl,
    rules: WalkRules,
) -> Walk:
    table, rights = start
    tables: list[tuple[int, int, TableEntry]] = []
    path: list[tuple[int, int]] = []
    while True:
        where = table + (address >> shift & 0x1FF) * 8
        entry = memory.read64(where)
        path.append((where, shift))
        if not entry & P:
            return Walk(None, error_code(False, attempt, control) if attempt else 0, tables, path)
        if reserved_bits(entry, shift, control):
            return Walk(
                None, error_code(True, attempt, control, True) if attempt else int(PageFault.RSVD), tables, path
            )
        if rules.needs_accessed and not entry & A:
            return Walk(None, 0, tables, path)
        rights = (rights & entry & (RW | US)) | ((rights | entry) & NX) if rules.combine else entry & (RW | US | NX)
        if shift == 12 or entry & PS:
            break
        if attempt is not None:
            _set(memory, where, entry, A, rules)
        table = entry & FRAME_MASK
        tables.append((shift, address >> shift, TableEntry(table, rights)))
        shift -= 9
    frame = entry & FRAME_MASK & -(1 << shift)
    found = Translation(shift, address >> shift, frame, rights, bool(entry & D), bool(entry & G), where)
    if attempt is None:
        return Walk(found, None, tables, path)
    if denied(found, attempt, control):
        return Walk(found, error_code(True, attempt, control), tables, path)
    _set(memory, where, entry, A | D if attempt.write else A, rules)
    found.dirty = found.dirty or attempt.write
    return Walk(found, None, tables, path)


def _set(memory: TableMemory, where: int, entry: int, bits: int, rules: WalkRules) -> None:
    """Set A or D in an entry as it was read; start over if somebody changed it in between."""
    if not rules.set_accessed:
        bits &= ~A
    if entry & bits == bits:
        return
    if not rules.locked:
        memory.write64_quietly(where, entry | bits)
    elif not memory.exchange_quietly(where, entry, entry | bits):
        raise _Changed
