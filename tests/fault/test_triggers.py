"""A fault happens at its moment and at no other: executions, repetitions, shadows, nested faults, policies' steps."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from kstack.base.errors import ConfigError, PolicyError
from kstack.fault import At, Fault, Flush, Injector, Moment, Send, Step, Where
from kstack.fault.actions import GARBAGE
from kstack.hw.cpu.state import ActivityState
from kstack.inject import Trial, TrialPair, census, faults_at
from kstack.inject.sites import LATE
from kstack.machine import FOR_EVER
from kstack.stacks.oracle import Kind
from kstack.x86.registers import Gpr
from tests.support.boots import kinds_of
from tests.support.faults import Answers, bare, flip, injector_of, run_to_halt, session_with
from tests.support.long_mode import AREA, LongModeGuest


@pytest.mark.parametrize("nth", [1, 2, 5])
@pytest.mark.parametrize("after", [False, True])
def test_before_and_after_the_nth_execution(nth: int, after: bool) -> None:
    """Each turn copies r9 and adds it up: the sum tells in which turn it was changed, and on which side of the copy."""
    guest = LongModeGuest()
    address = guest.kernel_code("mov ecx, 5\nagain:\nadd r10, 1\nmov r8, r9\nadd r11, r8\ndec ecx\njnz again\nhlt")
    place = address + 5 + 4
    injector = bare(guest, {"copy": place}, flip(At("copy", nth=nth, after=after)))
    run_to_halt(guest, injector, address, r9=0, r10=0, r11=0)
    assert guest.gpr(Gpr.R9) == 1
    assert guest.gpr(Gpr.R11) == 5 - (nth - 1) - after, "turns that copied the changed value"
    assert injector.fired[0] is not None


def test_it_does_not_happen_if_there_are_not_so_many() -> None:
    guest = LongModeGuest()
    address = guest.kernel_code("mov ecx, 5\nagain:\nmov r8, r9\ndec ecx\njnz again\nhlt")
    injector = bare(guest, {"copy": address + 5}, flip(At("copy", nth=6)))
    run_to_halt(guest, injector, address, r9=0)
    assert guest.gpr(Gpr.R9) == 0
    assert injector.fired == [None]


def growing() -> tuple[LongModeGuest, int]:
    """A guest whose page fault handler maps the page, and code that loads from it twice."""
    guest = LongModeGuest()
    leaf, frame = guest.entry(AREA), guest.frame(7)
    fix = f"push rax\nmov rax, {hex(leaf)}\nmov rcx, {hex(frame | 3)}\nmov [rax], rcx\npop rax\nadd rsp, 8\niretq"
    guest.gate(14, guest.kernel_code(fix))
    return guest, guest.kernel_code("mov rdx, [rbx]\nmov rdx, [rbx]\nhlt")


def test_an_instruction_that_faults_and_is_tried_again_is_one_execution() -> None:
    guest, load = growing()
    injector = bare(
        guest, {"load": load}, flip(At("load", after=True)), flip(At("load"), "r10"), flip(At("load", nth=2))
    )
    start = guest.machine.time
    run_to_halt(guest, injector, load, rbx=AREA, r9=0)
    assert guest.gpr(Gpr.RDX) == 7
    assert guest.faults() == 1
    assert injector.fired == [start + 9, start, None], "when the load has retired, behind the handler; before it; never"


def test_a_repetition_is_one_execution() -> None:
    guest = LongModeGuest()
    address = guest.kernel_code("mov ecx, 4\nrep stosb\nmov r8, r9\nmov ecx, 3\njmp .Lon\n.Lon:\nhlt")
    place = address + 5
    frame = guest.frame()
    for nth, after, r8 in ((1, True, 1), (1, False, 1), (2, False, 0)):
        injector = bare(guest, {"rep": place}, flip(At("rep", nth=nth, after=after)))
        run_to_halt(guest, injector, address, rdi=frame, r9=0, r8=0)
        assert guest.gpr(Gpr.R8) == r8
        assert guest.gpr(Gpr.RDI) == frame + 4, "the whole of it"
        if after:
            assert guest.gpr(Gpr.R9) == 1


def test_an_nmi_injected_in_an_interrupt_shadow_waits_for_its_end() -> None:
    """MOV SS holds off NMIs for one instruction (SDM 6.8.3)."""
    guest = LongModeGuest()
    guest.gate(2, guest.kernel_code("mov r8, [rsp]\nhlt"))
    address = guest.kernel_code("mov ax, ss\nmov ss, ax\nnop\nmov r9, 1\nhlt")
    shadowed = address + 3 + 2
    injector = bare(guest, {"nop": shadowed}, Fault("nmi", At("nop")))
    run_to_halt(guest, injector, address, r9=0)
    assert guest.gpr(Gpr.R8) == shadowed + 1, "it interrupts behind the instruction"
    assert guest.gpr(Gpr.R9) == 0


def test_a_fault_of_another_cpu_hits_that_cpu() -> None:
    guest = LongModeGuest(cpus=2)
    address = guest.kernel_code("nop\nnop\nhlt")
    guest.start(address, 1, r9=0)
    injector = bare(guest, {"here": address + 1}, Fault("flip-register", At("here"), cpu=1, register="r9", bit=4))
    run_to_halt(guest, injector, address, r9=0)
    assert guest.gpr(Gpr.R9, 0) == 0
    assert guest.gpr(Gpr.R9, 1) == 16


def test_a_trigger_of_one_cpu_does_not_count_another_s_executions() -> None:
    guest = LongModeGuest(cpus=2)
    address = guest.kernel_code("nop\nhlt")
    injector = bare(guest, {"here": address}, flip(At("here", cpu=1)))
    run_to_halt(guest, injector, address, 0, r9=0)
    assert injector.fired == [None]
    run_to_halt(guest, injector, address, 1, r9=0)
    assert guest.gpr(Gpr.R9, 1) == 1


def test_triggers_of_one_cpu_are_of_that_cpu() -> None:
    """Behind an instruction, at a value, at an INVLPG and at a policy's step."""
    guest = LongModeGuest(cpus=2)
    address = guest.kernel_code("mov r8d, 5\ninvlpg [rbx]\nhlt")
    faults = [
        flip(At("here", cpu=1, after=True)),
        flip(Where("r8", 5, cpu=1), "r10"),
        Fault("drop-invlpg", Flush(cpu=1)),
    ]
    injector = bare(guest, {"here": address}, *faults)
    run_to_halt(guest, injector, address, 0, r9=0, r10=0, rbx=AREA)
    assert injector.fired == [None, None, None]
    run_to_halt(guest, injector, address, 1, r9=0, r10=0, rbx=AREA)
    assert None not in injector.fired
    assert [guest.gpr(register, 1) for register in (Gpr.R9, Gpr.R10)] == [1, 1]
    found = {}
    for cpu in (None, 0, 1):
        one = session_with("switch-sp-ipi", Fault("raise", Step("WaitForAck", cpu=cpu)))
        with pytest.raises(PolicyError):
            one.run()
        found[cpu] = injector_of(one).fired[0]
    assert found[None] in (found[0], found[1])
    assert found[0] != found[1]


