"""Every packet is answered as the GDB manual (appendix E) says, and a wrong one by an error."""

from __future__ import annotations

import re
import socket
import threading
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kstack.base.errors import ConfigError
from kstack.debug.packets import MAX_PACKET, ReceivedKind, Receiver, frame, unescape
from kstack.debug.points import pieces
from kstack.debug.registers import REGISTERS, TOTAL_BYTES
from kstack.debug.server import converse, serve
from kstack.x86.registers import Gpr
from tests.support.debugger import Client, beginning, laight
from tests.support.long_mode import FRAMES, LongModeGuest

NUMBERS = {register.name: number for number, register in enumerate(REGISTERS)}


@pytest.fixture
def small() -> Client:
    """One CPU in a loop that counts in RAX and in memory."""
    guest = LongModeGuest()
    guest.start(guest.kernel_code("again: inc rax\nmov [rbx], rax\njmp again"), rbx=FRAMES)
    return Client(beginning(guest))


def symbol(client: Client, name: str) -> int:
    address = client.protocol.target.timeline.origin.symbols.address(name)
    assert address is not None
    return address


# --- what there is


def test_the_features_are_those_that_gdb_asks_for(client: Client) -> None:
    words = client.ask("qSupported:multiprocess+;swbreak+;hwbreak+").split(";")
    for word in "vContSupported+ ReverseStep+ ReverseContinue+ qXfer:features:read+ swbreak+ hwbreak+".split():
        assert word in words
    assert f"PacketSize={MAX_PACKET:x}" in words and "QStartNoAckMode+" in words


@pytest.mark.parametrize("packet", ["vMustReplyEmpty", "qSymbol::", "vKill;1", "QNonStop:1", "!", "", "x", "bq"])
def test_what_is_not_known_has_an_empty_answer(client: Client, packet: str) -> None:
    assert client.ask(packet) == ""


def test_every_cpu_is_a_thread(client: Client) -> None:
    assert client.ask("qfThreadInfo") == "m1,2"
    assert client.ask("qsThreadInfo") == "l"
    assert client.ask("?") == "T05thread:1;"
    assert client.ask("qC") == "QC1"
    assert client.ask("T2") == "OK" and client.ask("T3") == "E16" and client.ask("Tp1.1") == "E16"
    assert client.ask("Hg2") == "OK" and client.ask("qC") == "QC2"
    assert client.ask("Hg3") == "E16" and client.ask("Hx1") == "E16"
    assert client.ask("Hg0") == "OK" and client.ask("qC") == "QC1"
    extra = bytes.fromhex(client.ask("qThreadExtraInfo,2")).decode()
    assert extra == "CPU 1: halted, ring 0 at idle_loop+0x10"


def test_a_thread_in_a_hook_says_so(client: Client) -> None:
    runtime = client.protocol.target.timeline.session.runtime
    while not runtime.calls[0]:
        client.ask("vCont;s:1")
    extra = bytes.fromhex(client.ask("qThreadExtraInfo,1")).decode()
    assert re.search(r"running, ring 0 at \S+, .*in hook \w+ of thread \d", extra)


def test_the_target_description_names_what_packets_carry(client: Client) -> None:
    text, offset = "", 0
    while not text.endswith("</target>\n"):
        reply = unescape(client.ask(f"qXfer:features:read:target.xml:{offset:x},200").encode("latin-1")).decode()
        text, offset = text + reply[1:], offset + len(reply) - 1
        assert reply[0] == ("l" if text.endswith("</target>\n") else "m")
    root = ElementTree.fromstring(text)
    assert root.findtext("architecture") == "i386:x86-64"
    registers = [(reg.get("name"), int(reg.get("bitsize") or 0)) for reg in root.iter("reg")]
    assert registers == [(register.name, register.bits) for register in REGISTERS]
    features = [feature.get("name") for feature in root.iter("feature")]
    assert features == ["org.gnu.gdb.i386.core", "org.gnu.gdb.i386.segments", "org.kstack.control"]
    assert [name for name, _ in registers][-10:-4] == ["cr0", "cr2", "cr3", "cr4", "cr8", "efer"]
    assert [name for name, _ in registers][-4:] == ["cs_base", "ss_base", "ds_base", "es_base"]
    assert client.ask("qXfer:features:read:other.xml:0,10") == "E00"
    assert client.ask("qXfer:features:read:target.xml:fffff,10") == "l"


