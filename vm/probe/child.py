"""The process that measures: it has the pages, makes trials as it is told, and writes down what it saw.

A process of its own, with little in it: what it dies of is an answer too (a sandbox kills it, the processor lacks an
instruction), `clear_refs` and `smaps` are quick, and nothing of the rest of kstack is at stake.

    stdin   one JSON document, a `Job`
    stdout  lines of JSON: {"cpu": N, "hypervisor": text}; {"seen": [...]}, again and again; {"done": true}, or {"error": text}
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import struct
import sys
import time
from collections.abc import Callable, Iterable
from typing import Final

from kstack.probe.memory import EXECUTE, PAGE, READ_WRITE, ProbedMemory, ProbedPage, done, libc, map_pages, protect
from kstack.probe.recipe import FRESH, SYSTEM_CALLS, VMSPLICE, WRITE, Bits, Job, Observation, Recipe
from kstack.x86.cpuid import Leaf1Ecx

OFFSET: Final = 0x800
"""Of the line that is attacked, in its page."""
ELSEWHERE: Final = 0x40  # of the line by which the page is touched otherwise
NEXT_PAGE: Final = "next_page"  # attacks the page below, and the first line of the target may come
EVERY: Final = 0.2  # seconds between lines
BYTES: Final = 8  # that a system call takes from the page
HYPERVISOR_LEAF: Final = 0x40000000
PR_SET_PDEATHSIG, PR_SET_THP_DISABLE = 1, 41
SA_SIGINFO, SA_RESETHAND = 4, 0x80000000
ROUTINE: Final = ctypes.CFUNCTYPE(*[ctypes.c_uint64] * 6)


class _Vector(ctypes.Structure):
    """struct iovec."""

    _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))


class _SignalAction(ctypes.Structure):
    """struct sigaction of the C library (glibc and musl)."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_uint8 * 128),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


