"""Exploring the shootdown protocol: five variants, as guest code on the machine and as a Promela model in Spin.

CPU 0 clears a page's entry round by round, tells the readers, frees the frame and maps another one; then
it reads the page itself. The readers read it as often, and wait while there is nothing. A read through a
freed frame, or through the old one when there is another, is the bug. In the model, TLBs
fill and evict at any time, by processes of their own; on the machine they are lazy (vm/explore/model/lazy_tlb.py).
"""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

from bench.harness import Row, at_least, at_most
from kstack.explore.breadth_first import Bounds, Outcome, Problem, search
from kstack.hw.modes import Modes
from kstack.stacks import (
    EMPTY,
    Decision,
    GiveBack,
    Invlpg,
    OtherCpus,
    Policy,
    PostFlush,
    Pte,
    SendIpi,
    Steps,
    SwapPte,
    TakePage,
    Thread,
    WaitForAck,
    WritePte,
    map_pages,
)

VARIANTS: Final = {
    "none": False,
    "no wait": False,
    "own INVLPG forgotten": False,
    "IPI before the clear": False,
    "correct": True,
}
"""The variants, and whether each is safe: compared with what both find."""
SIZE: Final = (1, 2)  # readers, rounds: every variant
WHOLE: Final = ((1, 3), (2, 2), (2, 3))  # the correct one
FOR_SPIN: Final = (2, 2)  # the largest size that Spin is asked: the model's states grow faster
BUDGET: Final = 300.0  # seconds
MODEL: Final = Path(__file__).parent / "shootdown.pml"


class Shootdown(Policy):
    """Gives the top page another frame at each request."""

    variant = "correct"
    id, title = "shootdown", "another frame at each request"
    delivery = "ist"
    proposer, source = "nobody", "bench/shootdown.py"

    def create_thread(self, cpu: int, thread: Thread) -> Decision:
        """The top page."""
        return (yield from map_pages((thread.top,)))

    def request(self, cpu: int, thread: Thread, size: int) -> Decision:
        """Another frame for it."""
        page, variant = thread.top, self.variant
        frame = yield TakePage()
        if variant == "IPI before the clear":
            yield from self._tell(thread)
        old: Pte = yield SwapPte(page, EMPTY)
        if variant not in ("none", "own INVLPG forgotten"):
            yield Invlpg(page)
        if variant not in ("none", "IPI before the clear"):
            yield from self._tell(thread)
        yield GiveBack(old.frame)
        yield WritePte(page, Pte.of(frame))
        return True

    def stack_fault(self, cpu: int, thread: Thread, address: int, error: int) -> Decision:
        """A reader has met nothing: it tries again."""
        return True
        yield  # a hook is a generator

    def _tell(self, thread: Thread) -> Steps:
        others = yield OtherCpus()
        for other in others:
            yield PostFlush(other, thread.top.address, 1)
            yield SendIpi(other)
        for other in others if self.variant != "no wait" else ():
            yield WaitForAck(other)


class Measured(NamedTuple):
    """What an exploration came to: whether it is safe, states, moves and seconds."""

    safe: bool
    states: int
    moves: int
    seconds: float


def write_guest(folder: Path, readers: int, rounds: int) -> Path:
    """The scenario of so many readers and rounds: its TOML."""
    read = "    mov rax, [rbx]\n"
    programs = ["program_0:\n    L_ADDRESS rbx, 0, 64\n" + ("    L_REQUEST 0, 64\n" + read) * rounds]
    programs += [f"program_{cpu}:\n    L_ADDRESS rbx, 0, 64\n" + read * rounds for cpu in range(1, readers + 1)]
    names = ", ".join(f"program_{cpu}" for cpu in range(readers + 1))
    (folder / "shootdown.s").write_text(
        ".text\n" + "".join(program + "    jmp litmus_end\n" for program in programs) + ".section .rodata\n"
        'scenario_name:\n    .asciz "shootdown"\n.p2align 3\nscenario_pool:\n    .quad 48\n'
        f"litmus_stacks:\n    .quad 1\nlitmus_programs:\n    .quad {names}, 0\n"
    )
    toml = folder / "shootdown.toml"
    toml.write_text(
        'id = "shootdown"\ntitle = "shootdown"\nquestion = "is a freed frame read?"\nsource = "none"\n'
        f'cpus = {readers + 1}\nsources = ["lib_litmus.s", "shootdown.s"]\nsuccess = ""\nlitmus = true\n'
        'events = ["ready", "done", "wrong"]\n[mutant]\npolicy = "fixed-16k"\n'
    )
    return toml


