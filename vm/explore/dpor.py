"""Dynamic partial-order reduction: of all orders of moves that do not depend on each other, about one is made.

Source sets and sleep sets (Abdulla, Aronis, Jonsson, Sagonas: Source Sets, JACM 2017), depth first over
executions, with states restored and not made again. Nothing but the present path is kept, so this is for
runs whose states do not merge. A process is a CPU's program or the arrival of interrupts at a CPU; what
such a process may choose at a move (an entry that may be cached, whether Accessed was set) are branches
of one step.

Waiting does not go on for ever: a move that leads back to the state it came from is not made (its CPU
waits for what it has read), and a CPU whose loads have led back to where it was goes on when one of the
words it has read has been written.

With a bound on preemptions (switches away from a CPU that could have gone on) this searches 0, 1, 2, ...
up to the bound; there are no sleep sets then, and the beginning of a CPU's turn is a point to come back to
as well (Coons, Musuvathi, McKinley: Bounded Partial-Order Reduction, OOPSLA 2013).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from kstack.explore.dependence import EVERYTHING, Footprint, Recorder
from kstack.explore.model.gate import Visible
from kstack.explore.problem import Bounds, Outcome, Problem, Progress, at_once
from kstack.explore.wait_loops import Look, Spin, local_of, look_of, looks_after, spins_after
from kstack.explore.world import FoundBefore, Grown, Move, NotReady, State, World
from kstack.sanitizer.findings import Finding
from kstack.x86.registers import Gpr

_CLOCK = time.monotonic  # for the budget alone, which may cut a search and never decides what it finds
NOTHING: Final = Footprint()


class Watcher(Protocol):
    """Who wants to see every execution; a search that is watched goes on after findings."""

    def moves(self, world: World, depth: int, move: Move) -> None:
        """A move is about to be made at this depth of the present path."""
        ...

    def moved(self, world: World, depth: int, move: Move, finding: Finding | None) -> None:
        """It was made."""
        ...

    def ended(self, world: World, depth: int, state: State) -> None:
        """The present path, of so many moves, cannot go on."""
        ...


class Process(NamedTuple):
    """A CPU's program, or the arrival of interrupts at it."""

    cpu: int
    is_arrival: bool = False


@dataclass
class _Node:
    """A state on the present path, and what is to be done there.

    Attributes:
        ready: the moves of each process that can move.
        asleep: processes that need not move from here now, and the footprint of their next step.
        looks, spins: by CPU, what it has read since it last changed anything, and what it waits for.
        backtrack: processes to move from here, in order; those before `at` have been begun.
        last, preemptions: the CPU that moved last, and how often one was left that could have gone on.
        process, move, footprint: the event that the path goes on by.
        before: the events that happened before it, as bits.
        place: RIP and RSP of the CPU before it.
        step: the footprint of all choices of `process` together.
        left: its choices still to be made.
        explored: an event has been made from here.
    """

    state: State
    key: bytes
    ready: dict[Process, list[Move]]
    asleep: dict[Process, Footprint]
    looks: dict[int, tuple[Look, ...]]
    spins: dict[int, Spin]
    last: int
    preemptions: int
    backtrack: list[Process] = field(default_factory=list)
    at: int = 0
    process: Process | None = None
    move: Move | None = None
    footprint: Footprint = NOTHING
    before: int = 0
    place: tuple[int, int] = (0, 0)
    step: Footprint = NOTHING
    left: list[Move] = field(default_factory=list)
    moved: bool = False
    explored: bool = False


