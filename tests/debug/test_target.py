"""What stops a machine, forwards and backwards."""

from __future__ import annotations

from pathlib import Path

import pytest

from kstack.debug.origin import Origin
from kstack.debug.points import Point, PointType
from kstack.debug.registers import REGISTERS
from kstack.debug.target import FORKED, Exited, StopReply, Target
from kstack.run.spec import RunSpec
from kstack.x86.entries import NX, RW, P
from kstack.x86.flags import Flags
from kstack.x86.registers import Gpr
from tests.support.debugger import beginning, laight
from tests.support.long_mode import AREA, FRAMES, LongModeGuest
from tests.support.recordings import recorded, time_at

RFLAGS = next(number for number, register in enumerate(REGISTERS) if register.name == "eflags")


class Debugged:
    """A target, what it has said, and shorthands.

    Args:
        start: where the run begins.
    """

    def __init__(self, start: Origin) -> None:
        self.said: list[str] = []
        self.polls = 0
        self.interrupt_at = -1
        self.target = Target(start, self.said.append, self._poll)

    def _poll(self) -> bool:
        self.polls += 1
        return self.polls == self.interrupt_at

    def on(self, kind: PointType, place: str | int, size: int = 8) -> int:
        """Set a point; its address."""
        symbols = self.target.timeline.origin.symbols
        address = symbols.address(place) if isinstance(place, str) else place
        assert address is not None
        self.target.points.add(Point(kind, address, size))
        return address

    def clear(self) -> None:
        """Take all points away."""
        self.target.points = type(self.target.points)(self.target.timeline.machine.memory)

    def at(self, cpu: int) -> str:
        """Where a CPU stands."""
        return self.target.timeline.origin.symbols.name(self.target.cpus[cpu].registers.rip)

    def rip(self, cpu: int = 0) -> int:
        """RIP."""
        return self.target.cpus[cpu].registers.rip

    @property
    def time(self) -> int:
        """Virtual time."""
        return self.target.timeline.time


@pytest.fixture
def run() -> Debugged:
    return Debugged(laight())


def watching() -> int:
    """When CPU 1 comes to the code that reads through a stale translation."""
    return time_at("laight", "entry-exit", "laight_watch", 1)


# --- breakpoints


def test_a_breakpoint_stops_before_its_instruction_on_the_cpu_that_comes_there(run: Debugged) -> None:
    run.on(PointType.SOFTWARE, "laight_watch")
    assert run.target.resume() == StopReply(5, 1, "swbreak")
    assert run.at(1) == "laight_watch" and run.time == watching()
    assert run.target.resume() == StopReply(5, 1, "swbreak"), "told once a place: it goes on"
    assert run.time > watching()


def test_hardware_breakpoints_are_told_apart(run: Debugged) -> None:
    run.on(PointType.HARDWARE, "laight_publish")
    assert run.target.resume() == StopReply(5, 0, "hwbreak")
    run.target.points.remove(Point(PointType.SOFTWARE, run.rip(0), 1))
    run.target.step_back(0)
    assert run.target.resume() == StopReply(5, 0, "hwbreak"), "taking away a software breakpoint leaves it"


def test_without_points_a_recording_runs_to_its_end(run: Debugged) -> None:
    assert run.target.resume() == StopReply(5, 0, "replaylog", "end")
    assert run.time == recorded("laight", "entry-exit").time
    assert run.target.timeline.machine.state_hash() == recorded("laight", "entry-exit").state_hash
    assert "the run ends here: exit" in run.said[-1]


def test_breakpoints_do_not_change_what_happens(run: Debugged) -> None:
    run.on(PointType.SOFTWARE, "event")
    run.on(PointType.WRITE, "published")
    run.on(PointType.ACCESS, "list_head")
    stops = 0
    while run.target.resume() != StopReply(5, 0, "replaylog", "end"):
        stops += 1
    assert stops > 10
    assert run.target.timeline.machine.state_hash() == recorded("laight", "entry-exit").state_hash


def test_a_step_crosses_a_switch_to_another_cpu_and_stops_at_its_breakpoint(run: Debugged) -> None:
    run.target.goto(92_000)
    other = run.on(PointType.SOFTWARE, "laight_publish")
    stop = run.target.resume((1,))
    assert stop == StopReply(5, 0, "swbreak") and run.rip(0) == other


# --- steps


def test_a_step_is_one_unit_of_its_cpu_while_others_run_as_they_did(run: Debugged) -> None:
    run.target.goto(watching())
    before = run.target.cpus[1].counts.instructions
    for done in range(1, 200):
        assert run.target.resume((1,)) == StopReply(5, 1)
        assert run.target.cpus[1].counts.instructions == before + done
    assert any(lane.cpu == 0 and lane.start > watching() for lane in run.target.timeline.lanes)


