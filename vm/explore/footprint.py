"""What a move touches, as parts of a state: noted while it is made on the machine.

A write counts as a read too, so that what a move leaves as it was is known to have been so. Frames are noted by words
where the model itself reads and writes, and where a CPU makes a single access that comes back to the model (visible
pages: as many words as the longest access has); a frame that a CPU's engine has at its free disposal is noted whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from kstack.explore.components import Cells
from kstack.explore.model.gate import gate_of
from kstack.explore.world import World
from kstack.stacks import Pte, Sleepers, Thread, ThreadAt
from kstack.stacks.area import Areas
from kstack.stacks.host.call import HookCall
from kstack.stacks.host.pool import Pools
from kstack.stacks.host.runtime import StackRuntime
from kstack.x86.addresses import PAGE

WORD: Final = 8  # bytes
LONGEST: Final = 64  # bytes of one access
WHOLE: Final = -1  # instead of a word's offset
THREADS: Final = "threads"  # which there are: one that looks at all of them touches that


class _Watched(dict[Any, Any]):
    """A dictionary that notes which of its keys are touched.

    Args:
        found: what is in it.
        note: told of each key.
        everything: the keys that count as touched where somebody looks which there are.
    """

    def __init__(self, found: dict[Any, Any], note: Callable[[Any], None], everything: Iterable[Any] = ()) -> None:
        super().__init__(found)
        self._note = note
        self._everything = everything

    def __getitem__(self, key: Any) -> Any:
        self._note(key)
        return super().__getitem__(key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._note(key)
        super().__setitem__(key, value)

    def __delitem__(self, key: Any) -> None:
        self._note(key)
        super().__delitem__(key)

    def __contains__(self, key: Any) -> bool:
        self._note(key)
        return super().__contains__(key)

    def __iter__(self) -> Iterator[Any]:
        for key in self._everything:
            self._note(key)
        return super().__iter__()

    def get(self, key: Any, default: Any = None) -> Any:
        """As of a dictionary."""
        self._note(key)
        return super().get(key, default)

    def pop(self, key: Any, *default: Any) -> Any:
        """As of a dictionary."""
        self._note(key)
        return super().pop(key, *default)


class _WatchedPools:
    """Pools that note which of them are touched.

    Args:
        inside: the pools.
        note: told of parts.
    """

    def __init__(self, inside: Pools, note: Callable[..., None]) -> None:
        self._inside = inside
        self._note = note

    def take(self, cpu: int, fallback: bool = True) -> int | None:
        """As of pools; what is behind them all is touched where the CPU's is empty."""
        self._note("pool", cpu)
        if fallback and not self._inside.level(cpu):
            self._note("reserve")
        return self._inside.take(cpu, fallback)

    def allocate(self) -> int | None:
        """As of pools."""
        self._note("reserve")
        return self._inside.allocate()

    def give(self, cpu: int, frame: int) -> None:
        """As of pools."""
        self._note("pool", cpu)
        self._inside.give(cpu, frame)

    def level(self, cpu: int) -> int:
        """As of pools."""
        self._note("pool", cpu)
        return self._inside.level(cpu)

    def snapshot(self) -> Any:
        """As of pools; a state is no part of a move."""
        return self._inside.snapshot()

    def __contains__(self, frame: int) -> bool:
        self._note("life", frame)  # which says whether it is in one of them
        return frame in self._inside


class _WatchedAreas:
    """Stack areas that note of which pages somebody has asked whose they are.

    Args:
        inside: the areas.
        note: told of addresses.
    """

    def __init__(self, inside: Areas, note: Callable[[int], None]) -> None:
        self._inside = inside
        self._note = note
        self.add = inside.add

    def find(self, threads: Mapping[int, Thread], address: int) -> Thread | None:
        """As of areas."""
        self._note(address)
        return self._inside.find(threads, address)