# --- registers


def test_g_is_all_of_p(client: Client) -> None:
    whole = bytes.fromhex(client.ask("g"))
    assert len(whole) == TOTAL_BYTES
    parts = b"".join(bytes.fromhex(client.ask(f"p{number:x}")) for number in range(len(REGISTERS)))
    assert whole == parts
    assert client.ask(f"p{len(REGISTERS):x}") == "E16"


def test_registers_are_those_of_the_selected_thread(client: Client) -> None:
    cpus = client.protocol.target.cpus
    for thread, cpu in enumerate(cpus, 1):
        client.ask(f"Hg{thread}")
        registers = cpu.registers
        assert client.rip == registers.rip
        assert client.register(NUMBERS["rbx"]) == registers.gpr[Gpr.RBX]
        assert client.register(NUMBERS["rsp"]) == registers.gpr[Gpr.RSP]
        assert client.register(NUMBERS["eflags"]) == registers.rflags
        assert client.register(NUMBERS["cr3"]) == registers.cr[3]
        assert client.register(NUMBERS["efer"]) & 0x500 == 0x500
        assert client.register(NUMBERS["cs"]) == 8


def test_x87_registers_are_read_as_they_stand() -> None:
    guest = LongModeGuest()
    guest.run("fninit\nfld1\nfldz")
    client = Client(beginning(guest))
    assert client.register(NUMBERS["st0"]) == 0
    assert client.register(NUMBERS["st1"]) == 0x3FFF << 64 | 1 << 63
    assert client.register(NUMBERS["fctrl"]) == 0x37F
    assert client.register(NUMBERS["fstat"]) >> 11 & 7 == 6
    assert client.register(NUMBERS["ftag"]) == 0x0FFF, "six empty, two valid"


def test_registers_are_written_and_the_guest_goes_on_with_them(small: Client) -> None:
    assert small.ask("P0=0010000000000000") == "OK"
    small.ask("vCont;s:1")
    assert small.register(0) == 0x1001
    whole = bytearray(bytes.fromhex(small.ask("g")))
    whole[8:16] = (FRAMES + 64).to_bytes(8, "little")
    assert small.ask("G" + whole.hex()) == "OK"
    assert len(small.protocol.target.timeline.writes) == 2, "only what differs is written"
    small.ask("vCont;s:1")
    assert small.ask(f"m{FRAMES + 64:x},8") == "0110000000000000"


@pytest.mark.parametrize(
    ("name", "value"),
    [("cr0", 1 << 31), ("cr4", 1 << 30), ("cr3", 1 << 60), ("efer", 1 << 40), ("cr8", 16), ("fs_base", 1 << 63), ("cs", 0), ("st0", 1)],
)  # fmt: skip
def test_values_that_the_cpu_would_not_take_are_refused(small: Client, name: str, value: int) -> None:
    before = small.ask("g")
    size = REGISTERS[NUMBERS[name]].bits // 8
    assert small.ask(f"P{NUMBERS[name]:x}={value.to_bytes(size, 'little').hex()}") == "E16"
    assert small.ask("g") == before
    assert not small.protocol.target.timeline.forked


def test_control_registers_are_written_as_by_the_guest(small: Client) -> None:
    cpu = small.protocol.target.cpus[0]
    small.ask("vCont;s:1")
    small.ask("vCont;s:1")
    assert cpu.mmu.data.entries()
    assert small.ask(f"P{NUMBERS['cr3']:x}={cpu.registers.cr[3].to_bytes(8, 'little').hex()}") == "OK"
    assert cpu.mmu.data.entries(), "what does not differ is not written"
    assert small.ask(f"P{NUMBERS['cr4']:x}={(cpu.registers.cr[4] ^ 1 << 7).to_bytes(8, 'little').hex()}") == "OK"
    assert not cpu.mmu.data.entries(), "a change of CR4.PGE drops everything"
    assert small.ask(f"P{NUMBERS['fs_base']:x}=0000100000000000") == "OK"
    assert small.register(NUMBERS["fs_base"]) == 0x100000
    assert small.ask(f"P{NUMBERS['eflags']:x}=ffffffff") == "OK"
    assert small.register(NUMBERS["eflags"]) & 1 << 17 == 0, "virtual-8086 mode cannot be in long mode"


# --- memory


