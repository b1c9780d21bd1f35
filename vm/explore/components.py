"""States cut into cells, which states share and keys add up.

A state is cut into *parts*: each CPU with its program and its hooks, each frame of RAM that is not the same in all
states, what may be cached of each page on each CPU, the life of each frame of the policy's, what the policy's steps
share. A *cell* is one value of a part; there is one object of each, so that states are compared, kept and sent to
other processes by their cells. A state's key is the sum (exclusive or) of its cells' hashes, so that a move changes it
by what it changes. Of a CPU, keys depend on what decides how it goes on (`World.key`): two cells with the same
registers and other counts are one, with the counts of the first that came.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

from kstack.explore.world import State, World
from kstack.machine import MachineSnapshot
from kstack.x86.addresses import PAGE

ZERO: Final = bytes(PAGE)
SHARED: Final = ("variable", "lock", "dry")  # what steps share by names
NAMED: Final = (*SHARED, "asleep")  # there or not, by a name or a thread's id
SETS: Final = ("may", "ever")  # of the lazy TLB, by CPU and page
Part = tuple[Any, ...]
"""Names a part of a state: ("cpu", 0), ("frame", number), ("may", cpu, page), ("lock", name), ("pool", cpu), ..."""
Export = tuple[Part, bytes | str, Any, bool]
"""A cell for other processes: its part, what tells it from others, its value, whether keys depend on it."""


class Cell:
    """One value of one part of a state.

    Attributes:
        data: the value.
        which: tells it from all others of its part.
        hash: what it adds to a state's key; 0 for the root's value, and for what no key depends on.
        name: what it is called between processes.
        mark: the name as a number.
        number: of the values of its part, in the order in which they were met.
    """

    __slots__ = ("data", "hash", "mark", "name", "number", "which")

    def __init__(self, data: Any, which: bytes | str, share: int, name: bytes, number: int) -> None:
        self.data = data
        self.which = which
        self.hash = share
        self.name = name
        self.mark = int.from_bytes(name, "little")
        self.number = number


class Node(NamedTuple):
    """A state by its cells, by their parts' places; parts that were added later are as in the root."""

    key: int
    cells: tuple[Cell, ...]


class OfCpu(NamedTuple):
    """What a CPU's cell holds; keys depend on all but `part` and `blocked`."""

    part: Any
    key: bytes
    calls: Any
    blocked: bool
    held: Any
    done: bool
    fault: Any
    stores: Any
    below: Any


