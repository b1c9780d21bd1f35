"""The 8254 interval timer and the speaker port (Intel 8254 data sheet; no SDM section).

Its three channels count at 1193182 Hz. Virtual time counts instructions; `hz` of them make one
second, so tick k of the timer comes at virtual time ceil(k * hz / 1193182). A channel's count and
output are derived from the tick it was loaded at, so nothing runs between two accesses. Channel 0
interrupts at each rising edge of its output; channel 2 has a gate, bit 0 of port 61H.

Not modelled: the one tick between writing a count and its loading; a new count that waits for the
period's end in modes 2 and 3 (it acts at once); BCD counting; the gate triggers of modes 1 and 5,
which act as 0 and 4; the strobe that ends modes 4 and 5 (the output stays high); memory refresh
by channel 1; NMI sources and the speaker itself in port 61H.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from operator import attrgetter
from typing import Final, NamedTuple

PIT_PORT: Final = 0x40
PIT_PORTS: Final = 4
SPEAKER_PORT: Final = 0x61
PIT_HZ: Final = 1_193_182

_COUNTER_BITS: Final = 0xFFFF
_FULL_COUNT: Final = 0x1_0000  # what a written 0 means
_CHANNELS: Final = 3
_GATED: Final = 2
_COMMAND: Final = 3


class _Access(enum.IntEnum):
    """Bits 5:4 of a control word."""

    LATCH = 0
    LOW = 1
    HIGH = 2
    BOTH = 3


class Mode(enum.IntEnum):
    """Bits 3:1 of a control word."""

    TERMINAL_COUNT = 0
    ONE_SHOT = 1
    RATE = 2
    SQUARE = 3
    SOFTWARE_STROBE = 4
    HARDWARE_STROBE = 5


class _ReadBack(enum.IntEnum):
    """A control word for channel 3; bits 3:1 name the channels."""

    NO_STATUS = 1 << 4
    NO_COUNT = 1 << 5


class _Status(enum.IntEnum):
    NULL_COUNT = 1 << 6
    OUT = 1 << 7


class Speaker(enum.IntEnum):
    """Port 61H."""

    GATE = 1 << 0
    SPEAKER = 1 << 1
    REFRESH = 1 << 4  # toggles with memory refresh, here at every read
    OUT = 1 << 5
    WRITABLE = 0xF


ChannelState = tuple[int | None, ...]
"""Every field of a channel, in the order of its slots."""


class Channel:
    """One counter. Ticks are counted from virtual time 0."""

    __slots__ = (
        "_access",
        "_control",
        "_latched",
        "_low",
        "_mode",
        "_next_high",
        "_read_high",
        "count",
        "gate",
        "held",
        "start",
    )

    def __init__(self) -> None:
        self._control = _Access.BOTH << 4 | Mode.TERMINAL_COUNT << 1
        self._access, self._mode = int(_Access.BOTH), int(Mode.TERMINAL_COUNT)
        self.count = 0  # ticks a period, 1 to 65536; 0 before the first count is written
        self.start = 0  # the tick counting began
        self.gate = True
        self.held = 0  # ticks counted when the gate went low
        self._low = 0  # a count's low byte, until its high byte comes
        self._next_high = False
        self._read_high = False
        self._latched: tuple[int, ...] = ()  # bytes still to be read

    @property
    def periodic(self) -> bool:
        """Whether its output rises again and again."""
        return self._mode in (Mode.RATE, Mode.SQUARE)

    def control(self, word: int, tick: int) -> None:
        """A control word for this channel: a latch command or a new mode."""
        access = word >> 4 & 3
        if access == _Access.LATCH:
            self.latch(tick, status=False, count=True)
            return
        mode = word >> 1 & 7
        self._access = access
        self._mode = mode & 3 if mode > Mode.HARDWARE_STROBE else mode
        self._control = word & 0x3F
        self.count = self.held = 0
        self._next_high = self._read_high = False
        self._latched = ()

    def write(self, byte: int, tick: int) -> bool:
        """A byte of the count; True if the count is whole and counting starts at `tick`."""
        if self._access == _Access.BOTH and not self._next_high:
            self._low, self._next_high = byte, True
            return False
        low = {_Access.LOW: byte, _Access.HIGH: 0}.get(_Access(self._access), self._low)
        high = 0 if self._access == _Access.LOW else byte
        self._next_high = False
        self.count = (high << 8 | low) or _FULL_COUNT
        self.start, self.held = tick, 0
        return True

    def set_gate(self, gate: bool, tick: int) -> None:
        """Low stops counting; high goes on, or starts the period again in modes 2 and 3."""
        if gate and not self.gate:
            self.start = tick if self.periodic else tick - self.held
        elif self.gate and not gate:
            self.held = tick - self.start
        self.gate = gate

    def _elapsed(self, tick: int) -> int:
        return tick - self.start if self.gate else self.held

    def value(self, tick: int) -> int:
        """The counter, 16 bits."""
        if not self.count:
            return 0
        elapsed = self._elapsed(tick)
        if self._mode == Mode.SQUARE:
            return (self.count - 2 * elapsed % self.count) & _COUNTER_BITS
        if self._mode == Mode.RATE:
            elapsed %= self.count
        return (self.count - elapsed) & _COUNTER_BITS

    def output(self, tick: int) -> bool:
        """The level of OUT."""
        if not self.count:
            return self._mode != Mode.TERMINAL_COUNT
        elapsed = self._elapsed(tick)
        if not self.periodic:
            return elapsed >= self.count or self._mode != Mode.TERMINAL_COUNT
        if not self.gate:
            return True
        high = self.count - 1 if self._mode == Mode.RATE else (self.count + 1) // 2
        return elapsed % self.count < high

    def latch(self, tick: int, status: bool, count: bool) -> None:
        """Keep status, count or both to be read; what is kept already stays."""
        if self._latched:
            return
        value = self.value(tick)
        pair = (value & 0xFF, value >> 8)
        counts = {_Access.LOW: pair[:1], _Access.HIGH: pair[1:]}.get(_Access(self._access), pair)
        out = _Status.OUT if self.output(tick) else 0
        null = 0 if self.count else _Status.NULL_COUNT
        self._latched = (out | null | self._control,) * status + counts * count

    def read(self, tick: int) -> int:
        """The next byte of what is latched, or of the counter as it runs."""
        if self._latched:
            byte, *rest = self._latched
            self._latched = tuple(rest)
            return byte
        value = self.value(tick)
        high = self._access == _Access.HIGH
        if self._access == _Access.BOTH:
            high, self._read_high = self._read_high, not self._read_high
        return value >> 8 if high else value & 0xFF

    def snapshot(self) -> ChannelState:
        """Every field."""
        return _EVERY_FIELD(self)

    def restore(self, state: ChannelState) -> None:
        """Become what `snapshot` returned."""
        for name, value in zip(self.__slots__, state, strict=True):
            setattr(self, name, value)


_EVERY_FIELD: Final = attrgetter(*Channel.__slots__)


class PitState(NamedTuple):
    """The tick of the next edge of channel 0's output, and the three channels."""

    edge: int | None
    first: ChannelState
    second: ChannelState
    third: ChannelState


