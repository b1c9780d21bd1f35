"""Idioms that several policies share: which steps they make, and what they answer."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from kstack.stacks import (
    COMING,
    EMPTY,
    Invlpg,
    Load,
    Pte,
    ReadPte,
    Step,
    TakePage,
    Thread,
    ThreadAt,
    WritePte,
    ensure,
    grow,
    map_top_or_all,
)
from kstack.stacks.loading.registry import find_policy

TOP = 0xFFFFC90000008000


def thread(**how: Any) -> Thread:
    return Thread(7, TOP - 16384, 16384, **how)


class Entries:
    """Answers the steps of a hook: leaf entries of one stack, and so many frames."""

    def __init__(self, frames: int, mapped: int = 0) -> None:
        self.entries = {index: Pte.of(0x100000 + 4096 * index) for index in range(mapped)}
        self.frames = [0x200000 + 4096 * number for number in range(frames)]
        self.made: list[Step] = []

    def answer(self, step: Step) -> Any:
        self.made.append(step)
        match step:
            case ReadPte():
                return self.entries.get(step.page.index, EMPTY)
            case WritePte():
                self.entries[step.page.index] = step.pte
            case TakePage():
                return self.frames.pop(0) if self.frames else None
        return None

    def run(self, steps: Generator[Step, Any, bool]) -> bool:
        """What the steps answer at their end."""
        answer: Any = None
        while True:
            try:
                answer = self.answer(steps.send(answer))
            except StopIteration as end:
                return bool(end.value)

    @property
    def kinds(self) -> list[str]:
        return [type(step).__name__ for step in self.made]


@pytest.mark.parametrize(
    ("size", "pages"), [(1, 1), (4096, 1), (4097, 2), (12288, 3), (16384, 4), (0, 1), (16385, 4), (1 << 63, 4)]
)
def test_bytes_from_the_top_lie_on_so_many_pages(size: int, pages: int) -> None:
    assert thread().pages_for(size) == thread().pages[:pages]


@pytest.mark.parametrize(("is_user", "pages"), [(True, 1), (False, 4)])
def test_a_kernel_thread_starts_on_all_of_its_stack(is_user: bool, pages: int) -> None:
    entries = Entries(frames=4)
    assert entries.run(map_top_or_all(thread(is_user=is_user)))
    assert sorted(entries.entries) == list(range(pages))
    assert not Entries(frames=pages - 1).run(map_top_or_all(thread(is_user=is_user)))


@pytest.mark.parametrize("size", [0, 1, 4096, 8192, 16384])
def test_what_is_asked_for_is_mapped_and_looked_at(size: int) -> None:
    entries = Entries(frames=3, mapped=1)
    assert entries.run(ensure(thread(), size))
    assert sorted(entries.entries) == list(range(max(1, size // 4096)))
    assert entries.made[-1] == ReadPte(thread().pages_for(size)[-1])
    assert Invlpg not in map(type, entries.made)


def test_more_than_the_area_is_refused_without_a_step() -> None:
    entries = Entries(frames=9)
    assert not entries.run(ensure(thread(), 16385))
    assert entries.made == []


def test_where_there_is_no_frame_the_answer_is_no() -> None:
    assert not Entries(frames=2, mapped=1).run(ensure(thread(), 16384))


def test_each_page_that_was_mapped_is_invalidated_where_that_is_wanted() -> None:
    entries = Entries(frames=3, mapped=1)
    assert entries.run(ensure(thread(), 8192, invalidate=True))
    assert entries.kinds == ["ReadPte", "ReadPte", "TakePage", "WritePte", "Invlpg", "ReadPte"]


@pytest.mark.parametrize(("coming", "grows"), [(7, True), (8, False), (None, False)])
def test_the_stack_of_another_grows_only_if_it_is_the_one_that_comes(coming: int | None, grows: bool) -> None:
    class Switching(Entries):
        def answer(self, step: Step) -> Any:
            if step == Load(COMING, 1):
                return coming
            return thread() if isinstance(step, ThreadAt) else super().answer(step)

    current = Thread(9, TOP, 16384)
    assert Switching(frames=4).run(grow(1, current, TOP - 1, fallback=False)) is grows


@pytest.mark.parametrize("policy", ["fault-df", "fault-ist", "fault-fred", "multiplex"])
def test_policies_tell_grow_whom_they_switch_to_by_the_name_it_asks_for(policy: str) -> None:
    stored = next(find_policy(policy)().switch_in(1, thread()))
    assert (getattr(stored, "name", None), getattr(stored, "key", None)) == (COMING, 1)
