"""Guests that mean harm, made by seed, run one after the other: the host goes on, soon and small.

`python -m tests.nightly hostile --count 100000` runs more. A seed that fails: `python -m tests.fuzz.hostile_runs SEED 1`,
and `... SEED 1 kinds` of the second generator.
"""

from __future__ import annotations

import random
import struct
from collections import Counter

import pytest

from kstack.kernels.kstack.hypercall import Function
from kstack.load import Symbols
from kstack.machine import Machine, MachineConfig
from kstack.policies.switch_sp_ipi import SwitchSpIpi
from kstack.run.options import RunOptions
from kstack.run.session import Session
from kstack.schedule import RoundRobin
from tests.fuzz import hostile_code as code
from tests.fuzz.hostile_runs import empty_areas, start, tried
from tests.nightly.hostile import batch, batches, table
from tests.support import hostile_kinds as kinds
from tests.support.hostile_guests import CODE, RAM

COUNT = 300
EACH = 12  # of a kind of image


@pytest.mark.slow
@pytest.mark.timeout(1300)
@pytest.mark.parametrize(("first", "count"), batches(COUNT))
def test_guests_that_mean_harm_do_none(first: int, count: int) -> None:
    found = batch(first, count)
    assert not found.wrong
    ends = Counter(found.ends)
    assert sum(ends.values()) == count
    for family in ("calls: bound", "calls: misuse", "code: still running", "tables: shutdown"):  # they get somewhere
        assert ends[family] > count // 100, found.ends
    assert found.peak < 400 << 20


def test_every_piece_of_their_code_can_be_assembled() -> None:
    for family in code.FAMILIES:
        for text in family:
            assert code.assembled(text)


def test_a_seed_says_all_of_a_guest() -> None:
    assert [tried(seed) for seed in range(30)] == [tried(seed) for seed in range(30)]


def test_a_batch_names_the_seed_that_ends_the_host_and_goes_on_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KSTACK_HOSTILE_CRASH", "3")
    found = batch(0, 6, "kinds")
    assert len(found.wrong) == 1 and found.wrong[0].startswith("seed 3 far ended the host (-11)")
    assert sum(found.ends.values()) == 6
    assert "| far | 1 | **wrong** 1 |" in table([found])
    assert "6 guests: 1 did what none may" in table([found])


# --- the second generator


@pytest.mark.slow
@pytest.mark.timeout(1300)
def test_images_of_eighteen_kinds_do_no_harm() -> None:
    found = batch(0, EACH * len(kinds.KINDS), "kinds")
    assert not found.wrong
    total = Counter[str]()
    for end, number in found.ends.items():
        total[end.split(": ")[0]] += number
    assert total == dict.fromkeys(kinds.KINDS, EACH)
    assert {"bound", "shutdown", "asleep", "not modelled"} <= {end.split(": ")[1] for end in found.ends}


def test_there_are_eighteen_kinds_and_each_seed_has_one_and_an_image_of_its_own() -> None:
    assert len(kinds.KINDS) == 18
    assert [kinds.kind_of(seed) for seed in range(18)] == list(kinds.KINDS)
    images = [kinds.image_of(seed) for seed in range(90)]
    assert images == [kinds.image_of(seed) for seed in range(90)]
    assert len(set(images)) == 90


def test_large_code_is_64_kib_and_more_in_every_mode() -> None:
    images = [kinds.image_of(seed) for seed in range(17, 18 * 20, 18)]
    assert min(map(len, images)) > 0x10000
    starts = {image[:4] for image in images}
    assert {b"\x7fELF", struct.pack("<I", 0x1BADB002)} < starts  # and boot sectors
    assert any(image[510:512] == b"\x55\xaa" and image[:1] == b"\xe9" for image in images)


# --- one thing at a time

RNG = random.Random(0)  # for numbers that are not looked at


def said_of(*calls: bytes, units: int = 2000) -> str | None:
    """Why a CPU stopped that makes these hypercalls, under a policy that posts requests into mailboxes; or None."""
    machine = Machine(MachineConfig(2, RAM))
    start(machine, random.Random(5), True)
    empty_areas(machine)
    machine.memory.write(CODE, b"".join(calls) + b"\xf4\xeb\xfd")
    machine.cpus[0].registers.rflags = machine.cpus[1].registers.rflags = 2
    machine.cpus[1].registers.rip = CODE + 0x1F00
    machine.memory.write(CODE + 0x1F00, b"\xeb\xfe")
    Session(machine, Symbols([]), RoundRobin(50), SwitchSpIpi(), RunOptions(units)).run()
    return machine.cpus[0].unsupported


def test_a_mailbox_full_of_ones_is_counted_on_from_zero() -> None:
    ones = [code.filled(RNG, code.MAILBOX, (code.MAILBOXES + 32 * cpu, 1)) for cpu in range(2)]
    top = code.AREA + code.AREA_BYTES
    calls = [code.hypercall(RNG, Function.SWITCH_IN, 0), code.hypercall(RNG, Function.SWITCH_OUT, 0, top - 64)]
    assert said_of(code.boot(RNG, 2), *ones, *calls) is None


def test_a_guest_boots_once() -> None:
    assert said_of(code.boot(RNG, 2), code.boot(RNG, 2)) == "hypercall 1: BOOT, for the second time"


def test_threads_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kstack.stacks.host.runtime.MAX_THREADS", code.THREADS - 1)
    assert said_of(code.boot(RNG, 2)) == "hypercall 3: more than 3 threads at once"


@pytest.mark.parametrize(
    ("function", "arguments", "says"),
    [
        (Function.BOOT, (0x80000, 1 << 40, 0x9F000, 32), "is not in RAM"),
        (Function.BOOT, (0x80001, 4096, 0x9F000, 32), "is not in RAM"),
        (Function.CREATE_THREAD, (1, 0x60000, 0x4000, 1), "before BOOT"),
        (Function.ENTER_KERNEL, (1 << 63,), "before BOOT"),
        (99, (), "no such function"),
    ],
)
def test_a_hypercall_that_makes_no_sense_stops_the_cpu(function: int, arguments: tuple[int, ...], says: str) -> None:
    said = said_of(code.hypercall(RNG, function, *arguments))
    assert said is not None and says in said


@pytest.mark.parametrize("place", [1 << 63, (1 << 64) - 3, RAM - 2, 1 << 46])
def test_an_event_whose_name_is_nowhere_has_none(place: int) -> None:
    assert said_of(code.hypercall(RNG, Function.EVENT, place)) is None