def dpor(
    problem: Problem,
    bounds: Bounds = Bounds(),
    progress: Progress = lambda *_: None,
    watcher: Watcher | None = None,
) -> Outcome:
    """Make every execution of a litmus scenario under a policy, up to the order of what does not depend.

    Args:
        problem: the scenario, the policy, the modes.
        bounds: `depth`, `budget` and `preemptions` cut it; no states are kept.
        progress: told after each execution: executions, 0, its moves.
        watcher: sees every execution; the search does not stop at findings then.

    Returns:
        `states` are those on all paths, with repetitions; `path` need not be a shortest one.

    Raises:
        ScenarioError: the scenario cannot be explored.
        PolicyError: the policy did what no policy may.
    """
    visible, preemptions = Visible(problem.visible), bounds.preemptions
    while True:
        try:
            world = World(problem.scenario, problem.chosen, problem.modes, visible)
            if visible.grown:  # on the way to the first visible operations
                continue
            if preemptions is None:
                return Search(world, bounds, None, progress, watcher).run()
            return _deepen(world, bounds, preemptions, progress, watcher)
        except Grown:
            continue
        except (FoundBefore, NotReady) as why:
            return at_once(problem.scenario, problem.chosen, problem.modes, why)


def _deepen(world: World, bounds: Bounds, most: int, progress: Progress, watcher: Watcher | None) -> Outcome:
    """Search with 0, 1, 2, ... preemptions, until something is found or nothing was cut."""
    root, recorder = world.state(), Recorder(world)
    executions = states = moves = 0
    for bound in range(most + 1):
        world.become(root)
        outcome = Search(world, bounds, bound, progress, watcher, recorder).run()
        executions, states, moves = executions + outcome.executions, states + outcome.states, moves + outcome.moves
        if outcome.verdict != "undecided" or outcome.cut.startswith("budget"):
            break
    return outcome.__class__(**{**vars(outcome), "executions": executions, "states": states, "moves": moves})


