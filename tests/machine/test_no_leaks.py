"""Nothing of a machine stays when it is gone: no state that another one could see, and nothing of the host's.

Counted in processes of their own, where nobody else makes anything.
"""

from __future__ import annotations

from typing import Final

import pytest

from tests.support.command import python

MEASURE: Final = """
import ctypes, gc, os, threading
def held():
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    virtual, resident = (int(pages) * 4096 for pages in open("/proc/self/statm").read().split()[:2])
    return resident, virtual, sum(1 for _ in open("/proc/self/maps")), len(os.listdir("/proc/self/fd")), threading.active_count()
def round(make, count):
    first = held()
    for number in range(count):
        make()
        if number % 20 == 0: gc.collect()
    print(*(now - then for now, then in zip(held(), first)))
"""
"""A round's growth in bytes resident and virtual, mappings, files and threads. What the C library keeps of freed
memory is no leak and depends on where its last piece lay: it is asked to give that back first."""
ROUNDS: Final = 3
MACHINE: Final = """
from kstack.load import load
from kstack.machine import Machine, MachineConfig
def make():
    machine = Machine(MachineConfig(1, 1 << 20))
    load(machine, bytes.fromhex("b90500 40 e2fd f4"), format="flat")
    machine.run(0, 60)
    machine.restore(machine.snapshot())
    machine.state_hash()
"""
SESSION: Final = """
from kstack.schedule import RandomSchedule
from kstack.kernels.kstack.scenarios import find_scenario
from kstack.run.options import RunOptions
from kstack.run.spec import boot
from kstack.policies.switch_sp_ipi import SwitchSpIpi
from kstack.hw.modes import Modes
booted = boot(find_scenario("litmus-laight"), modes=Modes().with_option("tlb=adversarial"))
def make():
    booted.session(SwitchSpIpi(), RandomSchedule(1), RunOptions(20_000)).run()
"""
TRACED: Final = """
from kstack.load import load
from kstack.machine import Machine, MachineConfig
def make():
    machine = Machine(MachineConfig(1, 1 << 20))
    load(machine, bytes.fromhex("b90500 40 e2fd f4"), format="flat")
    machine.cpus[0].engine.record()
    machine.run(0, 60)
"""
FAILING: Final = """
from kstack.base.errors import KstackError
from kstack.load import load
from kstack.machine import Machine, MachineConfig
def make():
    try:
        load(Machine(MachineConfig(2, 1 << 20)), b"\\x7fELF" + bytes(40))
    except KstackError:
        pass
"""


def said_by(source: str) -> str:
    """What a program says."""
    done = python("-c", source)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def growth(what: str, count: int) -> tuple[int, ...]:
    """The least that a round grows by. What leaks grows in each; a cache, or a heap with holes in it, grows once."""
    said = said_by(f"{MEASURE}\n{what}\nfor _ in range({ROUNDS}): round(make, {count})")
    rounds = [tuple(map(int, line.split())) for line in said.splitlines()]
    assert len(rounds) == ROUNDS
    return tuple(min(column) for column in zip(*rounds, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "count"),
    [(MACHINE, 350), (TRACED, 75), (FAILING, 75), (SESSION, 60)],
    ids=["machines", "traced machines", "machines that were not loaded", "sessions"],
)
def test_what_is_made_and_dropped_leaves_the_host_as_it_was(what: str, count: int) -> None:
    resident, virtual, maps, files, threads = grown = growth(what, count)
    assert (files, threads) == (0, 0)
    assert resident < 1 << 20 and virtual < 8 << 20 and maps < 10, grown


def test_a_leak_of_five_pages_a_machine_is_seen() -> None:
    kept = FAILING.replace("def make():", "kept = []\ndef make():\n    kept.append(bytearray(5 * 4096))")
    assert growth(kept, 75)[0] > 1 << 20


FINGERPRINT: Final = """
from kstack.policies.entry_exit import EntryExit
from kstack.hw.modes import Modes
from kstack.machine import Machine, MachineConfig
from kstack.kernels.kstack.scenarios import find_image, find_scenario
from kstack.schedule import RandomSchedule
from kstack.run.options import RunOptions
from kstack.run.spec import boot
from kstack.load import load
def fingerprint():
    machine = Machine(MachineConfig(2, 16 << 20))
    load(machine, find_image("selftest"))
    machine.run(0, 20_000)
    run = boot(find_scenario("laight"), modes=Modes().with_option("tlb=adversarial")).session(
        EntryExit(), RandomSchedule(1), RunOptions(400_000, adversary=3)).run()
    return machine.state_hash(), run.state_hash, run.time, [finding.text for finding in run.findings], run.exercised
"""


@pytest.mark.slow
def test_a_machine_after_fifty_hostile_ones_is_as_the_first_in_a_fresh_process() -> None:
    fresh = said_by(f"{FINGERPRINT}\nprint(fingerprint())")
    assert "is now thread" in fresh  # it says something
    hostile = "from tests.fuzz.hostile_runs import tried\nfor seed in range(50): tried(seed)"
    assert said_by(f"{FINGERPRINT}\n{hostile}\nprint(fingerprint())") == fresh


@pytest.mark.slow
def test_a_machine_among_hostile_ones_that_are_still_there_is_so_too() -> None:
    """They live at the same time and their slices alternate with its own."""
    between = """
from tests.fuzz import hostile_runs as hostile
machine = Machine(MachineConfig(2, 16 << 20))
load(machine, find_image("selftest"))
others = []
for number in range(200):
    if {others} and number % 10 == 0:
        others.append(hostile.run_seed(number)[1])
        for other in others[-5:]:
            if other is not None and other.runnable():
                other.run(other.runnable()[0], 50)
    machine.run(0, 100)
print(machine.state_hash())
"""
    assert said_by(FINGERPRINT + between.format(others=True)) == said_by(FINGERPRINT + between.format(others=False))