class Touched:
    """What has been touched: places of parts, each with a word's offset in it or WHOLE, in order.

    Args:
        cells: of the world that is watched.

    Attributes:
        places: the same.
        frames: (number, offset) of frames that are the same in all states so far, and so are no parts.
        threads: of which threads, or pages of stacks, it was asked whether there are any: names, as `thread_names` has.
    """

    def __init__(self, cells: Cells) -> None:
        self._cells = cells
        self.places: dict[tuple[int, int], None] = {}
        self.frames: dict[tuple[int, int], None] = {}
        self.threads: dict[str, None] = {}

    def part(self, *part: Any) -> None:
        """Note a part."""
        self.places[self._cells.place(part), WHOLE] = None

    def frame(self, number: int, offset: int) -> None:
        """Note a word of a frame, or all of it."""
        place = self._cells.known(("frame", number))
        if place is None:
            self.frames[number, offset] = None
        else:
            self.places[place, offset] = None

    def memory(self, address: int, size: int) -> None:
        """Note bytes of RAM."""
        first, last = address >> 12, address + size - 1 >> 12
        if first != last or size >= PAGE:
            for number in range(first, last + 1):
                self.frame(number, WHOLE)
            return
        offset = address & PAGE - 1
        for word in range(offset & -WORD, offset + size, WORD):
            self.frame(first, word)

    def entered(self, physical: int, single: bool) -> None:
        """Note where in RAM a CPU goes: by a single access, or to a frame to which it may come back unseen."""
        if single:
            self.memory(physical, min(LONGEST, PAGE - (physical & PAGE - 1)))
        else:
            self.frame(physical >> 12, WHOLE)

    def life(self, frame: int) -> None:
        """Note the life of a frame, if it is one of the policy's."""
        if self._cells.has_life(frame):
            self.part("life", frame)

    def thread(self, thread: int) -> None:
        """Note a thread, by its id."""
        if thread:
            self.threads[f"thread {thread}"] = None
            self.part("asleep", thread)

    def area(self, address: int) -> None:
        """Note that somebody has asked whose stack an address is in."""
        self.threads[f"area {address // PAGE:#x}"] = None

    def all_threads(self, threads: Iterable[int]) -> None:
        """Note all threads, by their ids, and which there are."""
        self.threads[THREADS] = None
        for thread in threads:
            self.part("asleep", thread)


def thread_names(thread: int, bottom: int, size: int) -> list[str]:
    """What comes and goes with a thread.

    Args:
        thread: its id.
        bottom: lowest address of its stack area (bytes).
        size: bytes of the area.
    """
    return [f"thread {thread}", *(f"area {page:#x}" for page in range(bottom // PAGE, (bottom + size) // PAGE))]


class _Hooks:
    """Notes the threads that a CPU's hooks are about, and those at which a policy looks."""

    def __init__(self, touched: Touched, runtime: StackRuntime) -> None:
        self._touched = touched
        self._runtime = runtime

    def on_call(self, cpu: int, call: HookCall) -> None:
        """A hook has been called."""
        self._touched.thread(call.thread)

    def on_step(self, cpu: int, call: HookCall, step: Any, answer: Any, previous: Pte | None) -> None:
        """A micro-step was carried out."""
        if isinstance(step, Sleepers):
            self._touched.all_threads(self._runtime.threads)
        elif isinstance(step, ThreadAt) and answer is not None:
            self._touched.part("asleep", answer.id)


@contextmanager
def watching(world: World, cpu: int, cells: Cells) -> Iterator[Touched]:
    """Note what is touched on a CPU's behalf, from a state that the world has just become."""
    touched = Touched(cells)
    core, executor, memory = world.machine.cpus[cpu], world.runtime.executor, world.machine.memory
    gate = gate_of(core)
    core.mmu.softmmu.flush()  # or it would not ask
    lazy, oracle, runtime = world.lazy, world.oracle, world.runtime
    pools, areas, seen = executor.pools, executor.areas, oracle.areas
    assert pools is not None
    for call in runtime.calls[cpu]:
        touched.thread(call.thread)
    hooks = _Hooks(touched, runtime)
    world.machine.instruments.add(hooks)
    drops = (
        world.machine.mmu_hooks.drop
    )  # histories are of a witness, which is made again; they would read what no move reads
    heard, drops.heard = drops.heard, []
    own = [(cpu, page) for page in sorted(world.managed)]  # a flush looks for its own CPU's
    lazy.may = _Watched(lazy.may, lambda key: touched.part("may", *key), own)
    lazy.ever = _Watched(lazy.ever, lambda key: touched.part("ever", *key))
    oracle.frames = _Watched(oracle.frames, touched.life)
    executor.variables = _Watched(executor.variables, lambda key: touched.part("variable", key))
    executor.locks = _Watched(executor.locks, lambda key: touched.part("lock", key))
    executor.dry = _Watched(executor.dry, lambda key: touched.part("dry", key))
    executor.pools = _WatchedPools(pools, touched.part)  # type: ignore[assignment] # looks like them
    executor.areas = _WatchedAreas(areas, touched.area)  # type: ignore[assignment] # looks like them
    oracle.areas = _WatchedAreas(seen, touched.area)  # type: ignore[assignment] # looks like them
    memory.hears_touch.hold(touched.memory)
    gate.hears_enter.hold(touched.entered)
    try:
        yield touched
    finally:
        lazy.may, lazy.ever = dict(lazy.may.items()), dict(lazy.ever.items())
        oracle.frames = dict(oracle.frames.items())
        executor.variables, executor.locks = dict(executor.variables.items()), dict(executor.locks.items())
        executor.dry, executor.pools = dict(executor.dry.items()), pools
        executor.areas, oracle.areas = areas, seen
        drops.heard = heard
        world.machine.instruments.remove(hooks)
        memory.hears_touch.release()
        gate.hears_enter.release()