class Search:
    """One search from a world's present state.

    Args:
        world, bounds, preemptions, progress, watcher: as `dpor` has them; a bound of preemptions alone.
        recorder: of this world, if there is one already.
    """

    def __init__(
        self,
        world: World,
        bounds: Bounds,
        preemptions: int | None,
        progress: Progress,
        watcher: Watcher | None,
        recorder: Recorder | None = None,
    ) -> None:
        self._world = world
        self._recorder = recorder or Recorder(world)
        self._bounds = bounds
        self._preemptions = preemptions
        self._progress = progress
        self._watcher = watcher
        self._path: list[_Node] = []
        self._here: State | None = None  # the state that the world is in, if it is one of the path
        self._cut = ""
        self._first: tuple[Finding, tuple[Move, ...]] | None = None
        self._stuck: list[tuple[Move, ...]] = []
        self._executions = self._states = self._moves = self._depth = 0

    def run(self) -> Outcome:
        """Depth first, until nothing is left to come back to."""
        started = _CLOCK()
        self._push(None, {}, {}, {}, -1, 0)
        while self._path:
            node = self._path[-1]
            move = self._next(node)
            if move is None:
                self._path.pop()
                continue
            self._make(node, move)
            if self._first is not None and self._watcher is None:
                break
            if self._bounds.budget is not None and _CLOCK() - started > self._bounds.budget:
                self._cut = f"budget {self._bounds.budget:g} s"
                break
        return self._outcome()

    def _outcome(self) -> Outcome:
        unsafe = self._first is not None or bool(self._stuck)
        finding, path = self._first or (None, self._stuck[0] if self._stuck else ())
        return Outcome(
            verdict="unsafe" if unsafe else "undecided" if self._cut else "safe",
            complete=not unsafe and not self._cut,
            states=self._states,
            moves=self._moves,
            exercised=self._world.exercised,
            depth=self._depth,
            finding=finding,
            path=path,
            stuck=len(self._stuck),
            cut=self._cut,
            visible=self._world.visible,
            stronger=self._world.stronger,
            executions=self._executions,
        )

    # --- what to do at a state

    def _next(self, node: _Node) -> Move | None:
        """The next move to be made from a state, None when it is done with."""
        if node.left:
            return node.left.pop(0)
        if node.process is not None:
            self._leave(node)
        while True:
            if node.at == len(node.backtrack) and not self._add_any(node):
                return None
            process = node.backtrack[node.at]
            node.at += 1
            if process in node.asleep or process not in node.ready or self._is_beyond(node, process):
                continue
            node.process, node.step, node.moved = process, NOTHING, False
            node.left = list(node.ready[process])
            return node.left.pop(0)

    def _leave(self, node: _Node) -> None:
        """All choices of a process have been made; one that leads nowhere waits."""
        assert node.process is not None
        if node.moved:
            if self._preemptions is None:
                node.asleep[node.process] = node.step
        else:
            del node.ready[node.process]
            self._consider(node.process, node.step, len(self._path) - 1, node.place)
        node.process = None

    def _add_any(self, node: _Node) -> bool:
        """Choose a process if none has moved from here yet; if none can, the path ends here."""
        if node.explored:
            return False
        awake = [process for process in node.ready if process not in node.asleep]
        awake = [process for process in awake if process not in node.backtrack]
        if awake:
            node.backtrack.append(next((one for one in awake if one.cpu == node.last), awake[0]))
            return True
        if not node.ready:
            self._end(node)
        node.explored = True
        return False

    def _is_beyond(self, node: _Node, process: Process) -> bool:
        """Whether moving this process needs more preemptions than are allowed."""
        if self._preemptions is None or node.preemptions + self._cost(node, process) <= self._preemptions:
            return False
        self._cut = self._cut or f"{self._preemptions} preemptions"
        return True

    def _cost(self, node: _Node, process: Process) -> int:
        return int(node.last not in (-1, process.cpu) and any(other.cpu == node.last for other in node.ready))

    def _end(self, node: _Node) -> None:
        world = self._world
        if any(spin.chose for spin in node.spins.values()):
            return  # by the other choice it goes on, from the same state
        self._go(node)
        self._executions += 1
        if self._watcher is not None:
            self._watcher.ended(world, len(self._path) - 1, node.state)
        if not world.finished and world.machine.end() is None:
            self._stuck.append(tuple(one.move for one in self._path[:-1] if one.move is not None))
        self._progress(self._executions, 0, len(self._path) - 1)

    def _go(self, node: _Node) -> None:
        """Let the world be in a state of the path."""
        if self._here is not node.state:
            self._world.become(node.state)
            self._here = node.state

    # --- events

    def _make(self, node: _Node, move: Move) -> None:
        """Make a move; unless it leads back to where it came from, the path goes on behind it."""
        assert node.process is not None
        world, depth, process = self._world, len(self._path) - 1, node.process
        self._go(node)
        local, node.place = local_of(world, move.cpu), self._place(move.cpu)
        if self._watcher is not None:
            self._watcher.moves(world, depth, move)
        self._here = None
        finding, footprint = self._recorder.make(move)
        if world.visible.grown:
            raise Grown(tuple(sorted(world.visible.frames)))
        self._moves += 1
        node.step = node.step.with_(footprint)
        if self._watcher is not None:
            self._watcher.moved(world, depth, move, finding)
        after = world.state()
        key = world.key(after)
        if key == node.key and finding is None:
            return
        node.moved = node.explored = True
        node.move, node.footprint = move, footprint
        node.before = self._consider(process, footprint, depth, node.place)
        if finding is not None and self._first is None:
            self._first = (finding, tuple(one.move for one in self._path if one.move is not None))
            if self._watcher is None:
                return
        if self._bounds.depth is not None and depth + 1 >= self._bounds.depth:
            self._cut = f"depth {self._bounds.depth}"
            return
        asleep = {other: step for other, step in node.asleep.items() if not step.depends(footprint)}
        look = look_of(move, footprint, node.state, after, local, len(node.ready[process]) > 1)
        looks = looks_after(node.looks, move.cpu, footprint, look)
        spins = spins_after(node.spins, move.cpu, footprint, looks, local_of(world, move.cpu))
        cost = node.preemptions + self._cost(node, process)
        self._push((after, key), asleep, looks, spins, process.cpu, cost)

    def _push(
        self,
        reached: tuple[State, bytes] | None,
        asleep: dict[Process, Footprint],
        looks: dict[int, tuple[Look, ...]],
        spins: dict[int, Spin],
        last: int,
        preemptions: int,
    ) -> None:
        """The path goes on from the world's present state."""
        world = self._world
        if reached is None:
            state = world.state()
            reached = state, world.key(state)
        self._here = reached[0]
        ready: dict[Process, list[Move]] = {}
        has_ended = world.machine.end() is not None
        for move in world.moves():
            ready.setdefault(Process(move.cpu, move.kind == "interrupt"), []).append(move)
        able = [process for process in ready if has_ended or (not process.is_arrival and process.cpu in spins)]
        for process in able:
            del ready[process]
        self._path.append(_Node(*reached, ready, asleep, looks, spins, last, preemptions))
        self._states += 1
        self._depth = max(self._depth, len(self._path) - 1)
        if has_ended:
            for process in able:
                self._consider(process, EVERYTHING, len(self._path) - 1, self._place(process.cpu))
        else:
            self._consider_waiting(ready, spins)

    def _consider_waiting(self, ready: dict[Process, list[Move]], spins: dict[int, Spin]) -> None:
        """Processes that cannot move now might have moved earlier."""
        world, depth = self._world, len(self._path) - 1
        for cpu in world.programs:
            if world.held[cpu] is not None and Process(cpu) not in ready and cpu not in spins:
                self._consider(Process(cpu), self._recorder.waiting(cpu), depth, self._place(cpu))
        for cpu in sorted({ipi.target for ipi in world.machine.ipis}):
            if Process(cpu, True) not in ready:
                self._consider(Process(cpu, True), self._recorder.arriving(cpu), depth, self._place(cpu))

    # --- races

    def _place(self, cpu: int) -> tuple[int, int]:
        registers = self._world.machine.cpus[cpu].registers
        return registers.rip, registers.gpr[Gpr.RSP]

    def _consider(self, process: Process, footprint: Footprint, depth: int, place: tuple[int, int]) -> int:
        """Take a step of `process` at `place` behind the path's first `depth` events into account.

        For each event that races with it (depends on it, with nothing between them that orders them),
        see that the other order is made as well. A step of a program races with the interrupts that came
        right before it, though their handlers are between; the steps of a handler do not, for without the
        interrupt they do not exist.

        Returns:
            The events that happened before it, as bits.
        """
        before = 0
        races: list[int] = []
        for number in range(depth - 1, -1, -1):
            if before >> number & 1:
                continue
            event = self._path[number]
            assert event.process is not None
            if event.process == process or event.footprint.depends(footprint):
                before |= event.before | 1 << number
                if event.process.cpu != process.cpu or (process.is_arrival and not event.process.is_arrival):
                    races.append(number)
        if not process.is_arrival:
            races += self._interruptions(process, depth, place)
        for number in races:
            self._reverse(number, process, before, depth)
        return before

    def _interruptions(self, process: Process, depth: int, place: tuple[int, int]) -> Iterator[int]:
        """The interrupts that came while a program stood before its present step."""
        for number in range(depth - 1, -1, -1):
            event = self._path[number]
            assert event.process is not None
            if event.process.cpu == process.cpu and event.place == place:
                if not event.process.is_arrival:
                    return
                yield number

    def _reverse(self, number: int, process: Process, before: int, depth: int) -> None:
        """A step of `process` races with event `number`: some way to it without that event must be begun there."""
        node = self._path[number]
        without = 0  # the events behind it that do not depend on it
        initials: list[Process] = []
        for later in range(number + 1, depth):
            event = self._path[later]
            if event.before >> number & 1:
                continue
            if not event.before & without:
                assert event.process is not None
                initials.append(event.process)
            without |= 1 << later
        if not before & without:
            initials.append(process)
        if any(initial in node.backtrack or initial in node.asleep for initial in initials):
            return
        possible = [initial for initial in initials if initial in node.ready]
        if not possible:
            return
        chosen = process if process in possible else possible[0]
        node.backtrack.append(chosen)
        if self._preemptions is not None:
            self._begin_turn(number, chosen)

    def _begin_turn(self, number: int, process: Process) -> None:
        """Where preemptions are bounded: come back to the beginning of the turn of event `number` as well."""
        turn = self._path[number].process
        assert turn is not None
        while number and (earlier := self._path[number - 1].process) is not None and earlier.cpu == turn.cpu:
            number -= 1
        node = self._path[number]
        if process in node.ready and process not in node.backtrack:
            node.backtrack.append(process)
