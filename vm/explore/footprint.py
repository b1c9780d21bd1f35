"""The footprint of a move: all that it touches of a state, recorded while it is made on the machine.

It is asked in two ways. What a move's outcome depends on, components and words of frames with the values that they have
(`reads`), is by what `transitions.py` recalls it: a write counts as a read there, so that what a move leaves as it was is
known to have been so. What it has to do with other moves, locations and how each is accessed (`read`, `written`), is by what
`persistent_sets.py` finds that two commute, and `may_access.py` keeps it.

Frames are recorded by words where the model itself reads and writes, and where a CPU makes a single access that comes back to
the model (visible pages: as many words as the longest access has); a frame that a CPU's engine has at its free disposal
is recorded whole.

The engine dpor goes by something else (`dependence.py`): it must say of two moves, both of which were made, that their order is
no matter, and each pair of which it cannot say so is an execution more. So it goes by what an operation means, where
a footprint has all that the model looked at on the way, such as every entry that a flush goes through; and it knows nothing of values.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple

from kstack.explore.components import Component, ComponentKind, Name
from kstack.explore.model.gate import gate_of
from kstack.explore.nodes import ComponentTable, ComponentValue, Node
from kstack.explore.recorded import RecordedAreas, RecordedDict, RecordedPools
from kstack.explore.states import StackArea
from kstack.explore.world import World
from kstack.stacks import Pte, Sleepers, Thread, ThreadAt
from kstack.stacks.host.call import HookCall
from kstack.stacks.host.runtime import StackRuntime
from kstack.x86.addresses import PAGE

WORD: Final = 8  # bytes
LONGEST: Final = 64  # bytes of one access
WHOLE: Final = -1  # instead of a word's offset
THREADS: Final = "threads"  # which there are: one that looks at all of them touches that
_WORDS: Final = range(0, PAGE, WORD)


class AccessMode(enum.IntEnum):
    """How a location is accessed; of a frame, a word in it too, which is a location of its own."""

    READ = 0
    WRITE = 1
    READ_IN = 2
    WRITE_IN = 3


READ, WRITE, READ_IN, WRITE_IN = AccessMode
Location = str
"""Names one thing that moves have in common; the same in every process."""


class LocationAccess(NamedTuple):
    """A location, and how it is accessed."""

    location: Location
    mode: AccessMode


class Footprint:
    """What a move has touched, in order.

    Args:
        table: of the world in which it is made.
        cpu: whose move it is.

    Attributes:
        reads: places of components, each with a word's offset in it or WHOLE.
        unplaced: (number, offset) of frames that are the same in all states so far, and so are no components.
        threads: of which threads, or pages of stacks, it was asked whether there are any.
    """

    def __init__(self, table: ComponentTable, cpu: int) -> None:
        self._table = table
        self._cpu = cpu
        self.reads: dict[tuple[int, int], None] = {}
        self.unplaced: dict[tuple[int, int], None] = {}
        self.threads: dict[Location, None] = {}

    # --- what is recorded

    def component(self, component: Component) -> None:
        """A component."""
        self.reads[self._table.place(component), WHOLE] = None

    def frame(self, number: int, offset: int) -> None:
        """A word of a frame, or all of it."""
        place = self._table.known(Component("frame", number))
        if place is None:
            self.unplaced[number, offset] = None
        else:
            self.reads[place, offset] = None

    def memory(self, address: int, size: int) -> None:
        """Bytes of RAM."""
        first, last = address >> 12, address + size - 1 >> 12
        if first != last or size >= PAGE:
            for number in range(first, last + 1):
                self.frame(number, WHOLE)
            return
        offset = address & PAGE - 1
        for word in range(offset & -WORD, offset + size, WORD):
            self.frame(first, word)

    def entered(self, physical: int, single: bool) -> None:
        """Where in RAM a CPU goes: by a single access, or to a frame to which it may come back unseen."""
        if single:
            self.memory(physical, min(LONGEST, PAGE - (physical & PAGE - 1)))
        else:
            self.frame(physical >> 12, WHOLE)

    def life(self, frame: int) -> None:
        """The life of a frame, if it is one of the policy's."""
        if self._table.has_life(frame):
            self.component(Component("life", frame))

    def thread(self, thread: int) -> None:
        """A thread, by its id."""
        if thread:
            self.threads[thread_of(thread)] = None
            self.component(Component("asleep", thread))

    def area(self, address: int) -> None:
        """Somebody has asked whose stack an address is in."""
        self.threads[_area(address // PAGE)] = None

    def all_threads(self, threads: Iterable[int]) -> None:
        """All threads, by their ids, and which there are."""
        self.threads[THREADS] = None
        for thread in threads:
            self.component(Component("asleep", thread))

    def place_frames(self) -> list[tuple[int, int]]:
        """Frames that were no components when they were touched may be now; those that are not are taken out."""
        left: list[tuple[int, int]] = []
        for number, offset in self.unplaced:
            place = self._table.known(Component("frame", number))
            if place is None:
                left.append((number, offset))
            else:
                self.reads[place, offset] = None
        self.unplaced.clear()
        return left

    # --- what it has to do with other moves

    def read(self) -> dict[LocationAccess, None]:
        """What has been read, as accesses to locations."""
        found = {LocationAccess(Component("cpu", self._cpu).label, READ): None}
        for name in self.threads:
            found[LocationAccess(name, READ)] = None
            if name != THREADS:
                found[LocationAccess(THREADS, READ_IN)] = None
        components = self._table.components
        frames = [(components[place].name, at) for place, at in self.reads if components[place].kind == "frame"]
        for number, offset in (*frames, *self.unplaced):
            if offset == WHOLE:
                found[LocationAccess(_frame(number), READ)] = None
            else:
                found[LocationAccess(_frame(number), READ_IN)] = None
                found[LocationAccess(_word(number, offset), READ)] = None
        others = [components[place] for place, _ in self.reads if components[place].kind not in ("frame", "ipis")]
        return found | {LocationAccess(component.label, READ): None for component in others}

    def written(self, node: Node, after: Node, changed: Sequence[int]) -> dict[LocationAccess, None]:
        """What has been changed, as accesses to locations.

        Args:
            node: the state before the move.
            after: the state behind it.
            changed: places of the components in which they differ.
        """
        found = {LocationAccess(Component("ended").label, READ): None}
        for place in changed:
            component, old, new = self._table.components[place], node.values[place], after.values[place]
            if component.kind == "frame":
                found[LocationAccess(_frame(component.name), WRITE_IN)] = None
                words = words_changed(old, new)
                found |= {LocationAccess(_word(component.name, at), WRITE): None for at in words}
            elif component.kind == "ipis":
                for cpu in range(self._table.cpus):
                    was, now = ([ipi for ipi in one.value if ipi.target == cpu] for one in (old, new))
                    if was != now:
                        found[LocationAccess(ipis_of(cpu), WRITE)] = None
            elif component.kind == "threads":
                found[LocationAccess(THREADS, WRITE_IN)] = None
                found |= {LocationAccess(name, WRITE): None for name in _come_and_gone(old.value[0], new.value[0])}
            else:
                found[LocationAccess(component.label, WRITE)] = None
        return found


def words_changed(old: ComponentValue, new: ComponentValue) -> list[int]:
    """The offsets of the words in which two values of a frame differ."""
    before: bytes = old.value
    after: bytes = new.value
    return [at for at in _WORDS if before[at : at + WORD] != after[at : at + WORD]]


def thread_of(thread: int) -> Location:
    """Names a thread, by its id."""
    return f"thread {thread}"


def _area(page: int) -> Location:
    return f"area {page:#x}"


def _frame(number: Name) -> Location:
    return f"frame {number}"


def _word(number: Name, offset: int) -> Location:
    return f"frame {number}+{offset:#x}"


def ipis_of(cpu: int) -> Location:
    """Names the interrupts that are on their way to a CPU."""
    return f"ipi {cpu}"


def _with_thread(area: StackArea) -> list[Location]:
    """What comes and goes with a thread: itself, and the pages of its stack."""
    pages = range(area.bottom // PAGE, (area.bottom + area.size) // PAGE)
    return [thread_of(area.thread), *map(_area, pages)]


def _come_and_gone(old: Sequence[StackArea], new: Sequence[StackArea]) -> list[Location]:
    areas = [area for area in (*old, *new) if not (area in old and area in new)]
    return [name for area in areas for name in _with_thread(area)]


class _Hooks:
    """Records the threads that a CPU's hooks are about, and those at which a policy looks."""

    def __init__(self, footprint: Footprint, runtime: StackRuntime) -> None:
        self._footprint = footprint
        self._runtime = runtime

    def on_call(self, cpu: int, call: HookCall) -> None:
        """A hook has been called."""
        self._footprint.thread(call.thread)

    def on_step(self, cpu: int, call: HookCall, step: object, answer: object, previous: Pte | None) -> None:
        """A micro-step was carried out."""
        if isinstance(step, Sleepers):
            self._footprint.all_threads(self._runtime.threads)
        elif isinstance(step, ThreadAt) and isinstance(answer, Thread):
            self._footprint.component(Component("asleep", answer.id))


@contextmanager
def recording(world: World, cpu: int, table: ComponentTable) -> Iterator[Footprint]:
    """Record what is touched on a CPU's behalf, from a state that the world has just become."""
    footprint = Footprint(table, cpu)
    note = footprint.component
    core, executor, memory = world.machine.cpus[cpu], world.runtime.executor, world.machine.memory
    lazy, oracle, runtime, pools = world.lazy, world.oracle, world.runtime, world.runtime.pools
    gate = gate_of(core)
    assert pools is not None
    core.mmu.softmmu.flush()  # or it would not ask
    for call in runtime.calls[cpu]:
        footprint.thread(call.thread)
    hooks = _Hooks(footprint, runtime)
    world.machine.instruments.add(hooks)
    # Histories are of a witness, which is made again; they would read what no move reads.
    drops = world.machine.mmu_hooks.drop
    heard, drops.heard = drops.heard, []
    own = [(cpu, page) for page in sorted(world.managed)]  # a flush looks for its own CPU's

    def noted(kind: ComponentKind) -> Callable[[Name], None]:
        return lambda name: note(Component(kind, name))

    # The executor asks how many variables there are, to refuse more than any search could come to.
    variables = RecordedDict(executor.variables, noted("variable"), has_length=True)
    recorded: list[tuple[object, str, object]] = [
        (lazy, "may", RecordedDict(lazy.may, noted("may"), own)),
        (lazy, "ever", RecordedDict(lazy.ever, noted("ever"))),
        (oracle, "frames", RecordedDict(oracle.frames, footprint.life)),
        (executor, "variables", variables),
        (executor, "locks", RecordedDict(executor.locks, noted("lock"))),
        (executor, "dry", RecordedDict(executor.dry, noted("dry"))),
        (executor, "pools", RecordedPools(pools, noted("pool"), lambda: note(Component("reserve")), footprint.life)),
        (executor, "areas", RecordedAreas(executor.areas, footprint.area)),
        (oracle, "areas", RecordedAreas(oracle.areas, footprint.area)),
    ]
    inside = [(owner, name, getattr(owner, name)) for owner, name, _ in recorded]
    for owner, name, container in recorded:
        setattr(owner, name, container)
    memory.hears_touch.swap(footprint.memory)
    gate.hears_enter.swap(footprint.entered)
    try:
        yield footprint
    finally:
        for owner, name, container in inside:
            setattr(owner, name, container)
        drops.heard = heard
        world.machine.instruments.remove(hooks)
        memory.hears_touch.release()
        gate.hears_enter.release()
