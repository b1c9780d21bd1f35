"""Kept moments: in order, many near the present and few far away, in bounded memory."""

from __future__ import annotations

import itertools
import random
from types import SimpleNamespace
from typing import Any

import pytest

from kstack.debug.checkpoints import NEAR, Checkpoints, TimelineCheckpoint, TimelineMark
from kstack.run.saved import Prefix


def kept(time: int, memory: dict[int, bytes] | None = None, beside: int = 0, slices: int = 0) -> TimelineCheckpoint:
    session: Any = SimpleNamespace(memory=memory or {}, beside=beside)
    return TimelineCheckpoint(TimelineMark(time, slices, True), session, -1, None, 0, Prefix([], 0), None)


def times(checkpoints: Checkpoints) -> list[int]:
    return [mark.time for mark in checkpoints.marks]


def test_moments_are_ordered_by_time_then_by_slices_then_by_whether_the_slice_is_over() -> None:
    marks = [
        TimelineMark(5, 1, False),
        TimelineMark(5, 1, True),
        TimelineMark(5, 2, False),
        TimelineMark(6, 2, False),
        TimelineMark(7, 2, True),
    ]
    mixed = random.Random(1).sample(marks, len(marks))
    assert sorted(mixed) == marks


def test_the_last_one_before_a_moment_is_found_and_the_first_one_that_is_not() -> None:
    checkpoints = Checkpoints({})
    for time in (300, 100, 200):
        checkpoints.add(kept(time))
    assert times(checkpoints) == [100, 200, 300]
    before, after = checkpoints.before(TimelineMark(200, 0, True)), checkpoints.after(TimelineMark(200, 0, True))
    assert before is not None and before.mark.time == 100, "the moment itself is not before it"
    assert after is not None and after.mark.time == 200
    assert (
        checkpoints.before(TimelineMark(100, 0, True)) is None and checkpoints.after(TimelineMark(301, 0, True)) is None
    )


def test_a_moment_is_kept_once() -> None:
    checkpoints = Checkpoints({})
    first = kept(100)
    checkpoints.add(first)
    checkpoints.add(kept(100))
    assert len(checkpoints) == 1 and checkpoints.before(TimelineMark(101, 0, True)) is first


def test_what_is_later_than_a_write_is_forgotten_and_what_is_there_stays() -> None:
    checkpoints = Checkpoints({})
    for time in (100, 200, 300):
        checkpoints.add(kept(time))
    checkpoints.drop_after(TimelineMark(200, 0, True))
    assert times(checkpoints) == [100, 200]
    checkpoints.drop_after(TimelineMark(199, 0, True))
    assert times(checkpoints) == [100]
    checkpoints.clear()
    assert len(checkpoints) == 0 and checkpoints.size == 0


@pytest.mark.parametrize("most", [4, 16, 64])
def test_however_long_the_run_there_are_many_near_the_present_and_few_far_away(most: int) -> None:
    checkpoints = Checkpoints({}, most)
    end = 3_000 * NEAR
    for time in range(NEAR, end, NEAR):
        checkpoints.add(kept(time))
        assert len(checkpoints) <= most
    found = [0, *times(checkpoints)]
    assert found[-1] == end - NEAR
    gaps = [(later - time) / (end - time) for time, later in itertools.pairwise(found) if end - time > 4 * NEAR]
    assert max(gaps) <= {4: 1.0, 16: 0.8, 64: 0.3}[most], "each gap is a part of the distance"


def test_where_one_has_gone_back_they_are_many_there_too() -> None:
    checkpoints = Checkpoints({}, 32)
    for time in range(NEAR, 1_000 * NEAR, NEAR):
        checkpoints.add(kept(time))
    middle = 400 * NEAR + 7
    for distance in (200, 100, 50, 25, 12, 6, 3, 2, 1):
        checkpoints.add(kept(middle - distance * NEAR))
    near = [time for time in times(checkpoints) if 0 < middle - time <= 8 * NEAR]
    far = [time for time in times(checkpoints) if time > middle + 300 * NEAR]
    assert len(near) >= 3 and far and len(checkpoints) == 32


def test_none_is_kept_where_none_may_be() -> None:
    checkpoints = Checkpoints({}, 0)
    checkpoints.add(kept(100))
    assert len(checkpoints) == 0


def test_a_frame_is_counted_once_however_many_have_it() -> None:
    beginning = {0: b"beginning"}
    one, other = b"one", b"other"
    checkpoints = Checkpoints(beginning)
    checkpoints.add(kept(100, {**beginning, 1: one}, beside=7))
    assert checkpoints.size == 4096 + 7
    checkpoints.add(kept(300, {**beginning, 1: one, 2: other}, beside=7))
    checkpoints.add(kept(200, {**beginning, 1: one, 2: other}, beside=7))
    assert checkpoints.size == 2 * 4096 + 21
    checkpoints.drop_after(TimelineMark(250, 0, True))
    assert checkpoints.size == 2 * 4096 + 14


def test_where_memory_is_short_fewer_are_kept_but_the_last_one_is() -> None:
    checkpoints = Checkpoints({}, 64, budget=10 * 4096)
    memory: dict[int, bytes] = {}
    for time in range(1, 200):
        memory = {**memory, time % 8: bytes([time])}
        checkpoints.add(kept(time * NEAR, memory))
        assert checkpoints.size <= 10 * 4096 or len(checkpoints) == 1
        assert times(checkpoints)[-1] == time * NEAR
        memories: list[dict[int, bytes]] = [{}, *(one.session.memory for one in checkpoints._kept)]
        own = [
            sum(before.get(frame) is not data for frame, data in after.items())
            for before, after in itertools.pairwise(memories)
        ]
        assert checkpoints.size == 4096 * sum(own)
    checkpoints.add(kept(200 * NEAR, {frame: b"%d" % frame for frame in range(50)}))
    assert times(checkpoints) == [200 * NEAR]
