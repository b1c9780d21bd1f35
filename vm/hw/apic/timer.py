"""The local APIC's timer: initial count, current count and divide (SDM volume 3A, 10.5.4).

It counts down once every `divide` units of virtual time (instructions) and reaches zero at a
deadline; the count is derived from that deadline, so nothing runs between two register accesses.
Whether reaching zero raises anything is the LVT entry's business, in `apic.py`.

Not modelled: TSC-deadline mode; the fraction of a count that has passed when the divide
configuration changes (the count goes on from a whole number).
"""

from __future__ import annotations

from typing import NamedTuple

_DIVIDE_LOW = 0b0011
_DIVIDE_HIGH = 0b1000
_DIVIDE_BY_ONE = 0b111


def divisor(configuration: int) -> int:
    """Virtual time units a count, 1 to 128, of the divide configuration register (figure 10-10)."""
    code = (configuration & _DIVIDE_LOW) | (configuration & _DIVIDE_HIGH) >> 1
    return 1 if code == _DIVIDE_BY_ONE else 2 << code


class TimerState(NamedTuple):
    """Initial count, divide configuration, deadline (units of virtual time, None while it is not armed)."""

    initial: int
    configuration: int
    deadline: int | None


class ApicTimer:
    """A down counter. Times are absolute virtual time, in instructions."""

    __slots__ = ("configuration", "deadline", "initial")

    def __init__(self) -> None:
        self.initial = 0
        self.configuration = 0
        self.deadline: int | None = None

    def start(self, initial: int, now: int) -> None:
        """Count down from `initial` (counts) at `now`; zero stops the timer."""
        self.initial = initial
        self.deadline = now + initial * divisor(self.configuration) if initial else None

    def divide(self, configuration: int, now: int, periodic: bool) -> None:
        """Go on from the current count at another speed."""
        left = self.current(now, periodic)
        self.configuration = configuration
        if self.deadline is not None:
            self.deadline = now + left * divisor(configuration)

    def current(self, now: int, periodic: bool) -> int:
        """The current count register at `now`, 0 when stopped."""
        if self.deadline is None:
            return 0
        units = divisor(self.configuration)
        left = self.deadline - now
        if left <= 0:
            left = left % (self.initial * units) or self.initial * units if periodic else 0
        return -(-left // units)

    def expire(self, now: int, periodic: bool) -> bool:
        """Whether the count has reached zero since the last call; all missed periods are one."""
        if self.deadline is None or now < self.deadline:
            return False
        if periodic:
            period = self.initial * divisor(self.configuration)
            self.deadline += ((now - self.deadline) // period + 1) * period
        else:
            self.deadline = None
        return True

    def snapshot(self) -> TimerState:
        """Initial count, divide configuration, deadline."""
        return TimerState(self.initial, self.configuration, self.deadline)

    def restore(self, state: TimerState) -> None:
        """Become what `snapshot` returned."""
        self.initial, self.configuration, self.deadline = state
