"""The debugged machine: continue and step, forwards and backwards, until something stops it.

All CPUs stop and go together. Which one runs is the schedule's choice, so a step of one CPU lets the
others run as they are scheduled. A step is one unit of virtual time of that CPU: an instruction, or
the delivery of an event, or one micro-step of a hook (RIP stays at its OUT). Backwards a stop is the moment
before what would have stopped: for a watchpoint, before the access.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from kstack.base.errors import ConfigError
from kstack.debug.checkpoints import NEAR, TimelineMark
from kstack.debug.forks import Keeper
from kstack.debug.origin import Origin
from kstack.debug.packets import ProtocolError
from kstack.debug.points import Point, Points, PointType
from kstack.debug.registers import offset_of, register_name
from kstack.debug.timeline import END_OF_RECORDING, PIECE, Timeline
from kstack.hw.cpu.cpu import Cpu
from kstack.run.writes import Change, MemoryChange, RegisterChange

SIGINT: Final = 2
SIGTRAP: Final = 5
POLL_EVERY: Final = 256  # single units between two looks at the line
WATCH_NAMES: Final = {PointType.WRITE: "watch", PointType.READ: "rwatch", PointType.ACCESS: "awatch"}
FORKED: Final = (
    "kstack: this write forks a new recording: what was recorded of the future is dropped, the CPUs run in turn from here, "
    "and going back over it repeats it."
)
KEPT: Final = "It is saved when GDB leaves, or by: monitor record"


class StopReply(NamedTuple):
    """Why the machine stopped.

    Attributes:
        signal: in the numbers of GDB's protocol.
        cpu: that stopped it.
        reason: as in a stop reply packet, without its value: `swbreak`, `watch`, `replaylog`; or empty.
        value: of the reason.
    """

    signal: int
    cpu: int
    reason: str = ""
    value: str = ""


class _Found(NamedTuple):
    """A stop, and the virtual time of the moment before what caused it."""

    stop: StopReply
    time: int


class Exited(NamedTuple):
    """The guest of a live run has ended by itself, with this status."""

    status: int


class Target:
    """One machine under a debugger.

    Args:
        origin: where its run begins.
        say: takes lines for the user.
        interrupted: whether the user wants it to stop.
        place: where a recording of what it becomes is kept; None keeps none.
    """

    def __init__(
        self,
        origin: Origin,
        say: Callable[[str], None],
        interrupted: Callable[[], bool],
        place: Callable[[], Path] | None = None,
    ) -> None:
        self.timeline = Timeline(origin)
        self.keeper = Keeper(self.timeline, place)
        self.points = Points(origin.machine.memory)
        self.stop: StopReply | Exited = StopReply(SIGTRAP, self.timeline.cpu or 0)
        self._say = say
        self._interrupted = interrupted
        self._told: tuple[int, int] | None = None  # the place (time, CPU) of the breakpoint told of last
        self._units = 0

    @property
    def cpus(self) -> list[Cpu]:
        """All CPUs, by number."""
        return self.timeline.machine.cpus

    # --- writing

    def write_register(self, cpu: int, number: int, value: int) -> None:
        """Set a register here; `rip` is given as it is read.

        Raises:
            ProtocolError: it cannot be set.
        """
        name = register_name(number)
        if name == "rip":
            value = offset_of(self.cpus[cpu], value)
        self._write([RegisterChange(cpu, name, value)])

    def write_memory(self, parts: list[tuple[int, bytes]]) -> None:
        """Store bytes at physical addresses here."""
        self._write([MemoryChange(address, data.hex()) for address, data in parts])

    def _write(self, changes: Sequence[Change]) -> None:
        news = self.timeline.recorded and not self.timeline.forked
        try:
            for change in changes:
                change.check(self.timeline.machine)
            for change in changes:
                self.timeline.write(change)
        except ConfigError as error:
            raise ProtocolError(str(error)) from error
        if news:
            self._say(f"{FORKED} {KEPT}" if self.keeper.keeps else FORKED)

    # --- forwards

    def resume(self, stepping: tuple[int, ...] = ()) -> StopReply | Exited:
        """Run until something stops it.

        Args:
            stepping: CPUs that stop after one unit of their own.
        """
        told, self._told = self._told, None
        timeline, points = self.timeline, self.points
        while timeline.prepare():
            number = self._chosen()
            cpu = self.cpus[number]
            kind = points.breakpoint(cpu, timeline.session.runtime) if points else None
            place = (timeline.time, number)
            if kind is not None and place != told:
                self._told = place
                return self._stopped(StopReply(SIGTRAP, number, _reason(kind)))
            point = None
            if points.watching:
                armed = points.arm(cpu)
                elapsed = timeline.advance(1)
                point = points.triggered(cpu, armed)
            else:
                elapsed = timeline.advance(1 if points or number in stepping else PIECE)
            if point is not None:
                return self._stopped(StopReply(SIGTRAP, number, WATCH_NAMES[point.kind], f"{point.address:x}"))
            if elapsed and number in stepping:
                return self._stopped(StopReply(SIGTRAP, number))
            if self._wanted(elapsed):
                return self._stopped(StopReply(SIGINT, number))
        return self._stopped(self._end())

    def _chosen(self) -> int:
        assert self.timeline.begun is not None
        return self.timeline.begun.cpu

    def _wanted(self, elapsed: int) -> bool:
        """Whether the user wants to stop; asked now and then."""
        self._units += max(1, elapsed)
        if self._units < POLL_EVERY:
            return False
        self._units = 0
        return self._interrupted()

    def _end(self) -> StopReply | Exited:
        timeline = self.timeline
        code = timeline.machine.exit_port.code
        if timeline.goes_on and timeline.ended == "exit" and code is not None:
            self._say(f"kstack: {timeline.reason}, time {timeline.time}")
            return Exited(0 if code in timeline.session.kernel.facts.exits.passed else code & 0xFF or 1)
        why = timeline.ended or ""
        if timeline.reason is not None:
            why += f": {timeline.reason}"
        self._say(f"kstack: {why if why == END_OF_RECORDING else f'the run ends here: {why}'}, time {timeline.time}")
        last = timeline.lanes[-1].cpu if timeline.lanes else 0
        return StopReply(SIGTRAP, last, "replaylog", "end")

    def _stopped(self, stop: StopReply | Exited) -> StopReply | Exited:
        self.stop = stop
        return stop

    # --- backwards

    def step_back(self, cpu: int) -> StopReply | Exited:
        """Go to the last moment before the present at which `cpu` was about to run for a unit."""
        timeline, self._told = self.timeline, None
        present, lane = timeline.time, timeline.last_run(cpu)
        if lane is None:
            return self._beginning()
        for time in range(min(lane.end, present) - 1, lane.start - 1, -1):
            self._goto_turn(time, cpu)
            if timeline.time < present and timeline.cpu == cpu:  # a unit can be two long (a #DB behind an instruction)
                break
        return self._stopped(StopReply(SIGTRAP, cpu))

    def _goto_turn(self, time: int, cpu: int) -> None:
        """Stand at `time`, where `cpu` is about to run: slices that took no time can come before its own."""
        timeline = self.timeline
        timeline.goto(time, chosen=True)
        while timeline.begun is not None and timeline.cpu != cpu and timeline.advance(1) == 0:
            timeline.prepare()

    def resume_back(self) -> StopReply | Exited:
        """Go to the latest stop before the present, or to the beginning.

        An interruption leaves the machine where it was looking then.
        """
        timeline, self._told = self.timeline, None
        if not self.points:
            return self._beginning()
        end = TimelineMark(timeline.time, 0, False)  # the moments at the present time are none that lie back
        timeline.goto(timeline.time - NEAR)
        while True:
            begin = timeline.mark
            last = self._last_stop(end)
            if last is not None:
                break
            if begin <= timeline.beginning:
                return self._beginning()
            end = min(begin, end)
            timeline.back_before(end)
        if last.stop.signal == SIGTRAP:
            timeline.back_before(
                TimelineMark(last.time, 0, False)
            )  # the search may stand at that time, and behind the stop
            self._goto_turn(last.time, last.stop.cpu)
            self._told = (last.time, last.stop.cpu) if last.stop.reason.endswith("break") else None
        return self._stopped(last.stop)

    def _last_stop(self, end: TimelineMark) -> _Found | None:
        """Run from here to a moment: the last stop on the way; that the user wants to stop, where the machine stands then."""
        timeline, points = self.timeline, self.points
        last: _Found | None = None
        while timeline.mark < end and timeline.prepare() and timeline.mark < end:
            number, time = self._chosen(), timeline.time
            cpu = self.cpus[number]
            kind = points.breakpoint(cpu, timeline.session.runtime)
            if kind is not None:
                last = _Found(StopReply(SIGTRAP, number, _reason(kind)), time)
            armed = points.arm(cpu) if points.watching else None
            elapsed = timeline.advance(1)
            point: Point | None = None if armed is None else points.triggered(cpu, armed)
            if point is not None:
                last = _Found(StopReply(SIGTRAP, number, WATCH_NAMES[point.kind], f"{point.address:x}"), time)
            if self._wanted(elapsed):
                return _Found(StopReply(SIGINT, number), timeline.time)
        return last

    def _beginning(self) -> StopReply:
        self.timeline.restart()
        stop = StopReply(SIGTRAP, self.timeline.cpu or 0, "replaylog", "begin")
        self._stopped(stop)
        return stop

    def goto(self, time: int) -> None:
        """Stand where virtual time is `time`."""
        self._told = None
        self.timeline.goto(time)
        self._stopped(StopReply(SIGTRAP, self.timeline.cpu or 0))


def _reason(kind: PointType) -> str:
    return "swbreak" if kind is PointType.SOFTWARE else "hwbreak"
