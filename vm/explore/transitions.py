"""What a move did once, it does again wherever all that it read is the same.

A move is made on the machine once, and its footprint is recorded on the way. Where a later state has the
same there, the move is not made again: its outcome is looked up, and the values it changed are put in place. Two or
three CPUs that interleave meet the same few hundred situations in every one of their many thousand states.

What is known is kept as trees of questions, in the order in which a move asked them: the moving CPU's value first,
then a component or a word of a frame at a time, each answer leading to the next question. A move that changes more than one
CPU (a broadcast invalidation) is always made. `tests/explore/test_transitions.py` makes every move that was looked up.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final, Generic, NamedTuple, TypeVar

from kstack.explore.components import Component, Single
from kstack.explore.footprint import (
    READ,
    WHOLE,
    WORD,
    Footprint,
    LocationAccess,
    ipis_of,
    recording,
    words_changed,
)
from kstack.explore.nodes import ComponentTable, ComponentValue, Node
from kstack.explore.states import Grown, Move, State
from kstack.explore.world import World
from kstack.sanitizer.findings import Finding
from kstack.x86.addresses import PAGE
from kstack.x86.registers import Gpr

_RSP: Final = int(Gpr.RSP)  # a plain integer, for the search's inner loops
Words = tuple[tuple[int, bytes], ...]
"""Words stored in a frame: offsets, and 8 bytes each."""
NodeValues = tuple[ComponentValue, ...]
"""A state's, by their places."""
RootT = TypeVar("RootT", bound=Hashable)
ResultT = TypeVar("ResultT")


class Effect:
    """What a move did.

    Attributes:
        cpu: whose.
        values: put in place.
        words: stored in frames.
        finding: what it brought.
        exercised: accesses that could have gone two ways.
        accesses: its footprint's.
        common: it has to do with all CPUs, and is made anew each time.
        moves_others: where other CPUs stand may be another place after it.
    """

    __slots__ = ("accesses", "common", "cpu", "exercised", "finding", "moves_others", "values", "words")

    def __init__(
        self, cpu: int, finding: Finding | None, exercised: int, accesses: tuple[LocationAccess, ...], common: bool
    ) -> None:
        self.cpu = cpu
        self.values: tuple[tuple[int, ComponentValue], ...] = ()
        self.words: tuple[tuple[int, Words], ...] = ()
        self.finding = finding
        self.exercised = exercised
        self.accesses = accesses
        self.common = common
        self.moves_others = common


class EnabledMoves:
    """All that a CPU's program can do next.

    Attributes:
        cpu: whose.
        moves: one of them.
        accesses: by what that was found out.
    """

    __slots__ = ("accesses", "cpu", "moves")

    def __init__(self, cpu: int, moves: tuple[Move, ...], accesses: tuple[LocationAccess, ...]) -> None:
        self.cpu = cpu
        self.moves = moves
        self.accesses = accesses


class Transition(NamedTuple):
    """What a move comes to: where it leads, what it did, and what is found at the end if it has led there."""

    node: Node
    effect: Effect
    at_end: Finding | None = None

    @property
    def finding(self) -> Finding | None:
        """What it brings."""
        return self.effect.finding or self.at_end

    @property
    def exercised(self) -> int:
        """Accesses that could have gone two ways."""
        return self.effect.exercised


class _Question(Generic[ResultT]):
    """A place at which a result depends on the value, or on a word of the frame, that is there."""

    __slots__ = ("answers", "offset", "place")

    def __init__(self, place: int, offset: int) -> None:
        self.place = place
        self.offset = offset
        self.answers: dict[ComponentValue | bytes, _Question[ResultT] | ResultT] = {}

    def asked(self, values: NodeValues) -> ComponentValue | bytes:
        """What a state has there."""
        value, offset = values[self.place], self.offset
        if offset == WHOLE:
            return value
        word: bytes = value.value[offset : offset + WORD]
        return word


class Recalled(Generic[RootT, ResultT]):
    """Results, each under all that was read on the way to it; by what it was the result of.

    It is known of frames that are no components yet which results have read them (`unplaced`).
    """

    def __init__(self) -> None:
        self._trees: dict[RootT, _Question[ResultT] | ResultT] = {}
        self._unplaced: dict[int, dict[RootT, None]] = {}

    def look_up(self, root: RootT, values: NodeValues) -> ResultT | None:
        """Follow the questions down to what is known, or None."""
        at = self._trees.get(root)
        while isinstance(at, _Question):
            value, offset = values[at.place], at.offset
            at = at.answers.get(value if offset == WHOLE else value.value[offset : offset + WORD])
        return at

    def store(self, root: RootT, values: NodeValues, footprint: Footprint, result: ResultT) -> None:
        """Remember a result."""
        self.place_frames(root, footprint)
        tree: dict[ComponentValue | bytes, _Question[ResultT] | ResultT] | None = None
        key: ComponentValue | bytes = b""
        for place, offset in footprint.reads:
            at = self._trees.get(root) if tree is None else tree.get(key)
            if not isinstance(at, _Question) or (at.place, at.offset) != (place, offset):
                at = _Question[ResultT](place, offset)
                if tree is None:
                    self._trees[root] = at
                else:
                    tree[key] = at
            tree, key = at.answers, at.asked(values)
        if tree is None:
            self._trees[root] = result
        else:
            tree[key] = result

    def place_frames(self, root: RootT, footprint: Footprint) -> None:
        """Frames that were no components when they were read may be now; what has read the others is kept in mind."""
        for number, _ in footprint.place_frames():
            self._unplaced.setdefault(number, {})[root] = None

    def placed(self, frame: int) -> None:
        """A frame has become a component: what was known without asking for it is forgotten."""
        for root in self._unplaced.pop(frame, ()):
            self._trees.pop(root, None)


