"""Packets come through whole, and damaged ones are known for it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kstack.debug.packets import (
    MAX_PACKET,
    ProtocolError,
    Received,
    ReceivedKind,
    Receiver,
    escape,
    frame,
    number,
    numbers,
    octets,
    unescape,
)


def test_a_packet_is_framed_as_in_the_manual() -> None:
    assert frame(b"OK") == b"$OK#9a"
    assert escape(b"a#b$c}d*e") == b"a}\x03b}\x04c}]d}\ne"


@given(st.binary())
def test_what_is_escaped_comes_back(data: bytes) -> None:
    assert unescape(escape(data)) == data
    assert not {*b"#$*"} & {*escape(data)}


@given(st.lists(st.binary(max_size=40), max_size=5), st.integers(1, 9))
def test_packets_come_through_however_they_are_cut(packets: list[bytes], step: int) -> None:
    stream = b"".join(frame(escape(packet)) for packet in packets)
    receiver = Receiver()
    events = [event for at in range(0, len(stream), step) for event in receiver.feed(stream[at : at + step])]
    assert events == [Received(ReceivedKind.PACKET, packet) for packet in packets]


def test_acknowledgements_and_interrupts_are_told_from_noise() -> None:
    kinds = [event.kind for event in Receiver().feed(b"+xx\x03-#00")]
    assert kinds == [ReceivedKind.ACK, ReceivedKind.INTERRUPT, ReceivedKind.NAK]


def test_byte_03_inside_a_packet_is_data() -> None:
    assert Receiver().feed(frame(b"X\x03")) == [Received(ReceivedKind.PACKET, b"X\x03")]


@pytest.mark.parametrize("stream", [b"$OK#9b", b"$OK#zz", b"$OK#+9", b"$" + b"a" * (MAX_PACKET + 1) + b"#00"])
def test_a_damaged_packet_is_known(stream: bytes) -> None:
    assert [event.kind for event in Receiver().feed(stream)] == [ReceivedKind.DAMAGED]


def test_a_packet_longer_than_promised_is_refused_though_its_sum_is_right() -> None:
    receiver = Receiver()
    assert receiver.feed(frame(b"a" * (MAX_PACKET + 1))) == [Received(ReceivedKind.DAMAGED)]
    assert receiver.feed(frame(b"a" * MAX_PACKET)) == [Received(ReceivedKind.PACKET, b"a" * MAX_PACKET)]


def test_a_packet_that_was_cut_off_gives_way_to_the_next() -> None:
    assert Receiver().feed(b"$m10" + frame(b"g")) == [Received(ReceivedKind.PACKET, b"g")]


@pytest.mark.parametrize("text", [b"", b"-1", b"+1", b"0x1", b"1_0", b" 1", b"1" * 17, b"g"])
def test_what_is_no_number_is_refused(text: bytes) -> None:
    with pytest.raises(ProtocolError):
        number(text)


def test_numbers_and_octets_are_taken_whole_or_not_at_all() -> None:
    assert numbers(b"ff,10") == [255, 16]
    assert octets(b"00fF") == b"\x00\xff"
    for wrong in (b"ff", b"ff,", b"1,2,3"):
        with pytest.raises(ProtocolError):
            numbers(wrong)
    for wrong in (b"0", b"0g", b"0 "):
        with pytest.raises(ProtocolError):
            octets(wrong)
