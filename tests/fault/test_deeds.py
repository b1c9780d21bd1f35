"""Each thing that can go wrong does what it says, and nothing else."""

from __future__ import annotations

import msgspec
import pytest

from kstack.fault import Fault, Injector, Moment, Send
from kstack.hw.apic.apic import DeliveryMode
from kstack.hw.modes import Modes
from kstack.machine import FOR_EVER
from kstack.x86.registers import Gpr
from tests.support.faults import Answers, bare, run_to_halt, session_with
from tests.support.long_mode import AREA, LongModeGuest


def ipis(*faults: Fault) -> tuple[LongModeGuest, Injector, list[int]]:
    """CPU 0 sends vectors 0x50, 0x51, 0x52 to CPU 1: which arrive, in which order."""
    guest = LongModeGuest(cpus=2)
    arrived: list[int] = []
    guest.machine.arrive = lambda ipi: arrived.append(ipi.vector)  # type: ignore[method-assign]
    injector = bare(guest, {}, *faults)
    for vector in (0x50, 0x51, 0x52):
        guest.machine.send(0, (1,), DeliveryMode.FIXED, vector)
    return guest, injector, arrived


@pytest.mark.parametrize(
    ("what", "nth", "vectors"),
    [
        ("drop-ipi", 2, [0x50, 0x52]),
        ("duplicate-ipi", 2, [0x50, 0x51, 0x51, 0x52]),
        ("reorder-ipi", 1, [0x51, 0x50, 0x52]),
        ("reorder-ipi", 3, [0x50, 0x51]),
        ("drop-ipi", 4, [0x50, 0x51, 0x52]),
    ],
)
def test_which_ipis_arrive_and_in_which_order(what: str, nth: int, vectors: list[int]) -> None:
    assert ipis(Fault(what, Send(nth)))[2] == vectors


def test_only_ipis_of_the_vector_and_the_sender_count() -> None:
    assert ipis(Fault("drop-ipi", Send(vector=0x52)))[2] == [0x50, 0x51]
    assert ipis(Fault("drop-ipi", Send(cpu=1)))[2] == [0x50, 0x51, 0x52]


def test_a_late_ipi_arrives_at_its_time_in_the_middle_of_a_slice() -> None:
    guest, injector, arrived = ipis(Fault("delay-ipi", Send(2), units=30))
    assert arrived == [0x50, 0x52]
    assert injector.pending
    sent = guest.machine.time
    times: list[int] = []
    guest.machine.arrive = lambda ipi: times.append(guest.machine.time)  # type: ignore[method-assign]
    guest.start(guest.kernel_code("mov ecx, 100\nagain:\ndec ecx\njnz again\nhlt"))
    injector.advance(0, 100)
    assert times == [sent + 30]
    assert not injector.pending


def deed(guest: LongModeGuest, fault: Fault, text: str = "nop\nnop\nhlt", **gprs: int) -> Injector:
    """Let a fault happen at time 1 of some code."""
    address = guest.kernel_code(text)
    injector = bare(guest, {}, msgspec.structs.replace(fault, when=Moment(guest.machine.time + 1)))
    run_to_halt(guest, injector, address, **gprs)
    return injector


NOW = Moment(0)


def test_a_bit_of_ram_is_flipped_and_no_other() -> None:
    guest = LongModeGuest()
    frame = guest.frame(0b1010)
    deed(guest, Fault("flip-ram", NOW, address=frame, bit=0))
    assert (guest.memory.read64(frame), guest.memory.read64(frame + 8)) == (0b1011, 0)
    deed(guest, Fault("flip-ram", NOW, address=frame, bit=3))
    assert guest.memory.read64(frame) == 0b0011


def test_a_bit_of_an_entry_is_flipped_in_memory_and_not_in_the_tlb() -> None:
    guest = LongModeGuest()
    leaf = guest.map(AREA, guest.frame(7))
    before = guest.memory.read64(leaf)
    deed(guest, Fault("flip-pte", NOW, address=AREA, bit=0), "mov rax, [rbx]\nmov rdx, [rbx]\nhlt", rbx=AREA)
    assert guest.memory.read64(leaf) == before ^ 1
    assert guest.gpr(Gpr.RDX) == 7
    assert guest.load(AREA) == 7, "it is cached"
    deed(guest, Fault("evict-tlb", NOW, address=AREA))
    assert guest.load(AREA) is None, "and now it is not"


def test_a_fill_caches_what_the_tables_say_now() -> None:
    guest = LongModeGuest(modes=Modes(speculation="sets-accessed"))
    leaf = guest.map(AREA, guest.frame(7))
    deed(guest, Fault("fill-tlb", NOW, address=AREA))
    assert guest.machine.cpus[0].mmu.data.lookup(AREA, 0) is not None
    guest.memory.write64(leaf, 0)
    assert guest.load(AREA) == 7


@pytest.mark.parametrize(
    ("fault", "vector"),
    [
        (Fault("spurious-fault", NOW, address=AREA), 14),
        (Fault("machine-check", NOW), 18),
        (Fault("nmi", NOW), 2),
        (Fault("timer", NOW, vector=0x77), 0x77),
    ],
)
def test_an_event_is_delivered_that_nothing_has_caused(fault: Fault, vector: int) -> None:
    guest = LongModeGuest()
    deed(guest, fault, "sti\nnop\nnop\nnop\nhlt")
    assert guest.vector() == vector
    if vector == 14:
        assert guest.machine.cpus[0].registers.cr[2] == AREA


def test_a_bit_of_rip_or_the_flags_is_flipped() -> None:
    guest = LongModeGuest()
    deed(guest, Fault("flip-register", NOW, register="rflags", bit=0), "clc\nsetc al\nhlt", rax=0)
    assert guest.gpr(Gpr.RAX) == 1


def test_a_cpu_that_goes_offline_is_gone_for_the_policy_too() -> None:
    hung, offline = (session_with("switch-sp-ipi", Fault(what, Moment(95_000), cpu=1)) for what in ("hang", "offline"))
    for one in (hung, offline):
        one.run()
        assert one.machine.stalls == {1: FOR_EVER}
    assert hung.runtime._execute.online == [0, 1]
    assert offline.runtime._execute.online == [0]


def test_a_drained_pool_has_no_page_left() -> None:
    one = session_with("switch-sp-ipi", Fault("drain-pool", Moment(95_000)))
    answers = Answers(one, "TakePage", lambda frame: (one.machine.now() >= 95_000, frame is None))
    one.run()
    assert (True, True) in answers.found
    assert (False, True) not in answers.found


@pytest.mark.parametrize(
    "fault",
    [
        Fault("flip-ram", Moment(1), address=0xFFFFFFFFFFFFFF00, bit=1),
        Fault("flip-pte", Moment(1), address=AREA, bit=1),
        Fault("flip-pte", Moment(1), address=1 << 63, bit=1),
    ],
)
def test_what_there_is_nothing_to_do_to_has_not_happened(fault: Fault) -> None:
    assert deed(LongModeGuest(), fault).fired == [None]