def test_memory_is_read_through_the_thread_s_tables_without_a_trace(client: Client) -> None:
    machine = client.protocol.target.timeline.machine
    before = machine.state_hash()
    address = symbol(client, "laight_watch")
    assert client.ask(f"m{address:x},3") == "534154", "push rbx, push r12"
    client.ask("m400000,10")
    assert machine.state_hash() == before


def test_each_thread_reads_through_its_own_tables() -> None:
    guest = LongModeGuest(cpus=2)
    other = guest.space()
    guest.map(1 << 39, guest.frame(0x11))
    guest.map(1 << 39, guest.frame(0x22), root=other)
    guest.machine.cpus[1].registers.cr[3] = other
    guest.machine.cpus[1].mmu.update()
    client = Client(beginning(guest))
    assert client.ask("m8000000000,1") == "11"
    client.ask("Hg2")
    assert client.ask("m8000000000,1") == "22"


def test_what_is_readable_before_a_hole_is_read() -> None:
    guest = LongModeGuest()
    guest.map(1 << 39, guest.frame(0x11))
    client = Client(beginning(guest))
    assert client.ask("m8000000ffc,10") == "00000000"
    assert client.ask("m8000001000,10") == "E0e"
    assert client.ask(f"X8000000ffc,8:{'abcdefgh'}") == "E0e", "a write is whole or not at all"
    assert client.ask("m8000000ffc,4") == "00000000"


@pytest.mark.parametrize("address", ["800000000000", "ffff7fffffffffff", "8000000000000000", "123456789000"])
def test_addresses_that_are_nowhere_are_errors(client: Client, address: str) -> None:
    assert client.ask(f"m{address},8") == "E0e"
    assert client.ask(f"M{address},1:00") == "E0e"


def test_the_end_of_the_address_space_is_an_end(client: Client) -> None:
    cpu = client.protocol.target.cpus[0]
    assert pieces(cpu, (1 << 64) - 1, 1 << 64) == pieces(cpu, (1 << 64) - 1, 1)
    assert len(client.ask("mffffffffffffffff,ffffffffffffffff")) <= 3
    assert client.ask("m0,0") == ""


def test_a_huge_length_is_cut_to_what_a_packet_holds(client: Client) -> None:
    address = symbol(client, "laight_watch")
    assert 0 < len(client.ask(f"m{address:x},ffffffffffffffff")) <= MAX_PACKET


def test_both_ways_of_writing_write(small: Client) -> None:
    assert small.ask(f"M{FRAMES:x},3:0a0b0c") == "OK"
    assert small.ask(b"X%x,4:}\x03#$*" % (FRAMES + 4)) == "E16", "the announced length counts"
    assert small.ask(b"X%x,4:#$*}" % (FRAMES + 4)) == "OK"
    assert small.ask(f"X{FRAMES:x},0:") == "OK", "GDB's question whether X is known"
    assert small.ask(f"m{FRAMES:x},8") == "0a0b0c0023242a7d"
    assert small.ask(f"M{FRAMES:x},3:0a0b") == "E16"
    assert small.ask(f"M{FRAMES:x},1:zz") == "E16"


def test_real_mode_memory_is_physical() -> None:
    guest = LongModeGuest()
    guest.machine.cpus[0].reset()
    guest.memory.write(0x7C00, b"\xeb\xfe")
    client = Client(beginning(guest))
    assert client.ask("m7c00,2") == "ebfe"


# --- running


def test_breakpoints_are_told_as_negotiated(client: Client) -> None:
    address = symbol(client, "laight_watch")
    assert client.ask(f"Z0,{address:x},1") == "OK"
    assert client.ask("vCont;c") == "T05thread:2;"
    client.ask("qSupported:swbreak+;hwbreak+")
    assert client.ask("bc") == "T05thread:1;replaylog:begin;"
    assert client.ask("vCont;c") == "T05thread:2;swbreak:;"
    assert client.ask(f"z0,{address:x},1") == "OK"
    assert client.ask(f"Z1,{address:x},1") == "OK"
    assert client.ask("vCont;c:1") == "T05thread:2;hwbreak:;"
    assert client.ask("qC") == "QC2", "the thread that stopped is selected"


