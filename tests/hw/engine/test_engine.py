"""The engine executes exactly as many instructions as it is asked to, and counts them exactly.

What counts as one instruction: an iteration of a REP string instruction that goes on counts as one,
and so does the look at RCX that ends it; HLT counts; an instruction that stops the engine before its effect (a fault, IN,
CPUID, MOV CR, SYSCALL) does not; INT n, which stops it with RIP behind itself, does.
"""

from __future__ import annotations

from typing import Final

import pytest
import unicorn
from hypothesis import given, settings
from hypothesis import strategies as st

from kstack.base.errors import EngineError
from kstack.guest.asm import assemble
from kstack.hw.engine import MmuIndex, Stop, StopKind
from kstack.x86.access import Access
from kstack.x86.flags import Flags
from kstack.x86.registers import Seg
from kstack.x86.segments import Segment
from tests.support.board import CODE, DATA, MMIO, UNMAPPED, Board, board, programs


def until_stop(made: Board, budget: int = 10_000) -> Stop:
    return made.engine.run(budget)


LOOP: Final = ".Lagain:\ninc rax\nadd rbx, rax\njmp .Lagain"


@pytest.mark.parametrize("budget", [*range(1, 70), 1000, 4999, 100_000])
def test_a_budget_is_used_up_to_the_last_instruction(budget: int) -> None:
    made = board(LOOP)
    assert made.engine.run(budget) == (StopKind.BUDGET, budget, 0, 0, False)
    assert made.rax() == (budget + 2) // 3
    assert made.engine.registers.rip == CODE + (0, 3, 6)[budget % 3]


@pytest.mark.parametrize("budget", range(1, 40))
def test_a_block_longer_than_the_budget_stops_inside_and_goes_on(budget: int) -> None:
    made = board("inc rax\n" * 300 + "hlt")
    total = 0
    while (stop := made.engine.run(budget)).kind is StopKind.BUDGET:
        total += stop.instructions
        assert made.rax() == total
    assert total + stop.instructions == 301


def test_hlt_counts_and_leaves_rip_behind_it() -> None:
    made = board("nop\nhlt\nnop")
    assert until_stop(made)[:2] == (StopKind.HALT, 2)
    assert made.engine.registers.rip == CODE + 2


@pytest.mark.parametrize("count", [0, 1, 2, 7, 100])
def test_each_iteration_of_rep_counts(count: int) -> None:
    made = board(f"mov ecx, {count}\nmov edi, {DATA}\nmov al, 5\nrep stosb\nhlt")
    stop = until_stop(made)
    assert stop.kind is StopKind.HALT
    assert made.ram[DATA : DATA + count + 1] == b"\5" * count + b"\0"
    again = board(f"mov ecx, {count}\nmov edi, {DATA}\nmov al, 5\nrep stosb\nhlt")
    total = 0
    while (part := again.engine.run(1)).kind is StopKind.BUDGET:
        total += part.instructions
    assert stop.instructions == total + part.instructions
    assert stop.instructions == 5 + count


@pytest.mark.parametrize(
    ("source", "kind", "before"),
    [
        ("nop\nnop\nin al, 0x60", StopKind.TRAPPED, 2),
        ("nop\nout 0x60, al", StopKind.TRAPPED, 1),
        ("nop\nnop\nnop\nsyscall", StopKind.TRAPPED, 3),
        ("nop\ncpuid", StopKind.INTERCEPT, 1),
        ("nop\nnop\nmov cr3, rax", StopKind.INTERCEPT, 2),
        ("nop\nmov dr7, rax", StopKind.INTERCEPT, 1),
        ("nop\nrdtsc", StopKind.INTERCEPT, 1),
        ("nop\nnop\nrdmsr", StopKind.INTERCEPT, 2),
        ("nop\ninvlpg [rax]", StopKind.INTERCEPT, 1),
        (f"nop\nnop\nmov rbx, [{UNMAPPED}]\nnop", StopKind.REFUSED, 2),
        (f"nop\nmov [{UNMAPPED}], rbx\nnop", StopKind.REFUSED, 1),
        (f"nop\nadd qword ptr [{UNMAPPED} - 4], 1\nnop", StopKind.REFUSED, 1),
        ("nop\nxor ecx, ecx\ndiv ecx\nnop", StopKind.EXCEPTION, 2),
        ("nop\nud2", StopKind.INVALID, 1),
    ],
)
def test_what_stops_before_its_effect_is_not_counted(source: str, kind: StopKind, before: int) -> None:
    made = board(source)
    stop = until_stop(made)
    assert (stop.kind, stop.instructions) == (kind, before)
    length = len(assemble("\n".join(source.split("\n")[:before]), CODE))
    assert made.engine.registers.rip == CODE + length
    assert made.engine.run(5)[:2] == (kind, 0)  # and it stops again, where it stands


