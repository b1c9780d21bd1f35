"""Hypothesis strategies: page tables, schedules, faults and thread programs.

What they draw shrinks towards the plainest of its kind: one mapped page with every right, no choice at all (everybody in
turn), the first fault at its first moment, programs of nothing. What is drawn has a repr that makes it again.
Needs Hypothesis: `pip install 'kstack[strategies]'`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from hypothesis import strategies as st

from kstack.fault import ACTIONS, At, Fault, Flush, Moment, Send, Step, When, Where
from kstack.fault.records import FLAG_BITS, STEPS
from kstack.kernels.kstack.litmus import LOCATIONS, MOST_STACKS, PAGE, RESULTS, STACK, Operation, Visit
from kstack.schedule import Choice, PctSchedule, RandomSchedule, RoundRobin, Scheduler
from kstack.testing.schedulers import Following
from kstack.x86.addresses import PHYSICAL_BITS, canonical
from kstack.x86.entries import FRAME_MASK, NX, PS, RESERVED_HIGH, RW, US, A, D, G, P
from kstack.x86.registers import Gpr
from kstack.x86.vectors import FIRST_USER_DEFINED, VECTORS

LEVELS: Final = (39, 30, 21, 12)
"""log2 of what an entry of each table covers: PML4, PDPT, PD, PT."""
LARGE: Final = (30, 21)
_INDICES: Final = 512
_ENTRY: Final = 8
_FRAMES: Final = 6  # that pages are mapped to: few, so that two often share one
_SIBLINGS: Final = 3  # entries of a table that are used, from the first one on
_SOME: Final = st.integers(0, (1 << 12) - 1)
_LONGEST: Final = 64
_NTH: Final = st.integers(1, 20)  # executions, steps, ...
_REGISTERS: Final = tuple(register.name.lower() for register in Gpr)
_FIELDS: Final[dict[str, st.SearchStrategy[Any]]] = {
    "bit": st.integers(0, 63),
    "register": st.sampled_from((*_REGISTERS, "rip", "rflags")),
    "vector": st.integers(FIRST_USER_DEFINED, VECTORS - 1),
    "units": st.integers(1, 5000),
}


class Memory(Protocol):
    """What tables are written into."""

    def write64(self, address: int, value: int) -> None:
        """Store a word at a physical address."""
        ...


@dataclass(frozen=True)
class Mapping:
    """A linear page and the entries through which it is reached.

    Attributes:
        address: linear, canonical, of its first byte.
        shift: log2 of its size in bytes: 12, 21 or 30.
        entries: (physical address, value) from the root's to the leaf's.
    """

    address: int
    shift: int
    entries: tuple[tuple[int, int], ...]

    @property
    def valid(self) -> bool:
        """Every entry is present, and none has a reserved bit set (SDM 4.5)."""
        return all(entry & P and not entry & RESERVED_HIGH for _, entry in self.entries)

    @property
    def frame(self) -> int:
        """Physical address of its first byte, as the leaf has it."""
        return self.entries[-1][1] & FRAME_MASK & -(1 << self.shift)

    @property
    def writable(self) -> bool:
        """R/W, ANDed over the levels (SDM 4.6)."""
        return all(entry & RW for _, entry in self.entries)

    @property
    def user(self) -> bool:
        """U/S, ANDed over the levels."""
        return all(entry & US for _, entry in self.entries)

    @property
    def no_execute(self) -> bool:
        """XD, ORed over the levels."""
        return any(entry & NX for _, entry in self.entries)


@dataclass(frozen=True)
class Tables:
    """4-level page tables.

    Attributes:
        root: physical address of the PML4, for CR3.
        words: (physical address, value) of every entry that is not zero.
        mappings: by which it was made; those of one frame are aliases.
    """

    root: int
    words: tuple[tuple[int, int], ...]
    mappings: tuple[Mapping, ...]

    def write(self, memory: Memory) -> None:
        """Store them; what is there else stays, and must be zero."""
        for address, value in self.words:
            memory.write64(address, value)


@st.composite
def page_tables(
    draw: st.DrawFn,
    base: int = 0x10000,
    frames: int = 0x200000,
    most: int = 6,
    *,
    valid: bool = False,
    large: bool = True,
) -> Tables:
    """Tables of a few pages, some of them aliases, that share tables where their addresses are near.

    Args:
        draw: Hypothesis's.
        base: physical address of the root, a multiple of 4096; the other tables follow it.
        frames: physical address of the first frame that is mapped, a multiple of 4096; 2 MiB and 1 GiB pages map what
            their size makes of it.
        most: pages.
        valid: every entry is present and has no reserved bit set; else some are not.
        large: some pages are of 2 MiB or 1 GiB.
    """
    tables: dict[tuple[int, ...], int] = {(): base}  # by the indices that lead to it
    words: dict[int, int] = {}
    mappings: dict[int, Mapping] = {}
    for _ in range(draw(st.integers(1, most))):
        wanted = draw(st.sampled_from((12, *reversed(LARGE)))) if large else 12
        frame = frames + PAGE * draw(st.integers(0, _FRAMES - 1)) & -(1 << wanted) | (PS if wanted > 12 else 0)
        drawn = [(draw(_index(shift)), draw(_entry(valid))) for shift in LEVELS]  # all of them: large is no shorter
        path: tuple[int, ...] = ()
        entries: list[tuple[int, int]] = []
        for shift, (index, bits) in zip(LEVELS, drawn, strict=True):
            where = tables[path] + index * _ENTRY
            path = (*path, index)
            if where not in words and shift <= wanted:
                words[where] = bits | frame
            elif where not in words:
                words[where] = bits & ~(D | G) | tables.setdefault(path, base + PAGE * len(tables))
            entries.append((where, words[where]))
            if path not in tables:
                break
        address = sum(index << at for index, at in zip(path, LEVELS, strict=False))
        address = canonical(address)
        mappings[address] = Mapping(address, LEVELS[len(path) - 1], tuple(entries))
    return Tables(base, tuple(sorted(words.items())), tuple(mappings.values()))


def _index(shift: int) -> st.SearchStrategy[int]:
    """Of an entry: the first few, and the last one of the root, which has negative addresses."""
    last = (_INDICES - 1,) if shift == LEVELS[0] else ()
    return st.sampled_from((*range(_SIBLINGS), *last))


@st.composite
def _entry(draw: st.DrawFn, valid: bool) -> int:
    """An entry's bits but for its frame; shrinks to present with every right."""
    some = draw(_SOME) & draw(_SOME)  # a quarter of all bits, none when it has shrunk
    entry = P | RW | US
    for number, bit in enumerate((RW, US, A, D, G, NX)):
        entry ^= bit if some >> number & 1 else 0
    if not valid:
        few = some >> 6 & draw(_SOME)
        entry ^= P if few & 1 else 0
        entry |= 1 << PHYSICAL_BITS + (few >> 2) % (52 - PHYSICAL_BITS) if few & 2 else 0
    return entry