def test_stepping_back_visits_the_same_moments_in_reverse(run: Debugged) -> None:
    run.target.goto(watching())
    there = []
    for _ in range(40):
        there.append((run.target.resume((1,)), run.time, run.rip(1)))
    for _, _, rip in reversed(there[:-1]):
        assert run.target.step_back(1) == StopReply(5, 1)
        assert run.rip(1) == rip
        assert run.target.timeline.cpu == 1, "it is about to run"


def test_stepping_back_at_the_beginning_says_so(run: Debugged) -> None:
    assert run.target.step_back(0) == StopReply(5, 0, "replaylog", "begin")
    run.target.resume((0,))
    assert run.target.step_back(1) == StopReply(5, 0, "replaylog", "begin"), "CPU 1 has not run yet"


def test_stepping_back_over_a_context_switch_gives_the_thread_its_stack_again(run: Debugged) -> None:
    run.on(PointType.SOFTWARE, "context_switch")
    assert run.target.resume() == StopReply(5, 0, "swbreak")
    run.clear()
    rsp, path = [], []
    for _ in range(16):
        rsp.append(run.target.cpus[0].registers.gpr[Gpr.RSP])
        path.append(run.rip(0))
        run.target.resume((0,))
    switched = next(at for at in range(1, 16) if abs(rsp[at] - rsp[at - 1]) > 4096)
    for at in range(15, -1, -1):
        run.target.step_back(0)
        assert (run.rip(0), run.target.cpus[0].registers.gpr[Gpr.RSP]) == (path[at], rsp[at])
    assert 0 < switched < 16


def page_fault_guest() -> tuple[LongModeGuest, int, int]:
    """A store to a page that the handler maps; the guest, the store and the handler."""
    guest = LongModeGuest()
    frame = guest.frame(7)
    leaf = guest.map(AREA, frame)
    guest.memory.write64(leaf, 0)
    handler = guest.kernel_code(f"mov rax, {frame | P | RW | NX:#x}\nmov [{leaf:#x}], rax\nadd rsp, 8\niretq")
    guest.gate(14, handler)
    store = guest.kernel_code("mov [rbx], rcx\nnop\nhlt")
    guest.start(store, rbx=AREA, rcx=9)
    return guest, store, handler


def test_stepping_back_over_a_page_fault_undoes_its_delivery() -> None:
    guest, store, handler = page_fault_guest()
    run = Debugged(beginning(guest))
    rsp = guest.gpr(Gpr.RSP)
    run.target.resume((0,))
    assert run.rip() == handler and guest.machine.cpus[0].registers.cr[2] == AREA
    assert run.target.step_back(0) == StopReply(5, 0)
    assert (run.rip(), guest.gpr(Gpr.RSP), guest.machine.cpus[0].registers.cr[2]) == (store, rsp, 0)
    for _ in range(5):
        run.target.resume((0,))
    assert run.rip() == store, "the handler has mapped the page"
    run.target.resume((0,))
    assert run.rip() == store + 3
    run.target.step_back(0)
    run.target.step_back(0)
    assert guest.machine.memory.read(run.rip(), 2) == b"\x48\xcf", "the handler's IRETQ"


def test_stepping_back_over_a_unit_that_is_two_long() -> None:
    guest = LongModeGuest()
    handler = guest.kernel_code("iretq")
    guest.gate(1, handler)
    code = guest.kernel_code("nop\ncpuid\nnop")
    guest.start(code)
    run = Debugged(beginning(guest))
    run.target.resume((0,))
    run.target.write_register(0, RFLAGS, int(Flags.TF))
    before = run.time
    run.target.resume((0,))
    assert (run.time, run.rip()) == (before + 2, handler), "CPUID, and the trap behind it"
    assert run.target.step_back(0) == StopReply(5, 0)
    assert (run.time, run.rip()) == (before, code + 1)


def test_a_breakpoint_at_an_instruction_that_faults_stops_again_when_it_is_tried_again() -> None:
    guest, store, _ = page_fault_guest()
    run = Debugged(beginning(guest))
    run.on(PointType.SOFTWARE, store)
    assert run.target.resume() == StopReply(5, 0, "swbreak")
    assert run.target.resume() == StopReply(5, 0, "swbreak")
    assert guest.machine.cpus[0].counts.page_faults == 1 and run.rip() == store


