"""A block that is rewritten in place counts and stops exactly like one that calls the block hook."""

from __future__ import annotations

import ctypes
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kstack.hw.engine import Stop, StopKind
from kstack.hw.engine.blocks import Blocks
from kstack.machine import Machine, MachineConfig
from kstack.x86.registers import Gpr, Seg
from kstack.x86.segments import Segment
from tests.support.board import CODE, DATA, MMIO, Board, board, programs

TWICE: Final = "mov ecx, 50\nmov edi, {DATA}\n.Lagain:\nadd [rdi], rcx\nmov rax, [rdi]\ndec ecx\njnz .Lagain\nhlt"
LOOP: Final = TWICE.replace("{DATA}", str(DATA))


def without_heads(made: Board) -> Board:
    """The same board, whose blocks keep their calls."""
    made.engine._blocks.give_head = lambda address: 0  # type: ignore[method-assign]
    return made


def calls_of_check_exit(made: Board) -> int:
    """How many calls of helper_check_exit_request are left in the block that ran last."""
    blocks = made.engine._blocks
    last = blocks._anchor + (made.engine.control.paid_block - blocks._anchor & 0xFFFFFFFF)
    from kstack.hw.engine import layout
    from kstack.hw.engine.blocks import _CHECK

    block = blocks._lookup(blocks._tcg, last)
    code = ctypes.string_at(layout.u64(block + layout.TB_TC_PTR).value, layout.u64(block + layout.TB_TC_SIZE).value)
    return len(_CHECK.findall(code))


@settings(max_examples=80)
@given(source=programs, quanta=st.lists(st.integers(1, 90), min_size=1, max_size=12))
def test_runs_with_and_without_heads_stop_at_the_same_instructions(source: str, quanta: list[int]) -> None:
    rewritten, calling = board(source), without_heads(board(source))
    turn, stop = 0, Stop(StopKind.BUDGET, 0)
    while stop.kind is StopKind.BUDGET:
        budget = quanta[turn % len(quanta)]
        stop = rewritten.engine.run(budget)
        assert stop == calling.engine.run(budget)
        assert rewritten.state() == calling.state()
        turn += 1


def test_a_block_that_comes_again_loses_its_calls() -> None:
    made = board(LOOP)
    made.engine.run(6 + 4 * 30)
    assert calls_of_check_exit(made) == 0


def test_a_block_without_a_head_keeps_its_calls() -> None:
    made = without_heads(board(LOOP))
    made.engine.run(6 + 4 * 30)
    assert calls_of_check_exit(made) > 1


@pytest.mark.parametrize("attribute", ["_handle", "_control", "_check_exit"])
def test_a_block_that_is_not_as_expected_stays_as_it_is(attribute: str) -> None:
    made = board(LOOP)
    setattr(made.engine._blocks, attribute, 0x1234_5678)
    assert made.engine.run(1 << 20)[:2] == (StopKind.HALT, 2 + 4 * 50 + 1)
    again = board(LOOP)
    setattr(again.engine._blocks, attribute, 0x1234_5678)
    again.engine.run(6 + 4 * 30)
    assert calls_of_check_exit(again) > 1


def test_a_stop_asked_for_inside_a_rewritten_block_ends_at_the_next_block() -> None:
    source = f"mov ecx, 20\n.Lagain:\nmov eax, [{MMIO}]\nnop\nloop .Lagain\nhlt"
    made = board(source)
    seen: list[int] = []

    def on_mmio() -> int:
        seen.append(made.engine.executed(0))
        if len(seen) == 10:
            made.engine.ask_to_stop()
        return 0

    made.on_mmio = on_mmio
    assert made.engine.run(1 << 20)[:2] == (StopKind.BUDGET, 1 + 3 * 10)
    assert made.engine.registers.rip == CODE + 5


def test_a_rewritten_block_that_is_stored_to_is_translated_anew() -> None:
    source = "mov ecx, 30\n.Lagain:\n.Lself:\nadd eax, 1\ncmp ecx, 10\njne .Lgo_on\nmov byte ptr [rip+.Lself+2], 3\n.Lgo_on:\nloop .Lagain\nhlt"
    made, slow = board(source), without_heads(board(source))
    assert made.engine.run(1 << 20) == slow.engine.run(1 << 20)
    assert made.rax() == slow.rax() == 21 + 9 * 3


def test_a_failure_while_a_block_is_rewritten_comes_out_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Blocks, address: int) -> int:
        raise RuntimeError("broken")

    made = board(LOOP)
    monkeypatch.setattr(Blocks, "give_head", fail)
    with pytest.raises(RuntimeError, match="broken"):
        made.engine.run(1000)


def test_translations_are_dropped_when_their_buffer_is_full_and_nothing_else_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in ("blocks", "engine"):
        monkeypatch.setattr(f"kstack.hw.engine.{module}.TCG_BUFFER_BYTES", 1 << 20)
    increments = 150_000
    machine = Machine(MachineConfig(1, 1 << 20))
    machine.memory.write(0x100, b"\xff\xc0" * increments + b"\xf4")
    cpu = machine.cpus[0]
    cpu.registers.set_segment(Seg.CS, Segment(8, 0, 0xFFFFFFFF, 0xCF9B00))
    cpu.registers.cr[0] |= 1
    cpu.registers.rip = 0x100
    assert machine.run(0, 10 * increments).elapsed == increments + 1
    assert cpu.registers.gpr[Gpr.RAX] == increments
    assert cpu.engine.control.flushes >= 1
