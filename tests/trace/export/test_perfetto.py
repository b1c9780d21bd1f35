"""The timeline says what the trace's tables say."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kstack.guest.images import build_image
from kstack.trace.export import export
from kstack.trace.export import read as reading
from kstack.trace.store import Trace
from tests.support.perfetto_timeline import Timeline, read
from tests.support.traces import rows

TRACES = ("laight", "double_fault", "fred")
SLICES = {"hook", "hook-end", "switch"}
DELIVERED = {"fault", "interrupt", "nmi", "software"}
IRETQ = bytes.fromhex("48cf")


def told(trace: Trace, *kinds: str) -> list[dict[str, Any]]:
    return [event for event in rows(trace, "events") if event["kind"] in kinds]


@pytest.fixture(scope="module")
def timelines(
    laight: Trace, double_fault: Trace, fred: Trace, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Trace, Timeline]]:
    folder = tmp_path_factory.mktemp("perfetto")
    found = {}
    for name, trace in zip(TRACES, (laight, double_fault, fred), strict=True):
        export(trace, "perfetto", folder / name)
        found[name] = trace, read(folder / name)
    return found


@pytest.fixture(params=TRACES)
def both(request: pytest.FixtureRequest, timelines: dict[str, tuple[Trace, Timeline]]) -> tuple[Trace, Timeline]:
    return timelines[request.param]


def test_all_that_begins_on_a_track_ends_there_and_lies_within_what_it_is_in(both: tuple[Trace, Timeline]) -> None:
    trace, timeline = both
    assert timeline.unbalanced == []
    assert len(timeline.slices) > 40
    for one in timeline.slices:
        assert one.end is not None
        assert trace.meta.begun <= one.begin <= one.end <= trace.meta.time + 1


def test_there_is_a_track_for_each_cpu_and_each_thread(both: tuple[Trace, Timeline]) -> None:
    trace, timeline = both
    cpus = [name for name, parent in timeline.parents.items() if parent == "CPUs"]
    assert {f"CPU {cpu}" for cpu in range(trace.meta.cpus)} <= set(cpus)
    threads = [name for name, parent in timeline.parents.items() if parent == "threads"]
    for event in told(trace, "thread"):
        assert {f"thread {event['thread']}{what}" for what in ("", " on CPU", " stack depth", " pages")} <= set(threads)


def test_every_event_that_is_no_slice_is_an_instant_on_its_cpu(both: tuple[Trace, Timeline]) -> None:
    trace, timeline = both
    expected = Counter(
        (event["kind"], event["count"], f"CPU {event['cpu']}")
        for event in rows(trace, "events")
        if event["kind"] not in SLICES | DELIVERED
    )
    found = Counter((one.category, one.begin, one.track) for one in timeline.instants if one.category not in DELIVERED)
    assert found == expected


def test_findings_are_there_with_their_text(timelines: dict[str, tuple[Trace, Timeline]]) -> None:
    trace, timeline = timelines["laight"]
    expected = [(event["name"], event["count"], event["text"]) for event in told(trace, "finding")]
    found = [(one.name, one.begin, one.more["text"]) for one in timeline.instants if one.category == "finding"]
    assert sorted(found) == sorted(expected)
    assert any("through its cached translation" in text for _, _, text in found)


def test_addresses_are_shown_as_the_guest_has_them(timelines: dict[str, tuple[Trace, Timeline]]) -> None:
    trace, timeline = timelines["laight"]
    (event,) = told(trace, "tlb-stale")
    (stale,) = [one for one in timeline.instants if one.category == "tlb-stale"]
    assert stale.more["address"] == f"{event['address']:#x}"
    assert stale.more["frame"] == f"{event['frame']:#x}"
    assert stale.more["now frame"] == f"{event['value']:#x}"


# --- slices


@pytest.mark.parametrize("name", ["laight", "double_fault"])
def test_a_system_call_is_a_slice_for_each_entry(name: str, timelines: dict[str, tuple[Trace, Timeline]]) -> None:
    trace, timeline = timelines[name]
    entry = build_image(trace.meta.image)["syscall_entry"]
    instructions = rows(trace, "instructions")
    entries = [(row["count"], row["cpu"]) for row in instructions if row["rip"] == entry]
    found = sorted(
        (one.begin, one.more.get("cpu"), one.end)
        for one in timeline.slices
        if one.category == "syscall" and one.track.startswith("thread ")
    )
    assert len(found) == len(entries) >= 2
    for (begin, _, _), (count, cpu) in zip(found, entries, strict=True):
        before = max(row["count"] for row in instructions if row["cpu"] == cpu and row["count"] < count)
        assert begin in (before, count), "at SYSCALL, the instruction before the entry"


def test_with_fred_a_system_call_is_a_slice_too(timelines: dict[str, tuple[Trace, Timeline]]) -> None:
    trace, timeline = timelines["fred"]
    calls = told(trace, "software")
    found = [one for one in timeline.slices if one.category == "syscall" and one.track.startswith("thread ")]
    assert [one.begin for one in found] == [event["count"] for event in calls]
    assert len(found) >= 3


def test_between_system_calls_a_thread_is_in_ring_3(timelines: dict[str, tuple[Trace, Timeline]]) -> None:
    trace, timeline = timelines["laight"]
    user = [(row["count"], row["cpu"]) for row in rows(trace, "instructions") if row["rip"] < 1 << 47]
    assert len(user) > 20
    for count, cpu in user:
        around = [one for one in timeline.on(f"CPU {cpu}") if one.begin < count < (one.end or 0)]
        assert {one.category for one in around} <= {"thread"}, (count, around)


def test_an_interrupts_slice_ends_with_the_iretq_that_takes_its_frame(
    timelines: dict[str, tuple[Trace, Timeline]],
) -> None:
    trace, timeline = timelines["laight"]
    code = {row["rip"]: row["code"] for row in rows(trace, "code")}
    pushed = {
        (row["count"], row["cpu"]): row["address"] for row in rows(trace, "accesses") if row["model"] and row["store"]
    }  # the last push of a delivery: RIP
    instructions = rows(trace, "instructions")
    events = told(trace, "interrupt")
    assert len(events) >= 3
    for event in events:
        frame = pushed[event["count"], event["cpu"]]
        returns = [
            row["count"]
            for row in instructions
            if row["cpu"] == event["cpu"]
            and row["count"] > event["count"]
            and row["rsp"] == frame
            and code.get(row["rip"]) == IRETQ
        ]
        (one,) = [one for one in timeline.on(f"CPU {event['cpu']}", "interrupt") if one.begin == event["count"]]
        assert one.name == event["name"]
        assert one.end == returns[0] + 1


def test_what_replaced_another_exception_is_a_slice_and_the_other_an_instant(
    timelines: dict[str, tuple[Trace, Timeline]],
) -> None:
    trace, timeline = timelines["double_fault"]
    (fault,) = [event for event in told(trace, "fault") if event["name"] == "#DF"]
    (one,) = [one for one in timeline.slices if one.name == "#DF" and one.track.startswith("CPU")]
    assert one.begin == fault["count"]
    hooks = [inner for inner in timeline.on(one.track, "hook") if one.begin <= inner.begin <= (one.end or 0)]
    assert [hook.name for hook in hooks] == ["stack_fault"]
    assert (one.end or 0) - one.begin < 10_000, "IRETQ from the #DF stack"
    assert [inner.begin for inner in timeline.instants if inner.name == "#PF"] == [fault["count"]]
    assert not [inner for inner in timeline.slices if inner.name == "#PF"]


def test_hooks_are_as_long_as_their_events_say(both: tuple[Trace, Timeline]) -> None:
    trace, timeline = both
    begun = Counter((event["name"], event["count"]) for event in told(trace, "hook"))
    ended = Counter((event["name"], event["count"]) for event in told(trace, "hook-end"))
    own = [one for one in timeline.slices if one.category == "hook" and one.track.startswith("CPU")]
    whole = [one for one in own if "continued" not in one.more]
    assert Counter((one.name, one.begin) for one in whole) == begun
    assert {(one.name, one.end) for one in whole if (one.end or 0) <= trace.meta.time} <= set(ended)


def test_threads_run_where_the_switches_say(both: tuple[Trace, Timeline]) -> None:
    trace, timeline = both
    for event in told(trace, "switch"):
        (on_cpu,) = [
            one
            for one in timeline.on(f"CPU {event['cpu']}", "thread")
            if one.begin == event["count"] and one.name == f"thread {event['thread']}"
        ]
        (own,) = [one for one in timeline.on(f"thread {event['thread']} on CPU") if one.begin == event["count"]]
        assert (own.name, own.end) == (f"CPU {event['cpu']}", on_cpu.end)
        assert on_cpu.depth == 0


def test_instructions_on_a_threads_stack_are_run_while_it_has_the_cpu(
    timelines: dict[str, tuple[Trace, Timeline]],
) -> None:
    trace, timeline = timelines["laight"]
    stacks = {event["thread"]: (event["address"], event["value"]) for event in told(trace, "thread")}
    wrong = 0
    for thread, (bottom, size) in stacks.items():
        runs = [(one.begin, one.end or 0, one.name) for one in timeline.on(f"thread {thread} on CPU")]
        for row in rows(trace, "instructions"):
            if bottom < row["rsp"] < bottom + size:
                wrong += not any(
                    begin - 200 <= row["count"] <= end + 200 and name == f"CPU {row['cpu']}"
                    for begin, end, name in runs
                )
    assert wrong == 0, "but for the few around a switch, where the guest is between two threads"


# --- counters


def test_a_depth_is_that_of_the_instruction_at_its_time_and_the_deepest_is_there(both: tuple[Trace, Timeline]) -> None:
    trace, timeline = both
    rsp = {row["count"]: row["rsp"] for row in rows(trace, "instructions")}
    for event in told(trace, "thread"):
        top = event["address"] + event["value"]
        samples = timeline.counters.get(f"thread {event['thread']} stack depth", [])
        assert [top - rsp[time] for time, _ in samples] == [depth for _, depth in samples]
        assert all(one[1] != other[1] for one, other in pairwise(samples))
        own = [
            top - address
            for count, address in rsp.items()
            if event["address"] < address <= top and count >= event["count"]
        ]
        assert max((depth for _, depth in samples), default=0) == max(own, default=0)
        assert max(Counter(time // 64 for time, _ in samples).values(), default=0) <= 4


def test_mapped_pages_are_those_grown_and_not_shrunk(timelines: dict[str, tuple[Trace, Timeline]]) -> None:
    trace, timeline = timelines["laight"]
    for event in told(trace, "thread"):
        pages, expected = set[int](), []
        for change in told(trace, "grow", "shrink"):
            if change["thread"] == event["thread"]:
                (pages.add if change["kind"] == "grow" else pages.discard)(change["address"])
                expected.append((change["count"], len(pages)))
        assert timeline.counters[f"thread {event['thread']} pages"] == expected
        assert len(expected) >= 1


def test_frames_in_use_come_back_to_what_the_living_threads_have(timelines: dict[str, tuple[Trace, Timeline]]) -> None:
    trace, timeline = timelines["laight"]
    taken = [event for event in told(trace, "step") if event["name"] == "TakePage"]
    given = [event for event in told(trace, "step") if event["name"] == "GiveBack"]
    used = timeline.counters["frames in use"]
    assert len(used) == len(taken) + len(given)
    assert used[-1][1] == len(taken) - len(given) == timeline.counters["thread 1 pages"][-1][1]


def test_tlb_fills_are_counted_by_cpu(both: tuple[Trace, Timeline]) -> None:
    trace, timeline = both
    for cpu in range(trace.meta.cpus):
        fills = [event for event in told(trace, "tlb-fill", "tlb-speculated") if event["cpu"] == cpu]
        counted = timeline.counters.get(f"CPU {cpu} TLB fills", [])
        assert counted == [(event["count"], number) for number, event in enumerate(fills, 1)]


# --- arrows


def test_an_arrow_goes_from_each_ipi_to_the_interrupt_on_its_target(both: tuple[Trace, Timeline]) -> None:
    trace, timeline = both
    arrows = [chain for chain in timeline.arrows().values() if chain[0].category == "ipi"]
    assert len(arrows) == len([event for event in told(trace, "ipi") if event["name"] not in ("init", "startup")])
    assert arrows
    for sent, taken in arrows:
        vector = "nmi" if taken.category == "nmi" else taken.name
        assert sent.name == f"IPI {vector} to CPU {taken.track.removeprefix('CPU ')}"
        assert sent.begin < taken.begin


def test_an_arrow_goes_from_what_made_a_translation_stale_to_its_use_and_to_the_findings(
    timelines: dict[str, tuple[Trace, Timeline]],
) -> None:
    trace, timeline = timelines["laight"]
    (use,) = told(trace, "tlb-stale")
    (chain,) = [chain for chain in timeline.arrows().values() if any(one.category == "tlb-stale" for one in chain)]
    assert [one.category for one in chain] == ["shrink", "step", "tlb-stale", "finding", "finding"]
    store, freed, stale, *found = chain
    page = use["address"] & ~0xFFF
    stores = [
        event["count"]
        for event in told(trace, "shrink")
        if (event["address"], event["frame"]) == (page, use["frame"]) and event["count"] < use["count"]
    ]
    assert store.begin == stores[-1]
    assert freed.more["text"] == f"GiveBack(frame {use['frame']:#x})"
    assert store.begin < freed.begin < stale.begin == use["count"]
    assert f"time {freed.begin}" in found[0].more["text"] or freed.begin < use["count"]
    assert [one.name for one in found] == [event["name"] for event in told(trace, "finding")]


# --- the whole


def test_two_exports_are_byte_identical(laight: Trace, tmp_path: Path) -> None:
    export(laight, "perfetto", tmp_path / "one")
    export(laight, "perfetto", tmp_path / "other")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def test_slices_do_not_depend_on_how_the_tables_are_read(
    laight: Trace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(laight, "perfetto", tmp_path / "one")
    monkeypatch.setattr(reading, "BATCH", 97)
    export(laight, "perfetto", tmp_path / "other")
    one, other = read(tmp_path / "one"), read(tmp_path / "other")
    for what in ("slices", "instants"):
        found = [
            [(each.track, each.name, each.begin, each.end, each.passing) for each in getattr(timeline, what)]
            for timeline in (one, other)
        ]
        assert found[0] == found[1]
    assert np.max([depth for _, depth in one.counters["thread 3 stack depth"]]) == np.max(
        [depth for _, depth in other.counters["thread 3 stack depth"]]
    )
