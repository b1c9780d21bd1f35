"""A world's states saved and restored: whole, and only what has changed is looked at anew."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from kstack.base.encoding import encoded
from kstack.explore.components import Decomposition
from kstack.explore.states import (
    LazyState,
    State,
)
from kstack.hw.cpu.state import CpuState
from kstack.hw.engine import Registers
from kstack.stacks.host.state import CallSnapshots

if TYPE_CHECKING:
    from kstack.explore.world import World

_RUNS: Final = 3  # of what a CPU's snapshot says of how it runs, what decides how it goes on


class StateSaver:
    """Saves and restores the states of a world.

    What of the state in which the world is now is as it was saved or restored is known, and not looked at again.

    Args:
        world: at its root.

    Attributes:
        decomposition: of its states.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._base = world.machine.memory.snapshot()
        self._lives = dict(world.oracle.frames)
        self.decomposition = Decomposition(self._base, self._lives)
        cpus = len(world.machine.cpus)
        self._parts: list[CpuState | None] = [None] * cpus  # of each CPU, as it was when it ran last
        self._calls: list[CallSnapshots | None] = [None] * cpus
        self._devices: tuple[object, ...] | None = None
        self._ports = -1  # accesses to them until then
        self._changed: list[int] = []  # frames that differ from the root, but for those that are dirty
        self._keys: list[bytes] = [b""] * cpus
        self._encoded: list[tuple[object, bytes] | None] = [None] * cpus  # of each CPU, what `_key` encoded last

    def forget(self, cpus: Sequence[int]) -> None:
        """These CPUs may be in another state from now on."""
        for cpu in cpus:
            self._parts[cpu] = self._calls[cpu] = None

    def state(self) -> State:
        """The present state."""
        world, machine, oracle = self._world, self._world.machine, self._world.oracle
        touched = machine.memory.dirty.union(self._changed)
        snapshot = machine.snapshot(self._parts, self._known_devices())
        for cpu, part in enumerate(snapshot.cpus):
            if self._parts[cpu] is None:
                self._keys[cpu] = self._key(cpu, part)
        policy = world.runtime.snapshot(self._calls)
        self._parts, self._calls = list(snapshot.cpus), list(policy.calls)
        self._devices, self._ports = snapshot.devices, machine.port_accesses
        base, pages = self._base, snapshot.memory
        changed = tuple(
            (frame, pages.get(frame))
            for frame in sorted(touched)
            if base.get(frame) is not pages.get(frame) and base.get(frame) != pages.get(frame)
        )
        self._changed = [frame for frame, _ in changed]
        lives = self._lives
        return State(
            memory=changed,
            rest=snapshot._replace(memory={}),
            policy=policy,
            lazy=LazyState(*world.lazy.state()),
            frames=tuple((number, frame) for number, frame in oracle.frames.items() if frame != lives[number]),
            cpu_keys=tuple(self._keys),
            threads=tuple(oracle.threads),
            held=tuple(world.held),
            done=tuple(world.done),
            double_faults=tuple(sorted(oracle.double_faults.items())),
            stores=tuple(world.buffers.stores),
            below=tuple(world.below),
        )

    def _key(self, cpu: int, part: CpuState) -> bytes:
        """What decides how a CPU goes on: registers, MSRs, APIC, state and NMI."""
        rest = part.msrs, part.apic, part.events[:_RUNS]
        last = self._encoded[cpu]
        if last is None or last[0] != rest:
            last = self._encoded[cpu] = rest, encoded(rest)
        whole = hashlib.blake2b(Registers.canonical_of(part.registers), digest_size=16)
        whole.update(last[1])
        return whole.digest()

    def _known_devices(self) -> tuple[object, ...] | None:
        """The devices' part of the last state, if they are still in it; a timer that runs changes them."""
        machine = self._world.machine
        untouched = machine.port_accesses == self._ports and machine.pit.next_deadline() is None
        return self._devices if untouched else None

    def become(self, state: State) -> None:
        """Go back, or over, to a state of this world."""
        world, machine, runtime, oracle = self._world, self._world.machine, self._world.runtime, self._world.oracle
        pages = dict(self._base)
        for frame, data in state.memory:
            if data is None:
                pages.pop(frame, None)
            else:
                pages[frame] = data
        frames = [frame for frame, _ in state.memory]
        rest = state.rest._replace(memory=pages)
        machine.restore(rest, self._parts, (*self._changed, *frames), self._known_devices())
        self._changed, self._devices, self._ports = frames, rest.devices, machine.port_accesses
        runtime.restore(state.policy, self._calls)
        self._parts, self._calls = list(state.rest.cpus), list(state.policy.calls)
        self._keys = list(state.cpu_keys)
        world.lazy.restore(state.lazy)
        oracle.frames = {**self._lives, **dict(state.frames)}
        oracle.threads = {thread: runtime.threads[thread] for thread in state.threads}
        for thread in oracle.threads.values():
            oracle.areas.add(thread)
        oracle.findings.clear()
        oracle.sanitizer.last_use = ()
        oracle.double_faults = dict(state.double_faults)
        oracle.leaked.clear()  # what was reported, and counted, on other paths
        oracle.drift.clear()
        world.session.events.clear()
        world.held, world.done = list(state.held), list(state.done)
        world.buffers.stores = list(state.stores)
        for cpu, found in enumerate(state.below):
            if found is not world.below[cpu]:
                world.below[cpu] = found
                world.watch_returns(cpu)