def choices(cpus: int, most: int = 40, longest: int = _LONGEST) -> st.SearchStrategy[list[Choice]]:
    """What a schedule chooses, for `Following`; shrinks to none.

    Args:
        cpus: of the machine.
        most: choices.
        longest: units of a slice.
    """
    return st.lists(st.builds(Choice, st.integers(0, cpus - 1), st.integers(1, longest)), max_size=most)


def schedulers(cpus: int, most: int = 40) -> st.SearchStrategy[Scheduler]:
    """Fresh schedules: choices that are followed, round robin, random, PCT; shrinks to `Following([])`.

    Args:
        cpus: of the machine.
        most: choices that are followed.
    """
    seeds = st.integers(0, 1 << 16)
    return st.one_of(
        st.builds(Following, choices(cpus, most)),
        st.builds(RoundRobin, st.integers(1, 1000)),
        st.builds(RandomSchedule, seeds, st.integers(1, _LONGEST)),
        st.builds(PctSchedule, seeds, st.integers(1, 4)),
    )


def faults(
    cpus: int,
    places: Sequence[str] = (),
    addresses: Sequence[int] = (0,),
    steps: Sequence[str] = ("",),
    latest: int = 200_000,
    what: Sequence[str] = tuple(ACTIONS),
) -> st.SearchStrategy[Fault]:
    """Faults that make sense on a machine (`Fault.checked`); whether they happen is for the run to say.

    Args:
        cpus: of the machine.
        places: symbols of the image, or addresses as 0x..., for triggers at instructions; none for no such triggers.
        addresses: of pages and words that faults may hit (bytes).
        steps: kinds of policies' steps at which faults may happen; empty for any step.
        latest: virtual time up to which faults may happen (units).
        what: kinds of faults; those that need a trigger that is not there are left out.
    """
    usable = [name for name in what if not set(ACTIONS[name].triggers) <= {At} or places]
    return st.sampled_from(usable).flatmap(lambda name: _fault(name, cpus, places, addresses, steps, latest))