def test_an_interrupt_that_comes_first_is_taken_before_the_breakpoint_stops() -> None:
    guest = LongModeGuest()
    guest.gate(0x41, guest.kernel_code("iretq"))
    code = guest.kernel_code("sti\nnop\nhere: nop\njmp here")
    guest.start(code)
    run = Debugged(beginning(guest))
    for _ in range(2):
        run.target.resume((0,))
    guest.machine.apics[0].accept(0x41)
    run.on(PointType.SOFTWARE, code + 2)
    assert run.target.resume() == StopReply(5, 0, "swbreak")
    assert guest.machine.cpus[0].counts.interrupts == 1


def test_instructions_that_python_carries_out_are_steps_like_others() -> None:
    guest = LongModeGuest()
    frames = [guest.frame(1), guest.frame(2)]
    leaf = guest.map(AREA, frames[0])
    code = guest.kernel_code(f"""
        mov rax, [rbx]
        mov dword ptr [{leaf:#x}], {frames[1] | P | RW:#x}
        mov rax, [rbx]
        invlpg [rbx]
        mov rax, [rbx]
        mov al, 0x55
        out 0xe9, al
        cpuid
        hlt""")
    guest.start(code, rbx=AREA)
    run = Debugged(beginning(guest))
    rips, values = [code], []
    for _ in range(8):
        assert run.target.resume((0,)) == StopReply(5, 0)
        rips.append(run.rip())
        values.append(guest.gpr(Gpr.RAX))
    assert rips == sorted(set(rips)), "each step is the next instruction"
    assert values[:5] == [1, 1, 1, 1, 2]
    assert guest.machine.cpus[0].counts.invlpg == 1
    for at in range(7, -1, -1):
        run.target.step_back(0)
        assert run.rip() == rips[at]
        assert guest.machine.cpus[0].counts.invlpg == (at > 3)


def test_each_micro_step_of_a_hook_is_a_step_at_the_same_out(run: Debugged) -> None:
    timeline = run.target.timeline
    runtime = lambda: timeline.session.runtime  # noqa: E731 - a run going back makes a new one
    while not (runtime().calls[0] and timeline.cpu == 0):
        assert isinstance(run.target.resume((0,)), StopReply)
    out, done = run.rip(0), len(runtime().calls[0][-1].answers)
    run.target.resume((0,))
    assert run.rip(0) == out and len(runtime().calls[0][-1].answers) == done + 1
    run.target.step_back(0)
    assert run.rip(0) == out and len(runtime().calls[0][-1].answers) == done


def test_a_breakpoint_at_the_out_of_a_hook_stops_once_a_call(run: Debugged) -> None:
    timeline = run.target.timeline
    while not timeline.session.runtime.calls[0]:
        run.target.resume((0,))
    run.on(PointType.SOFTWARE, run.rip(0))  # the OUT of create_thread, which maps a stack
    run.target.goto(0)
    counts = []
    for _ in range(2):
        assert run.target.resume() == StopReply(5, 0, "swbreak")
        assert not timeline.session.runtime.calls[0], "the hook has not begun"
        counts.append((timeline.session.runtime.counts.hooks, timeline.session.runtime.counts.steps))
    assert counts[1][0] > counts[0][0] and counts[1][1] > counts[0][1] + 1


# --- watchpoints


def test_a_write_watchpoint_stops_after_a_store_and_backwards_before_it(run: Debugged) -> None:
    address = run.on(PointType.WRITE, "published")
    memory = run.target.timeline.machine.memory
    found = run.target.cpus[0].mmu.peek(address)
    assert found is not None
    where = found.frame + address % 4096
    stop = run.target.resume()
    assert stop == StopReply(5, 0, "watch", f"{address:x}")
    assert memory.read64(where) == 1
    after = run.time
    assert run.target.resume() == stop and memory.read64(where) == 2
    assert run.target.resume_back() == stop and memory.read64(where) == 1
    second = run.time
    assert run.target.resume_back() == stop and memory.read64(where) == 0
    assert run.time == after - 1 and second > after
    assert run.target.resume_back() == StopReply(5, 0, "replaylog", "begin")


@pytest.mark.parametrize("kind", [PointType.WRITE, PointType.ACCESS])
def test_a_watchpoint_beside_a_store_stays_silent_and_one_on_its_last_byte_does_not(kind: PointType) -> None:
    guest = LongModeGuest()
    guest.start(guest.kernel_code("mov [rbx], rcx\nmov al, 0\nout 0xf4, al"), rbx=FRAMES + 8, rcx=(1 << 64) - 1)
    run = Debugged(beginning(guest))
    run.on(kind, FRAMES, 8)
    run.on(kind, FRAMES + 16, 1)
    assert run.target.resume() == Exited(0)
    run.target.goto(0)
    run.on(kind, FRAMES + 15, 1)
    assert run.target.resume() == StopReply(5, 0, "watch" if kind is PointType.WRITE else "awatch", f"{FRAMES + 15:x}")


