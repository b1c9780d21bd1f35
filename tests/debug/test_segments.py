"""GDB knows no segments: code, breakpoints, stacks and data of 16- and 32-bit code are where they are, linearly."""

from __future__ import annotations

from pathlib import Path

import pytest

from kstack.debug.accesses import AccessedRange, accesses
from kstack.debug.origin import Origin
from kstack.debug.registers import REGISTERS
from kstack.guest.asm import assemble
from kstack.hw.cpu.cpu import Cpu
from kstack.machine import Machine, MachineConfig
from kstack.run.spec import RunSpec
from kstack.x86.registers import Gpr, Seg
from kstack.x86.segments import Segment, SegmentAttribute
from tests.support.debugger import Client
from tests.support.gdb_sessions import gdb_is_needed, gdb_says
from tests.support.images import signed
from tests.support.real_mode import BASE, written

RIP, CS, CS_BASE = 16, 18, 48
FAR = BASE + 6  # where CS has its base


@pytest.fixture
def client(tmp_path: Path) -> Client:
    return Client(Origin.of_setup(RunSpec(str(written(tmp_path)))))


def test_a_breakpoint_in_a_segment_with_a_base_stops_where_it_is_set(client: Client) -> None:
    assert client.ask("qSupported:swbreak+").startswith("PacketSize")
    assert client.ask(f"Z0,{FAR:x},1") == "OK"
    assert client.ask("c").startswith("T05thread:1;swbreak:;")
    assert [REGISTERS[number].name for number in (RIP, CS, CS_BASE)] == ["rip", "cs", "cs_base"]
    assert (client.rip, client.register(CS), client.register(CS_BASE)) == (FAR, 0x7C0, BASE)
    assert client.ask("c").startswith("W00"), "once"


def test_a_step_from_there_is_one_instruction(client: Client) -> None:
    client.ask(f"Z0,{FAR:x},1")
    client.ask("c")
    client.ask("s")
    assert (client.rip, client.time) == (FAR + 3, 3)


def test_code_of_32_bits_in_a_segment_with_a_base_stops_too(client: Client) -> None:
    client.ask(f"Z0,{BASE + 0x100:x},1")
    client.ask("c")
    assert client.rip == BASE + 0x100
    assert "32-bit code" in client.monitor("code") and "mov ecx, 0x10" in client.monitor("code")


def test_going_on_elsewhere_is_to_a_linear_address(client: Client) -> None:
    client.ask(f"Z0,{FAR:x},1")
    client.ask("c")
    assert client.ask(f"P{RIP:x}={(FAR + 3).to_bytes(8, 'little').hex()}") == "OK"
    assert client.rip == FAR + 3
    cpu = client.protocol.target.cpus[0]
    assert (cpu.registers.rip, cpu.registers.segment(Seg.CS).base) == (FAR + 3 - BASE, BASE)
    client.ask("s")
    assert client.rip == FAR + 5


def test_the_registers_of_a_packet_can_be_written_back_without_a_change(client: Client) -> None:
    client.ask(f"Z0,{FAR:x},1")
    client.ask("c")
    assert client.ask("G" + client.ask("g")) == "OK"
    assert client.protocol.target.timeline.writes == []


def test_a_thread_is_where_its_code_is(client: Client) -> None:
    client.ask(f"Z0,{FAR:x},1")
    client.ask("c")
    assert bytes.fromhex(client.ask("qThreadExtraInfo,1")).decode() == f"CPU 0: running, ring 0 at {FAR:#x}"


def test_code_is_listed_as_wide_as_it_is_executed(client: Client) -> None:
    client.ask(f"Z0,{FAR:x},1")
    client.ask("c")
    lines = client.monitor("code").splitlines()
    assert lines[0] == "CPU 0, 16-bit code:"
    assert [line.split(maxsplit=2)[2] for line in lines[1:4]] == ["mov ax, 0x1234", "xor bx, bx", "mov ds, bx"]
    assert client.monitor(f"code {FAR + 3:#x}").splitlines()[1].startswith(f"{FAR + 3:#x} ")


@gdb_is_needed
def test_gdb_itself_stops_there(tmp_path: Path) -> None:
    image = tmp_path / "sector.bin"
    image.write_bytes(
        signed(assemble("cli\n.byte 0xea\n.word 6\n.word 0x7c0", 0, 16) + assemble("mov ax, 1\nout 0xf4, al", 6, 16))
    )
    text = gdb_says((image,), f"break *{FAR:#x}", "continue", "p/x $pc", "p/x $cs", "stepi", "p/x $pc", "continue")
    assert "Breakpoint 1, 0x0000000000007c06" in text
    assert "$1 = 0x7c06" in text and "$2 = 0x7c0" in text and "$3 = 0x7c09" in text
    assert "the guest wrote 0x1 to the debug-exit port" in text


# --- what an instruction accesses


DATA, EXTRA, STACK = 0x20000, 0x30000, 0x40000  # bases
CASES = [
    ("mov ax, [bx]", [(DATA + 0x10, 2, True)]),
    ("mov ax, es:[bx]", [(EXTRA + 0x10, 2, True)]),
    ("push ax", [(STACK + 0xFFFE, 2, False)]),
    ("pop ax", [(STACK, 2, True)]),
    ("xlatb", [(DATA + 0x15, 1, True)]),
    ("es xlatb", [(EXTRA + 0x15, 1, True)]),
    ("leave", [(STACK + 0x80, 2, True)]),
    ("iret", [(STACK, 6, True)]),
]


def processor(code: bytes, bits: int = 16) -> Cpu:
    """A CPU in front of code of 16 bits, whose segments all have bases, and whose registers have upper halves."""
    machine = Machine(MachineConfig(ram=1 << 20))
    cpu = machine.cpus[0]
    registers = cpu.registers
    for seg, base in ((Seg.CS, BASE), (Seg.DS, DATA), (Seg.ES, EXTRA), (Seg.SS, STACK)):
        registers.set_segment(seg, Segment(base >> 4, base, 0xFFFF, 0x9B00 if seg is Seg.CS else 0x9300))
    registers.rip = 0x10
    for gpr, value in ((Gpr.RSP, 0x55550000), (Gpr.RBP, 0x66660080), (Gpr.RBX, 0x77770010), (Gpr.RAX, 0x88880005)):
        registers.gpr[gpr] = value
    machine.memory.write(BASE + 0x10, code)
    return cpu


@pytest.mark.parametrize(("text", "expected"), CASES, ids=[text for text, _ in CASES])
def test_operands_and_the_stack_of_16_bit_code_are_in_their_segments(
    text: str, expected: list[tuple[int, int, bool]]
) -> None:
    override = b"\x26" if text.startswith("es ") else b""
    cpu = processor(override + assemble(text.removeprefix("es "), 0, 16))
    assert accesses(cpu) == [AccessedRange(address, size, reads, not reads) for address, size, reads in expected]


def test_a_stack_of_32_bits_is_reached_by_all_of_esp() -> None:
    cpu = processor(assemble("push ax", 0, 16))
    stack = cpu.registers.segment(Seg.SS)
    cpu.registers.set_segment(Seg.SS, stack._replace(base=0x100, flags=stack.flags | SegmentAttribute.B))
    cpu.registers.gpr[Gpr.RSP] = 0x12344
    assert accesses(cpu) == [AccessedRange(0x100 + 0x12342, 2, False, True)]
