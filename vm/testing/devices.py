"""What any device must do (`kstack.hw.devices.device.Device`): a test class to derive from.

Derive a test class from `DeviceConformance`, set `size` and define `make(self, clock)`, which returns a device at reset.
Accesses and times are drawn by seed, so a failure comes again. The class stands at the top of its module, since it is
imported by another process too.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import ClassVar, Final, NamedTuple

from kstack.hw.devices.device import Device
from kstack.testing.parting import parting
from kstack.testing.worlds import ElsewhereError, elsewhere, world

SEEDS: Final = (0, 1, 2)
ACCESSES: Final = 300
ALL_SIZES: Final = (1, 2, 4, 8)
BEYOND: Final = 16
"""Bytes behind a device's range that are tried as well."""
MOST_REGISTERS: Final = 512
"""Offsets of a larger range are tried at even steps."""
UNALIGNED: Final = 64
"""Offsets between these steps that are tried as well."""
PLAIN: Final = (int, bool, str, bytes, type(None))


class Clock:
    """Virtual time that a test moves; a device that wants to know the time calls it.

    Attributes:
        now: units since reset.
    """

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        """The time (units)."""
        return self.now


class Access(NamedTuple):
    """A read, or a write of a value, and the units that pass before it."""

    write: bool
    offset: int
    size: int
    value: int
    after: int


