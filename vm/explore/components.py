"""States by their components, which states share; and the one key by which states are merged.

A state is cut into *components*: each CPU with its program and its hooks, each frame of RAM that is not the same in all
states, what may be cached of each page on each CPU, the life of each frame of the policy's, what the policy's steps
share. A state's key is the sum (exclusive or) of what its components' values add to it, so that a move changes it by
what it changes. Of a CPU, keys depend on what decides how it goes on: registers, MSRs, APIC; no times, no counts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from operator import is_
from typing import Any, Final, Literal, NamedTuple

from kstack.base.encoding import encoded
from kstack.explore.dead_stack import Below
from kstack.explore.model.gate import Held
from kstack.explore.states import State, area_of, sleep_of
from kstack.hw.cpu.state import CpuState
from kstack.hw.memory import MemorySnapshot
from kstack.sanitizer.frames import Frame
from kstack.stacks import Page
from kstack.stacks.host.execute import Pending
from kstack.stacks.host.state import CallSnapshots, Variable
from kstack.x86.addresses import PAGE

ZERO: Final = bytes(PAGE)
KEY_BYTES: Final = 16

Shared = Literal["variable", "lock", "dry"]  # what steps share by names
Named = Literal[Shared, "asleep"]  # there or not, by a name or a thread's id
Cached = Literal["may", "ever"]  # of the lazy TLB, by CPU and page
Single = Literal["threads", "reserve", "given", "ipis", "broadcast", "devices", "ended"]  # one each
ComponentKind = Literal[Named, Cached, Single, "pool", "cpu", "frame", "life"]
SHARED: Final[tuple[Shared, ...]] = ("variable", "lock", "dry")
NAMED: Final[tuple[Named, ...]] = (*SHARED, "asleep")
CACHED: Final[tuple[Cached, ...]] = ("may", "ever")

_UNKEYED: Final = frozenset[ComponentKind](("ever", "devices", "ended"))  # no key depends on them
_MAY_BE_ABSENT: Final = frozenset[ComponentKind](("frame", "life", *CACHED, *NAMED))
_NO_ENTRIES: Final = encoded(())
_NOTHING: Final = encoded(None)

Name = int | str | tuple[int, int] | Variable | None
"""A frame's number, or its address; a CPU; a CPU and a page; a thread; a lock's name, a variable's; None of what is one."""


class Component(NamedTuple):
    """Names a component of a state: `cpu 0`, `frame N`, `may (CPU, page)`, `lock NAME`, `pool CPU`, ..."""

    kind: ComponentKind
    name: Name = None

    @property
    def label(self) -> str:
        """In words that no other component has, the same in every process."""
        return self.kind if self.name is None else f"{self.kind} {_words(self.name)}"


def _words(name: object) -> str:
    """A name in words; a text with its length, so that what it says is no matter."""
    if isinstance(name, tuple):
        return f"({', '.join(_words(part) for part in name)})"
    return f"{len(name)}:{name}" if isinstance(name, str) else str(name)


class CpuValue(NamedTuple):
    """The value of a CPU; keys depend on all but `parts` and `blocked`."""

    parts: CpuState
    key: bytes
    calls: CallSnapshots
    blocked: bool
    held: Held | None
    done: bool
    fault: tuple[int, bool] | None
    stores: tuple[Pending, ...]
    below: Below | None

    @property
    def identity(self) -> object:
        """What keys depend on."""
        return self.key, self.calls, self.held, self.done, self.fault, self.stores, self.below


class ComponentState(NamedTuple):
    """What a state has of a component.

    Attributes:
        component: which.
        value: of the type that its kind has.
        identity: what keys depend on of it; where they do not depend on it, what tells it from others.
    """

    component: Component
    value: Any
    identity: object


