"""The 8254 keeps time in ticks of virtual time, without drift."""

from __future__ import annotations

import pytest

from kstack.hw.devices.pit import PIT_HZ, PIT_PORTS, SPEAKER_PORT, Pit, SpeakerPort
from kstack.hw.devices.ports import PortBus
from tests.support.devices import Clock

SECOND = 1_000_000_000


class Timer:
    """A PIT with its speaker port, and the times of its interrupts."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.irqs: list[int] = []
        self.pit = Pit(self.clock, lambda: self.irqs.append(self.clock.now), SECOND)
        self.speaker = SpeakerPort(self.pit)

    def program(self, channel: int, mode: int, count: int) -> None:
        self.pit.write(3, 1, channel << 6 | 3 << 4 | mode << 1)
        self.pit.write(channel, 1, count & 0xFF)
        self.pit.write(channel, 1, count >> 8)

    def run(self, until: int) -> None:
        """As a machine does: from deadline to deadline."""
        while (deadline := self.pit.next_deadline()) is not None and deadline <= until:
            self.clock.now = deadline
            self.pit.advance(deadline)
        self.clock.now = until

    def count(self, channel: int) -> int:
        return self.pit.read(channel, 1) | self.pit.read(channel, 1) << 8


@pytest.mark.parametrize("mode", [2, 3, 6, 7])
def test_a_periodic_channel_interrupts_at_its_rate_without_drift(mode: int) -> None:
    timer = Timer()
    timer.program(0, mode, 11932)
    timer.run(10 * SECOND)
    assert len(timer.irqs) == 10 * PIT_HZ // 11932
    assert timer.irqs[-1] == -(-len(timer.irqs) * 11932 * SECOND // PIT_HZ)


@pytest.mark.parametrize("mode", [0, 4])
def test_a_one_shot_interrupts_once(mode: int) -> None:
    timer = Timer()
    timer.program(0, mode, 0)
    timer.run(SECOND)
    assert timer.irqs == [-(-65536 * SECOND // PIT_HZ)]


def test_a_late_advance_is_one_interrupt() -> None:
    timer = Timer()
    timer.program(0, 2, 100)
    timer.clock.now = SECOND
    timer.pit.advance(SECOND)
    assert len(timer.irqs) == 1
    deadline = timer.pit.next_deadline()
    assert deadline is not None and SECOND < deadline <= SECOND + 100 * SECOND // PIT_HZ + 1


def test_a_latched_count_stands_while_the_counter_runs() -> None:
    timer = Timer()
    timer.program(0, 2, 50000)
    timer.run(SECOND // 100)
    timer.pit.write(3, 1, 0)
    timer.run(SECOND // 50)
    assert timer.count(0) == 50000 - PIT_HZ // 100
    assert timer.count(0) == 50000 - PIT_HZ // 50


def test_read_back_gives_status_then_count() -> None:
    timer = Timer()
    timer.program(0, 2, 1000)
    timer.pit.write(3, 1, 0b1100_0010)
    assert timer.pit.read(0, 1) == 0b1011_0100
    assert timer.count(0) == 1000


def test_linux_can_calibrate_its_tsc_with_channel_2() -> None:
    timer = Timer()
    timer.speaker.write(0, 1, 1)
    timer.program(2, 0, PIT_HZ // 20)
    assert not timer.speaker.read(0, 1) & 0x20
    timer.run(SECOND // 20 - 1000)
    assert not timer.speaker.read(0, 1) & 0x20
    timer.run(SECOND // 20 + 1000)
    assert timer.speaker.read(0, 1) & 0x21 == 0x21


def test_a_low_gate_stops_channel_2() -> None:
    timer = Timer()
    timer.program(2, 0, 60000)
    timer.run(SECOND)
    assert timer.count(2) == 60000
    timer.speaker.write(0, 1, 1)
    timer.run(SECOND + SECOND // 100)
    assert abs(timer.count(2) - (60000 - PIT_HZ // 100)) <= 1


def test_ports_of_the_speaker_and_timer_do_not_meet() -> None:
    timer, bus = Timer(), PortBus()
    bus.map(0x40, PIT_PORTS, timer.pit)
    bus.map(SPEAKER_PORT, 1, timer.speaker)
    assert bus.devices == (timer.pit, timer.speaker)


def output(timer: Timer, tick: int) -> bool:
    return timer.pit.gated.output(tick)


@pytest.mark.parametrize(("mode", "period"), [(2, "HHHHL"), (3, "HHHLL")])
def test_the_outputs_of_periodic_modes_are_the_data_sheets(mode: int, period: str) -> None:
    timer = Timer()
    timer.speaker.write(0, 1, 1)
    timer.program(2, mode, 5)
    assert "".join("HL"[not output(timer, tick)] for tick in range(10)) == period * 2


def test_the_square_wave_counts_by_two() -> None:
    timer = Timer()
    timer.speaker.write(0, 1, 1)
    timer.program(2, 3, 6)
    assert [timer.pit.gated.value(tick) for tick in range(7)] == [6, 4, 2, 6, 4, 2, 6]


def test_a_rising_gate_starts_a_period_again() -> None:
    timer = Timer()
    timer.speaker.write(0, 1, 1)
    timer.program(2, 2, 60000)
    timer.run(SECOND // 100)
    timer.speaker.write(0, 1, 0)
    assert timer.speaker.read(0, 1) & 0x20, "a low gate forces the output high"
    timer.speaker.write(0, 1, 3)
    assert timer.count(2) == 60000
    assert timer.speaker.read(0, 1) & 0x0F == 3


def test_a_gate_that_stays_low_or_high_changes_nothing() -> None:
    timer = Timer()
    timer.speaker.write(0, 1, 1)
    timer.program(2, 0, 60000)
    for part in range(1, 5):
        timer.run(part * SECOND // 1000)
        timer.speaker.write(0, 1, part in (1, 2))
    left = 60000 - 3 * PIT_HZ // 1000
    assert abs(timer.count(2) - left) <= 1


def test_read_back_latches_each_named_channel_as_asked() -> None:
    timer = Timer()
    timer.program(0, 2, 0x1234)
    timer.program(1, 2, 0x5678)
    timer.pit.write(3, 1, 0b1101_0110)  # the count alone, of both
    timer.run(SECOND)
    assert (timer.count(0), timer.count(1)) == (0x1234, 0x5678)
    timer.pit.write(3, 1, 0b1110_0100)  # the status alone, of channel 1
    assert timer.pit.read(1, 1) & 0x3F == 0b11_0100
    assert timer.count(1) == 0x5678 - PIT_HZ % 0x5678


def test_a_control_word_forgets_half_a_count_and_stops_the_interrupt() -> None:
    timer = Timer()
    timer.program(0, 2, 100)
    timer.pit.write(0, 1, 0x11)
    timer.pit.write(3, 1, 0x34)
    assert timer.pit.next_deadline() is None
    timer.pit.write(0, 1, 0x22)
    assert timer.pit.next_deadline() is None
    timer.pit.write(0, 1, 0x33)
    assert timer.count(0) == 0x3322


def test_latching_does_not_stop_the_interrupt() -> None:
    timer = Timer()
    timer.program(0, 2, 100)
    timer.pit.write(3, 1, 0)
    assert timer.pit.next_deadline() is not None


@pytest.mark.parametrize(("access", "count"), [(1, 0x0042), (2, 0x4200)])
def test_half_a_counter_can_be_written_alone(access: int, count: int) -> None:
    timer = Timer()
    timer.pit.write(3, 1, access << 4 | 2 << 1)
    timer.pit.write(0, 1, 0x42)
    assert timer.pit.read(0, 1) == 0x42
    assert timer.pit.next_deadline() == -(-count * SECOND // PIT_HZ)


def test_counting_goes_on_where_the_gate_stopped_it() -> None:
    timer = Timer()
    timer.run(SECOND)
    timer.speaker.write(0, 1, 1)
    timer.program(2, 0, 60000)
    timer.run(SECOND + SECOND // 100)
    timer.speaker.write(0, 1, 0)
    timer.run(2 * SECOND)
    assert abs(timer.count(2) - (60000 - PIT_HZ // 100)) <= 1
    timer.speaker.write(0, 1, 1)
    timer.run(2 * SECOND + SECOND // 100)
    assert abs(timer.count(2) - (60000 - PIT_HZ // 50)) <= 2