def test_watchpoints_are_told_with_their_address(client: Client) -> None:
    address = symbol(client, "published")
    assert client.ask(f"Z2,{address:x},8") == "OK"
    assert client.ask("c") == f"T05thread:1;watch:{address:x};"
    assert client.ask(f"z2,{address:x},8") == "OK"
    assert client.ask(f"Z3,{address:x},8") == "OK"
    assert client.ask("C05") == f"T05thread:2;rwatch:{address:x};"


@pytest.mark.parametrize("packet", ["Z5,0,1", "Z2,0,0", "Z2,0,ffffffff", "Z0", "Z0,zz,1", "Z0,1", "z9,0,1"])
def test_points_that_make_no_sense_are_refused(client: Client, packet: str) -> None:
    assert client.ask(packet) == "E16"


def test_the_ends_of_the_recording_are_told(client: Client) -> None:
    assert client.ask("vCont;c") == "T05thread:1;replaylog:end;"
    assert "the run ends here: exit" in client.console
    assert client.ask("bc") == "T05thread:1;replaylog:begin;"
    assert client.ask("Hc2") == "OK"
    assert client.ask("bs") == "T05thread:1;replaylog:begin;"


def test_steps_of_all_kinds_step(client: Client) -> None:
    start = client.time
    assert client.ask("vCont?") == "vCont;c;C;s;S"
    assert client.ask("vCont;s:1;c") == "T05thread:1;"
    assert client.ask("vCont;S05:1") == "T05thread:1;"
    assert client.ask("s") == "T05thread:1;"
    assert client.ask("S05") == "T05thread:1;"
    assert client.ask("vCont;s") == "T05thread:1;", "whoever runs next"
    assert client.time == start + 5
    assert client.ask("Hc1") == "OK"
    assert client.ask("bs") == "T05thread:1;"
    assert client.time == start + 4


def test_the_first_action_that_names_a_thread_counts(client: Client) -> None:
    assert client.ask("vCont;c:1;s:2;s:1") == "T05thread:2;"
    assert client.protocol.target.timeline.last_run(1) is not None
    for wrong in ("vCont;t", "vCont;s:9", "vCont;r1,2:1", "vCont;Czz"):
        assert client.ask(wrong) == "E16"


def test_going_on_elsewhere_sets_rip(small: Client) -> None:
    start = small.rip
    assert small.ask(f"s{start + 3:x}") == "T05thread:1;"
    assert small.rip == start + 6


def test_the_news_of_a_fork_comes_with_the_next_stop(client: Client) -> None:
    assert client.ask("P0=0010000000000000") == "OK" and client.console == ""
    client.ask("vCont;s:1")
    assert "forks a new recording" in client.console
    client.ask("P0=0020000000000000")
    client.ask("vCont;s:1")
    assert client.console == ""


def test_the_exit_of_a_live_guest_is_told() -> None:
    guest = LongModeGuest()
    guest.start(guest.kernel_code("mov al, 0x11\nout 0xf4, al"))
    assert Client(beginning(guest)).ask("vCont;c") == "W11"


def test_detaching_and_killing_end_the_conversation(client: Client) -> None:
    assert client.ask("D") == "OK" and client.protocol.ended
    other = Client(laight())
    assert other.protocol.answer(b"k") == [] and other.protocol.ended


# --- hostile clients

BROKEN = st.binary(max_size=24)
SHAPED = st.builds(
    lambda letter, rest: letter + rest,
    st.sampled_from(
        [b"m", b"M", b"X", b"Z", b"z", b"p", b"P", b"G", b"H", b"T", b"vCont;", b"qXfer:features:read:", b"qRcmd,", b"s"]
    ),
    st.text("0123456789abcdef,:;=-spct.", max_size=20).map(str.encode),
)  # fmt: skip


COMMANDS = st.builds(
    lambda name, rest: b"qRcmd," + f"{name} {rest}".encode().hex().encode(),
    st.sampled_from("walk tlb apic goto frames pool policy schedule snapshot findings help".split()),
    st.text(max_size=20),
)


@pytest.fixture(scope="module")
def fuzzed() -> Client:
    made = Client(beginning(_looping()))
    made.interrupt = True
    return made


@settings(max_examples=400)
@given(packet=st.one_of(BROKEN, SHAPED, COMMANDS).filter(lambda packet: packet[:1] not in (b"k", b"D")))
def test_no_packet_brings_the_server_down(fuzzed: Client, packet: bytes) -> None:
    replies = fuzzed.protocol.answer(packet)
    assert replies
    assert all(reply[:1] == b"O" for reply in replies[:-1])
    assert fuzzed.protocol.answer(b"?")[0][:1] == b"T"
    if fuzzed.time > 100_000:
        fuzzed.ask("bc")


