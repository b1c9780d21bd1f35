"""The local APIC obeys SDM volume 3A, chapter 10; each rule has a test that fails without it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kstack.hw.apic.apic import ApicMode, DeliveryMode, LocalApic
from kstack.hw.apic.registers import Base, Error, Icr, Lvt, Reg, Svr
from kstack.hw.apic.timer import divisor
from kstack.hw.rules import ALL, Rule
from tests.support.rules import each_rule_of

ICR = 0x830
ICR_HIGH = 0x831
SELF_IPI = 0x83F
DIVIDE_BY_1 = 0b1011
LOGICAL = int(Icr.LOGICAL)
NMI = DeliveryMode.NMI << 8
INIT = DeliveryMode.INIT << 8
STARTUP = DeliveryMode.STARTUP << 8
LOWEST = DeliveryMode.LOWEST_PRIORITY << 8
SELF, EVERYONE, OTHERS = 1 << 18, 2 << 18, 3 << 18

Message = tuple[int, tuple[int, ...], DeliveryMode, int]


class Bus:
    """Keeps what is sent; nothing arrives until a test says so. Time stands where a test put it."""

    def __init__(self, cpus: int, rules: frozenset[Rule]) -> None:
        self.now = 0
        self.sent: list[Message] = []
        self._apics = [LocalApic(each, self, lambda: self.now, rules, each == 0) for each in range(cpus)]

    @property
    def apics(self) -> Sequence[LocalApic]:
        return self._apics

    def send(self, source: int, destinations: tuple[int, ...], mode: DeliveryMode, vector: int) -> None:
        self.sent.append((source, destinations, mode, vector))

    def destinations(self) -> list[tuple[int, ...]]:
        return [message[1] for message in self.sent]


def apics(cpus: int = 4, rules: frozenset[Rule] = ALL) -> Bus:
    """APICs in xAPIC mode, software-enabled."""
    bus = Bus(cpus, rules)
    for apic in bus.apics:
        store(apic, Reg.SVR, Svr.ENABLE | Svr.VECTOR)
    return bus


def x2apics(cpus: int = 4, rules: frozenset[Rule] = ALL) -> Bus:
    bus = apics(cpus, rules)
    for apic in bus.apics:
        assert apic.set_base_msr(apic.base_msr | Base.EXTD)
    return bus


def load(apic: LocalApic, register: int) -> int:
    return apic.read(register, 4)


def store(apic: LocalApic, register: int, value: int) -> None:
    apic.write(register, 4, value)


def command(apic: LocalApic, low: int, destination: int = 0) -> None:
    store(apic, Reg.ICR_HIGH, destination << 24)
    store(apic, Reg.ICR_LOW, low)


def in_service(apic: LocalApic) -> set[int]:
    words = [load(apic, Reg.ISR + 16 * at) for at in range(8)]
    return {bit for bit in range(256) if words[bit // 32] >> bit % 32 & 1}


# One check a rule: it passes with all rules and fails without that one.


def check_icr_low_sends(rules: frozenset[Rule]) -> None:
    bus = apics(rules=rules)
    store(bus.apics[0], Reg.ICR_HIGH, 2 << 24)
    assert bus.sent == []
    store(bus.apics[0], Reg.ICR_LOW, 0x41)
    assert bus.sent == [(0, (2,), DeliveryMode.FIXED, 0x41)]


def check_two_per_vector(rules: frozenset[Rule]) -> None:
    apic = apics(rules=rules).apics[0]
    apic.accept(0x41)
    apic.acknowledge()
    for _ in range(3):
        apic.accept(0x41)
    apic.eoi()
    assert apic.acknowledge() == 0x41
    apic.eoi()
    assert apic.pending() is None


def check_priority(rules: frozenset[Rule]) -> None:
    apic = apics(rules=rules).apics[0]
    store(apic, Reg.TPR, 0x40)
    apic.accept(0x4F)
    assert apic.pending() is None
    apic.accept(0x51)
    assert apic.acknowledge() == 0x51
    apic.accept(0x5F)
    assert apic.pending() is None, "in the class that is in service"


def check_eoi_highest(rules: frozenset[Rule]) -> None:
    apic = apics(rules=rules).apics[0]
    for vector in (0x31, 0x42, 0x53):
        apic.accept(vector)
        apic.acknowledge()
    store(apic, Reg.EOI, 0)
    assert in_service(apic) == {0x31, 0x42}


def check_x2apic_icr(rules: frozenset[Rule]) -> None:
    bus = x2apics(rules=rules)
    value = 3 << 32 | 0x41
    assert bus.apics[0].write_msr(ICR, value)
    assert bus.destinations() == [(3,)]
    assert bus.apics[0].read_msr(ICR) == value
    assert bus.apics[0].read_msr(ICR_HIGH) is None
    assert not bus.apics[0].write_msr(ICR_HIGH, 0)


def check_self_ipi(rules: frozenset[Rule]) -> None:
    bus = x2apics(rules=rules)
    assert bus.apics[1].write_msr(SELF_IPI, 0x77)
    assert bus.apics[1].pending() == 0x77
    assert bus.sent == []


test_rule_holds, test_the_rules_check_fails_without_the_rule = each_rule_of(globals())


# Registers and modes


def test_reset_values_are_the_manuals() -> None:
    apic = Bus(4, ALL).apics[3]
    assert load(apic, Reg.ID) == 3 << 24
    assert load(apic, Reg.VERSION) == 0x0005_0014
    assert load(apic, Reg.SVR) == 0xFF
    assert load(apic, Reg.DFR) == 0xFFFF_FFFF
    assert [load(apic, each) for each in range(Reg.LVT_TIMER, Reg.INITIAL, 16)] == [0x1_0000] * 6
    assert load(apic, Reg.LDR) == load(apic, Reg.TPR) == load(apic, Reg.ESR) == 0


def test_init_keeps_the_id_and_the_mode() -> None:
    apic = x2apics().apics[2]
    apic.accept(0x40)
    apic.reset()
    assert apic.mode is ApicMode.X2APIC
    assert apic.read_msr(0x802) == 2
    assert apic.read_msr(0x80F) == 0xFF
    assert apic.read_msr(0x822) == 0


def test_only_the_boot_cpu_has_the_bsp_flag() -> None:
    bus = apics()
    assert [bool(apic.base_msr & Base.BSP) for apic in bus.apics] == [True, False, False, False]


@pytest.mark.parametrize(
    ("start", "change", "allowed"),
    [
        ((Base.EN,), (Base.EN, Base.EXTD), True),
        ((Base.EN,), (), True),
        ((Base.EN, Base.EXTD), (), True),
        ((Base.EN, Base.EXTD), (Base.EN,), False),
        ((), (Base.EN, Base.EXTD), False),
        ((), (Base.EN,), True),
        ((Base.EN,), (Base.EXTD,), False),
        ((Base.EN,), (Base.EN, 1 << 9), False),
        ((Base.EN,), (Base.EN, 1), False),
    ],
)
def test_mode_changes_follow_figure_10_27(start: tuple[int, ...], change: tuple[int, ...], allowed: bool) -> None:
    apic = apics().apics[0]
    assert apic.set_base_msr(0xFEE0_0000 | sum(start))
    before = apic.base_msr
    assert apic.set_base_msr(0xFEE0_0000 | sum(change)) is allowed
    assert apic.base_msr == (0xFEE0_0000 | sum(change) if allowed else before)


def test_each_mode_has_its_own_way_in() -> None:
    old, new = apics().apics[0], x2apics().apics[0]
    assert (old.mmio_base, new.mmio_base) == (0xFEE0_0000, 0xFEE0_0000)
    assert old.mmio_enabled and not new.mmio_enabled
    assert old.read_msr(0x802) is None and not old.write_msr(0x808, 0)
    assert new.read(Reg.ID, 4) == 0xFFFF_FFFF


def test_a_disabled_apic_ignores_everything_and_is_no_destination() -> None:
    bus = apics()
    assert bus.apics[1].set_base_msr(0xFEE0_0000)
    bus.apics[1].accept(0x40)
    command(bus.apics[0], 0x41 | OTHERS)
    assert bus.apics[1].pending() is None
    assert bus.destinations() == [(2, 3)]


@pytest.mark.parametrize(
    ("msr", "value"),
    [
        (0x802, 0),  # ID
        (0x803, 0),  # version
        (0x808, 0x100),  # TPR, reserved bit
        (0x80A, 0),  # PPR
        (0x80B, 1),  # EOI
        (0x80D, 0),  # LDR
        (0x80E, 0),  # DFR
        (0x80F, 1 << 12),  # SVR, reserved bit
        (0x820, 0),  # IRR
        (0x828, 1),  # ESR
        (0x830, 1 << 12),  # ICR, delivery status
        (0x830, 1 << 20),  # ICR, reserved bit
        (0x832, 1 << 19),  # LVT timer, reserved bit
        (0x838, 1 << 32),  # initial count, upper half
        (0x839, 0),  # current count
        (0x83E, 1 << 2),  # divide, reserved bit
        (0x83F, 0x100),  # SELF IPI, reserved bit
        (0x83D, 0),  # nothing there
        (0x840, 0),  # past the end
    ],
)
def test_x2apic_refuses_read_only_and_reserved_writes(msr: int, value: int) -> None:
    apic = x2apics().apics[0]
    before = apic.snapshot()
    assert not apic.write_msr(msr, value)
    assert apic.snapshot() == before


@pytest.mark.parametrize("msr", [0x7FF, 0x800, 0x809, 0x80B, 0x80C, 0x80E, 0x82F, 0x831, 0x83F, 0x840])
def test_x2apic_refuses_reads_of_what_it_has_not(msr: int) -> None:
    assert x2apics().apics[0].read_msr(msr) is None


def test_tsc_deadline_bits_are_dropped_without_a_fault() -> None:
    apic = x2apics().apics[0]
    assert apic.write_msr(0x832, Lvt.TSC_DEADLINE | 0x40)
    assert apic.read_msr(0x832) == 0x40


def test_esr_shows_errors_only_after_a_write() -> None:
    apic = apics().apics[0]
    apic.accept(3)
    command(apic, 5)
    load(apic, 0x040)
    assert load(apic, Reg.ESR) == 0
    store(apic, Reg.ESR, 0)
    every = Error.SEND_ILLEGAL_VECTOR | Error.RECEIVE_ILLEGAL_VECTOR | Error.ILLEGAL_REGISTER
    assert load(apic, Reg.ESR) == every
    store(apic, Reg.ESR, 0)
    assert load(apic, Reg.ESR) == 0


def test_an_error_raises_the_error_vector_once_until_esr_is_written() -> None:
    apic = apics().apics[0]
    store(apic, Reg.LVT_ERROR, 0xFE)
    apic.accept(3)
    assert apic.acknowledge() == 0xFE
    apic.eoi()
    apic.accept(4)
    assert apic.pending() is None
    store(apic, Reg.ESR, 0)
    apic.accept(4)
    assert apic.pending() == 0xFE


def test_parts_of_a_register_can_be_read_and_the_gaps_are_zero() -> None:
    apic = apics().apics[0]
    store(apic, Reg.LVT_LINT0, Lvt.MASKED | 0x7_45)
    assert apic.read(Reg.LVT_LINT0 + 1, 1) == 7
    assert apic.read(Reg.LVT_LINT0 + 2, 2) == 1
    assert apic.read(Reg.LVT_LINT0, 8) == 0x1_0745
    assert apic.read(Reg.LVT_LINT0 + 4, 4) == 0


def test_only_whole_aligned_stores_write_a_register() -> None:
    apic = apics().apics[0]
    for offset, size in ((Reg.TPR + 1, 4), (Reg.TPR, 1), (Reg.TPR, 2), (Reg.TPR + 4, 4)):
        apic.write(offset, size, 0x55)
        assert load(apic, Reg.TPR) == 0
    apic.write(Reg.TPR, 8, 0x1234_5678_0000_0155)
    assert load(apic, Reg.TPR) == 0x55


def test_a_store_to_a_read_only_register_is_no_error_but_one_to_nothing_is() -> None:
    apic = apics().apics[0]
    store(apic, Reg.PPR, 0xFF)
    store(apic, Reg.ESR, 0)
    assert (load(apic, Reg.PPR), load(apic, Reg.ESR)) == (0, 0)
    store(apic, 0x040, 0)
    store(apic, Reg.ESR, 0)
    assert load(apic, Reg.ESR) == Error.ILLEGAL_REGISTER


def test_the_icrs_high_half_does_not_survive_the_switch_to_x2apic() -> None:
    apic = apics().apics[0]
    command(apic, 0x41, 3)
    assert apic.set_base_msr(apic.base_msr | Base.EXTD)
    assert apic.read_msr(ICR) == 0x41


def test_apr_is_the_highest_class_that_waits_or_is_served() -> None:
    apic = apics().apics[0]
    apic.accept(0x57)
    apic.acknowledge()
    assert load(apic, Reg.APR) == 0x50
    apic.accept(0x6A)
    assert load(apic, Reg.APR) == 0x60


# Interrupts


@given(st.lists(st.integers(16, 255), min_size=1))
def test_vectors_come_out_highest_first(vectors: list[int]) -> None:
    apic = apics().apics[0]
    for vector in vectors:
        apic.accept(vector)
    taken = []
    while apic.pending() is not None:
        taken.append(apic.acknowledge())
        apic.eoi()
    assert taken == sorted(set(vectors), reverse=True)


def test_with_nothing_pending_the_spurious_vector_comes_and_is_not_in_service() -> None:
    apic = apics().apics[0]
    assert apic.acknowledge() == 0xFF
    assert in_service(apic) == set()


def test_a_software_disabled_apic_takes_no_interrupt_but_is_sent_nmi_and_init() -> None:
    bus = Bus(2, ALL)
    bus.apics[1].accept(0x40)
    assert bus.apics[1].pending() is None
    command(bus.apics[0], NMI, 1)
    command(bus.apics[0], INIT | Icr.ASSERT | Icr.LEVEL, 1)
    command(bus.apics[0], STARTUP | 0x08, 1)
    assert [message[2:] for message in bus.sent] == [
        (DeliveryMode.NMI, 0),
        (DeliveryMode.INIT, 0),
        (DeliveryMode.STARTUP, 8),
    ]


def test_software_disable_masks_every_lvt_entry_until_it_ends() -> None:
    apic = apics().apics[0]
    store(apic, Reg.LVT_TIMER, 0x40)
    store(apic, Reg.SVR, 0xFF)
    assert load(apic, Reg.LVT_TIMER) == Lvt.MASKED | 0x40
    store(apic, Reg.LVT_TIMER, 0x40)
    assert load(apic, Reg.LVT_TIMER) == Lvt.MASKED | 0x40


def test_tmr_says_which_interrupts_were_level_triggered() -> None:
    apic = apics().apics[0]
    apic.accept(0x41, level=True)
    apic.accept(0x42)
    assert load(apic, Reg.TMR + 0x20) == 1 << 1


def test_ppr_is_the_tpr_or_the_class_in_service() -> None:
    apic = apics().apics[0]
    apic.accept(0x57)
    apic.acknowledge()
    store(apic, Reg.TPR, 0x33)
    assert load(apic, Reg.PPR) == 0x50
    store(apic, Reg.TPR, 0x5C)
    assert load(apic, Reg.PPR) == 0x5C


def test_the_8259_passes_in_virtual_wire_mode_only() -> None:
    apic = Bus(1, ALL).apics[0]
    assert not apic.passes_pic
    apic.virtual_wire()
    assert apic.passes_pic
    for lint0 in (Lvt.MASKED | DeliveryMode.EXTINT << 8, DeliveryMode.FIXED << 8 | 0x40):
        store(apic, Reg.LVT_LINT0, lint0)
        assert not apic.passes_pic
    assert apic.set_base_msr(0xFEE0_0000)
    assert apic.passes_pic, "without an APIC the line goes straight to the CPU"


# Commands


@pytest.mark.parametrize(
    ("low", "destination", "expected"),
    [
        (0x41, 2, [(2,)]),
        (0x41, 9, []),
        (0x41, 0xFF, [(0, 1, 2, 3)]),
        (0x41 | SELF, 0, [(1,)]),
        (0x41 | EVERYONE, 0, [(0, 1, 2, 3)]),
        (0x41 | OTHERS, 0, [(0, 2, 3)]),
        (0x41 | LOWEST | OTHERS, 0, [(0,)]),
        (0x41 | LOGICAL, 0b1010, [(1, 3)]),
        (0x41 | LOGICAL | LOWEST, 0b1100, [(2,)]),
        (NMI | OTHERS, 0, [(0, 2, 3)]),
        (INIT | Icr.LEVEL, 2, []),
        (INIT, 2, [(2,)]),
        (INIT | Icr.LEVEL | Icr.ASSERT, 2, [(2,)]),
        (NMI | SELF, 0, []),
        (INIT | EVERYONE, 0, []),
        (DeliveryMode.SMI << 8, 2, []),
        (0x0F, 2, []),
        (0x10, 2, [(2,)]),
    ],
)
def test_a_command_names_its_destinations(low: int, destination: int, expected: list[tuple[int, ...]]) -> None:
    bus = apics()
    for apic in bus.apics:
        store(apic, Reg.LDR, 1 << apic.apic_id << 24)
    command(bus.apics[1], low, destination)
    assert bus.destinations() == expected


def test_lowest_priority_passes_over_a_software_disabled_apic() -> None:
    bus = apics()
    store(bus.apics[0], Reg.SVR, 0xFF)
    command(bus.apics[3], 0x41 | LOWEST, 0xFF)
    assert bus.sent == [(3, (1,), DeliveryMode.FIXED, 0x41)]


def test_a_cluster_is_named_by_the_high_nibble() -> None:
    bus = apics()
    for apic, ldr in zip(bus.apics, (0x11, 0x12, 0x21, 0x22), strict=True):
        store(apic, Reg.DFR, 0)
        store(apic, Reg.LDR, ldr << 24)
    command(bus.apics[0], 0x41 | LOGICAL, 0x23)
    command(bus.apics[0], 0x41 | LOGICAL, 0xF1)
    assert bus.destinations() == [(2, 3), (0, 2)]


def test_x2apic_destinations_have_32_bits() -> None:
    bus = x2apics(20)
    sender = bus.apics[0]
    assert sender.write_msr(ICR, 0xFFFF_FFFF << 32 | 0x41)
    assert sender.write_msr(ICR, 0xFF << 32 | 0x41)
    assert sender.write_msr(ICR, 17 << 32 | 0x41)
    assert sender.write_msr(ICR, (1 << 16 | 0b0110) << 32 | LOGICAL | 0x41)
    assert bus.destinations() == [tuple(range(20)), (17,), (17, 18)]
    assert bus.apics[18].read_msr(0x80D) == 1 << 16 | 1 << 2


# Timer


def timer(initial: int, lvt: int = 0x40, divide: int = DIVIDE_BY_1) -> tuple[Bus, LocalApic]:
    bus = apics(1)
    apic = bus.apics[0]
    bus.now = 1000
    store(apic, Reg.DIVIDE, divide)
    store(apic, Reg.LVT_TIMER, lvt)
    store(apic, Reg.INITIAL, initial)
    return bus, apic


def test_divide_codes_are_the_manuals() -> None:
    codes = [0b0000, 0b0001, 0b0010, 0b0011, 0b1000, 0b1001, 0b1010, 0b1011]
    assert [divisor(code) for code in codes] == [2, 4, 8, 16, 32, 64, 128, 1]


def test_one_shot_fires_once_at_its_deadline() -> None:
    bus, apic = timer(50, divide=0b0011)
    assert apic.next_deadline() == 1000 + 50 * 16
    bus.now = 1000 + 49 * 16
    assert load(apic, Reg.CURRENT) == 1
    apic.advance(1799)
    assert apic.pending() is None
    apic.advance(1800)
    assert apic.acknowledge() == 0x40
    assert apic.next_deadline() is None


def test_a_periodic_timer_catches_up_with_one_interrupt_and_keeps_its_phase() -> None:
    bus, apic = timer(100, Lvt.PERIODIC | 0x40)
    bus.now = 1000 + 100 * 10**15 + 30
    apic.advance(bus.now)
    assert apic.acknowledge() == 0x40
    apic.eoi()
    assert apic.pending() is None
    assert apic.next_deadline() == bus.now + 70
    assert load(apic, Reg.CURRENT) == 70


@given(st.integers(1, 1000), st.integers(0, 5000), st.booleans())
def test_the_current_count_is_the_same_before_and_after_advance(initial: int, passed: int, periodic: bool) -> None:
    bus, apic = timer(initial, Lvt.PERIODIC | 0x40 if periodic else 0x40, divide=0b0000)
    bus.now += passed
    before = load(apic, Reg.CURRENT)
    apic.advance(bus.now)
    assert load(apic, Reg.CURRENT) == before <= initial


def test_a_masked_timer_counts_but_fires_nothing() -> None:
    bus, apic = timer(50, Lvt.MASKED | 0x40)
    assert apic.next_deadline() is None
    bus.now = 1060
    store(apic, Reg.LVT_TIMER, 0x40)
    apic.advance(2000)
    assert apic.pending() is None


def test_initial_count_zero_stops_the_timer() -> None:
    _, apic = timer(50)
    store(apic, Reg.INITIAL, 0)
    assert apic.next_deadline() is None
    assert load(apic, Reg.CURRENT) == 0


def test_a_new_divide_goes_on_from_the_current_count() -> None:
    bus, apic = timer(100)
    bus.now = 1040
    store(apic, Reg.DIVIDE, 0b0000)
    assert load(apic, Reg.CURRENT) == 60
    assert apic.next_deadline() == 1040 + 120


def test_a_restored_apic_goes_on_as_the_first_did() -> None:
    _, apic = timer(100, Lvt.PERIODIC | 0x40)
    apic.accept(0x80)
    apic.acknowledge()
    saved = apic.snapshot()
    hash(saved)
    apic.advance(5000)
    after = apic.snapshot()
    apic.reset()
    apic.restore(saved)
    assert apic.snapshot() == saved
    apic.advance(5000)
    assert apic.snapshot() == after