class Decomposition:
    """Cuts the states of a world into components.

    Args:
        memory: RAM at the root, by frame number.
        lives: of the policy's frames at the root, by address.
    """

    def __init__(self, memory: MemorySnapshot, lives: dict[int, Frame[Page]]) -> None:
        self._memory = memory
        self._lives = lives
        self._last: dict[Component, tuple[object, bytes]] = {}  # of each component, what was encoded last
        self._shares: dict[Component, tuple[bytes, int]] = {}  # and what that adds to a key

    def has_life(self, frame: int) -> bool:
        """Whether a frame (physical address) is one of the policy's."""
        return frame in self._lives

    # --- a state's components

    def of(self, state: State) -> Iterator[ComponentState]:
        """All in which a state can differ from the root, but for what there is not any more."""
        yield from self.fixed(state)
        for cpu in range(len(state.held)):
            yield self.cpu(state, cpu)
        yield from self.others(state)

    def fixed(self, state: State) -> list[ComponentState]:
        """The components that are there in every state, and that belong to no CPU."""
        policy, steps, pools = state.policy, state.policy.executor, state.policy.executor.pools
        assert pools is not None  # a policy is explored with pools, of whatever size
        areas = (tuple(area_of(thread) for thread in policy.threads), state.threads)
        reserve = (pools.reserve, pools.shared, pools.drawn)
        ipis = tuple(sorted(state.rest.ipis, key=lambda ipi: ipi.target))  # in order for each target
        requests = tuple(sorted(state.rest.broadcast, key=lambda request: request[0]))
        return [
            ComponentState(Component("threads"), areas, areas),
            ComponentState(Component("reserve"), reserve, reserve),
            *(ComponentState(Component("pool", cpu), pool, pool) for cpu, pool in enumerate(pools.per_cpu)),
            ComponentState(Component("given"), (steps.counts, steps.given), steps.given),
            ComponentState(Component("ipis"), ipis, ipis),
            ComponentState(Component("broadcast"), state.rest.broadcast, requests),
            ComponentState(Component("devices"), state.rest.devices, state.rest.devices),
        ]

    def cpu(self, state: State, cpu: int) -> ComponentState:
        """A CPU with its program."""
        value = CpuValue(
            parts=state.rest.cpus[cpu],
            key=state.cpu_keys[cpu],
            calls=state.policy.calls[cpu],
            blocked=state.policy.blocked[cpu],
            held=state.held[cpu],
            done=state.done[cpu],
            fault=dict(state.double_faults).get(cpu),
            stores=state.stores[cpu],
            below=state.below[cpu],
        )
        return ComponentState(Component("cpu", cpu), value, value.identity)

    def others(self, state: State) -> Iterator[ComponentState]:
        """Frames and lives that differ from the root; what may be cached; what is there by a name."""
        steps = state.policy.executor
        for cached, sets in zip(CACHED, state.lazy, strict=True):
            for place, entries in sets:
                yield ComponentState(Component(cached, place), entries, entries)
        for name, value in steps.variables:
            yield ComponentState(Component("variable", name), value, value)
        for lock, holder in steps.locks:
            yield ComponentState(Component("lock", lock), holder, holder)
        for thread, is_dry in steps.dry:
            yield ComponentState(Component("dry", thread), is_dry, is_dry)
        for one in state.policy.threads:
            yield ComponentState(Component("asleep", one.id), sleep_of(one), sleep_of(one))
        for number, data in state.memory:
            frame = data or ZERO
            yield ComponentState(Component("frame", number), frame, frame)
        for address, life in state.frames:
            yield ComponentState(Component("life", address), life, life[:3])  # but for the step that freed it

    def absent(self, component: Component) -> ComponentState:
        """What a state has of a component that `others` does not have of it: what the root has of a frame, nothing of the rest."""
        kind, name = component
        if kind == "frame":
            data = self._memory.get(_number(name)) or ZERO
            return ComponentState(component, data, data)
        if kind == "life":
            life = self._lives[_number(name)]
            return ComponentState(component, life, life[:3])
        nothing = () if kind in CACHED else None
        return ComponentState(component, nothing, nothing)

    # --- keys

    def key(self, state: State) -> int:
        """By what states are merged: all that decides what can happen; no times, no counts."""
        key = 0
        for found in self.of(state):
            identity, last = self.identity(found), self._shares.get(found.component)
            if last is None or last[0] is not identity:
                last = self._shares[found.component] = identity, self.share(found.component, identity)
            key ^= last[1]
        return key

    def identity(self, found: ComponentState) -> bytes:
        """What tells a value from all others of its component, as bytes."""
        component, _, identity = found
        if isinstance(identity, bytes):
            return identity
        last = self._last.get(component)
        if last is not None and _is_same(component.kind, last[0], identity):
            return last[1]
        data = encoded(identity)
        self._last[component] = identity, data
        return data

    def share(self, component: Component, identity: bytes) -> int:
        """What a component adds to a state's key; nothing where it is as it is where `others` does not have it."""
        return int.from_bytes(name_of(component, identity), "little") if self.counts(component, identity) else 0

    def counts(self, component: Component, identity: bytes) -> bool:
        """Whether a value adds anything to a state's key."""
        kind = component.kind
        return kind not in _UNKEYED and not (kind in _MAY_BE_ABSENT and identity == self._absent(component))

    def _absent(self, component: Component) -> bytes:
        """`absent` as bytes."""
        if component.kind in CACHED:
            return _NO_ENTRIES
        if component.kind in NAMED:
            return _NOTHING
        identity = self.absent(component).identity
        return identity if isinstance(identity, bytes) else encoded(identity)


def _is_same(kind: ComponentKind, last: object, identity: object) -> bool:
    """Whether two values are surely the same: 1 equals True, and is another value where a policy has made it."""
    if kind == "cpu":
        assert isinstance(last, tuple) and isinstance(identity, tuple)
        return all(map(is_, last, identity))
    return last is identity or (kind != "variable" and last == identity)


def name_of(component: Component, identity: bytes) -> bytes:
    """What a value of a component is called, in every process."""
    whole = hashlib.blake2b(encoded(component), digest_size=KEY_BYTES)
    whole.update(identity)
    return whole.digest()


def _number(name: Name) -> int:
    assert isinstance(name, int)
    return name