def _looping() -> LongModeGuest:
    guest = LongModeGuest(cpus=2)
    for cpu in range(2):
        guest.start(guest.kernel_code("again: inc rax\nmov [rbx], rax\njmp again"), cpu, rbx=FRAMES)
    return guest


# --- the line


class Wire:
    """The other end of a connection that is served by a thread."""

    def __init__(self, guest: LongModeGuest) -> None:
        ours, theirs = socket.socketpair()
        self.socket = ours
        self.socket.settimeout(20)
        self.thread = threading.Thread(target=self._serve, args=(theirs, guest))
        self.thread.start()

    def _serve(self, connection: socket.socket, guest: LongModeGuest) -> None:
        with connection:
            converse(connection, beginning(guest))

    def receive(self, count: int) -> bytes:
        """Exactly so many bytes."""
        data = b""
        while len(data) < count:
            part = self.socket.recv(count - len(data))
            assert part, f"the server is gone after {data!r}"
            data += part
        return data

    def close(self) -> None:
        """Hang up, and see the server go."""
        self.socket.close()
        self.thread.join(20)
        assert not self.thread.is_alive()


def test_packets_are_acknowledged_until_they_need_not_be() -> None:
    wire = Wire(_looping())
    wire.socket.sendall(frame(b"qC"))
    assert wire.receive(8) == b"+" + frame(b"QC1")
    wire.socket.sendall(b"-")
    assert wire.receive(7) == frame(b"QC1"), "sent again"
    wire.socket.sendall(b"+$qC#00")
    assert wire.receive(1) == b"-"
    wire.socket.sendall(frame(b"QStartNoAckMode"))
    assert wire.receive(7) == b"+" + frame(b"OK")
    wire.socket.sendall(b"+$qC#00" + frame(b"qC"))
    assert wire.receive(7) == frame(b"QC1"), "damage has no answer where nothing is acknowledged"
    wire.close()


def test_byte_03_stops_a_running_machine_and_what_came_before_it_is_not_lost() -> None:
    wire = Wire(_looping())
    wire.socket.sendall(frame(b"vCont;c") + b"+")
    assert wire.receive(1) == b"+"
    wire.socket.sendall(frame(b"qAttached") + b"\x03")
    assert re.fullmatch(rb"\$T02thread:[12];#..", wire.receive(16))
    assert wire.receive(6) == b"+" + frame(b"1")
    wire.socket.sendall(b"\x03" + frame(b"qC"))
    assert re.fullmatch(rb"\+\$QC[12]#..", wire.receive(8)), "an interruption of what stands still is nothing"
    wire.close()


def test_a_client_that_hangs_up_while_the_machine_runs_ends_the_server() -> None:
    wire = Wire(_looping())
    wire.socket.sendall(frame(b"c"))
    assert wire.receive(1) == b"+"
    wire.close()


def test_kill_ends_the_server_without_an_answer() -> None:
    wire = Wire(_looping())
    wire.socket.sendall(frame(b"k"))
    assert wire.receive(1) == b"+"
    assert wire.socket.recv(10) == b""
    wire.close()


def test_a_port_that_cannot_be_had_is_one_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        with pytest.raises(ConfigError, match="--port"):
            serve(beginning(_looping()), taken.getsockname()[1], lambda port: None)
    for port in (-1, 65536):
        with pytest.raises(ConfigError, match="give 0 to 65535"):
            serve(beginning(_looping()), port, lambda port: None)


def test_one_connection_is_served_on_the_loopback_interface() -> None:
    ports: list[int] = []
    ready = threading.Event()

    def listening(port: int) -> None:
        ports.append(port)
        ready.set()

    thread = threading.Thread(target=serve, args=(beginning(_looping()), 0, listening))
    thread.start()
    assert ready.wait(20)
    with socket.create_connection(("127.0.0.1", ports[0]), 20) as connection:
        connection.sendall(frame(b"?"))
        events = Receiver().feed(connection.recv(100))
        while not events or events[-1].kind is not ReceivedKind.PACKET:
            events += Receiver().feed(connection.recv(100))
        connection.sendall(b"+" + frame(b"k"))
    thread.join(20)
    assert not thread.is_alive()