def test_a_read_watchpoint_stops_at_the_reader_and_not_at_the_writer(run: Debugged) -> None:
    address = run.on(PointType.READ, "published")
    assert run.target.resume() == StopReply(5, 1, "rwatch", f"{address:x}")
    assert run.at(1) == "laight_watch+0x14", "behind the comparison"
    after = run.time
    assert run.target.resume_back() == StopReply(5, 1, "rwatch", f"{address:x}")
    assert (run.at(1), run.time) == ("laight_watch+0xd", after - 1), "before it"
    assert run.target.resume_back() == StopReply(5, 0, "replaylog", "begin"), (
        "there was none earlier, though CPU 0 wrote"
    )


def test_an_access_watchpoint_sees_both(run: Debugged) -> None:
    run.on(PointType.ACCESS, "published")
    assert [run.target.resume().cpu for _ in range(4)] == [0, 1, 0, 1]  # type: ignore[union-attr] # these are stops


def test_an_access_watchpoint_sees_the_read_through_a_stale_translation(run: Debugged) -> None:
    recording = recorded("laight", "entry-exit")
    run.target.goto(recording.time)
    oracle = run.target.timeline.session.oracle
    assert oracle is not None
    finding = oracle.findings[0]
    run.target.goto(finding.time)
    assert run.target.timeline.cpu == finding.cpu and run.at(finding.cpu) == finding.symbol
    run.target.goto(finding.time - 5)
    word = finding.address & ~7
    run.on(PointType.ACCESS, word)
    stop = StopReply(5, finding.cpu, "awatch", f"{word:x}")
    assert run.target.resume() == stop and run.time == finding.time + 1
    assert run.target.resume_back() == stop and run.time == finding.time
    assert run.target.resume_back() == stop._replace(cpu=0), "who wrote what the tables give"


def test_an_access_that_faults_is_none_but_the_fault_of_a_push_is_seen_as_a_change() -> None:
    guest, store, handler = page_fault_guest()
    run = Debugged(beginning(guest))
    run.on(PointType.ACCESS, AREA)
    assert run.target.resume() == StopReply(5, 0, "awatch", f"{AREA:x}")
    assert run.rip() == store + 3, "after the second attempt"
    run.target.goto(0)
    run.clear()
    frame_rip = guest.stack() - 40
    run.on(PointType.WRITE, frame_rip)
    assert run.target.resume() == StopReply(5, 0, "watch", f"{frame_rip:x}")
    assert run.rip() == handler, "the event's frame was pushed"


def test_another_frame_with_other_bytes_is_no_write() -> None:
    guest = LongModeGuest()
    frames = [guest.frame(1), guest.frame(2)]
    leaf = guest.map(AREA, frames[0])
    guest.start(
        guest.kernel_code(f"mov [{leaf:#x}], rax\nmov rax, [rbx]\nmov [rbx], rcx"), rax=frames[1] | P | RW, rbx=AREA
    )
    run = Debugged(beginning(guest))
    run.on(PointType.WRITE, AREA)
    assert run.target.resume() == StopReply(5, 0, "watch", f"{AREA:x}")
    assert guest.memory.read64(frames[1]) == 0, "only the store to the page is"


def test_string_instructions_are_watched_by_iteration() -> None:
    guest = LongModeGuest()
    source, target = guest.frame(), guest.frame()
    guest.memory.write(source, bytes(range(1, 65)))
    guest.start(guest.kernel_code("rep movsb\nhlt"), rsi=source, rdi=target, rcx=64)
    run = Debugged(beginning(guest))
    run.on(PointType.WRITE, target + 40, 1)
    assert run.target.resume() == StopReply(5, 0, "watch", f"{target + 40:x}")
    assert guest.gpr(Gpr.RCX) == 64 - 41
    run.on(PointType.READ, source + 50, 1)
    assert run.target.resume() == StopReply(5, 0, "rwatch", f"{source + 50:x}")
    assert guest.gpr(Gpr.RCX) == 64 - 51