def explore(folder: Path, variant: str, readers: int, rounds: int) -> tuple[Outcome, Measured]:
    """A variant on the machine."""
    toml = write_guest(folder, readers, rounds)
    policy = type("Variant", (Shootdown,), {"variant": variant})
    start = time.perf_counter()
    outcome = search(Problem(str(toml), policy, Modes()), Bounds(budget=BUDGET))
    seconds = time.perf_counter() - start
    return outcome, Measured(outcome.verdict == "safe", outcome.states, outcome.moves, seconds)


def spin(folder: Path, variant: str, readers: int, rounds: int) -> Measured:
    """A variant in Spin: its states, and the seconds of the search alone.

    Raises:
        RuntimeError: Spin or the compiler failed.
    """
    number = list(VARIANTS).index(variant)
    defines = [f"-DREADERS={readers}", f"-DROUNDS={rounds}", f"-DVARIANT={number}"]
    for command in (
        ["spin", *defines, "-a", str(MODEL)],
        ["gcc", "-O2", "-DSAFETY", "-DNOFAIR", "-o", "pan", "pan.c"],
    ):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
    start = time.perf_counter()
    done = subprocess.run(["./pan", "-m1000000"], cwd=folder, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    states = re.search(r"(\d+) states, stored", done.stdout)
    errors = re.search(r"errors: (\d+)", done.stdout)
    moves = re.search(r"(\d+) transitions", done.stdout)
    if states is None or errors is None or moves is None:
        raise RuntimeError(f"pan: {done.stdout}{done.stderr}")
    return Measured(errors[1] == "0", int(states[1]), int(moves[1]), seconds)


def run() -> list[Row]:
    """Seconds of each variant in its sizes, beside Spin where that is installed; and moves a second."""
    peer = "Spin" if shutil.which("spin") and shutil.which("gcc") else None
    rows = []
    sizes = [(variant, *SIZE) for variant in VARIANTS] + [("correct", *size) for size in WHOLE]
    with TemporaryDirectory() as place:
        folder = Path(place)
        for variant, readers, rounds in sizes:
            outcome, ours = explore(folder, variant, readers, rounds)
            if ours.safe != VARIANTS[variant]:
                raise RuntimeError(f"shootdown, {variant}: {outcome.verdict}")
            theirs = spin(folder, variant, readers, rounds) if peer and (readers, rounds) <= FOR_SPIN else None
            if theirs is not None and theirs.safe != ours.safe:
                raise RuntimeError(f"shootdown, {variant}: Spin says {theirs.safe}, the machine {ours.safe}")
            name = f"{variant}, {readers} readers, {rounds} rounds: {ours.states:,} states"
            if theirs is not None:
                name += f", Spin {theirs.states:,}"
            bound = 10.0 if ours.safe else 2.0
            target, met = at_most(ours.seconds, bound, f"<= {bound:g} s")
            rows.append(
                Row(
                    "shootdown",
                    name,
                    ours.seconds,
                    "s",
                    peer if theirs else None,
                    theirs.seconds if theirs else None,
                    target,
                    met,
                )
            )
        target, met = at_least(ours.moves / ours.seconds, 15_000, ">= 15,000/s")
        rows.append(
            Row("shootdown", "visible operations, the last", ours.moves / ours.seconds, "/s", None, None, target, met)
        )
    return rows