class DeviceConformance:
    """Derive a test class, set `size` and define `make`; pytest runs the rest.

    Attributes:
        size: bytes of the device's range.
        sizes: of accesses that a guest makes (bytes); wild ones are made in all sizes.
        step: bytes from register to register.
        alone: the snapshot is all of its state: what was restored goes on the same in another object too.
        resets: where it has a method `reset`, that is what power does to it too.
    """

    size: ClassVar[int]
    sizes: ClassVar[tuple[int, ...]] = (1, 2, 4)
    step: ClassVar[int] = 1
    alone: ClassVar[bool] = True
    resets: ClassVar[bool] = True

    def make(self, clock: Clock) -> Device:
        """A device at reset, whose time is `clock`'s."""
        raise NotImplementedError(f"{type(self).__name__}: define make(self, clock)")

    def test_it_has_a_label(self) -> None:
        """Errors and maps name the device."""
        label = getattr(self.make(Clock()), "label", None)
        assert isinstance(label, str), f"its label is {label!r}, and must be a string"
        assert label.strip(), "its label is empty"

    def test_reset_is_one_state(self) -> None:
        """Two of them at reset are the same, whatever was done to others before; so is one that has a `reset`, after it."""
        fresh = self.make(Clock()).snapshot()
        for seed in SEEDS:
            first = self.make(Clock())
            self._drive(first, Clock(), seed)
            assert self.make(Clock()).snapshot() == fresh, (
                "a new device begins in another state: is it shared by the class?"
            )
            if self.resets and hasattr(first, "reset"):
                first.reset()
                assert first.snapshot() == fresh, "its reset leaves something of what was done to it"

    def test_the_same_accesses_give_the_same_answers(self) -> None:
        """It depends on accesses and on virtual time, and on nothing else: other clocks and random numbers change nothing."""
        for seed in SEEDS:
            clocks = Clock(), Clock()
            one, other = (self.make(clock) for clock in clocks)
            with world(0, type(one)):
                answers = self._drive(one, clocks[0], seed)
            with world(1, type(other)):
                again = self._drive(other, clocks[1], seed)
            wrong = parting(answers, again)
            assert not wrong, f"seed {seed}: the same accesses gave other answers: {wrong}"
            assert other.snapshot() == one.snapshot(), f"seed {seed}: the same accesses led to another state"

    def test_another_process_gives_the_same_answers(self) -> None:
        """Where sets have other orders, and no module or class has been used before."""
        try:
            others = elsewhere(answers_of, type(self), SEEDS[::-1])
        except ElsewhereError as error:
            raise AssertionError(str(error)) from error
        own = answers_of(type(self), SEEDS)
        for answers in others:
            for seed in SEEDS:
                wrong = parting(own[seed].answers, answers[seed].answers)
                assert not wrong, f"another process gives other answers to the same accesses: {wrong}"
                assert answers[seed].state == own[seed].state, (
                    "another process gives other answers, and has another state"
                )

    def test_it_goes_on_from_a_snapshot(self) -> None:
        """Restored, it is what it was, and does from there what it did: the snapshot is complete."""
        for seed in SEEDS:
            clock = Clock()
            device = self.make(clock)
            self._drive(device, clock, seed)
            saved, then = device.snapshot(), clock.now
            answers, end = self._drive(device, clock, seed + 100), device.snapshot()
            for again in (device, self.make(clock)):
                clock.now = then
                again.restore(saved)
                assert again.snapshot() == saved, f"seed {seed}: restored, it is not what it was"
                if again is device or self.alone:
                    answered = self._drive(again, clock, seed + 100)
                    wrong = parting(answers, answered)
                    assert not wrong, f"seed {seed}: restored, it answers otherwise: {wrong}"
                    assert again.snapshot() == end, f"seed {seed}: restored, it goes elsewhere"

    def test_two_that_were_restored_go_on_alone(self) -> None:
        """From one snapshot, each accessed in turn with the other, and with other values: they share nothing."""
        clocks = Clock(), Clock()
        one, other = (self.make(clock) for clock in clocks)
        self._drive(one, clocks[0], 5)
        saved, then = one.snapshot(), clocks[0].now
        answers = self._drive(one, clocks[0], 6)
        for device, clock in zip((one, other), clocks, strict=True):
            clock.now = then
            device.restore(saved)
        for access, disturbing, answer in zip(self._accesses(6), self._accesses(7), answers, strict=True):
            _make(other, clocks[1], disturbing)
            assert _make(one, clocks[0], access) == answer, (
                f"{access} is answered otherwise: another one was restored too"
            )

    def test_a_snapshot_is_a_plain_value_that_stays(self) -> None:
        """Of tuples, ints, strings and bytes, so that it has a hash; what happens later does not change it."""
        clock = Clock()
        device = self.make(clock)
        self._drive(device, clock, 1)
        saved = device.snapshot()
        _check_plain(saved)
        before = repr(saved)
        self._drive(device, clock, 2)
        assert repr(saved) == before, "the snapshot has changed since it was taken"

    def test_taking_a_snapshot_changes_nothing(self) -> None:
        """Who looks does not disturb: neither the state nor the answers."""
        clocks = Clock(), Clock()
        watched, other = (self.make(clock) for clock in clocks)
        for access in self._accesses(3):
            watched.snapshot()
            answers = _make(watched, clocks[0], access), _make(other, clocks[1], access)
            assert answers[0] == answers[1], f"{access} is answered otherwise by one that is looked at"
        assert watched.snapshot() == other.snapshot(), "its state is another one when it has been looked at"

    def test_no_access_raises_or_answers_out_of_range(self) -> None:
        """Every register and beyond, in every size, read and written with nothing, everything, and anything."""
        for seed in SEEDS:
            clock, chance = Clock(), random.Random(seed)
            device = self.make(clock)
            offsets = list(range(0, self.size + BEYOND, max(1, self.size // MOST_REGISTERS)))
            offsets += [chance.randrange(self.size + BEYOND) for _ in range(UNALIGNED)]
            for offset in offsets:
                for size in ALL_SIZES:
                    ones = (1 << 8 * size) - 1
                    for value in (None, 0, ones, chance.getrandbits(8 * size), None):
                        _wild(device, clock, Access(value is not None, offset, size, value or 0, chance.randrange(100)))
                for size in ALL_SIZES:  # of what was written in the largest
                    _wild(device, clock, Access(False, offset, size, 0, 0))

    def test_two_of_them_never_influence_each_other(self) -> None:
        """Two machines in one process each have one."""
        clocks = Clock(), Clock()
        alone = self._drive(self.make(clocks[0]), clocks[0], 9)
        clocks[0].now = 0
        one, other = (self.make(clock) for clock in clocks)
        before = one.snapshot()
        self._drive(other, clocks[1], 4)
        assert one.snapshot() == before, "what one was told, another knows"
        wrong = parting(alone, self._drive(one, clocks[0], 9))
        assert not wrong, f"it answers otherwise where there is another one: {wrong}"

    def _accesses(self, seed: int) -> Iterator[Access]:
        """Accesses that a guest might make, and time that passes between them."""
        chance = random.Random(seed)
        for _ in range(ACCESSES):
            offset, size = chance.randrange(self.size) // self.step * self.step, chance.choice(self.sizes)
            value = chance.getrandbits(8 * size) >> chance.choice((0, 0, 8 * size - 8))
            yield Access(chance.random() < 0.6, offset, size, value, chance.randrange(5000))

    def _drive(self, device: Device, clock: Clock, seed: int) -> list[int | None]:
        return [_make(device, clock, access) for access in self._accesses(seed)]


class Driven(NamedTuple):
    """What a device answered to many accesses, and its state then."""

    answers: list[int | None]
    state: object


def answers_of(kit: type[DeviceConformance], seeds: Sequence[int]) -> dict[int, Driven]:
    """What devices of a kit answer to the accesses of each seed, and their state then; made and driven in this order."""
    found = {}
    for seed in seeds:
        clock = Clock()
        device = kit().make(clock)
        with world(0, type(device)):
            found[seed] = Driven(kit()._drive(device, clock, seed), device.snapshot())
    return found


def _make(device: Device, clock: Clock, access: Access) -> int | None:
    """Make an access; what a read gave."""
    clock.now += access.after
    if access.write:
        device.write(access.offset, access.size, access.value)
        return None
    return device.read(access.offset, access.size)


def _wild(device: Device, clock: Clock, access: Access) -> None:
    try:
        answer = _make(device, clock, access)
    except Exception as error:
        raise AssertionError(
            f"{access} raised {type(error).__name__}: {error}; no guest may be able to do that"
        ) from error
    assert access.write or (isinstance(answer, int) and 0 <= answer < 1 << 8 * access.size), f"{access} gave {answer!r}"


def _check_plain(value: object) -> None:
    if isinstance(value, tuple):
        for item in value:
            _check_plain(item)
    else:
        assert isinstance(value, PLAIN), f"a snapshot holds a {type(value).__name__}: {value!r}"