def test_int_n_stops_behind_itself_and_says_that_it_was_one() -> None:
    made = board("nop\nint 0x80\nnop")
    stop = until_stop(made)
    assert (stop.kind, stop.code, stop.is_int, stop.instructions) == (StopKind.EXCEPTION, 0x80, True, 2)
    assert made.engine.registers.rip == CODE + 3


def test_a_refused_store_over_two_pages_stores_nothing() -> None:
    made = board(f"mov rax, -1\nmov [{UNMAPPED - 4}], rax")
    assert until_stop(made)[:2] == (StopKind.REFUSED, 1)
    assert made.ram[UNMAPPED - 8 : UNMAPPED] == bytes(8)


@pytest.mark.parametrize("offset", range(1, 12))
@pytest.mark.parametrize("budget", [1, 2, 3, 100])
def test_code_that_straddles_pages_is_counted(offset: int, budget: int) -> None:
    start = 0x3000 - offset
    made = board("mov rax, 0x123456789abcdef0\ninc rax\n" * 3 + "hlt", start)
    total = 0
    while (stop := made.engine.run(budget)).kind is StopKind.BUDGET:
        total += stop.instructions
    assert (stop.kind, total + stop.instructions) == (StopKind.HALT, 7)


def test_a_fetch_that_is_refused_counts_what_came_before() -> None:
    made = board("inc rax\nnop\nmov rbx, 0x1234567890", UNMAPPED - 7)
    total = 0
    while (stop := until_stop(made)).kind is StopKind.BUDGET:
        total += stop.instructions
    assert (stop.kind, total + stop.instructions) == (StopKind.REFUSED, 2)
    assert made.engine.registers.rip == UNMAPPED - 3
    assert made.rax() == 1


SELF_MODIFYING: Final = """
    mov ecx, 5
.Lagain:
    inc byte ptr [rip+.Lchanged+3]
    nop
.Lchanged:
    add rax, 0
    dec ecx
    jnz .Lagain
    hlt
"""


@pytest.mark.parametrize("budget", [1, 2, 3, 5, 8, 33, 40, 1000])
def test_code_that_changes_its_own_block_runs_as_changed_and_is_counted(budget: int) -> None:
    made = board(SELF_MODIFYING)
    total = 0
    while (stop := made.engine.run(budget)).kind is StopKind.BUDGET:
        total += stop.instructions
    assert made.rax() == 1 + 2 + 3 + 4 + 5
    assert total + stop.instructions == 1 + 5 * 5 + 1


# --- any program, any quanta


@settings(max_examples=60)
@given(source=programs, quanta=st.lists(st.integers(1, 90), min_size=1, max_size=12))
def test_the_sum_over_any_quanta_is_the_total_and_ends_in_the_same_state(source: str, quanta: list[int]) -> None:
    whole, parts = board(source), board(source)
    expected = whole.engine.run(1_000_000)
    assert expected.kind is StopKind.HALT
    total, turn = 0, 0
    while (stop := parts.engine.run(quanta[turn % len(quanta)])).kind is StopKind.BUDGET:
        assert stop.instructions == quanta[turn % len(quanta)]
        total += stop.instructions
        turn += 1
    assert total + stop.instructions == expected.instructions
    assert parts.state() == whole.state()


@settings(max_examples=60)
@given(source=programs, quanta=st.lists(st.integers(1, 90), min_size=1, max_size=12))
def test_looking_at_the_state_between_two_instructions_changes_nothing(source: str, quanta: list[int]) -> None:
    watched, alone = board(source), board(source)
    turn = 0
    stop = Stop(StopKind.BUDGET, 0)
    while stop.kind is StopKind.BUDGET:
        budget = quanta[turn % len(quanta)]
        watched.state()
        watched.engine.registers.load(watched.engine.registers.save())
        stop = watched.engine.run(budget)
        assert stop == alone.engine.run(budget)
        assert list(watched.engine.registers.gpr) == list(alone.engine.registers.gpr)
        assert watched.engine.registers.rflags == alone.engine.registers.rflags
        turn += 1
    assert watched.state() == alone.state()