class Cells:
    """The parts of all states of a world, and their values.

    Args:
        world: at its root.

    Attributes:
        root: the root.
        parts: all parts, by place.
        cpus: how many CPUs there are; their parts' places begin at `first_cpu`.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._state = root = world.state()
        self.cpus = len(world.machine.cpus)
        self.parts: list[Part] = []
        self._places: dict[Part, int] = {}
        self._base: list[Cell] = []
        self._interned: list[dict[bytes | str, Cell]] = []
        self._numbered: list[list[Cell]] = []
        self._named: dict[bytes, tuple[int, Cell]] = {}
        self._values = _by_name(root)
        self._frames = dict(world.machine.memory.snapshot())
        self._lives = dict(world.oracle.frames)
        for part, identity, data in self._common(root):
            self._add(part, identity, data)
        self.first_cpu = len(self.parts)
        for cpu in range(self.cpus):
            self._add(("cpu", cpu), *_cpu(root, cpu))
        managed = [(kind, cpu, page) for page in sorted(world.managed) for cpu in range(self.cpus) for kind in SETS]
        for part in dict.fromkeys([*managed, *self._values]):
            self.place(part)
        self.root = Node(0, tuple(self._base))

    # --- parts and their values

    def known(self, part: Part) -> int | None:
        """The place of a part, if it has been met."""
        return self._places.get(part)

    def place(self, part: Part) -> int:
        """The place of a part, which is added if it has not been met.

        Args:
            part: a frame, a set of the lazy TLB, the life of a frame, or one of what there is by a name.
        """
        place = self._places.get(part)
        if place is not None:
            return place
        data: Any
        if part[0] == "frame":
            data = self._frames.get(part[1], ZERO)
        elif part[0] == "life":
            data = self._lives[part[1]]
        else:
            data = self._values.get(part, () if part[0] in SETS else None)
        return self._add(part, _identity(part, data), data)

    def has_life(self, frame: int) -> bool:
        """Whether a frame (physical address) is one of the policy's."""
        return frame in self._lives

    def _add(self, part: Part, identity: Any, data: Any) -> int:
        """A new part, and its value at the root."""
        place = self._places[part] = len(self.parts)
        self.parts.append(part)
        self._interned.append({})
        self._numbered.append([])
        self._base.append(self._intern(place, _plain(data if identity is None else identity), data, False))
        return place

    def cell(self, place: int, identity: Any, data: Any) -> Cell:
        """The one cell of a value; `identity` is what keys depend on of it, None where they do not."""
        which = _plain(data if identity is None else identity)
        return self._interned[place].get(which) or self._intern(place, which, data, identity is not None)

    def _intern(self, place: int, which: bytes | str, data: Any, counts: bool) -> Cell:
        """A new cell; `counts`: states with it have other keys than states without it."""
        whole = hashlib.blake2b(repr(self.parts[place]).encode(), digest_size=16)
        whole.update(which if isinstance(which, bytes) else which.encode())
        name = whole.digest()
        values = self._numbered[place]
        cell = Cell(data, which, int.from_bytes(name, "little") if counts else 0, name, len(values))
        values.append(cell)
        self._interned[place][which] = cell
        self._named[name] = place, cell
        return cell

    # --- nodes that are kept

    def packed(self, node: Node) -> array[int]:
        """A node without its key, in little room."""
        numbers = [cell.number for cell in node.cells]
        return array("H" if max(numbers) < 1 << 16 else "L", numbers)

    def unpacked(self, key: int, packed: array[int]) -> Node:
        """The node with a key that was packed."""
        return Node(key, tuple(self._numbered[place][number] for place, number in enumerate(packed)))

    # --- states to nodes and back

    def whole(self, node: Node) -> Node:
        """A node with the parts that were added since it was made."""
        missing = len(self._base) - len(node.cells)
        return node if not missing else Node(node.key, node.cells + tuple(self._base[-missing:]))

    def node(self, state: State) -> Node:
        """The node of the state in which the world is now."""
        found = dict(self._all(state))
        cells = [found.get(place, cell) for place, cell in enumerate(self._base)]
        key = 0
        for cell, base in zip(cells, self._base, strict=True):
            key ^= base.hash ^ cell.hash
        return Node(key, tuple(cells))

    def _all(self, state: State) -> Iterator[tuple[int, Cell]]:
        """Places and cells of all in which a state can differ from the root."""
        for part, identity, data in self._common(state):
            place = self._places[part]
            yield place, self.cell(place, identity, data)
        for cpu in range(self.cpus):
            yield self.first_cpu + cpu, self.cell(self.first_cpu + cpu, *_cpu(state, cpu))
        values = _by_name(state)
        values |= {("frame", number): data or ZERO for number, data in state.memory}
        values |= {("life", frame): life for frame, life in state.frames}
        for part in self.parts:
            if part[0] in SETS:
                values.setdefault(part, ())
            elif part[0] in NAMED:
                values.setdefault(part, None)
        for part, data in values.items():
            place = self.place(part)
            yield place, self.cell(place, _identity(part, data), data)

    def _common(self, state: State) -> list[tuple[Part, Any, Any]]:
        """The parts of which there is one each, and that belong to no CPU: name, identity, value."""
        _, threads, _, (counts, pools, fixed, _, _, _) = state.runtime
        areas = (tuple(thread[:4] for thread in threads), state.threads)
        reserve, shared, own, drawn = pools
        ipis = tuple(sorted(state.rest.ipis, key=lambda ipi: ipi.target))  # in order for each target
        requests = tuple(sorted(state.rest.broadcast, key=lambda request: request[0]))
        return [
            (("threads",), areas, areas),
            (("reserve",), (reserve, shared, drawn), (reserve, shared, drawn)),
            *((("pool", cpu), pool, pool) for cpu, pool in enumerate(own)),
            (("fixed",), fixed, (counts, fixed)),
            (("ipis",), ipis, ipis),
            (("broadcast",), requests, state.rest.broadcast),
            (("devices",), None, state.rest.devices),
            (("ended",), None, self._world.machine.end()),
        ]

    def state(self, node: Node) -> State:
        """The state of a node."""
        cells = self.whole(node).cells
        found: dict[str, list[tuple[Any, Any]]] = {kind: [] for kind in ("frame", "life", "pool", *SETS, *NAMED)}
        one: dict[str, Any] = {}
        for part, cell, base in zip(self.parts, cells, self._base, strict=True):
            kind = part[0]
            if kind in ("frame", "life"):
                if cell is not base:
                    found[kind].append((part[1], cell.data))
            elif kind in SETS:
                if cell.data:
                    found[kind].append((part[1:], cell.data))
            elif kind in NAMED:
                if cell.data is not None:
                    found[kind].append((part[1], cell.data))
            elif kind == "pool":
                found[kind].append((part[1], cell.data))
            elif kind != "cpu":
                one[kind] = cell.data
        cpus = [cell.data for cell in cells[self.first_cpu : self.first_cpu + self.cpus]]
        areas, threads = one["threads"]
        counts, fixed = one["fixed"]
        variables = tuple(sorted(found["variable"], key=repr))
        reserve, shared, drawn = one["reserve"]
        pools = (reserve, shared, tuple(pool for _, pool in sorted(found["pool"])), drawn)
        asleep = dict(found["asleep"])
        executor = (counts, pools, fixed, variables, *(tuple(sorted(found[kind])) for kind in ("lock", "dry")))
        stores, below = tuple(cpu.stores for cpu in cpus), tuple(cpu.below for cpu in cpus)
        parts = tuple(cpu.part for cpu in cpus)
        return State(
            tuple(sorted((number, None if data == ZERO else data) for number, data in found["frame"])),
            MachineSnapshot({}, parts, one["devices"], self._state.rest.time, one["ipis"], one["broadcast"]),
            (
                tuple(cpu.calls for cpu in cpus),
                tuple((*area, *asleep[area[0]]) for area in areas),
                tuple(cpu.blocked for cpu in cpus),
                executor,
            ),
            (tuple(sorted(found["may"])), tuple(sorted(found["ever"]))),
            tuple(sorted(found["life"], key=lambda life: life[0])),
            tuple(cpu.key for cpu in cpus),
            threads,
            tuple(cpu.held for cpu in cpus),
            tuple(cpu.done for cpu in cpus),
            tuple((number, cpu.fault) for number, cpu in enumerate(cpus) if cpu.fault is not None),
            stores,
            below,
        )

    # --- nodes between processes

    def difference(self, node: Node, base: Node) -> tuple[bytes, ...]:
        """The names of the cells in which a node differs from another."""
        node, base = self.whole(node), self.whole(base)
        return tuple(cell.name for cell, old in zip(node.cells, base.cells, strict=True) if cell is not old)

    def with_cells(self, key: int, base: Node, names: Iterable[bytes]) -> Node:
        """The node with a key that differs from another in the cells with these names."""
        found = [self._named[name] for name in names]
        cells = list(self.whole(base).cells)
        for place, cell in found:
            cells[place] = cell
        return Node(key, tuple(cells))

    def export(self, names: Iterable[bytes]) -> dict[bytes, Export]:
        """What other processes need to know of cells."""
        found: dict[bytes, Export] = {}
        for name in names:
            place, cell = self._named[name]
            found[name] = (self.parts[place], cell.which, cell.data, bool(cell.hash))
        return found

    def learn(self, cells: dict[bytes, Export]) -> None:
        """Take in what another process has exported."""
        for name, (part, which, data, counts) in cells.items():
            place = self._places[part] if part in self._places else self.place(part)
            if name not in self._named:
                self._intern(place, which, data, counts)


