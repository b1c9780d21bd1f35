"""Perfetto packets: tracks, slices, instants, counters and arrows, written one by one.

https://perfetto.dev/docs/reference/trace-packet-proto and synthetic-track-event: a trace is a sequence of packets;
one unit of virtual time is shown as one nanosecond.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import BinaryIO, Final, NamedTuple

from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import (
    CounterDescriptor,
    Trace,
    TracePacket,
    TrackDescriptor,
    TrackEvent,
)

PACKET: Final = Trace.PACKET_FIELD_NUMBER << 3 | 2  # in a `Trace`: a message, its size as a varint, its bytes
SEQUENCE: Final = 1
CLOCK: Final = 6  # BUILTIN_CLOCK_BOOTTIME: time as it stands, without snapshots of other clocks
HEXADECIMAL: Final = frozenset({"address", "frame", "pte", "error", "now frame"})
_U64: Final = (1 << 64) - 1


Annotations = Mapping[str, int | str | None]
"""What Perfetto shows of a slice or an instant by names: debug annotations."""


class FlowIds(NamedTuple):
    """Arrows of a slice or an instant, by their numbers: that pass through it, and that end there."""

    passing: Sequence[int] = ()
    ending: Sequence[int] = ()


NO_FLOWS: Final = FlowIds()


class Packets:
    """Writes packets.

    Args:
        file: to which they go.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._tracks = 0
        first = TracePacket(trusted_packet_sequence_id=SEQUENCE)
        first.sequence_flags = TracePacket.SEQ_INCREMENTAL_STATE_CLEARED
        first.trace_packet_defaults.timestamp_clock_id = CLOCK
        self._write(first)

    def _write(self, packet: TracePacket) -> None:
        data = packet.SerializeToString(deterministic=True)
        size, head = len(data), bytearray([PACKET])
        while size >= 0x80:
            head.append(size & 0x7F | 0x80)
            size >>= 7
        head.append(size)
        self._file.write(head + data)

    # --- tracks

    def process(self, name: str, order: int) -> int:
        """A group of tracks; the lower `order`, the higher up."""
        described = self._described()
        described.process.pid = order + 1  # 0 would be the idle process
        described.process.process_name = name
        described.child_ordering = TrackDescriptor.EXPLICIT
        return self._track(described)

    def track(self, name: str, parent: int, order: int) -> int:
        """A track of slices and instants in a group."""
        described = self._described(name, parent, order)
        described.sibling_merge_behavior = TrackDescriptor.SIBLING_MERGE_BEHAVIOR_NONE
        return self._track(described)

    def counter(self, name: str, parent: int, order: int, unit: str) -> int:
        """A track of numbers of something (`bytes`, or any word) in a group."""
        described = self._described(name, parent, order)
        if unit == "bytes":
            described.counter.unit = CounterDescriptor.UNIT_SIZE_BYTES
        else:
            described.counter.unit_name = unit
        return self._track(described)

    def _described(self, name: str = "", parent: int = 0, order: int = 0) -> TrackDescriptor:
        self._tracks += 1
        described = TrackDescriptor(uuid=self._tracks)
        if name:
            described.name, described.parent_uuid, described.sibling_order_rank = name, parent, order
        return described

    def _track(self, described: TrackDescriptor) -> int:
        self._write(TracePacket(trusted_packet_sequence_id=SEQUENCE, track_descriptor=described))
        return int(described.uuid)

    # --- what happens on them

    def begin(
        self, time: int, track: int, name: str, category: str, more: Annotations, arrows: FlowIds = NO_FLOWS
    ) -> None:
        """A slice begins.

        Args:
            time: virtual time.
            track: where.
            name: what is written on it.
            category: what it is coloured and found by.
            more: arguments by name; None is left out.
            arrows: that pass here, or end.
        """
        self._event(time, track, TrackEvent.TYPE_SLICE_BEGIN, name, category, more, arrows)

    def end(self, time: int, track: int) -> None:
        """The innermost slice ends."""
        packet = TracePacket(timestamp=time, trusted_packet_sequence_id=SEQUENCE)
        packet.track_event.type, packet.track_event.track_uuid = TrackEvent.TYPE_SLICE_END, track
        self._write(packet)

    def instant(
        self, time: int, track: int, name: str, category: str, more: Annotations, arrows: FlowIds = NO_FLOWS
    ) -> None:
        """Something without duration, as `begin`."""
        self._event(time, track, TrackEvent.TYPE_INSTANT, name, category, more, arrows)

    def count(self, time: int, track: int, value: int) -> None:
        """A counter's value from now on."""
        packet = TracePacket(timestamp=time, trusted_packet_sequence_id=SEQUENCE)
        event = packet.track_event
        event.type, event.track_uuid, event.counter_value = TrackEvent.TYPE_COUNTER, track, value
        self._write(packet)

    def _event(
        self,
        time: int,
        track: int,
        kind: int,
        name: str,
        category: str,
        more: Annotations,
        arrows: FlowIds,
    ) -> None:
        packet = TracePacket(timestamp=time, trusted_packet_sequence_id=SEQUENCE)
        event = packet.track_event
        event.type, event.track_uuid, event.name = kind, track, name
        event.categories.append(category)
        event.flow_ids.extend(arrows.passing)
        event.terminating_flow_ids.extend(arrows.ending)
        for key, value in more.items():
            if value is None or value == "":
                continue
            note = event.debug_annotations.add(name=key)
            if isinstance(value, str):
                note.string_value = value
            elif key in HEXADECIMAL:  # as text: the UI shows a pointer above half of all addresses as negative
                note.string_value = f"{value & _U64:#x}"
            else:
                note.int_value = value
        self._write(packet)
