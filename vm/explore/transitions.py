"""What a move did once, it does again wherever all that it touched is the same.

A move is made on the machine once, and all that it reads or writes on the way is noted. Where a later state has the
same there, the move is not made again: its outcome is looked up, and the cells it changed are put in place. Two or
three CPUs that interleave meet the same few hundred situations in every one of their many thousand states.

What is known is kept as trees of questions, in the order in which a move asked them: the moving CPU's cell first,
then a cell or a word of a frame at a time, each answer leading to the next question. A move that changes more than one
CPU (a broadcast invalidation) is always made. `tests/litmus/test_memo.py` makes every move that was looked up.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from kstack.explore.components import Cell, Cells, Node
from kstack.explore.footprint import THREADS, WHOLE, WORD, Touched, thread_names, watching
from kstack.explore.may_access import READ, READ_IN, WRITE, WRITE_IN, Touch
from kstack.explore.world import Grown, Move, State, World
from kstack.hw.memory import PAGE
from kstack.sanitizer.findings import Finding

_WORDS: Final = range(0, PAGE, WORD)
Words = tuple[tuple[int, bytes], ...]
"""Words stored in a frame: offsets, and 8 bytes each."""


class Deed:
    """What a move did.

    Attributes:
        cpu: whose.
        cells: put in place.
        words: stored in frames.
        finding: what it brought.
        exercised: accesses that could have gone two ways.
        touches: all that it touched.
        common: it has to do with all CPUs, and is made anew each time.
        moves_others: where other CPUs stand may be another place after it.
    """

    __slots__ = ("cells", "common", "cpu", "exercised", "finding", "moves_others", "touches", "words")

    def __init__(
        self, cpu: int, finding: Finding | None, exercised: int, touches: tuple[Touch, ...], common: bool
    ) -> None:
        self.cpu = cpu
        self.cells: tuple[tuple[int, Cell], ...] = ()
        self.words: tuple[tuple[int, Words], ...] = ()
        self.finding = finding
        self.exercised = exercised
        self.touches = touches
        self.common = common
        self.moves_others = common


class Ways:
    """All that a CPU's program can do next.

    Attributes:
        cpu: whose.
        moves: one of them.
        touches: what that depends on.
    """

    __slots__ = ("cpu", "moves", "touches")

    def __init__(self, cpu: int, moves: tuple[Move, ...], touches: tuple[Touch, ...]) -> None:
        self.cpu = cpu
        self.moves = moves
        self.touches = touches


class Outcome(NamedTuple):
    """What a move comes to: where it leads, what it did, and what is found at the end if it has led there."""

    node: Node
    deed: Deed
    at_end: Finding | None = None

    @property
    def finding(self) -> Finding | None:
        """What it brings."""
        return self.deed.finding or self.at_end

    @property
    def exercised(self) -> int:
        """Accesses that could have gone two ways."""
        return self.deed.exercised


class _Ask:
    """A place at which an outcome depends on the cell, or on a word of the frame, that is there."""

    __slots__ = ("answers", "offset", "place")

    def __init__(self, place: int, offset: int) -> None:
        self.place = place
        self.offset = offset
        self.answers: dict[Any, Any] = {}


class Memo:
    """The states of a world, and what moves out of them have done.

    Args:
        world: at its root.

    Attributes:
        cells: of all its states.
        made: moves made on the machine.
        recalled: moves whose outcome was known.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        world.judges_end = False  # a move may be the last one in one state, and not in another
        self.cells = Cells(world)
        self.made = self.recalled = 0
        self._deeds: dict[Any, Any] = {}
        self._ways: dict[Any, Any] = {}
        self._interrupts: dict[Any, list[Move]] = {}
        self._patched: dict[tuple[Cell, Words], Cell] = {}
        self._blind: dict[int, dict[Any, dict[Any, Any]]] = {}  # frames that are no parts -> what has touched them
        self._parts = 0  # of the states' parts, how many are known to be none of these frames
        places = [self.cells.known((name,)) for name in ("threads", "ipis", "broadcast", "ended")]
        self._threads, self._ipis, self._broadcast, self._ended = (place or 0 for place in places)
        self._first = self.cells.first_cpu
        self._standing = [(self._first + cpu, self._stack_of(cpu)) for cpu in range(self.cells.cpus)]
        self.cells.root = self.cells.whole(self.cells.root)

    @property
    def root(self) -> Node:
        """The state in which all programs are ready."""
        return self.cells.root

    def _stack_of(self, cpu: int) -> int:
        """The place of the frame in which a CPU's stack is at the root, where interrupts leave what they return to."""
        core = self.world.machine.cpus[cpu]
        frame = core.mmu.resolve(core.registers.gpr[4])
        return self.cells.place(("frame", (frame or 0) // PAGE))

    # --- what can happen

    def finished(self, node: Node) -> bool:
        """Whether all programs have come to their end."""
        return all(
            cell.data.done and not cell.data.stores for cell in node.cells[self._first : self._first + self.cells.cpus]
        )

    def moves(self, node: Node) -> list[Move]:
        """All that can happen next."""
        return [move for ways in self.ways(node) for move in ways.moves] + self.interrupts(node)

    def ways(self, node: Node) -> list[Ways]:
        """What each CPU's program can do next, by CPU; nothing where none is."""
        node = self._whole(node)
        return [self._ways_of(node, cpu) for cpu in range(self.cells.cpus)]

    def interrupts(self, node: Node) -> list[Move]:
        """Interrupts that can be taken next."""
        node = self._whole(node)
        cpus = range(self.cells.cpus if node.cells[self._ipis].data else 0)
        return [move for cpu in cpus for move in self._interrupts_of(node, cpu)]

    def only_way(self, node: Node, cpu: int) -> Ways | None:
        """What a CPU can do next if that is one move, with no choice and no interrupt that could come before it."""
        if cpu not in self.world.programs:
            return None
        node = self._whole(node)
        ways = self._ways_of(node, cpu)
        if len(ways.moves) != 1 or (node.cells[self._ipis].data and self._interrupts_of(node, cpu)):
            return None
        return ways

    def _ways_of(self, node: Node, cpu: int) -> Ways:
        root = (cpu, node.cells[self._first + cpu], node.cells[self._threads])
        ways: Ways | None = _look_up(self._ways.get(root), node.cells)
        return self._find_ways(root, node, cpu) if ways is None else ways

    def _find_ways(self, root: Any, node: Node, cpu: int) -> Ways:
        self.world.become(self.cells.state(node))
        with watching(self.world, cpu, self.cells) as touched:
            moves = tuple(self.world.moves_of(cpu) if cpu in self.world.programs else ())
        touches = self._read(cpu, touched)
        if self.world.machine.cpus[cpu].registers.interrupt_flag:
            touches[f"ipi {cpu}", READ] = None  # it would take one
        ways = Ways(cpu, moves, tuple(touches))
        self._store(self._ways, root, node, touched, ways)
        return ways

    def _interrupts_of(self, node: Node, cpu: int) -> list[Move]:
        root = (node.cells[self._ipis], node.cells[self._first + cpu])
        moves = self._interrupts.get(root)
        if moves is None:
            self.world.become(self.cells.state(node))
            moves = self._interrupts[root] = self.world.interrupts_of(cpu)
        return moves

    def stands(self, node: Node) -> tuple[int, ...]:
        """Where each CPU stands: a number for its registers, its hooks and its kernel stack, the same in every process."""
        cells = node.cells
        return tuple([cells[cpu].mark ^ cells[stack].mark for cpu, stack in self._standing])

    # --- what it comes to

    def make(self, node: Node, move: Move) -> Outcome:
        """What a move comes to.

        Raises:
            Grown: more is visible than the world knew.
        """
        node = self._whole(node)
        cells = node.cells
        root = (move, cells[self._first + move.cpu], cells[self._threads], cells[self._ended])
        deed: Deed | None = _look_up(self._deeds.get(root), cells)
        if deed is None:
            return self._judged(self._make(root, node, move))
        self.recalled += 1
        key, changed = node.key, list(cells)
        for place, cell in deed.cells:
            key ^= changed[place].hash ^ cell.hash
            changed[place] = cell
        for place, words in deed.words:
            old = changed[place]
            new = changed[place] = self._patched.get((old, words)) or self._patch(place, old, words)
            key ^= old.hash ^ new.hash
        return self._judged(Outcome(Node(key, tuple(changed)), deed))

    def _judged(self, outcome: Outcome) -> Outcome:
        """An outcome with what is found at the end, if it is one."""
        node = outcome.node
        own = node.cells[self._first + outcome.deed.cpu].data
        if not own.done or outcome.deed.finding is not None or not self.finished(node):
            return outcome
        self.world.become(self.cells.state(node))
        return outcome._replace(at_end=self.world.judge_end())

    def _patch(self, place: int, cell: Cell, words: Words) -> Cell:
        """A frame's cell with some words stored."""
        data = bytearray(cell.data)
        for offset, word in words:
            data[offset : offset + WORD] = word
        whole = bytes(data)
        found = self._patched[cell, words] = self.cells.cell(place, whole, whole)
        return found

    def _make(self, root: Any, node: Node, move: Move) -> Outcome:
        """Make a move on the machine, and remember it."""
        self.made += 1
        world, before = self.world, self.cells.state(node)
        world.become(before)
        exercised = world.exercised
        interruptible = world.machine.cpus[move.cpu].registers.interrupt_flag
        with watching(world, move.cpu, self.cells) as touched:
            finding = world.make(move)
        if world.visible.grown:
            raise Grown(tuple(sorted(world.visible.frames)))
        state = world.state()
        after = self.cells.node(state)
        node = self.cells.whole(node)
        changed = [place for place, cell in enumerate(after.cells) if cell is not node.cells[place]]
        if move.kind == "interrupt" or self._ipis in changed:
            touched.part("ipis")
        if world.machine.cpus[move.cpu].unsupported is not None:
            touched.all_threads(world.runtime.threads)
        common = self._is_common(move.cpu, before, state, changed)
        touches = self._read(move.cpu, touched) | self._written(node, after, changed)
        if interruptible:
            touches[f"ipi {move.cpu}", READ] = None
        deed = Deed(move.cpu, finding, world.exercised - exercised, tuple(touches), common)
        if not common:
            self._remember(root, node, touched, changed, after, deed)
        return Outcome(after, deed)

    def _read(self, cpu: int, touched: Touched) -> dict[Touch, None]:
        """What was touched, by names."""
        found: dict[Touch, None] = {(str(("cpu", cpu)), READ): None}
        for name in touched.threads:
            found[name, READ] = None
            if name != THREADS:
                found[THREADS, READ_IN] = None
        parts = self.cells.parts
        frames = [(parts[place][1], offset) for place, offset in touched.places if parts[place][0] == "frame"]
        for number, offset in (*frames, *touched.frames):
            if offset == WHOLE:
                found[f"frame {number}", READ] = None
            else:
                found[f"frame {number}", READ_IN] = None
                found[f"frame {number}+{offset:#x}", READ] = None
        others = [parts[place] for place, _ in touched.places if parts[place][0] not in ("frame", "ipis")]
        return found | {(str(part), READ): None for part in others}

    def _written(self, node: Node, after: Node, changed: list[int]) -> dict[Touch, None]:
        """What has been changed, by names."""
        found: dict[Touch, None] = {("('ended',)", READ): None}
        for place in changed:
            part, old, new = self.cells.parts[place], node.cells[place].data, after.cells[place].data
            if part[0] == "frame":
                found[f"frame {part[1]}", WRITE_IN] = None
                words = [at for at in _WORDS if old[at : at + WORD] != new[at : at + WORD]]
                found |= {(f"frame {part[1]}+{at:#x}", WRITE): None for at in words}
            elif part[0] == "ipis":
                for cpu in range(self.cells.cpus):
                    if [ipi for ipi in old if ipi.target == cpu] != [ipi for ipi in new if ipi.target == cpu]:
                        found[f"ipi {cpu}", WRITE] = None
            elif part[0] == "threads":
                found[THREADS, WRITE_IN] = None
                gone_or_come = [area for area in (*old[0], *new[0]) if not (area in old[0] and area in new[0])]
                found |= {(name, WRITE): None for area in gone_or_come for name in thread_names(*area[:3])}
            else:
                found[str(part), WRITE] = None
        return found

    def _is_common(self, cpu: int, before: State, after: State, changed: list[int]) -> bool:
        """Whether a move has to do with all CPUs: it changes others, or depends on whether one has shut down."""
        others = [other for other in range(self.cells.cpus) if other != cpu]
        if any(after.rest.cpus[other] is not before.rest.cpus[other] for other in others):
            return True
        return self._broadcast in changed or self._ended in changed

    def _remember(self, root: Any, node: Node, touched: Touched, changed: list[int], after: Node, deed: Deed) -> None:
        self._place_frames(touched, self._deeds, root)
        wholly = {place for place, offset in touched.places if offset == WHOLE}  # asked for membership only
        cells: list[tuple[int, Cell]] = []
        words: list[tuple[int, Words]] = []
        for place in changed:
            cell = after.cells[place]
            if self.cells.parts[place][0] != "frame" or place in wholly:
                cells.append((place, cell))
                continue
            old, new = node.cells[place].data, cell.data
            stored = [at for at in _WORDS if old[at : at + WORD] != new[at : at + WORD]]
            touched.places.update(dict.fromkeys((place, at) for at in stored))
            words.append((place, tuple((at, new[at : at + WORD]) for at in stored)))
        deed.cells, deed.words = tuple(cells), tuple(words)
        others = [place for cpu, pair in enumerate(self._standing) if cpu != deed.cpu for place in pair]
        deed.moves_others = any(place in others for place, _ in (*cells, *words))
        self._store(self._deeds, root, node, touched, deed)

    # --- trees of questions

    def _store(self, table: dict[Any, Any], root: Any, node: Node, touched: Touched, result: Any) -> None:
        """Remember a result under all that was touched on the way to it."""
        self._place_frames(touched, table, root)
        cells = self.cells.whole(node).cells
        where, key = table, root
        for place, offset in touched.places:
            ask = where.get(key)
            if type(ask) is not _Ask or (ask.place, ask.offset) != (place, offset):
                ask = where[key] = _Ask(place, offset)
            where = ask.answers
            cell = cells[place]
            key = cell if offset == WHOLE else cell.data[offset : offset + WORD]
        where[key] = result

    def _place_frames(self, touched: Touched, table: dict[Any, Any], root: Any) -> None:
        """Frames that were no parts when they were touched may be now; what touched the others is kept in mind."""
        for number, offset in touched.frames:
            place = self.cells.known(("frame", number))
            if place is None:
                self._blind.setdefault(number, {})[root] = table
            else:
                touched.places[place, offset] = None
        touched.frames.clear()

    def _whole(self, node: Node) -> Node:
        """A node with all parts; what was known without asking for one of them is forgotten."""
        parts = self.cells.parts
        if len(parts) != self._parts:
            for part in parts[self._parts :]:
                for root, table in self._blind.pop(part[1], {}).items() if part[0] == "frame" else ():
                    table.pop(root, None)
            self._parts = len(parts)
        return node if len(node.cells) == len(parts) else self.cells.whole(node)


def _look_up(at: Any, cells: tuple[Cell, ...]) -> Any:
    """Follow the questions down to what is known, or None."""
    while type(at) is _Ask:
        cell = cells[at.place]
        offset = at.offset
        at = at.answers.get(cell if offset == WHOLE else cell.data[offset : offset + WORD])
    return at
