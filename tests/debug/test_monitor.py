"""The monitor's commands say what the machine is made of, and change nothing but by goto."""

from __future__ import annotations

import pytest

from kstack.debug.monitor import Monitor
from kstack.hw.mmu.walk import RW, P
from tests.support.debugger import Client, beginning
from tests.support.long_mode import AREA, LongModeGuest
from tests.support.recordings import recorded, start_of

COMMANDS = "help walk code tlb frames pool policy apic schedule snapshot record goto findings".split()


def test_every_command_is_in_the_help_and_nothing_else(client: Client) -> None:
    assert [line.split()[0] for line in client.monitor("help").splitlines()] == COMMANDS
    assert client.monitor("") == client.monitor("help")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("nonsense 1", "no command 'nonsense'; see: monitor help"),
        ("walk", "usage: monitor walk VA"),
        ("walk 1 2", "usage: monitor walk VA"),
        ("walk elsewhere", "'elsewhere' is neither a symbol nor an address of 64 bits"),
        ("walk 0x1ffffffffffffffff", "'0x1ffffffffffffffff' is neither a symbol nor an address of 64 bits"),
        ("walk 0x8000000000000000", "0x8000000000000000 is not canonical"),
        ("tlb 2", "no CPU '2'; give 0 to 1"),
        ("apic -1", "no CPU '-1'; give 0 to 1"),
        ("goto -5", "'-5' is no virtual time; give a decimal number of units"),
        ("goto ²", "'²' is no virtual time; give a decimal number of units"),
    ],
)
def test_a_wrong_command_has_one_clear_line(client: Client, command: str, words: str) -> None:
    assert client.monitor(command) == words + "\n"


def test_looking_changes_nothing(client: Client) -> None:
    client.monitor("goto 102543")
    before = client.monitor("snapshot")
    for command in COMMANDS:
        if command != "goto":
            client.monitor(f"{command} 0x1000" if command == "walk" else command)
    assert client.monitor("snapshot") == before


def test_a_walk_shows_each_level_and_what_is_cached_instead() -> None:
    guest = LongModeGuest()
    old, new = guest.frame(), guest.frame()
    leaf = guest.map(AREA, old)
    guest.load(AREA)
    client = Client(beginning(guest))
    fresh = client.monitor(f"walk {AREA:#x}").splitlines()
    assert [line.split()[0] for line in fresh[1:5]] == ["PML4E", "PDPTE", "PDE", "PTE"]
    assert f"PTE   at {leaf:#x}:" in fresh[4] and fresh[4].endswith(f"-> frame {old:#x} P RW A D")
    assert fresh[5] == f"  tables: frame {old:#x} kernel rwx D (4 KiB)"
    assert fresh[6] == f"  data TLB: frame {old:#x} kernel rwx D (4 KiB)"
    assert fresh[7] == "  code TLB: nothing"
    guest.memory.write64(leaf, new | P | RW)
    assert client.monitor(f"walk {AREA:#x}").splitlines()[6].endswith("(4 KiB), STALE")
    assert f"data {AREA:#018x} PCID 0 frame {old:#x}" in client.monitor("tlb 0")
    guest.memory.write64(leaf, 0)
    gone = client.monitor(f"walk {AREA}").splitlines()
    assert gone[4].endswith("not present") and gone[5] == "  tables: not mapped"


def test_a_walk_of_a_large_page_ends_at_its_level() -> None:
    client = Client(beginning(LongModeGuest()))
    lines = client.monitor("walk 0x1000").splitlines()
    assert lines[3].split()[0] == "PDE" and "PS" in lines[3] and "(2048 KiB)" in lines[4]


def test_the_walk_is_the_selected_thread_s(client: Client) -> None:
    assert client.monitor("walk 0x400000").startswith("CPU 0,")
    client.ask("Hg2")
    assert client.monitor("walk laight_watch").startswith("CPU 1,")
    assert client.monitor("tlb").startswith("CPU 1,") and client.monitor("apic 0").startswith("APIC 0:")


def test_goto_goes_anywhere(client: Client) -> None:
    recording = recorded("laight", "entry-exit")
    assert client.monitor("goto 102543").startswith("time 102543.")
    assert client.time == 102_543
    client.monitor("goto 90000")
    assert client.time == 90_000
    client.monitor("goto 99999999999")
    assert client.time == recording.time
    assert client.monitor("snapshot") == f"time {recording.time}, state {recording.state_hash}\n"
    client.monitor("goto 0")
    assert client.time == start_of("laight", "entry-exit")


def test_the_schedule_says_where_one_is(client: Client) -> None:
    start, slices = start_of("laight", "entry-exit"), len(list(recorded("laight", "entry-exit").schedule()))
    assert client.monitor("schedule") == f"time {start}: next is CPU 0\nslice 0 of {slices} in the recording\n"
    client.monitor("goto 102543")
    assert client.monitor("schedule").startswith(
        "time 102543: CPU 1 runs, for 968 of 1000 units more\nslice 170 of 315"
    )
    client.ask("P0=0010000000000000")
    text = client.monitor("schedule")
    assert "forked by what was written; slice 170, of which the first 170 are fixed" in text
    assert "written at time 102543: rax = 0x1000 on CPU 0" in text
    live = LongModeGuest()
    live.start(live.kernel_code("here: jmp here"))
    assert "live, slice 0, round robin" in Client(beginning(live)).monitor("schedule")


def test_findings_appear_when_they_have_happened(client: Client) -> None:
    assert client.monitor("findings") == "nothing found so far\n"
    client.monitor("goto 200000")
    text = client.monitor("findings")
    assert "stale-translation" in text and "laight_watch+" in text


def test_frames_pools_and_hooks_are_those_of_the_moment(client: Client) -> None:
    client.monitor("goto 102543")
    frames = client.monitor("frames")
    assert "0x217000: mapped, thread 3 page 1; before: thread 3 page 3; freed by exit_kernel" in frames
    assert client.monitor("pool").startswith("CPU 0: 3 frames 0x210000 0x211000 0x212000\nCPU 1: ")
    assert client.monitor("policy") == "entry-exit: map on kernel entry, unmap on exit\nno hook is in flight\n"
    client.monitor("goto 88098")
    runtime = client.protocol.target.timeline.session.runtime
    while not runtime.calls[0]:
        client.ask("vCont;s:1")
    assert "CPU 0: create_thread of thread" in client.monitor("policy")


def test_without_a_policy_there_is_nothing_to_show() -> None:
    client = Client(beginning(LongModeGuest()))
    assert client.monitor("policy") == "no policy is attached\n"
    assert client.monitor("frames").startswith("no policy") and client.monitor("findings").startswith("no policy")
    assert client.monitor("pool") == "the guest has given no pool of stack pages\n"


def test_an_apic_shows_what_waits() -> None:
    guest = LongModeGuest()
    guest.machine.apics[0].accept(0x41)
    guest.machine.apics[0].accept(0xF0)
    text = Client(beginning(guest)).monitor("apic 0")
    assert "  IRR: 0x41 0xf0\n  ISR: none\n" in text and "timer: off" in text


def test_a_listing_that_is_too_long_is_cut_saying_so() -> None:
    guest = LongModeGuest()
    guest.map(AREA, guest.frame())
    guest.run("mov ecx, 600\nagain: mov rax, [rbx]\nadd rbx, 4096\nloop again", rbx=0)
    for page in range(600):
        guest.map(AREA + 4096 * page, 0x100000)
        guest.load(AREA + 4096 * page)
    lines = Monitor(Client(beginning(guest)).protocol.target).run("tlb 0")
    assert len(lines) == 513 and lines[-1].startswith("... and ")
