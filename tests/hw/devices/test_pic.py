"""The two 8259A serve lines as a PC's do."""

from __future__ import annotations

from kstack.hw.devices.pic import PicPair


def linux_pics(auto_eoi: bool = False) -> PicPair:
    """As Linux's init_8259A leaves them, then unmasked."""
    pics = PicPair()
    for chip, base, cascade in ((pics.master, 0x30, 4), (pics.slave, 0x38, 2)):
        for offset, word in ((0, 0x11), (1, base), (1, cascade), (1, 3 if auto_eoi else 1), (1, 0)):
            chip.write(offset, 1, word)
    return pics


def test_a_masked_line_waits_until_it_is_unmasked() -> None:
    pics = linux_pics()
    pics.master.write(1, 1, 0xFF)
    assert pics.master.read(1, 1) == 0xFF
    pics.raise_irq(4)
    assert pics.pending() is None
    pics.master.write(1, 1, 0xEF)
    assert pics.pending() == 0x34


def test_lines_are_served_by_priority_and_lower_ones_wait_for_eoi() -> None:
    pics = linux_pics()
    pics.raise_irq(4)
    pics.raise_irq(1)
    assert pics.acknowledge() == 0x31
    assert pics.pending() is None
    pics.raise_irq(0)
    assert pics.acknowledge() == 0x30
    for _ in range(2):
        pics.master.write(0, 1, 0x20)
    assert pics.acknowledge() == 0x34
    pics.master.write(0, 1, 0x0B)
    assert pics.master.read(0, 1) == 1 << 4
    pics.master.write(0, 1, 0x64)
    assert pics.master.read(0, 1) == 0


def test_the_second_chip_comes_through_line_2() -> None:
    pics = linux_pics()
    pics.raise_irq(8)
    pics.raise_irq(3)
    assert pics.acknowledge() == 0x38
    assert (pics.master.isr, pics.slave.isr) == (1 << 2, 1)
    assert pics.pending() is None
    pics.slave.write(0, 1, 0x20)
    pics.master.write(0, 1, 0x62)
    assert pics.acknowledge() == 0x33


def test_an_edge_is_remembered_once_and_a_level_is_no_new_edge() -> None:
    pics = linux_pics(auto_eoi=True)
    pics.raise_irq(5)
    pics.lower_irq(5)
    assert pics.acknowledge() == 0x35
    pics.raise_irq(5)
    assert pics.acknowledge() == 0x35
    pics.raise_irq(5)
    assert pics.pending() is None
    pics.pulse_irq(5)
    assert pics.pending() == 0x35


def test_with_nothing_asking_line_7_comes_and_is_not_in_service() -> None:
    pics = linux_pics()
    assert pics.acknowledge() == 0x37
    assert pics.master.isr == 0


def test_rotation_makes_the_line_just_served_the_lowest() -> None:
    pics = linux_pics()
    pics.raise_irq(3)
    pics.acknowledge()
    pics.master.write(0, 1, 0xA0)
    pics.raise_irq(3)
    pics.raise_irq(5)
    assert pics.acknowledge() == 0x35


def test_special_mask_lets_lower_lines_past_a_masked_one_in_service() -> None:
    pics = linux_pics()
    pics.raise_irq(1)
    pics.acknowledge()
    pics.raise_irq(6)
    pics.master.write(1, 1, 1 << 1)
    assert pics.pending() is None
    pics.master.write(0, 1, 0x68)
    assert pics.pending() == 0x36


def test_a_poll_takes_the_interrupt_by_a_read() -> None:
    pics = linux_pics()
    pics.raise_irq(6)
    pics.master.write(0, 1, 0x0C)
    assert pics.master.read(0, 1) == 0x86
    assert pics.master.isr == 1 << 6
    assert pics.master.read(0, 1) == 0, "IRR again"


def test_initialisation_forgets_everything() -> None:
    pics = linux_pics()
    pics.raise_irq(1)
    pics.raise_irq(2 + 8)
    pics.acknowledge()
    pics.slave.write(0, 1, 0x11)
    pics.master.write(0, 1, 0x11)
    assert (pics.master.irr, pics.master.isr, pics.slave.irr) == (0, 0, 0)
    assert pics.pending() is None


def test_special_mask_mode_can_be_left() -> None:
    pics = linux_pics()
    pics.raise_irq(1)
    pics.acknowledge()
    pics.raise_irq(6)
    pics.master.write(1, 1, 1 << 1)
    pics.master.write(0, 1, 0x68)
    pics.master.write(0, 1, 0x48)
    assert pics.pending() is None


def test_auto_eoi_ends_with_initialisation() -> None:
    pics = linux_pics(auto_eoi=True)
    pics.raise_irq(1)
    pics.acknowledge()
    assert pics.master.isr == 0
    for offset, word in ((0, 0x12), (1, 0x40), (1, 0)):  # alone, without ICW3 and ICW4
        pics.master.write(offset, 1, word)
    pics.pulse_irq(1)
    assert pics.acknowledge() == 0x41
    assert pics.master.isr == 1 << 1


def test_rotation_on_auto_eoi_can_be_switched() -> None:
    pics = linux_pics(auto_eoi=True)
    for command, second in ((0x80, 0x31), (0x00, 0x30)):
        pics.master.write(0, 1, 0xC7)
        pics.master.write(0, 1, command)
        pics.pulse_irq(0)
        assert pics.acknowledge() == 0x30
        pics.pulse_irq(0)
        pics.pulse_irq(1)
        assert pics.acknowledge() == second
        pics.acknowledge()


def test_the_lowest_priority_can_be_set_and_eoi_follows_it() -> None:
    pics = linux_pics()
    pics.master.write(0, 1, 0xC3)
    pics.raise_irq(1)
    assert pics.acknowledge() == 0x31
    pics.raise_irq(5)
    assert pics.acknowledge() == 0x35
    pics.master.write(0, 1, 0x20)
    assert pics.master.isr == 1 << 1, "5 is above 1 now"


def test_special_fully_nested_mode_takes_a_second_slave_interrupt() -> None:
    for icw4, expected in ((0x11, 0x38), (0x01, None)):
        pics = linux_pics()
        for offset, word in ((0, 0x11), (1, 0x30), (1, 4), (1, icw4), (1, 0)):
            pics.master.write(offset, 1, word)
        pics.raise_irq(9)
        pics.acknowledge()
        pics.raise_irq(8)
        assert pics.pending() == expected