def test_a_policy_step_that_stores_an_entry_is_seen_through_the_tables() -> None:
    run = Debugged(laight())
    run.target.goto(98_000)
    before = run.target.timeline.session.runtime.counts.pte_writes
    thread = run.target.timeline.session.runtime.threads[3]
    leaf = run.target.cpus[0].mmu.leaf_address(thread.pages[2].address)
    assert leaf is not None
    alias = next(
        (base + leaf for base in (0xFFFF888000000000, 0xFFFFFFFF80000000) if run.target.cpus[0].mmu.peek(base + leaf)),
        None,
    )
    if alias is None:
        pytest.skip("the guest maps its tables nowhere")
    run.on(PointType.WRITE, alias)
    assert isinstance(run.target.resume(), StopReply)
    assert run.target.timeline.session.runtime.counts.pte_writes > before


def test_watching_an_address_that_is_not_mapped_or_not_canonical_does_nothing(run: Debugged) -> None:
    for address in (0x1234_0000_0000, 0x8000_0000_0000_0000, (1 << 64) - 4):
        run.on(PointType.WRITE, address)
        run.on(PointType.ACCESS, address)
    assert run.target.resume() == StopReply(5, 0, "replaylog", "end")


# --- backwards


def test_going_back_stops_at_the_last_breakpoint_before_the_present(run: Debugged) -> None:
    run.on(PointType.SOFTWARE, "event")
    times = []
    for _ in range(4):
        run.target.resume()
        times.append(run.time)
    run.target.resume((0,))
    for time in reversed(times):
        assert run.target.resume_back().reason == "swbreak"  # type: ignore[union-attr] # a stop
        assert run.time == time
    assert run.target.resume_back() == StopReply(5, 0, "replaylog", "begin")
    assert run.target.resume() == StopReply(5, 0, "swbreak") and run.time == times[0]


def test_going_back_without_points_goes_to_the_beginning(run: Debugged) -> None:
    begin = run.time
    run.target.goto(watching())
    assert run.target.resume_back() == StopReply(5, 0, "replaylog", "begin")
    assert run.time == begin


# --- interruptions and ends


def test_an_interruption_stops_a_run_that_would_not_end() -> None:
    guest = LongModeGuest()
    guest.start(guest.kernel_code("here: jmp here"))
    run = Debugged(beginning(guest))
    run.interrupt_at = 3
    assert run.target.resume() == StopReply(2, 0)
    run.on(PointType.SOFTWARE, 0x1234)
    run.interrupt_at = 5
    assert run.target.resume() == StopReply(2, 0)
    run.interrupt_at = 6
    assert run.target.resume_back() == StopReply(2, 0)


@pytest.mark.parametrize(("value", "status"), [(0x10, 0), (0x00, 0), (0x11, 0x11), (0x12, 0x12)])
def test_the_exit_of_a_live_guest_is_its_own(value: int, status: int) -> None:
    guest = LongModeGuest()
    guest.start(guest.kernel_code(f"mov al, {value}\nout 0xf4, al\nhere: jmp here"))
    run = Debugged(beginning(guest))
    assert run.target.resume() == Exited(status)
    assert run.target.resume() == Exited(status)
    assert run.target.step_back(0) == StopReply(5, 0), "going back brings it to life"


def test_a_guest_that_dies_can_be_looked_at() -> None:
    guest = LongModeGuest()
    guest.no_gate(14)
    guest.no_gate(13)
    guest.no_gate(11)
    guest.no_gate(8)
    guest.start(guest.kernel_code("mov rax, [rbx]"), rbx=AREA)
    run = Debugged(beginning(guest))
    assert run.target.resume() == StopReply(5, 0, "replaylog", "end")
    assert "shutdown" in run.said[-1]


def test_a_policy_that_does_what_none_may_ends_the_run_saying_so(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text(
        "from kstack.policies.entry_exit import EntryExit\n"
        "class Broken(EntryExit):\n"
        "    id = 'broken'\n"
        "    def exit_kernel(self, cpu, thread):\n"
        "        yield 'nonsense'\n"
    )
    run = Debugged(Origin.of_setup(RunSpec("laight", 2, policy=str(broken))))
    assert run.target.resume() == StopReply(5, 0, "replaylog", "end")
    assert "yielded 'nonsense', which is no micro-step" in run.said[-1]
    end = run.time
    assert run.target.step_back(0) == StopReply(5, 0) and run.time < end


# --- writing


def test_the_user_is_told_once_that_writing_forks(run: Debugged) -> None:
    run.target.goto(95_000)
    run.target.write_memory([(0x300000, b"x")])
    run.target.write_register(0, 0, 1)
    assert run.said == [FORKED]


def test_writing_in_a_live_run_needs_no_telling() -> None:
    guest = LongModeGuest()
    guest.start(guest.kernel_code("here: jmp here"))
    run = Debugged(beginning(guest))
    run.target.write_memory([(FRAMES, b"x")])
    assert run.said == []