class StateSpace:
    """The states of a world, and what moves out of them have done.

    Args:
        world: at its root.

    Attributes:
        table: components of all its states.
        made: moves made on the machine.
        recalled: moves whose outcome was known.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        world.judges_end = False  # a move may be the last one in one state, and not in another
        self.table = ComponentTable(world)
        self.made = self.recalled = 0
        self._effects = Recalled[tuple[Move, ComponentValue, ComponentValue, ComponentValue], Effect]()
        self._enabled = Recalled[tuple[int, ComponentValue, ComponentValue], EnabledMoves]()
        self._interrupts: dict[tuple[ComponentValue, ComponentValue], list[Move]] = {}
        self._patched: dict[tuple[ComponentValue, Words], ComponentValue] = {}
        self._placed = 0  # of the table's components, how many are known to be none of the frames that were none
        self._threads, self._ipis = self._place("threads"), self._place("ipis")
        self._broadcast, self._ended = self._place("broadcast"), self._place("ended")
        self._first = self.table.first_cpu
        self._standing = [(self._first + cpu, self._stack_of(cpu)) for cpu in range(self.table.cpus)]
        self.table.root = self.table.whole(self.table.root)

    @property
    def root(self) -> Node:
        """The state in which all programs are ready."""
        return self.table.root

    def _place(self, kind: Single) -> int:
        place = self.table.known(Component(kind))
        assert place is not None
        return place

    def _stack_of(self, cpu: int) -> int:
        """The place of the frame in which a CPU's stack is at the root, where interrupts leave what they return to."""
        core = self.world.machine.cpus[cpu]
        frame = core.mmu.resolve(core.registers.gpr[_RSP])
        return self.table.place(Component("frame", (frame or 0) // PAGE))

    # --- what can happen

    def finished(self, node: Node) -> bool:
        """Whether all programs have come to their end."""
        return all(
            value.value.done and not value.value.stores
            for value in node.values[self._first : self._first + self.table.cpus]
        )

    def moves(self, node: Node) -> list[Move]:
        """All that can happen next."""
        return [move for enabled in self.enabled(node) for move in enabled.moves] + self.interrupts(node)

    def enabled(self, node: Node) -> list[EnabledMoves]:
        """What each CPU's program can do next, by CPU; nothing where none is."""
        node = self._whole(node)
        return [self._enabled_on(node, cpu) for cpu in range(self.table.cpus)]

    def interrupts(self, node: Node) -> list[Move]:
        """Interrupts that can be taken next."""
        node = self._whole(node)
        cpus = range(self.table.cpus if node.values[self._ipis].value else 0)
        return [move for cpu in cpus for move in self._interrupts_of(node, cpu)]

    def only_move(self, node: Node, cpu: int) -> EnabledMoves | None:
        """What a CPU can do next if that is one move, with no choice and no interrupt that could come before it."""
        if cpu not in self.world.programs:
            return None
        node = self._whole(node)
        enabled = self._enabled_on(node, cpu)
        if len(enabled.moves) != 1 or (node.values[self._ipis].value and self._interrupts_of(node, cpu)):
            return None
        return enabled

    def _enabled_on(self, node: Node, cpu: int) -> EnabledMoves:
        root = (cpu, node.values[self._first + cpu], node.values[self._threads])
        enabled = self._enabled.look_up(root, node.values)
        if enabled is not None:
            return enabled
        self.world.become(self.table.state(node))
        with recording(self.world, cpu, self.table) as footprint:
            moves = tuple(self.world.moves_of(cpu) if cpu in self.world.programs else ())
        accesses = footprint.read()
        if self.world.machine.cpus[cpu].registers.interrupt_flag:
            accesses[LocationAccess(ipis_of(cpu), READ)] = None  # it would take one
        enabled = EnabledMoves(cpu, moves, tuple(accesses))
        self._enabled.store(root, self.table.whole(node).values, footprint, enabled)
        return enabled

    def _interrupts_of(self, node: Node, cpu: int) -> list[Move]:
        root = (node.values[self._ipis], node.values[self._first + cpu])
        moves = self._interrupts.get(root)
        if moves is None:
            self.world.become(self.table.state(node))
            moves = self._interrupts[root] = self.world.interrupts_of(cpu)
        return moves

    def stands(self, node: Node) -> tuple[int, ...]:
        """Where each CPU stands: a number for its registers, its hooks and its kernel stack, the same in every process."""
        values = node.values
        return tuple([values[cpu].mark ^ values[stack].mark for cpu, stack in self._standing])

    # --- what it comes to

    def make(self, node: Node, move: Move) -> Transition:
        """What a move comes to.

        Raises:
            Grown: more is visible than the world knew.
        """
        node = self._whole(node)
        values = node.values
        root = (move, values[self._first + move.cpu], values[self._threads], values[self._ended])
        effect = self._effects.look_up(root, values)
        if effect is None:
            return self._judged(self._make(root, node, move))
        self.recalled += 1
        key, changed = node.key, list(values)
        for place, value in effect.values:
            key ^= changed[place].share ^ value.share
            changed[place] = value
        for place, words in effect.words:
            old = changed[place]
            new = changed[place] = self._patched.get((old, words)) or self._patch(place, old, words)
            key ^= old.share ^ new.share
        return self._judged(Transition(Node(key, tuple(changed)), effect))

    def _judged(self, transition: Transition) -> Transition:
        """A transition with what is found at the end, if it leads to one."""
        node = transition.node
        own = node.values[self._first + transition.effect.cpu].value
        if not own.done or transition.effect.finding is not None or not self.finished(node):
            return transition
        self.world.become(self.table.state(node))
        return transition._replace(at_end=self.world.judge_end())

    def _patch(self, place: int, value: ComponentValue, words: Words) -> ComponentValue:
        """A frame's value with some words stored."""
        data = bytearray(value.value)
        for offset, word in words:
            data[offset : offset + WORD] = word
        found = self._patched[value, words] = self.table.frame(place, bytes(data))
        return found

    def _make(
        self, root: tuple[Move, ComponentValue, ComponentValue, ComponentValue], node: Node, move: Move
    ) -> Transition:
        """Make a move on the machine, and remember it."""
        self.made += 1
        world, before = self.world, self.table.state(node)
        world.become(before)
        exercised = world.exercised
        interruptible = world.machine.cpus[move.cpu].registers.interrupt_flag
        with recording(world, move.cpu, self.table) as footprint:
            finding = world.make(move)
        if world.visible.grown:
            raise Grown(tuple(sorted(world.visible.frames)))
        state = world.state()
        after = self.table.node(state)
        node = self.table.whole(node)
        changed = [place for place, value in enumerate(after.values) if value is not node.values[place]]
        if move.kind == "interrupt" or self._ipis in changed:
            footprint.component(Component("ipis"))
        if world.machine.cpus[move.cpu].unsupported is not None:
            footprint.all_threads(world.runtime.threads)
        common = self._is_common(move.cpu, before, state, changed)
        accesses = footprint.read() | footprint.written(node, after, changed)
        if interruptible:
            accesses[LocationAccess(ipis_of(move.cpu), READ)] = None
        effect = Effect(move.cpu, finding, world.exercised - exercised, tuple(accesses), common)
        if not common:
            self._effects.place_frames(root, footprint)
            self._complete(effect, node, footprint, changed, after)
            self._effects.store(root, self.table.whole(node).values, footprint, effect)
        return Transition(after, effect)

    def _is_common(self, cpu: int, before: State, after: State, changed: list[int]) -> bool:
        """Whether a move has to do with all CPUs: it changes others, or depends on whether one has shut down."""
        others = [other for other in range(self.table.cpus) if other != cpu]
        if any(after.rest.cpus[other] is not before.rest.cpus[other] for other in others):
            return True
        return self._broadcast in changed or self._ended in changed

    def _complete(self, effect: Effect, node: Node, footprint: Footprint, changed: list[int], after: Node) -> None:
        """What is put in place where a move is recalled: values; of frames that were not touched whole, words."""
        wholly = {place for place, offset in footprint.reads if offset == WHOLE}  # asked for membership only
        values: list[tuple[int, ComponentValue]] = []
        words: list[tuple[int, Words]] = []
        for place in changed:
            value = after.values[place]
            if self.table.components[place].kind != "frame" or place in wholly:
                values.append((place, value))
                continue
            stored = words_changed(node.values[place], value)
            footprint.reads.update(dict.fromkeys((place, at) for at in stored))
            words.append((place, tuple((at, value.value[at : at + WORD]) for at in stored)))
        effect.values, effect.words = tuple(values), tuple(words)
        others = [place for cpu, pair in enumerate(self._standing) if cpu != effect.cpu for place in pair]
        effect.moves_others = any(place in others for place, _ in (*values, *words))

    def _whole(self, node: Node) -> Node:
        """A node with all components; what was known without asking for one of them is forgotten."""
        components = self.table.components
        if len(components) != self._placed:
            for kind, number in components[self._placed :]:
                if kind == "frame" and isinstance(number, int):
                    self._effects.placed(number)
                    self._enabled.placed(number)
            self._placed = len(components)
        return node if len(node.values) == len(components) else self.table.whole(node)
