"""A session that is saved and loaded goes on as if nothing had been: the same to the last attribute, and to the end."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kstack.base.errors import KstackError, PolicyError
from kstack.debug.timeline import Kept
from kstack.hw.cpu.declared import Declared
from kstack.hw.rules import ALL, Rule
from kstack.inject.sites import _Counting
from kstack.load import Symbols
from kstack.machine import Machine, MachineConfig
from kstack.run.saved import Prefix, SessionState
from kstack.run.session import Session
from kstack.run.writes import MemoryChange, Write, Writes
from kstack.schedule import Choice, RoundRobin
from kstack.stacks.area import Thread
from tests.support.lines import LINES, Line, hiding, recording_of
from tests.support.whole import differences, everything


def repeated(line: Line, choices: list[Choice]) -> Session:
    """A run by choices that were made before."""
    return line.setup.session(Kept(choices, False), recorded=True)


def ways_on(session: Session, rng: random.Random) -> Iterator[bool]:
    """Run to the end of the choices, a piece at a time; whether no slice is in flight then."""
    schedule: Any = session.scheduler
    while not schedule.exhausted:
        choice = session.begin(1 << 40)
        if isinstance(choice, str):
            return
        if choice is None:
            continue
        left = choice.quantum
        while left > 0:
            piece = session.advance(choice.cpu, rng.choice((1, 5, left)) if left > 5 else left)
            left -= piece.elapsed
            if piece.end.name != "BUDGET":
                break
            if left > 0:
                yield False
        if session.finish() is not None:
            return
        yield True


def run_out(session: Session, rng: random.Random) -> Any:
    """Run to the end: what it came to, and all that it is then."""
    try:
        for _ in ways_on(session, rng):
            pass
    except KstackError as error:
        return str(error)
    return everything(session), session.oracle.findings if session.oracle else [], session.runtime.counts


def saves_of(session: Session, rng: random.Random, count: int) -> list[tuple[SessionState, Any]]:
    """Run to the end, and save the session between slices now and then: about so many states, and all that it was there."""
    found: list[tuple[SessionState, Any]] = []
    for over in ways_on(session, rng):
        busy = any(session.runtime.calls)
        if over and rng.random() < (0.2 if busy else 0.02) and len(found) < 4 * count:
            state = session.save()
            if state is not None:
                found.append((state, everything(session)))
    return rng.sample(found, min(count, len(found)))


@pytest.mark.parametrize("name", LINES)
def test_it_goes_on_from_any_place_to_the_same_end(name: str) -> None:
    line, choices = LINES[name], list(recording_of(name).schedule())
    rng = random.Random(name)
    end = run_out(repeated(line, choices), rng)
    session = repeated(line, choices)
    saved = saves_of(session, rng, 3)
    assert saved
    assert differences(run_out(session, rng), end) == [], "saving changes nothing"
    other = repeated(line, choices)
    for state, then in saved:
        session = rng.choice((session, other))
        if not session.is_current:
            session = repeated(line, choices)
        schedule: Any = session.scheduler
        session.load(state)
        schedule.stand(choices, False, state.choices.length, -1)
        assert differences(everything(session), then) == []
        assert differences(run_out(session, rng), end) == []


def test_a_slice_that_has_been_run_in_part_is_gone_on_with() -> None:
    choices = list(recording_of("two CPUs").schedule())
    end = run_out(repeated(LINES["two CPUs"], choices), random.Random(0))
    session = repeated(LINES["two CPUs"], choices)
    for _ in range(100):
        choice = session.begin(1 << 40)
        assert isinstance(choice, Choice)
        if choice.quantum >= 10 and session.advance(choice.cpu, 5).end.name == "BUDGET":
            break
        session.finish()
    state, then = session.save(), everything(session)
    assert state is not None
    run_out(session, random.Random(1))
    schedule: Any = session.scheduler
    session.load(state)
    schedule.stand(choices, False, state.choices.length, -1)
    assert differences(everything(session), then) == []
    session.advance(choice.cpu, choice.quantum - 5)
    session.finish()
    assert run_out(session, random.Random(2)) == end


def test_most_hooks_in_flight_can_be_saved() -> None:
    session = repeated(LINES["two CPUs"], list(recording_of("two CPUs").schedule()))
    busy = [session.save() for _ in ways_on(session, random.Random(3)) if any(session.runtime.calls)]
    assert len(busy) > 50 and all(busy)


def test_a_hook_goes_by_the_thread_as_it_was_when_the_hook_was_called() -> None:
    session = repeated(LINES["two CPUs"], list(recording_of("two CPUs").schedule()))
    for _ in ways_on(session, random.Random(12)):
        busy = [call for calls in session.runtime.calls for call in calls if call.thread in session.runtime.threads]
        if busy and busy[0].answers:
            break
    session.runtime.threads[busy[0].thread].saved_rsp += 4096  # switched out since, on the way to another hook
    state, then = session.save(), everything(session)
    assert state is not None
    session.load(state)
    assert differences(everything(session), then) == []


def test_a_state_is_not_changed_by_what_comes_after_it() -> None:
    session = repeated(LINES["stall"], list(recording_of("stall").schedule()))
    way = ways_on(session, random.Random(4))
    for _ in range(150):
        next(way)
    state = session.save()
    assert state is not None

    def text() -> str:
        return repr(state._replace(events=Prefix.of(state.events.list()), choices=Prefix.of(state.choices.list())))

    before = text()
    run_out(session, random.Random(5))
    session.load(state)
    run_out(session, random.Random(6))
    assert text() == before


def test_frames_and_histories_that_have_not_changed_are_shared() -> None:
    session = repeated(LINES["two CPUs"], list(recording_of("two CPUs").schedule()))
    way = ways_on(session, random.Random(7))
    for _ in range(150):
        next(way)
    one = session.save()
    for _ in way:
        pass
    other = session.save()
    assert one is not None and other is not None and one.oracle is not None and other.oracle is not None
    shared = sum(other.memory.get(frame) is data for frame, data in one.memory.items())
    assert len(one.memory) // 2 < shared < len(one.memory)
    old, new = one.oracle.sanitizer.occurrences, other.oracle.sanitizer.occurrences
    assert any(new[address] is known for address, known in old.items())
    assert any(new[address] is not known for address, known in old.items())
    assert one.runtime.executor.frames is other.runtime.executor.frames


def test_what_is_shared_is_that_of_the_same_way_and_not_of_another_one() -> None:
    session = LINES["two CPUs"].session()
    assert session.oracle is not None
    sanitizer = session.oracle.sanitizer
    sanitizer.may_map(5, 0x1000, 0)
    early = session.save()
    sanitizer.may_map(5, 0x2000, 0)
    assert early is not None and session.save() is not None
    session.load(early)
    sanitizer.may_map(5, 0x3000, 0)
    assert sanitizer.save().seen[5] == {(0x1000, 0), (0x3000, 0)}


def test_what_the_machine_was_told_and_who_stands_still_is_saved() -> None:
    machine = Machine(MachineConfig(2, 1 << 20))
    session = Session(machine, Symbols([]), RoundRobin(1))
    declared = next(iter(Declared))
    machine.stalls[1], machine.told[declared], machine.work = 77, 5, 33
    machine.decides_send.hold(lambda ipi: ())
    told = machine.decides_send.held
    state = session.save()
    assert state is not None
    machine.stalls.clear()
    machine.told.clear()
    machine.work = 0
    session.load(state)
    assert (machine.stalls, machine.told, machine.work) == ({1: 77}, {declared: 5}, 33)
    assert machine.decides_send.held is told


def test_a_session_of_a_machine_begins_with_nobody_who_decides_for_it() -> None:
    machine = Machine(MachineConfig(2, 1 << 20))
    machine.decides_send.hold(lambda ipi: ())
    machine.cpus[1].mmu.decides_invlpg.hold(lambda address: False)
    Session(machine, Symbols([]), RoundRobin(1))
    assert machine.decides_send.held is None and machine.cpus[1].mmu.decides_invlpg.held is None


# --- what cannot be saved


def test_a_hook_into_which_an_error_was_thrown_is_not_saved_until_it_has_ended() -> None:
    session = repeated(LINES["failing hook"], list(recording_of("failing hook").schedule()))
    failed, other = [], []
    for _ in ways_on(session, random.Random(8)):
        thrown = any(call.made is None for calls in session.runtime.calls for call in calls)
        (failed if thrown else other).append(session.save())
    assert failed and not any(failed) and other and all(other)


def test_a_policy_that_keeps_in_its_object_what_changes_is_saved_until_it_changes(tmp_path: Path) -> None:
    line = Line("laight", hiding(tmp_path, "0", "self.switches += 1", "% 2"))
    session = line.session()
    saved = []
    for _ in range(1000):
        saved.append((session.runtime.policy.switches, session.save()))  # type: ignore[union-attr] # its own
        session.step(1 << 40)
    assert {switches for switches, state in saved if state is not None} == {0}
    assert {switches for switches, state in saved if state is None} >= {1}
    early = next(state for _, state in reversed(saved) if state is not None)
    session.load(early)
    assert session.runtime.policy.switches == 0, "as it was"  # type: ignore[union-attr] # its own


def test_a_policy_that_keeps_a_list_in_its_object_is_never_saved(tmp_path: Path) -> None:
    assert Line("laight", hiding(tmp_path, "[0]", "self.switches[0] += 1", "[0] % 2")).session().save() is None


def test_a_policy_with_plain_values_in_its_object_is_saved(tmp_path: Path) -> None:
    path = hiding(tmp_path, "(1, 'two', None)", "pass", "[0]")
    assert Line("laight", path).session().save() is not None


def test_a_hook_that_does_not_do_again_what_it_has_done_is_refused() -> None:
    session = repeated(LINES["two CPUs"], list(recording_of("two CPUs").schedule()))
    for _ in ways_on(session, random.Random(9)):
        if any(len(calls) and len(calls[-1].answers) > 1 for calls in session.runtime.calls):
            break
    state = session.save()
    assert state is not None
    calls = tuple(
        tuple(call._replace(answers=call.answers[:-1]) if call.answers else call for call in stack)
        for stack in state.runtime.calls
    )
    with pytest.raises(PolicyError, match="does not do again what it has done"):
        session.load(state._replace(runtime=state.runtime._replace(calls=calls)))


def test_a_machine_that_breaks_a_rule_is_not_saved() -> None:
    machine = Machine(MachineConfig(1, 1 << 20, rules=ALL - {Rule.NOT_PRESENT_NOT_CACHED}))
    assert Session(machine, Symbols([]), RoundRobin(1)).save() is None


def test_who_only_counts_is_no_injector_that_can_be_saved() -> None:
    session = LINES["two CPUs"].session()
    _Counting(session)
    assert session.save() is None


# --- writes


def test_what_was_to_be_written_is_written_again() -> None:
    line, choices = LINES["two CPUs"], list(recording_of("two CPUs").schedule())
    session = repeated(line, choices)
    writer = Writes(session, [Write(40, 0, MemoryChange(0x300000, "ab"))])
    way = ways_on(session, random.Random(10))
    next(way)
    state = session.save()
    assert state is not None and writer.made == 0
    for _ in way:
        pass
    assert writer.made == 1 and session.machine.memory.read(0x300000, 1) == b"\xab"
    session.load(state)
    assert writer.made == 0 and session.machine.memory.read(0x300000, 1) == b"\0"


# --- whatever has happened since

SET_UP = {
    "_limit",
    "_own",
    "shootdown_vector",
    "facts",
    "frames",
    "nth",
    "number",
    "place",
    "_odds",
    "_at_steps",
    "_keep",
    "_cpus",
    "vector",
    "_vector",
}
"""Attributes that are what they are from the beginning on, or that nobody changes."""


def scramble(thing: Any) -> None:
    """Let something have happened to each attribute of an object."""
    for name, value in vars(thing).items():
        if name in SET_UP or name.startswith("saved") or "saved" in name:
            continue
        if isinstance(value, bool):
            setattr(thing, name, not value)
        elif isinstance(value, int | float):
            setattr(thing, name, value + 1)
        elif isinstance(value, str) or (value is None and name in ("last_stale", "inside")):
            setattr(thing, name, "scrambled")
        elif isinstance(value, list | deque):
            value.append(None)
        elif isinstance(value, dict):
            value[-1] = None
        elif isinstance(value, set):
            value.add(-1)
        elif isinstance(value, tuple) and name in ("last_use", "_slice"):
            setattr(thing, name, (*value, None))


@pytest.mark.parametrize(
    "name", ["stall", "late IPI", "late acknowledgement", "two CPUs, findings", "behind an instruction"]
)
def test_whatever_has_happened_since_is_undone(name: str) -> None:
    session = repeated(LINES[name], list(recording_of(name).schedule()))
    way = ways_on(session, random.Random(11))
    for _ in range(200):
        next(way)
    while not any(session.runtime.calls):
        next(way)
    oracle, usage, runtime, injector = session.oracle, session.usage, session.runtime, session.injector
    assert oracle is not None and usage is not None
    oracle.leaked.add(5)
    session._idle, session._waiting.in_vain, session._looked = 3, {1}, 1
    session.mark(0, "marked in this slice")
    state, then = session.save(), everything(session)
    assert state is not None
    later = Thread(77, 0xFFFFC90000100000, 0x4000)
    oracle.areas.add(later)
    runtime.executor.areas.add(later)
    parts = [
        session,
        oracle,
        oracle.sanitizer,
        usage,
        usage._levels,
        usage._faults,
        runtime,
        runtime.executor,
        session._ending,
        session._waiting,
    ]
    for part in [*parts, runtime.counts, *usage._lives.values()]:
        scramble(part)
    if injector is not None:
        for armed in injector._all:  # type: ignore[attr-defined] # it is an Injector
            scramble(armed)
        scramble(injector)
    session.machine.stalls[0], session.machine.time = 1 << 60, session.machine.time + 5
    session.load(state)
    assert differences(everything(session), then) == []
