"""A Perfetto trace read back, by the protobuf alone: what the UI would make of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace, TrackEvent


@dataclass
class Slice:
    """A slice, or an instant (without an end)."""

    track: str
    name: str
    category: str
    begin: int
    depth: int
    more: dict[str, Any]
    passing: list[int]
    ending: list[int]
    order: int
    end: int | None = None


@dataclass
class Timeline:
    """Tracks by name, and what is on them, in the order of time."""

    parents: dict[str, str] = field(default_factory=dict)
    slices: list[Slice] = field(default_factory=list)
    instants: list[Slice] = field(default_factory=list)
    counters: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    unbalanced: list[str] = field(default_factory=list)

    def on(self, track: str, category: str | None = None) -> list[Slice]:
        """Slices of a track, by their beginning."""
        return [one for one in self.slices if one.track == track and category in (None, one.category)]

    def arrows(self) -> dict[int, list[Slice]]:
        """What each arrow joins, in order; an arrow that ends and begins again is an error."""
        found: dict[int, list[Slice]] = {}
        ended: list[int] = []
        for one in sorted(self.slices + self.instants, key=lambda one: (one.begin, one.order)):
            for number in one.passing + one.ending:
                assert number not in ended
                found.setdefault(number, []).append(one)
            ended += one.ending
        assert sorted(ended) == sorted(found), "each arrow ends"
        return found


def read(path: Path) -> Timeline:
    """Read a trace; events of one time are in the order of the file."""
    trace = Trace()
    trace.ParseFromString(path.read_bytes())
    found, names, open_ = Timeline(), dict[int, str](), dict[str, list[Slice]]()
    for packet in trace.packet:
        if packet.HasField("track_descriptor"):
            track = packet.track_descriptor
            assert track.uuid not in names
            names[track.uuid] = track.process.process_name or track.name
            found.parents[names[track.uuid]] = names[track.parent_uuid] if track.parent_uuid else ""
    assert len(names) == len(set(names.values()))
    told = [packet for packet in trace.packet if packet.HasField("track_event")]
    for order, packet in enumerate(sorted(told, key=lambda packet: packet.timestamp)):
        event, track = packet.track_event, names[packet.track_event.track_uuid]
        inside = open_.setdefault(track, [])
        if event.type == TrackEvent.TYPE_COUNTER:
            found.counters.setdefault(track, []).append((packet.timestamp, event.counter_value))
        elif event.type == TrackEvent.TYPE_SLICE_END:
            if inside:
                inside.pop().end = packet.timestamp
            else:
                found.unbalanced.append(f"{track} ends at {packet.timestamp} what has not begun")
        else:
            (category,) = event.categories
            more = {
                note.name: note.string_value if note.HasField("string_value") else note.int_value
                for note in event.debug_annotations
            }
            flows = list(event.flow_ids), list(event.terminating_flow_ids)
            one = Slice(track, event.name, category, packet.timestamp, len(inside), more, *flows, order)
            if event.type == TrackEvent.TYPE_SLICE_BEGIN:
                inside.append(one)
                found.slices.append(one)
            else:
                found.instants.append(one)
    found.unbalanced += [f"{track}: {one.name} does not end" for track, inside in open_.items() for one in inside]
    return found