@pytest.mark.parametrize("nth", [1, 2, 3, 4, 5])
def test_an_execution_that_is_given_up_is_one_and_the_next_there_another(nth: int) -> None:
    """The handler goes on behind the load that faults, as a fixup of a kernel's does, and gives it a page for the next turn."""
    guest = LongModeGuest()
    guest.map(AREA + 0x1000, guest.frame(7))
    fix = f"add qword ptr [rsp+8], 3\nadd rsp, 8\nmov rbx, {hex(AREA + 0x1000)}\niretq"
    guest.gate(14, guest.kernel_code(fix))
    address = guest.kernel_code("mov ecx, 4\nagain:\nmov rdx, [rbx]\nadd r10, r9\ndec ecx\njnz again\nhlt")
    injector = bare(guest, {"load": address + 5}, flip(At("load", nth=nth)))
    run_to_halt(guest, injector, address, rbx=AREA, r9=0, r10=0)
    assert guest.gpr(Gpr.R10) == max(0, 5 - nth), "turns from there on"
    assert (injector.fired[0] is None) == (nth == 5)


def test_what_is_to_come_comes_while_every_cpu_sleeps() -> None:
    """An IPI that is late wakes the CPU that waits for it, and an interrupt comes at its moment."""
    pair = TrialPair("switch-sp-ipi", "quiet-then-deep-migrate")
    found = census(pair)
    late = [Trial(pair, fault, site, found.usual).run() for fault, site in faults_at("delay-ipi", found, 12)]
    assert {one.outcome for one in late} == {"masked"}
    assert any(one.time > found.usual.time + LATE // 2 for one in late)
    asleep = TrialPair("entry-exit", "hotplug")
    end = asleep.session().run()
    assert end.ended == "asleep"
    one = asleep.session()
    injector = Injector(one, [Fault("timer", Moment(end.time + 50), vector=0x20, cpu=0)])
    one.run()
    assert injector.fired == [end.time + 50]


def test_a_moment_is_exact_in_the_middle_of_a_slice() -> None:
    guest = LongModeGuest()
    address = guest.kernel_code("mov ecx, 100\nagain:\ninc r8\nadd r11, r9\ndec ecx\njnz again\nhlt")
    for time in (1, 2, 3, 150):
        injector = bare(guest, {}, flip(Moment(guest.machine.time + time)))
        start = guest.machine.time
        run_to_halt(guest, injector, address, r8=0, r9=0, r11=0)
        assert injector.fired == [start + time]
        turns_before = max(0, time - 1 + 1) // 4 + (1 if (time - 1) % 4 >= 2 else 0)
        assert guest.gpr(Gpr.R11) == 100 - turns_before


def test_a_register_s_value_triggers_once() -> None:
    guest = LongModeGuest()
    address = guest.kernel_code("mov ecx, 9\nagain:\nadd r11, r9\ndec ecx\njnz again\nhlt")
    injector = bare(guest, {}, flip(Where("rcx", 4)))
    run_to_halt(guest, injector, address, r9=0, r11=0, rcx=0)
    assert guest.gpr(Gpr.R11) == 4


def test_what_is_skipped_has_no_effect() -> None:
    guest = LongModeGuest()
    address = guest.kernel_code("mov r8d, 1\nmov r9d, 1\nmov r10d, 1\nhlt")
    injector = bare(guest, {"here": address + 6}, Fault("skip", At("here")))
    run_to_halt(guest, injector, address, r8=0, r9=0, r10=0)
    assert [guest.gpr(register) for register in (Gpr.R8, Gpr.R9, Gpr.R10)] == [1, 0, 1]


def test_a_stalled_cpu_does_nothing_for_that_long_and_then_goes_on() -> None:
    guest = LongModeGuest(cpus=2)
    address = guest.kernel_code("nop\nnop\nhlt")
    spin = guest.kernel_code("mov ecx, 1000\nagain:\ndec ecx\njnz again\nhlt")
    injector = bare(guest, {"here": address + 1}, Fault("stall", At("here"), units=500))
    guest.start(address, 0)
    injector.advance(0, 10)
    assert guest.machine.cpus[0].registers.rip == address + 1
    assert 0 not in guest.machine.runnable()
    guest.start(spin, 1)
    injector.advance(1, 600)
    assert 0 in guest.machine.runnable()
    injector.advance(0, 10)
    assert guest.machine.cpus[0].state is ActivityState.HALTED


def test_time_jumps_to_the_end_of_a_stall_if_everybody_else_sleeps() -> None:
    guest = LongModeGuest()
    address = guest.kernel_code("nop\nhlt")
    injector = bare(guest, {"here": address}, Fault("stall", At("here"), units=777))
    start = guest.machine.time
    guest.start(address)
    injector.advance(0, 10)
    assert guest.machine.runnable() == []
    assert guest.machine.warp()
    assert guest.machine.time == start + 777
    hung = bare(guest, {"here": address}, Fault("hang", At("here")))
    guest.start(address)
    hung.advance(0, 10)
    assert guest.machine.stalls[0] == FOR_EVER
    assert not guest.machine.warp()


# --- IPIs, invalidations, policies


def test_a_dropped_ipi_leaves_the_sender_waiting() -> None:
    one = session_with("switch-sp-ipi", Fault("drop-ipi", Send(vector=0xF0)))
    result = one.run()
    assert injector_of(one).fired[0] is not None
    assert result.ended in ("bound", "deadlock", "asleep")


def test_a_delayed_ipi_is_only_late() -> None:
    late = session_with("switch-sp-ipi", Fault("delay-ipi", Send(vector=0xF0), units=3000))
    plain = session_with("switch-sp-ipi")
    result, usual = late.run(), plain.run()
    assert result.ended == usual.ended == "exit"
    assert not result.findings
    assert result.time > usual.time + 1000


def test_a_dropped_invalidation_shows_as_a_stale_read() -> None:
    """Every INVLPG of CPU 1 for the first shootdowns is lost: what the protocol is for."""
    faults = [Fault("drop-invlpg", Flush(nth=nth, cpu=1)) for nth in range(1, 13)]
    one = session_with("switch-sp-ipi", *faults)
    result = one.run()
    assert [fired for fired in injector_of(one).fired if fired is not None]
    assert Kind.STALE_TRANSLATION in kinds_of(result)


def test_an_acknowledgement_that_is_lost_is_waited_for_for_ever() -> None:
    result = session_with("switch-sp-ipi", Fault("lose-ack", Step("WaitForAck"))).run()
    assert result.ended in ("bound", "deadlock")


def test_a_step_is_counted_once_however_often_it_is_tried() -> None:
    """The policy waits for acknowledgements again and again; the second wait is the second step."""
    one = session_with("switch-sp-ipi", Fault("delay-ack", Step("WaitForAck", nth=2), units=2000))
    plain = session_with("switch-sp-ipi")
    steps: list[int] = []
    observer = SimpleNamespace(
        on_step=lambda cpu, call, step, answer, previous: (
            steps.append(one.machine.now()) if type(step).__name__ == "WaitForAck" else None
        ),
    )
    one.machine.instruments.add(observer)
    result = one.run()
    assert result.ended == plain.run().ended == "exit"
    assert steps[1] >= (injector_of(one).fired[0] or 0) + 2000
    assert steps[0] < (injector_of(one).fired[0] or 0)


def test_a_policy_that_fails_inside_a_step_is_an_error_of_the_policy() -> None:
    with pytest.raises(PolicyError, match="InjectedError"):
        session_with("entry-exit", Fault("raise", Step(nth=5))).run()


def test_a_step_that_never_ends_hangs_its_cpu() -> None:
    assert session_with("entry-exit", Fault("endless-step", Step(nth=5))).run().ended in ("bound", "deadlock", "asleep")


def test_the_nth_allocation_fails_and_no_other() -> None:
    one = session_with("switch-sp-ipi", Fault("fail-alloc", Step("TakePage", nth=4)))
    answers = Answers(one, "TakePage")
    one.run()
    assert [frame is None for frame in answers.found[:6]] == [False, False, False, True, False, False]


def test_the_nth_page_that_is_taken_is_full_of_something_and_no_other() -> None:
    one = session_with("switch-sp-ipi", Fault("corrupt-page", Step("TakePage", nth=2)))
    answers = Answers(one, "TakePage", lambda frame: one.machine.memory.read(frame, 4096) == GARBAGE)
    one.run()
    assert answers.found[:4] == [False, True, False, False]


def test_an_acknowledgement_that_is_there_too_early_is_not_waited_for() -> None:
    faults = [Fault("early-ack", Step("WaitForAck", nth=nth)) for nth in range(1, 30)]
    plain, early = session_with("switch-sp-ipi", quantum=20), session_with("switch-sp-ipi", *faults, quantum=20)
    for one in (plain, early):
        one.run()
    assert plain.runtime.counts.waits > plain.runtime.counts.lock_waits
    assert early.runtime.counts.waits == early.runtime.counts.lock_waits


def test_a_narrowed_request_is_one_page_short() -> None:
    plain, narrow = (
        session_with("switch-sp-ipi"),
        session_with("switch-sp-ipi", Fault("narrow-flush", Step("PostFlush"))),
    )
    pages: list[list[int]] = []
    for one in (plain, narrow):
        asked: list[int] = []
        pages.append(asked)
        post = one.runtime.kernel.post_flush

        def noted(
            cpu: int, target: int, start: int, number: int, touch: Any, post: Any = post, asked: list[int] = asked
        ) -> None:
            asked.append(number)
            post(cpu, target, start, number, touch)

        one.runtime.kernel.post_flush = noted  # type: ignore[method-assign]
        one.run()
    assert pages[0][0] == pages[1][0] + 1
    assert pages[0][1:3] == pages[1][1:3]


def test_a_fault_in_the_first_instruction_of_a_double_fault_s_handler_is_found() -> None:
    plain = session_with("fault-df", scenario="deep", quantum=1000).run()
    one = session_with(
        "fault-df", Fault("spurious-fault", At("trap_8"), address=0xFFFFC90000000000), scenario="deep", quantum=1000
    )
    result = one.run()
    assert injector_of(one).fired[0] is not None
    assert Kind.DOUBLE_FAULT not in kinds_of(plain)
    assert Kind.DOUBLE_FAULT in kinds_of(result)


# --- what makes no sense


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (Fault("nothing", Moment(1)), "does not exist"),
        (Fault("drop-ipi", Moment(1)), "its trigger must be one of send"),
        (Fault("flip-ram", Moment(1), address=1), "needs bit"),
        (Fault("nmi", Moment(1), bit=1), "takes no bit"),
        (Fault("nmi", At("nowhere")), "no symbol 'nowhere'"),
        (Fault("nmi", At("main_thread+x")), "symbol, symbol"),
        (Fault("nmi", At("main_thread", nth=0)), "nth 0"),
        (Fault("nmi", Moment(1), cpu=7), "no CPU 7"),
        (Fault("flip-register", Moment(1), register="cr9", bit=1), "no register 'cr9'"),
        (Fault("flip-register", Moment(1), register="rax", bit=64), "bit 64"),
        (Fault("lose-ack", Step("TakePage")), "its step must be WaitForAck"),
        (Fault("nmi", Where("eax", 1)), "no register 'eax'"),
        (Fault("nmi", Where("rax", 1 << 70)), "value .* of its trigger is not 0 to"),
        (Fault("nmi", Moment(-5)), "time -5 of its trigger is not 0 to"),
        (Fault("drop-ipi", Send(vector=999)), "vector 999 of its trigger is not 0 to 255"),
        (Fault("raise", Step("WritePteX")), "there is no step 'WritePteX'; there are ReadPte"),
        (Fault("nmi", At("0xffffffffffffffffffff")), "symbol, symbol"),
    ],
)
def test_what_makes_no_sense_is_one_clear_error(fault: Fault, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        session_with("fixed-16k", fault)


def test_a_step_that_somebody_derives_from_keeps_its_name() -> None:
    """In a process in which a policy's file was read before faults were."""
    code = """
from kstack.stacks import steps
class Mine(steps.ReadPte): pass
from kstack.fault.records import STEP_NAMES
print(*STEP_NAMES)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "ReadPte" in done.stdout.split()
