"""x86-TSO: the classic litmus tests have exactly the outcomes that the abstract machine has, and those of SC without it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Final

import pytest

from kstack.base.errors import ConfigError
from kstack.cli.explore import explore
from kstack.explore.breadth_first import Problem, search
from kstack.hw.modes import Modes
from kstack.kernels.kstack.scenarios import find_scenario
from kstack.run.spec import boot
from kstack.sanitizer.findings import Kind
from kstack.stacks import (
    AllocPage,
    Decision,
    Load,
    Lock,
    Policy,
    Pte,
    ReadPte,
    Store,
    Swap,
    Thread,
    ThreadAt,
    Unlock,
    WritePte,
    map_pages,
)
from tests.support.memory_order import Operation, Outcome, abstract, outcomes, parse, write_guest, write_scenario

WEAK: Final = "allowed by TSO, not by SC"
NEVER: Final = "allowed by neither"

CLASSIC: Final[dict[str, tuple[tuple[str, ...], str, str]]] = {
    # name: programs, an outcome (loads of each CPU | x y z in the end, * for any), what is known of it
    "SB": (("x=1; r y", "y=1; r x"), "0, 0 | *", WEAK),
    "SB+mfences": (("x=1; fence; r y", "y=1; fence; r x"), "0, 0 | *", NEVER),
    "SB+one mfence": (("x=1; fence; r y", "y=1; r x"), "0, 0 | *", WEAK),
    "SB+locks": (("x=1; lock; r y", "y=1; lock; r x"), "0, 0 | *", NEVER),
    "SB+xchg": (("x<>1; r y", "y<>1; r x"), "0 0, 0 0 | *", NEVER),
    "LB": (("r x; y=1", "r y; x=1"), "1, 1 | *", NEVER),
    "MP": (("x=1; y=1", "r y; r x"), ", 1 0 | *", NEVER),
    "S": (("x=2; y=1", "r y; x=1"), ", 1 | 2 1 0", NEVER),
    "R": (("x=1; y=1", "y=2; r x"), ", 0 | 1 2 0", WEAK),
    "R+mfence": (("x=1; y=1", "y=2; fence; r x"), ", 0 | 1 2 0", NEVER),
    "2+2W": (("x=1; y=2", "y=1; x=2"), ", | 1 1 0", NEVER),
    "IRIW": (("x=1", "y=1", "r x; r y", "r y; r x"), ", , 1 0, 1 0 | *", NEVER),
    "WRC": (("x=1", "r x; y=1", "r y; r x"), ", 1, 1 0 | *", NEVER),
    "3.SB": (("x=1; r y", "y=1; r z", "z=1; r x"), "0, 0, 0 | *", WEAK),
    "CoRR": (("x=1", "r x; r x"), ", 1 0 | *", NEVER),
    "n4b": (("r x; x=1", "r x; x=2"), "2, 1 | *", NEVER),
    "n5": (("x=1; r x", "x=2; r x"), "2, 1 | *", NEVER),
    "n6": (("x=1; r x; r y", "y=2; x=2"), "1 0, | 1 2 0", WEAK),
    "n6+mfence": (("x=1; fence; r x; r y", "y=2; x=2"), "1 0, | 1 2 0", NEVER),
    "n7": (("x=1; r x; r y", "y=1", "r y; r x"), "1 0, , 1 0 | *", WEAK),
    "n7+mfence": (("x=1; fence; r x; r y", "y=1", "r y; r x"), "1 0, , 1 0 | *", NEVER),
    "forwarding": (("x=1; r x; r y", "y=1; r y; r x"), "1 0, 1 0 | *", WEAK),
    "forwarding+locks": (("x=1; lock; r x; r y", "y=1; lock; r y; r x"), "1 0, 1 0 | *", NEVER),
}


def matches(pattern: str, outcome: Outcome) -> bool:
    """Whether an outcome is of a pattern."""
    loads, memory = (part.strip() for part in pattern.split("|"))
    if tuple(tuple(map(int, cpu.split())) for cpu in loads.split(",")) != outcome[0]:
        return False
    return memory == "*" or tuple(map(int, memory.split())) == outcome[1]


@pytest.mark.parametrize("name", CLASSIC)
def test_a_litmus_test_has_exactly_the_allowed_outcomes(name: str, tmp_path: Path) -> None:
    texts, pattern, known = CLASSIC[name]
    programs = [parse(text) for text in texts]
    toml = write_scenario(tmp_path, programs)
    weak, strong = outcomes(toml, programs, "tso"), outcomes(toml, programs, "sc")
    assert weak == abstract(programs, buffered=True)
    assert strong == abstract(programs, buffered=False)
    assert any(matches(pattern, one) for one in weak) == (known == WEAK)
    assert not any(matches(pattern, one) for one in strong)


def draw(rng: random.Random) -> list[tuple[Operation, ...]]:
    """Two CPUs with three operations each, of those that matter."""

    def operation() -> Operation:
        what = rng.choice(("store", "store", "load", "load", "fence", "lock", "exchange"))
        return Operation(what, rng.randrange(2), rng.randrange(1, 3))

    return [tuple(operation() for _ in range(3)) for _ in range(2)]


@pytest.mark.parametrize("seed", range(12))
def test_a_random_program_has_exactly_the_allowed_outcomes(seed: int, tmp_path: Path) -> None:
    programs = draw(random.Random(seed))
    toml = write_scenario(tmp_path, programs)
    for order in ("tso", "sc"):
        allowed = abstract(programs, buffered=order == "tso")
        assert outcomes(toml, programs, order) == allowed
        assert outcomes(toml, programs, order, every_move=False) == allowed


@pytest.mark.parametrize("name", CLASSIC)
def test_what_commutes_needs_one_order(name: str, tmp_path: Path) -> None:
    programs = [parse(text) for text in CLASSIC[name][0]]
    toml = write_scenario(tmp_path, programs)
    assert outcomes(toml, programs, "tso", every_move=False) == abstract(programs, buffered=True)
    assert outcomes(toml, programs, "sc", every_move=False) == abstract(programs, buffered=False)


class Flags(Policy):
    """Each CPU raises its flag and answers whether the other's is down (Dekker)."""

    id = "flags"
    title = "plain stores"
    proposer = "nobody"
    source = "none"
    atomic = False

    def create_thread(self, cpu: int, thread: Thread) -> Decision:
        """The top page."""
        return (yield from map_pages((thread.top,)))

    def request(self, cpu: int, thread: Thread, size: int) -> Decision:
        """Whether nobody else is here."""
        if self.atomic:
            yield Swap("flag", 1, cpu)
        else:
            yield Store("flag", 1, cpu)
        mine = yield Load("flag", cpu)
        assert mine == 1, "a CPU does not see its own store"
        other = yield Load("flag", 1 - cpu)
        return other is None


