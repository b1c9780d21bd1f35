"""Nodes: states by the values of their components, of each of which there is one object.

States are compared, kept and sent to other processes by these values. Two that keys do not tell apart are one: of a CPU with
the same registers and other counts, the one that came first.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

from kstack.base.encoding import encoded
from kstack.explore.components import (
    CACHED,
    NAMED,
    ZERO,
    Component,
    ComponentKind,
    ComponentState,
    CpuValue,
    name_of,
)
from kstack.explore.states import (
    LazyState,
    State,
)
from kstack.explore.world import World
from kstack.machine import MachineSnapshot
from kstack.stacks.host.pool import PoolsState
from kstack.stacks.host.state import ExecutorSnapshot, RuntimeSnapshot, ThreadState

_SEVERAL: Final[tuple[ComponentKind, ...]] = ("frame", "life", "pool", *CACHED, *NAMED)


class ComponentValue:
    """One value of one component.

    Attributes:
        value: of the type that the component's kind has.
        identity: tells it from all others of its component.
        share: what it adds to a state's key.
        name: what it is called between processes.
        mark: the name as a number.
        number: of the values of its component, in the order in which they were met.
    """

    __slots__ = ("identity", "mark", "name", "number", "share", "value")

    def __init__(self, value: Any, identity: bytes, counts: bool, name: bytes, number: int) -> None:
        self.value = value
        self.identity = identity
        self.name = name
        self.mark = int.from_bytes(name, "little")
        self.share = self.mark if counts else 0
        self.number = number


class Node(NamedTuple):
    """A state by the values of its components, by their places; components that were added later are as in the root."""

    key: int
    values: tuple[ComponentValue, ...]


class ExportedValue(NamedTuple):
    """A value for other processes: its component, what tells it from others, and itself."""

    component: Component
    identity: bytes
    value: object


class _Named(NamedTuple):
    """The name of a component of a kind of which there are several, and its value: of the types that the kind has."""

    name: Any
    value: Any


class ComponentTable:
    """The components of all states of a world, and their values.

    Args:
        world: at its root.

    Attributes:
        root: the root.
        components: all, by place.
        cpus: how many CPUs there are; their components' places begin at `first_cpu`.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._state = root = world.state()
        self._decomposition = world.decomposition
        self.cpus = len(world.machine.cpus)
        self.components: list[Component] = []
        self._places: dict[Component, int] = {}
        self._root: list[ComponentValue] = []
        self._interned: list[dict[bytes, ComponentValue]] = []
        self._numbered: list[list[ComponentValue]] = []
        self._named: dict[bytes, tuple[int, ComponentValue]] = {}
        for found in self._fixed(root):
            self._add(found)
        self.first_cpu = len(self.components)
        for cpu in range(self.cpus):
            self._add(self._decomposition.cpu(root, cpu))
        self._at_root = {found.component: found for found in self._decomposition.others(root)}
        pages = sorted(world.managed)
        cached = [Component(kind, (cpu, page)) for page in pages for cpu in range(self.cpus) for kind in CACHED]
        for component in dict.fromkeys([*cached, *self._at_root]):
            self.place(component)
        self.root = Node(self._sum(self._root), tuple(self._root))

    @staticmethod
    def _sum(values: Iterable[ComponentValue]) -> int:
        key = 0
        for value in values:
            key ^= value.share
        return key

    # --- components and their values

    def known(self, component: Component) -> int | None:
        """The place of a component, if it has been met."""
        return self._places.get(component)

    def place(self, component: Component) -> int:
        """The place of a component, which is added if it has not been met.

        Args:
            component: a frame, a set of the lazy TLB, the life of a frame, or one of what there is by a name.
        """
        place = self._places.get(component)
        return (
            self._add(self._at_root.get(component) or self._decomposition.absent(component)) if place is None else place
        )

    def has_life(self, frame: int) -> bool:
        """Whether a frame (physical address) is one of the policy's."""
        return self._decomposition.has_life(frame)

    def _add(self, found: ComponentState) -> int:
        """A new component, and its value at the root."""
        place = self._places[found.component] = len(self.components)
        self.components.append(found.component)
        self._interned.append({})
        self._numbered.append([])
        self._root.append(self._intern(place, self._decomposition.identity(found), found.value))
        return place

    def interned(self, place: int, found: ComponentState) -> ComponentValue:
        """The one object of a value."""
        identity = self._decomposition.identity(found)
        return self._interned[place].get(identity) or self._intern(place, identity, found.value)

    def frame(self, place: int, data: bytes) -> ComponentValue:
        """The one object of what is in a frame."""
        return self._interned[place].get(data) or self._intern(place, data, data)

    def _intern(self, place: int, identity: bytes, value: Any) -> ComponentValue:
        component = self.components[place]
        name, values = name_of(component, identity), self._numbered[place]
        new = ComponentValue(value, identity, self._decomposition.counts(component, identity), name, len(values))
        values.append(new)
        self._interned[place][identity] = new
        self._named[name] = place, new
        return new

    # --- nodes that are kept

    def packed(self, node: Node) -> array[int]:
        """A node without its key, in little room."""
        numbers = [value.number for value in node.values]
        return array("H" if max(numbers) < 1 << 16 else "L", numbers)

    def unpacked(self, key: int, packed: array[int]) -> Node:
        """The node with a key that was packed."""
        return Node(key, tuple(self._numbered[place][number] for place, number in enumerate(packed)))

    # --- states to nodes and back

    def whole(self, node: Node) -> Node:
        """A node with the components that were added since it was made."""
        missing = len(self._root) - len(node.values)
        return node if not missing else Node(node.key, node.values + tuple(self._root[-missing:]))

    def node(self, state: State) -> Node:
        """The node of the state in which the world is now."""
        found = dict(self._all(state))
        values = tuple([found.get(place, value) for place, value in enumerate(self._root)])
        return Node(self._sum(values), values)

    def _fixed(self, state: State) -> list[ComponentState]:
        """What is there in every state, and belongs to no CPU."""
        end = self._world.machine.end()
        return [*self._decomposition.fixed(state), ComponentState(Component("ended"), end, end)]

    def _all(self, state: State) -> Iterator[tuple[int, ComponentValue]]:
        """Places and values of all in which a state can differ from the root."""
        for found in self._fixed(state):
            place = self._places[found.component]
            yield place, self.interned(place, found)
        for cpu in range(self.cpus):
            yield self.first_cpu + cpu, self.interned(self.first_cpu + cpu, self._decomposition.cpu(state, cpu))
        there = {found.component: found for found in self._decomposition.others(state)}
        for component in self._at_root:  # what is there at the root may be gone
            if component not in there:
                there[component] = self._decomposition.absent(component)
        for component, found in there.items():
            place = self.place(component)
            yield place, self.interned(place, found)

    def state(self, node: Node) -> State:
        """The state of a node."""
        values = self.whole(node).values
        some: dict[ComponentKind, list[_Named]] = {kind: [] for kind in _SEVERAL}
        one: dict[ComponentKind, Any] = {}
        for (kind, name), value, root in zip(self.components, values, self._root, strict=True):
            if kind in ("frame", "life"):
                if value is not root:
                    some[kind].append(_Named(name, value.value))
            elif kind in CACHED:
                if value.value:
                    some[kind].append(_Named(name, value.value))
            elif kind in NAMED:
                if value.value is not None:
                    some[kind].append(_Named(name, value.value))
            elif kind == "pool":
                some[kind].append(_Named(name, value.value))
            elif kind != "cpu":
                one[kind] = value.value
        cpus: list[CpuValue] = [value.value for value in values[self.first_cpu : self.first_cpu + self.cpus]]
        areas, threads = one["threads"]
        asleep = dict(some["asleep"])
        reserve, shared, drawn = one["reserve"]
        counts, given = one["given"]
        executor = ExecutorSnapshot(
            counts=counts,
            pools=PoolsState(reserve, shared, tuple(pool for _, pool in sorted(some["pool"])), drawn),
            given=given,
            variables=tuple(sorted(some["variable"], key=encoded)),
            locks=tuple(sorted(some["lock"])),
            dry=tuple(sorted(some["dry"])),
        )
        policy = RuntimeSnapshot(
            calls=tuple(cpu.calls for cpu in cpus),
            threads=tuple(ThreadState(*area, *asleep[area.thread]) for area in areas),
            blocked=tuple(cpu.blocked for cpu in cpus),
            executor=executor,
        )
        parts = tuple(cpu.parts for cpu in cpus)
        return State(
            memory=tuple(sorted((number, None if data == ZERO else data) for number, data in some["frame"])),
            rest=MachineSnapshot({}, parts, one["devices"], self._state.rest.time, one["ipis"], one["broadcast"]),
            policy=policy,
            lazy=LazyState(tuple(sorted(some["may"])), tuple(sorted(some["ever"]))),
            frames=tuple(sorted(some["life"], key=lambda life: life[0])),
            cpu_keys=tuple(cpu.key for cpu in cpus),
            threads=threads,
            held=tuple(cpu.held for cpu in cpus),
            done=tuple(cpu.done for cpu in cpus),
            double_faults=tuple((number, cpu.fault) for number, cpu in enumerate(cpus) if cpu.fault is not None),
            stores=tuple(cpu.stores for cpu in cpus),
            below=tuple(cpu.below for cpu in cpus),
        )

    # --- nodes between processes

    def difference(self, node: Node, base: Node) -> tuple[bytes, ...]:
        """The names of the values in which a node differs from another."""
        node, base = self.whole(node), self.whole(base)
        return tuple(value.name for value, old in zip(node.values, base.values, strict=True) if value is not old)

    def with_values(self, key: int, base: Node, names: Iterable[bytes]) -> Node:
        """The node with a key that differs from another in the values with these names."""
        found = [self._named[name] for name in names]
        values = list(self.whole(base).values)
        for place, value in found:
            values[place] = value
        return Node(key, tuple(values))

    def export(self, names: Iterable[bytes]) -> dict[bytes, ExportedValue]:
        """What other processes need to know of values."""
        found: dict[bytes, ExportedValue] = {}
        for name in names:
            place, value = self._named[name]
            found[name] = ExportedValue(self.components[place], value.identity, value.value)
        return found

    def learn(self, values: dict[bytes, ExportedValue]) -> None:
        """Take in what another process has exported."""
        for name, (component, identity, value) in values.items():
            place = self._places[component] if component in self._places else self.place(component)
            if name not in self._named:
                self._intern(place, identity, value)