# --- registers

words = st.integers(0, (1 << 64) - 1)


@settings(max_examples=50)
@given(gpr=st.lists(words, min_size=16, max_size=16), flags=words, cr2=words, debug=words)
def test_registers_come_back_as_they_were_saved(gpr: list[int], flags: int, cr2: int, debug: int) -> None:
    registers, other = Board().engine.registers, Board().engine.registers
    for number, value in enumerate(gpr):
        registers.gpr[number] = value
    writable = int(Flags.CF | Flags.PF | Flags.AF | Flags.ZF | Flags.SF | Flags.DF | Flags.OF | Flags.IF | Flags.ID)
    registers.rflags = flags & writable | 2
    registers.cr[2], registers.dr[3] = cr2, debug
    registers.set_segment(Seg.FS, Segment(0x33, gpr[0], 0xFFFF, 0xF300))
    other.load(registers.save())
    assert list(other.gpr) == gpr
    assert other.rflags == flags & writable | 2
    assert (other.cr[2], other.dr[3]) == (cr2, debug)
    assert other.segment(Seg.FS) == (0x33, gpr[0], 0xFFFF, 0xF300)
    assert other.canonical() == registers.canonical()


# --- refusals and errors


def test_another_version_of_unicorn_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unicorn, "__version__", "2.2.0")
    with pytest.raises(EngineError, match=r"unicorn 2\.2\.0 is installed.*pip install unicorn==2\.1\.4"):
        Board()


@pytest.mark.parametrize(
    "name", ["ENV_REGS", "ENV_CR", "ENV_DR", "ENV_LSTAR", "ENV_FMASK", "CC_TLB_FILL", "TCG_CODE_GEN_BUFFER"]
)
def test_a_layout_that_is_not_where_it_should_be_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from kstack.hw.engine import layout

    monkeypatch.setattr(layout, name, getattr(layout, name) + 8)
    with pytest.raises(EngineError, match=r"is not where 2\.1\.4 has it"):
        Board()


def test_a_library_without_the_exports_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from kstack.hw.engine import layout

    monkeypatch.setitem(layout.EXPORTS, "tlb_flush_the_moon_x86_64", (None, ()))
    with pytest.raises(EngineError, match="does not export tlb_flush_the_moon_x86_64"):
        Board()


class Mistake(Exception):
    """What a callback raises here."""


@pytest.fixture
def failing() -> Board:
    made = board(f"nop\nmov eax, [{MMIO}]\nnop\nhlt")

    def fail() -> int:
        raise Mistake

    made.on_mmio = fail
    return made


def test_an_exception_in_a_host_callback_comes_out_of_the_run(failing: Board) -> None:
    with pytest.raises(Mistake):
        failing.engine.run(100)


def test_the_engine_is_usable_after_an_exception_in_a_callback(failing: Board) -> None:
    with pytest.raises(Mistake):
        failing.engine.run(100)
    failing.on_mmio = lambda: 42
    failing.engine.registers.rip = CODE
    assert failing.engine.run(100)[:2] == (StopKind.HALT, 4)
    assert failing.rax() == 42


def test_an_exception_in_fill_comes_out_of_the_run_and_the_engine_stays_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    made = board(LOOP)

    def fail(*_: object) -> bool:
        raise Mistake

    with monkeypatch.context() as patch:
        patch.setattr(made, "fill", fail)
        with pytest.raises(Mistake):
            made.engine.run(10)
    assert made.engine.run(10)[:2] == (StopKind.BUDGET, 10)


def test_time_inside_a_callback_is_exact() -> None:
    made = board(f"nop\nnop\nmov rax, [{MMIO}]\nnop\nhlt")
    seen: list[int] = []
    original = made.fill

    def fill(address: int, access: Access, mmu: MmuIndex, probe: bool, location: int) -> bool:
        if address == MMIO:
            seen.append(made.engine.executed(location))
        return original(address, access, mmu, probe, location)

    made.fill = fill  # type: ignore[method-assign]
    made.engine.run(100)
    assert seen == [2]


def test_two_engines_in_one_process_do_not_influence_each_other() -> None:
    left, right, alone = board(LOOP), board(".Lback:\ndec rax\njmp .Lback"), board(LOOP)
    for _ in range(20):
        left.engine.run(7)
        right.engine.run(5)
    alone.engine.run(140)
    assert left.state() == alone.state()
    assert right.rax() == -50 & (1 << 64) - 1