def _cpu(state: State, cpu: int) -> tuple[Any, OfCpu]:
    """A CPU's part: what keys depend on, and all of it."""
    calls, _, blocked, _ = state.runtime
    found = OfCpu(
        state.rest.cpus[cpu],
        state.cpu_keys[cpu],
        calls[cpu],
        blocked[cpu],
        state.held[cpu],
        state.done[cpu],
        dict(state.double_faults).get(cpu),
        state.stores[cpu],
        state.below[cpu],
    )
    return (found.key, found.calls, found.held, found.done, found.fault, found.stores, found.below), found


def _by_name(state: State) -> dict[Part, Any]:
    """What may be cached; what policies' steps share by names: variables, locks, for whom there was no page; who sleeps."""
    _, threads, _, (_, _, _, variables, locks, dry) = state.runtime
    found = {(kind, *key): values for kind, one in zip(SETS, state.lazy, strict=True) for key, values in one}
    shared = zip(SHARED, (variables, locks, dry), strict=True)
    found |= {(kind, name): value for kind, one in shared for name, value in one}
    return found | {("asleep", thread[0]): thread[4:] for thread in threads}


def _identity(part: Part, data: Any) -> Any:
    """What keys depend on of a value; None for what might have been cached, on which none does."""
    if part[0] == "ever":
        return None
    if part[0] == "life":
        return data[:3]  # but for the step that freed it
    return (data,) if part[0] in NAMED else data


def _plain(value: Any) -> bytes | str:
    """What tells a value from all others."""
    return value if isinstance(value, bytes) else repr(value)
