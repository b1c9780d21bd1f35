"""The lazy TLB allows exactly what a TLB allows that fills and evicts at any moment.

Against such a TLB (tests/support/eager_tlb.py) stands the machine as the explorer drives it: the walker, the
policies' steps, the lazy TLB.

Compared are *observable* histories: what software read of the entry (with A and D), what a
compare-and-exchange or swap found, which frame each access reached or that it faulted. For each
history the sets of states in which the two may be are kept, and every operation is tried from every
pair of sets: when no new pair turns up, histories of any length are equal.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator
from functools import cache
from typing import Final

import pytest

from kstack.explore.model.gate import Gate, Visible
from kstack.explore.model.lazy_tlb import How, LazyTlb, Option
from kstack.hw.mmu.walk import Attempt
from kstack.hw.modes import READINGS, Modes
from kstack.kernels.kstack.guest import KstackKernel
from kstack.stacks import Page, Pte, steps
from kstack.stacks.area import Thread
from kstack.stacks.hooks import HookKind
from kstack.stacks.host.call import HookCall, StackHooks
from kstack.stacks.host.execute import Executor
from kstack.stacks.host.pool import PoolConfig
from kstack.x86.addresses import PAGE
from kstack.x86.entries import A, D
from tests.support.eager_tlb import CPUS, FAULT, NOTHING, ONE, OTHER, Eager, Op, eager_does, unasked
from tests.support.long_mode import AREA, LongModeGuest

MODES: Final = (*READINGS, "none")


class EagerModel:
    """States of `Eager`, and where an operation leads from one, with what can happen after it."""

    def __init__(self, mode: str) -> None:
        self._mode = mode
        self.start: Hashable = Eager()  # nothing is present, so nothing can happen by itself

    def _settled(self, state: Eager) -> set[Eager]:
        found, todo = {state}, [state]
        while todo:
            for following in unasked(todo.pop(), self._mode):
                if following not in found:
                    found.add(following)
                    todo.append(following)
        return found

    def after(self, state: Hashable, op: Op) -> Iterable[tuple[Hashable, Hashable]]:
        """What can be observed, each with a state that follows."""
        assert isinstance(state, Eager)
        observed, following = eager_does(state, op)
        return {(observed, later) for later in self._settled(following)}


# --- the machine, driven as the explorer drives it


class LazyModel:
    """States are the entry in memory and the may-sets; choices as `kstack.explore.world` lists and makes them."""

    def __init__(self, mode: str) -> None:
        self._guest = LongModeGuest(cpus=CPUS, modes=Modes(speculation=mode))
        machine = self._guest.machine
        self._leaf = self._guest.entry(AREA)
        self._lazy = LazyTlb(CPUS, mode, lambda address: address >> 12 == AREA >> 12)
        self._gates = [Gate(cpu, Visible(), self._lazy) for cpu in range(CPUS)]
        for cpu, gate in zip(machine.cpus, self._gates, strict=True):
            cpu.mmu.translator = gate
        self._executor = Executor(machine, KstackKernel(machine), PoolConfig(), {}, StackHooks())
        self._executor.areas.add(Thread(1, AREA, PAGE, False))
        self._executor.boot([Pte(ONE).frame, Pte(OTHER).frame])
        self._executor.lazy = self._lazy
        self._call = HookCall(HookKind.SWITCH_IN, (), (0, 0), 1, iter(()))  # type: ignore[arg-type]
        self._page = Page(1, 0, AREA)
        self.start: Hashable = self._state()

    def _state(self) -> Hashable:
        return self._guest.memory.read64(self._leaf), self._lazy.state()[0]

    def _become(self, state: Hashable) -> int:
        assert isinstance(state, tuple)
        entry: int = state[0]
        self._guest.memory.write64(self._leaf, entry)
        self._lazy.restore((state[1], ()))
        return entry

    def after(self, state: Hashable, op: Op) -> Iterable[tuple[Hashable, Hashable]]:
        """What can be observed, each with a state that follows."""
        if op.what in ("load", "store"):
            return set(self._accesses(state, op))
        if op.what == "invlpg":
            self._become(state)
            self._guest.machine.cpus[op.cpu].mmu.invlpg(AREA)
            return {(NOTHING, self._state())}
        return set(self._steps(state, op))

    def _accesses(self, state: Hashable, op: Op) -> Iterator[tuple[Hashable, Hashable]]:
        write, mmu = op.what == "store", self._guest.machine.cpus[op.cpu].mmu
        options = self._lazy.options(op.cpu, AREA >> 12, self._become(state), write)
        for option in options:
            self._become(state)
            self._gates[op.cpu].option = option
            reached = mmu.access(AREA, Attempt(write, False, False))
            yield (FAULT if reached is None else reached), self._state()

    def _steps(self, state: Hashable, op: Op) -> Iterator[tuple[Hashable, Hashable]]:
        page, pte = self._page, Pte(op.value)
        step = {
            "read": steps.ReadPte(page),
            "write": steps.WritePte(page, pte),
            "swap": steps.SwapPte(page, pte),
            "exchange": steps.ExchangePte(page, pte, Pte(op.expected)),
        }[op.what]
        self._become(state)
        for choice in range(2 if self._executor.pending(op.cpu, step) else 1):
            self._become(state)
            if choice:
                self._executor.set_accessed(op.cpu, page)
            answer, _ = self._executor.carry_out(op.cpu, self._call, step, "test")
            yield (NOTHING if answer is None else answer.value), self._state()


# --- equal for every history

Follow = Callable[[Hashable, Op], Iterable[tuple[Hashable, Hashable]]]
History = tuple[tuple[Op, Hashable], ...]


def split(after: Follow, states: frozenset[Hashable], op: Op) -> dict[Hashable, frozenset[Hashable]]:
    """From any of `states`: for each observation the states that may follow."""
    found: dict[Hashable, set[Hashable]] = defaultdict(set)
    for state in states:
        for observed, following in after(state, op):
            found[observed].add(following)
    return {observed: frozenset(following) for observed, following in found.items()}


def difference(mode: str, ops: Iterable[Op], longest: int | None = None) -> tuple[History, str] | None:
    """A shortest history that one of the two allows and the other does not, and who allows it.

    Args:
        mode: of speculation.
        ops: what histories are made of.
        longest: operations in a history; None for any length.
    """
    eager, lazy = EagerModel(mode), LazyModel(mode)
    followers = cache(eager.after), cache(lazy.after)
    start = frozenset({eager.start}), frozenset({lazy.start})
    came: dict[object, History] = {start: ()}
    layer, alphabet = [start], tuple(ops)
    while layer and (longest is None or len(came[layer[0]]) < longest):
        following = []
        for pair in layer:
            for op in alphabet:
                here, there = (split(follow, states, op) for follow, states in zip(followers, pair, strict=True))
                for observed in sorted(here.keys() | there.keys(), key=repr):
                    history = (*came[pair], (op, observed))
                    if observed not in here or observed not in there:
                        return history, "eager" if observed in here else "lazy"
                    new = here[observed], there[observed]
                    if new not in came:
                        came[new] = history
                        following.append(new)
        layer = following
    return None


# --- operations


def operations(values: Iterable[int], cpus: Iterable[int] = range(CPUS), swaps: Iterable[int] = (0,)) -> list[Op]:
    """Accesses and INVLPG by `cpus`; software reads, stores `values`, exchanges each for nothing, swaps in `swaps`."""
    stored = tuple(values)
    return [
        *(Op(what, cpu) for what in ("load", "store", "invlpg") for cpu in cpus),
        Op("read"),
        *(Op("write", value=value) for value in stored),
        *(Op("swap", value=value) for value in swaps),
        *(Op("exchange", expected=value) for value in stored if value),
    ]


ACCESSES: Final = [Op(what, cpu) for what in ("load", "store") for cpu in range(CPUS)]
FEW: Final = (0, ONE, OTHER)
SOME: Final = (*FEW, ONE | A, ONE | A | D)
ALL_BITS: Final = tuple(frame | bits for frame in (ONE, OTHER) for bits in (0, A, D, A | D))
AGED: Final = [Op("read"), *(Op("write", value=value) for value in (ONE, ONE | D)), *ACCESSES]
"""Software clears A and D of the page that is there, again and again."""
EVERYTHING: Final = operations((0, *ALL_BITS), swaps=(0, *ALL_BITS))


@pytest.mark.parametrize("mode", MODES)
def test_histories_of_four_operations_of_every_kind_are_those_of_an_eager_tlb(mode: str) -> None:
    assert difference(mode, EVERYTHING, longest=4) is None


@pytest.mark.parametrize(
    ("mode", "ops"),
    [
        ("none", EVERYTHING),
        ("needs-accessed", operations(SOME, cpus=[0])),
        pytest.param("sets-accessed", operations(SOME), marks=pytest.mark.long),
        ("sets-accessed", operations(FEW, cpus=[0])),
        ("keeps-accessed-clear", operations(FEW, cpus=[0])),
        ("keeps-accessed-clear", AGED),
    ],
)
def test_histories_of_any_length_are_those_of_an_eager_tlb(mode: str, ops: list[Op]) -> None:
    assert difference(mode, ops) is None


@pytest.mark.long
@pytest.mark.timeout(3000)
@pytest.mark.parametrize(
    ("mode", "ops", "longest"),
    [
        ("needs-accessed", EVERYTHING, None),
        ("sets-accessed", EVERYTHING, None),
        ("keeps-accessed-clear", operations(FEW), None),
        ("keeps-accessed-clear", EVERYTHING, 6),
    ],
)
def test_more_histories_are_those_of_an_eager_tlb(mode: str, ops: list[Op], longest: int | None) -> None:
    assert difference(mode, ops, longest) is None


# --- what the comparison rests on


def test_a_difference_is_found_with_the_shortest_history(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LazyTlb, "invalidate", lambda *_: None)
    found = difference("none", EVERYTHING)
    assert found is not None
    history, who = found
    assert [op.what for op, _ in history] == ["write", "load", "invlpg", "write", "load"]
    assert who == "lazy"


def tlb(mode: str = "sets-accessed") -> LazyTlb:
    return LazyTlb(CPUS, mode, lambda address: True)


@pytest.mark.parametrize("mode", MODES)
def test_the_same_frame_mapped_again_is_neither_stale_nor_exercised(mode: str) -> None:
    lazy = tlb(mode)
    for entry in (ONE | A | D, 0, ONE | A | D):
        lazy.entry_is(0, entry)
    assert lazy.options(0, 0, ONE | A | D, write=True) == [Option(How.WALK)]
    assert not lazy.is_exercised(0, 0, ONE)


@pytest.mark.parametrize(
    ("mode", "clear", "marked"),
    [("none", 0, 0), ("needs-accessed", 0, 2), ("sets-accessed", 0, 2), ("keeps-accessed-clear", 2, 4)],
)
def test_whether_an_entry_was_stored_with_accessed_decides_what_may_be_cached_at_once(
    mode: str, clear: int, marked: int
) -> None:
    """However it came to have it: by an access, or by who has stored it."""
    lazy = tlb(mode)
    lazy.entry_is(0, ONE)
    assert sum(map(len, lazy.may.values())) == clear
    assert lazy.is_pending(ONE) == (mode == "sets-accessed")
    lazy.entry_is(0, ONE | A)
    assert sum(map(len, lazy.may.values())) == marked
    assert not lazy.is_pending(ONE | A)


@pytest.mark.parametrize("mode", MODES)
def test_with_speculation_all_may_cache_what_one_has_accessed(mode: str) -> None:
    lazy = tlb(mode)
    lazy.entry_is(0, ONE | A)
    lazy.took(0, 0, Option(How.WALK), ONE | A)
    assert lazy.options(0, 0, OTHER, write=False) == [Option(How.WALK), Option(How.CACHED, ONE | A)]
    assert (lazy.options(1, 0, OTHER, write=False) == [Option(How.WALK)]) == (mode == "none")


def test_what_has_been_invalidated_is_still_exercised() -> None:
    lazy = tlb()
    lazy.entry_is(0, ONE | A)
    lazy.invalidate(1, 0, 0)
    assert lazy.options(1, 0, OTHER, write=False) == [Option(How.WALK)]
    assert lazy.is_exercised(1, 0, OTHER)
    assert lazy.is_exercised(1, 0, 0)


def test_a_state_can_be_gone_back_to() -> None:
    lazy = tlb()
    lazy.entry_is(0, ONE | A)
    state = lazy.state()
    lazy.invalidate(0, 0, 0)
    lazy.entry_is(0, OTHER | A)
    lazy.restore(state)
    assert lazy.state() == state
    assert [option.value for option in lazy.options(0, 0, 0, write=False)] == [0, ONE | A]