class AtomicFlags(Flags):
    """The same by a locked operation."""

    id = "atomic-flags"
    atomic = True


class LockedFlags(Flags):
    """With a lock of its own in between."""

    id = "locked-flags"

    def request(self, cpu: int, thread: Thread, size: int) -> Decision:
        """Whether nobody else is here."""
        yield Store("flag", 1, cpu)
        yield Lock(f"of CPU {cpu}")
        other = yield Load("flag", 1 - cpu)
        yield Unlock(f"of CPU {cpu}")
        return other is None


class Entries(Flags):
    """Each CPU maps its stack's lowest page and answers whether the other's is not mapped yet."""

    id = "entries"

    def request(self, cpu: int, thread: Thread, size: int) -> Decision:
        """Whether nobody else was faster."""
        frame = yield AllocPage()
        other = yield ThreadAt(thread.bottom + (1 - 2 * cpu) * 0x8000)  # the next slot, or the one before
        yield WritePte(thread.pages[-1], Pte.of(frame))
        mine = yield ReadPte(thread.pages[-1])
        assert mine.frame == frame, "a CPU does not see its own store"
        pte = yield ReadPte(other.pages[-1])
        return not pte.present


ASK = """.text
program_0:
    xor r8d, r8d
    L_REQUEST 0, 64
    mov r8d, 1
    jmp litmus_end
program_1:
    xor r8d, r8d
    L_REQUEST 1, 64
    mov r8d, 1
    jmp litmus_end
"""


@pytest.mark.parametrize(
    ("policy", "order", "both"),
    [
        (Flags, "sc", False),
        (Flags, "tso", True),
        (AtomicFlags, "tso", False),
        (LockedFlags, "tso", False),
        (Entries, "sc", False),
        (Entries, "tso", True),
    ],
)
def test_a_policys_plain_stores_wait_in_the_buffer_too(
    policy: type[Policy], order: str, both: bool, tmp_path: Path
) -> None:
    toml = write_guest(tmp_path, ASK, 2, 2, {"0.0": "cpu 0 r8", "1.0": "cpu 1 r8"})
    found = outcomes(toml, [parse("r x"), parse("r x")], order, policy)
    assert {loaded for loaded, _ in found} == {((0,), (1,)), ((1,), (0,)), ((0,), (0,))} | (
        {((1,), (1,))} if both else set()
    )


def test_a_run_that_buffers_nothing_says_so() -> None:
    with pytest.raises(ConfigError, match="memory-order=tso: runs are sequentially consistent"):
        boot(find_scenario("litmus-laight"), modes=Modes(memory_order="tso"))


def test_dpor_says_that_it_cannot() -> None:
    with pytest.raises(ConfigError, match="take stateful or sample"):
        explore("litmus-laight", policy="fixed-16k", engine="dpor", mode=["memory-order=tso"])


USE = """.text
program_0:
    L_SWITCH_IN 0
    L_REQUEST 0, STACK_BYTES
    L_ADDRESS rbx, 0, 0x3800
    mov [rbx], rbx
    jmp litmus_end
"""


@pytest.mark.parametrize(("order", "verdict"), [("sc", "safe"), ("tso", "safe"), ("tso-walks-memory", "unsafe")])
def test_that_a_walk_finds_what_its_cpu_has_stored_is_relied_on(order: str, verdict: str, tmp_path: Path) -> None:
    toml = write_guest(tmp_path, USE, 1, 1)
    found = search(Problem(str(toml), "request", Modes(memory_order=order)))
    assert found.verdict == verdict
    assert verdict == "safe" or (found.finding is not None and found.finding.kind is Kind.UNHANDLED_FAULT)