@st.composite
def _fault(
    draw: st.DrawFn,
    what: str,
    cpus: int,
    places: Sequence[str],
    addresses: Sequence[int],
    steps: Sequence[str],
    latest: int,
) -> Fault:
    action = ACTIONS[what]
    kind = draw(st.sampled_from([kind for kind in action.triggers if places or kind is not At]))
    when = draw(_when(kind, cpus, places, STEPS.get(what, tuple(steps)), latest))
    needs = {name: draw(_FIELDS.get(name, st.sampled_from(addresses))) for name in action.needs}
    if needs.get("register") == "rflags":
        needs["bit"] = draw(st.sampled_from(FLAG_BITS))
    return Fault(what, when, cpu=draw(_who(cpus)) if action.hits_a_cpu else None, **needs).checked(cpus)


def _who(cpus: int) -> st.SearchStrategy[int | None]:
    return st.sampled_from((None, *range(cpus)))


def _when(kind: type, cpus: int, places: Sequence[str], steps: Sequence[str], latest: int) -> st.SearchStrategy[When]:
    who = _who(cpus)
    if kind is At:
        return st.builds(At, st.sampled_from(places), _NTH, who, st.booleans())
    if kind is Moment:
        return st.builds(Moment, st.integers(0, latest))
    if kind is Step:
        return st.builds(Step, st.sampled_from(steps), _NTH, who)
    if kind is Where:
        return st.builds(Where, st.sampled_from(_REGISTERS), st.integers(0, 255), who)
    return st.builds(Send, _NTH, st.none(), who) if kind is Send else st.builds(Flush, _NTH, who)


def operations(cpus: int = 2, most: int = 3, locations: int = 2) -> st.SearchStrategy[list[tuple[Operation, ...]]]:
    """Memory operations of each CPU, for `write_scenario`; shrinks to none.

    Args:
        cpus: programs.
        most: operations of each.
        locations: words that they share, up to 3.
    """
    where, value = st.integers(0, min(locations, len(LOCATIONS)) - 1), st.integers(1, 2)
    operation = st.one_of(
        st.builds(Operation, st.just("load"), where),
        st.builds(Operation, st.just("store"), where, value),
        st.builds(Operation, st.just("exchange"), where, value),
        st.builds(Operation, st.sampled_from(("fence", "lock"))),
    )
    program = st.lists(operation, max_size=min(most, len(RESULTS))).map(tuple)
    return st.lists(program, min_size=cpus, max_size=cpus)


def visits(cpus: int = 2, most: int = 3, threads: int = 2) -> st.SearchStrategy[list[list[Visit]]]:
    """What the threads of each CPU do to their stacks, for `write_visits`; shrinks to nothing.

    Args:
        cpus: programs.
        most: visits of each.
        threads: of each CPU; the scenario has room for 8 in all.
    """
    own = min(threads, MOST_STACKS // cpus)
    depth = st.integers(1, STACK // 8 - 1).map(lambda words: 8 * words)

    def program(cpu: int) -> st.SearchStrategy[list[Visit]]:
        visit = st.builds(Visit, st.integers(cpu * own, cpu * own + own - 1), depth, st.booleans())
        return st.lists(visit, max_size=most)

    return st.tuples(*(program(cpu) for cpu in range(cpus))).map(list)


__all__ = ["Mapping", "Tables", "choices", "faults", "operations", "page_tables", "schedulers", "visits"]