class Routines:
    """The machine code of gadgets.s, to be called.

    Raises:
        OSError: the kernel refuses executable memory.
    """

    def __init__(self, code: bytes, at: dict[str, int]) -> None:
        pages = -(-len(code) // PAGE)
        self.base = map_pages(None, pages, READ_WRITE)
        ctypes.memmove(self.base, code, len(code))
        protect(self.base, pages, EXECUTE)
        self._at = at
        self._called = {name: ROUTINE(self.base + offset) for name, offset in at.items()}

    def __call__(self, name: str, *arguments: int) -> int:
        """Call a routine; what it returns."""
        found: int = self._called[name](*arguments, *[0] * (5 - len(arguments)))
        return found

    def recover_once(self) -> None:
        """Let the next SIGSEGV come to the routine `handler`.

        Raises:
            OSError: the kernel refuses it.
        """
        action = _SignalAction(self.base + self._at["handler"], flags=ctypes.c_int(SA_SIGINFO | SA_RESETHAND).value)
        done(libc.sigaction(signal.SIGSEGV, ctypes.byref(action), None), "sigaction")

    def identify(self, leaf: int) -> tuple[int, ...]:
        """CPUID: EAX, EBX, ECX, EDX."""
        found = (ctypes.c_uint32 * 4)()
        self("identify", leaf, ctypes.addressof(found))
        return tuple(found)

    def hypervisor(self) -> str | None:
        """What the hypervisor calls itself; None where there is none."""
        if not self.identify(1)[2] & Leaf1Ecx.HYPERVISOR:
            return None
        name = struct.pack("<3I", *self.identify(HYPERVISOR_LEAF)[1:])
        return name.rstrip(b"\0").decode("ascii", "replace") or "of no name"


class Trials:
    """Makes trials."""

    def __init__(self, memory: ProbedMemory, routines: Routines, naive: bool) -> None:
        self._memory = memory
        self._routines = routines
        self._naive = naive
        self._pipe = os.pipe()

    def observe(self, number: int, recipe: Recipe, rounds: int) -> Observation:
        """Make one trial.

        Args:
            number: of the recipe.
            recipe: how.
            rounds: of training.
        """
        page = self._memory.pages[recipe.page]
        target = self._memory.sealed if recipe.sealed else page.target
        self._ready(recipe, page, target)
        before = self._memory.look(target, page.witness)
        ticks = self._attack(recipe, page, target, rounds)
        after = self._memory.look(target, page.witness)
        return Observation(number, before, after, self._follow(recipe, page, target), ticks)

    def _ready(self, recipe: Recipe, page: ProbedPage, target: int) -> None:
        """Bring the entry into the state that is asked about: A set or clear, its translation cached or not."""
        memory = self._memory
        if recipe.page == FRESH:
            memory.renew(page)
        memory.flush()
        for address in (target, page.witness, page.alias, memory.before):
            self._routines("touch", address + ELSEWHERE)
        memory.clear()
        if recipe.cached:
            self._routines("touch", target + ELSEWHERE)
            return
        memory.flush()
        self._routines("touch", (target if recipe.accessed else memory.decoy) + ELSEWHERE)
        memory.flush()

    def _attack(self, recipe: Recipe, page: ProbedPage, target: int, rounds: int) -> int:
        if recipe.attack in SYSTEM_CALLS:
            self._system_call(recipe.attack, target + OFFSET)
            return 0
        offset = 0 if recipe.attack == NEXT_PAGE else OFFSET
        aim = (self._memory.before if recipe.attack == NEXT_PAGE else target) if recipe.aimed else self._memory.decoy
        if recipe.sealed:
            self._routines.recover_once()
        alias = target if self._naive else page.alias
        decoy = self._memory.decoy + ELSEWHERE
        return self._routines(recipe.attack, aim + offset, self._memory.cold, decoy, rounds, alias + offset)

    def _system_call(self, name: str, address: int) -> None:
        """Let the kernel read the page.

        Raises:
            OSError: it refuses.
        """
        readable, writable = self._pipe
        if name == WRITE:
            written = libc.write(writable, ctypes.c_void_p(address), ctypes.c_size_t(BYTES))
        else:
            assert name == VMSPLICE
            written = libc.vmsplice(writable, ctypes.byref(_Vector(address, BYTES)), ctypes.c_ulong(1), 0)
        os.read(readable, done(written, name))

    def _follow(self, recipe: Recipe, page: ProbedPage, target: int) -> bool:
        """Access the page architecturally, with A clear; whether A stayed clear, as it does where no walk was needed."""
        if not recipe.follow:
            return False
        self._memory.clear()
        self._routines(recipe.follow, target + ELSEWHERE)
        return Bits.ACCESSED not in self._memory.look(target, page.witness)


def settle(cpu: int | None) -> int:
    """Stay on one CPU, with small pages, and end with the process that asks; the CPU.

    Raises:
        OSError: the kernel refuses it.
    """
    done(libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl")
    done(libc.prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0), "prctl")
    chosen = max(os.sched_getaffinity(0)) if cpu is None else cpu
    os.sched_setaffinity(0, {chosen})
    return chosen


def serve(job: Job, say: Callable[[object], None]) -> None:
    """Make all trials, telling what was seen from time to time.

    Raises:
        OSError: the kernel refuses something.
    """
    cpu = settle(job["cpu"])
    routines = Routines(bytes.fromhex(job["code"]), job["at"])
    say({"cpu": cpu, "hypervisor": routines.hypervisor()})
    trials = Trials(ProbedMemory(), routines, job["naive"])
    recipes = [Recipe(*one) for one in job["recipes"]]  # type: ignore[arg-type] # they were recipes before they were JSON
    _tell((trials.observe(number, recipes[number], rounds) for number, rounds in job["trials"]), say)
    say({"done": True})


def _tell(observed: Iterable[Observation], say: Callable[[object], None]) -> None:
    waiting: list[Observation] = []
    last = time.monotonic()
    for one in observed:
        waiting.append(one)
        if time.monotonic() - last >= EVERY:
            say({"seen": waiting})
            waiting, last = [], time.monotonic()
    say({"seen": waiting})


def main() -> None:
    """Serve the one job that stands on standard input."""

    def say(document: object) -> None:
        print(json.dumps(document), flush=True)  # noqa: T201 # it speaks by its standard output

    try:
        serve(json.load(sys.stdin), say)
    except OSError as error:
        say({"error": f"{error.filename or 'system call'}: {error.strerror or error}"})
