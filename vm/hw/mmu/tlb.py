"""The translation caches of one CPU: SDM volume 3, 4.10.

An instruction TLB and a data TLB, whose entries carry a PCID or are global, and caches of PML4E,
PDPTE and PDE per PCID. What is here is the truth about what the CPU has cached; the softmmu of the
engine only ever holds a part of it.

`retain` keeps all that the rules allow; a capacity drops the oldest entry, so that eviction depends
on the program alone and not on when the softmmu happened to ask.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from kstack.hw.mmu.walk import TableEntry, Translation, TranslationState

Key = tuple[int, int]  # (page shift, linear >> shift)
StructureState = tuple[tuple[int, tuple[tuple[Key, TableEntry], ...]], ...]
"""By PCID, what its structure caches hold."""
STRUCTURE_SHIFTS: Final = (21, 30, 39)


class TlbState(NamedTuple):
    """What a TLB holds.

    Attributes:
        entries: with their PCIDs, -1 for global.
        order: of filling: PCID or -1, and key.
    """

    entries: tuple[tuple[int, TranslationState], ...]
    order: tuple[tuple[int, Key], ...]


class Tlb:
    """One TLB (instruction or data).

    Args:
        capacity: entries it holds; 0 for no limit.
    """

    def __init__(self, capacity: int = 0) -> None:
        self.capacity = capacity
        self.shared: dict[Key, Translation] = {}
        self.own: dict[int, dict[Key, Translation]] = {}
        self._order: dict[tuple[int, Key], None] = {}  # pcid or -1, in order of filling
        self.shifts: tuple[int, ...] = (12,)
        self._state: TlbState | None = None  # what `state` gave, until something changes

    def changed(self) -> None:
        """An entry has been changed in place."""
        self._state = None

    def lookup(self, address: int, pcid: int, any_pcid: bool = False) -> Translation | None:
        """The cached translation of `address` under `pcid`, or None."""
        own = self.own.get(pcid)
        for shift in self.shifts:
            key = (shift, address >> shift)
            found = self.shared.get(key)
            if found is None and own:
                found = own.get(key)
            if found is not None:
                return found
        if any_pcid:
            return self._lookup_any(address)
        return None

    def _lookup_any(self, address: int) -> Translation | None:
        for pcid in sorted(self.own):
            for shift in self.shifts:
                found = self.own[pcid].get((shift, address >> shift))
                if found is not None:
                    return found
        return None

    def insert(self, entry: Translation, pcid: int, as_global: bool) -> list[Translation]:
        """Cache `entry`; the entries that had to make room, and the one it takes the place of."""
        self._state = None
        key = (entry.shift, entry.page)
        if entry.shift not in self.shifts:
            self.shifts = tuple(sorted({*self.shifts, entry.shift}))
        tag = -1 if as_global else pcid
        where = self.shared if as_global else self.own.setdefault(pcid, {})
        replaced = where.get(key)
        where[key] = entry
        dropped = [] if replaced is None or replaced.same_target(entry) else [replaced]
        if not self.capacity:
            return dropped
        self._order.pop((tag, key), None)
        self._order[tag, key] = None
        while len(self._order) > self.capacity:
            oldest = next(iter(self._order))
            del self._order[oldest]
            gone = self._pop(*oldest)
            if gone is not None:
                dropped.append(gone)
        return dropped

    def _pop(self, tag: int, key: Key) -> Translation | None:
        if tag < 0:
            return self.shared.pop(key, None)
        return self.own.get(tag, {}).pop(key, None)

    def drop_page(self, address: int, pcid: int | None, globals_too: bool) -> list[Translation]:
        """Drop what translates `address` for `pcid` (None: no PCID's own), and global ones if asked."""
        dropped = []
        self._state = None
        for shift in self.shifts:
            key = (shift, address >> shift)
            if globals_too:
                dropped.append(self.shared.pop(key, None))
                self._order.pop((-1, key), None)
            if pcid is not None and pcid in self.own:
                dropped.append(self.own[pcid].pop(key, None))
                self._order.pop((pcid, key), None)
        return [entry for entry in dropped if entry is not None]

    def drop_pcid(self, pcid: int) -> list[Translation]:
        """Drop all that is not global of one PCID."""
        gone = self.own.pop(pcid, {})
        self._state = None
        for key in gone:
            self._order.pop((pcid, key), None)
        return list(gone.values())

    def drop_all(self, globals_too: bool) -> list[Translation]:
        """Drop everything, or everything that is not global."""
        dropped = [entry for pcid in sorted(self.own) for entry in self.drop_pcid(pcid)]
        if globals_too:
            self._state = None
            dropped.extend(self.shared.values())
            self.shared.clear()
            self._order.clear()
        return dropped

    def entries(self) -> list[tuple[int, Translation]]:
        """All entries with their PCID (-1 for global), in a fixed order."""
        listed = [(-1, entry) for _, entry in sorted(self.shared.items())]
        for pcid in sorted(self.own):
            listed.extend((pcid, entry) for _, entry in sorted(self.own[pcid].items()))
        return listed

    def state(self) -> TlbState:
        """An immutable copy, order of filling included; the same object while nothing changes."""
        if self._state is None:
            entries = tuple((pcid, entry.state()) for pcid, entry in self.entries())
            self._state = TlbState(entries, tuple(self._order))
        return self._state

    def restore(self, state: TlbState) -> None:
        """Become what `state` returned."""
        if state is self._state:
            return
        self.shared, self.own, self.shifts = {}, {}, (12,)
        capacity, self.capacity = self.capacity, 0
        for pcid, raw in state.entries:
            self.insert(Translation.from_state(raw), pcid, pcid < 0)
        self.capacity = capacity
        self._state = state
        self._order = dict.fromkeys(state.order)


class StructureCaches:
    """The PML4E, PDPTE and PDE caches of one CPU, per PCID and never global (SDM 4.10.3.1)."""

    def __init__(self) -> None:
        self.own: dict[int, dict[Key, TableEntry]] = {}

    def lookup(self, address: int, pcid: int) -> tuple[int, TableEntry] | None:
        """The deepest cached entry on the path to `address`: (shift of its level, entry)."""
        own = self.own.get(pcid)
        if own:
            for shift in STRUCTURE_SHIFTS:
                entry = own.get((shift, address >> shift))
                if entry is not None:
                    return shift, entry
        return None

    def insert(self, shift: int, page: int, entry: TableEntry, pcid: int) -> None:
        """Cache the entry of the level `shift` for `page` (linear >> shift)."""
        self.own.setdefault(pcid, {})[shift, page] = entry

    def drop_path(self, address: int, pcid: int) -> None:
        """Drop the entries on the path to one address."""
        own = self.own.get(pcid, {})
        for shift in STRUCTURE_SHIFTS:
            own.pop((shift, address >> shift), None)

    def drop_pcid(self, pcid: int) -> None:
        """Drop all of one PCID."""
        self.own.pop(pcid, None)

    def drop_all(self) -> None:
        """Drop everything."""
        self.own.clear()

    def state(self) -> StructureState:
        """An immutable copy."""
        return tuple((pcid, tuple(sorted(self.own[pcid].items()))) for pcid in sorted(self.own))

    def restore(self, state: StructureState) -> None:
        """Become what `state` returned."""
        self.own = {pcid: {key: TableEntry(*entry) for key, entry in entries} for pcid, entries in state}