class Pit:
    """The timer. `irq` is called at rising edges of channel 0; `hz` is instructions a second."""

    label = "pit"

    def __init__(self, clock: Callable[[], int], irq: Callable[[], None], hz: int = 1_000_000_000) -> None:
        self._clock = clock
        self._irq = irq
        self._hz = hz
        self._channels = tuple(Channel() for _ in range(_CHANNELS))
        self._edge: int | None = None  # the tick of channel 0's next rising edge

    def tick(self) -> int:
        """The timer ticks since virtual time 0."""
        return self._clock() * PIT_HZ // self._hz

    @property
    def gated(self) -> Channel:
        """Channel 2, whose gate and output are in port 61H."""
        return self._channels[_GATED]

    def next_deadline(self) -> int | None:
        """The virtual time (instructions) of the next interrupt, if one will come."""
        return None if self._edge is None else -(-self._edge * self._hz // PIT_HZ)

    def advance(self, now: int) -> None:
        """Let channel 0 act for the time up to and with `now`; missed edges are one."""
        if self._edge is None or (tick := now * PIT_HZ // self._hz) < self._edge:
            return
        channel = self._channels[0]
        if channel.periodic:
            self._edge += ((tick - self._edge) // channel.count + 1) * channel.count
        else:
            self._edge = None
        self._irq()

    def read(self, offset: int, size: int) -> int:
        """A byte of a channel's count or status; the command port cannot be read."""
        if offset not in range(_CHANNELS):
            return 0xFF
        return self._channels[offset].read(self.tick())

    def write(self, offset: int, size: int, value: int) -> None:
        """A byte of a channel's count, or a control word."""
        self.advance(self._clock())
        tick = self.tick()
        if offset == _COMMAND:
            self._command(value & 0xFF, tick)
        elif offset in range(_CHANNELS):
            channel = self._channels[offset]
            if channel.write(value & 0xFF, tick) and offset == 0:
                self._edge = tick + channel.count

    def _command(self, word: int, tick: int) -> None:
        number = word >> 6
        if number < _CHANNELS:
            self._channels[number].control(word, tick)
            if number == 0 and not self._channels[0].count:
                self._edge = None
            return
        for at, channel in enumerate(self._channels):
            if word >> 1 + at & 1:
                status, count = not word & _ReadBack.NO_STATUS, not word & _ReadBack.NO_COUNT
                channel.latch(tick, status, count)

    def snapshot(self) -> PitState:
        """The next edge and every channel."""
        return PitState(self._edge, *(channel.snapshot() for channel in self._channels))

    def restore(self, state: PitState) -> None:
        """Become what `snapshot` returned."""
        self._edge = state.edge
        for channel, saved in zip(self._channels, state[1:], strict=True):
            channel.restore(saved)


class SpeakerPort:
    """Port 61H: the gate and the output of the timer's channel 2."""

    label = "speaker"

    def __init__(self, pit: Pit) -> None:
        self._pit = pit
        self._bits = 0
        self._refresh = False
        pit.gated.set_gate(False, pit.tick())

    def read(self, offset: int, size: int) -> int:
        """What was written, the refresh toggle and channel 2's output."""
        self._refresh = not self._refresh
        refresh = Speaker.REFRESH if self._refresh else 0
        out = Speaker.OUT if self._pit.gated.output(self._pit.tick()) else 0
        return self._bits | refresh | out

    def write(self, offset: int, size: int, value: int) -> None:
        """Set the gate; the other bits are only kept."""
        self._bits = value & Speaker.WRITABLE
        self._pit.gated.set_gate(bool(value & Speaker.GATE), self._pit.tick())

    def snapshot(self) -> tuple[int, bool]:
        """The bits written and the refresh toggle; the gate is the timer's."""
        return self._bits, self._refresh

    def restore(self, state: tuple[int, bool]) -> None:
        """Become what `snapshot` returned."""
        self._bits, self._refresh = state
