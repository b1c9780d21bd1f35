"""Asks the measuring process, and takes what it saw as it comes."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import kstack
from kstack.probe.code import gadgets
from kstack.probe.questions import ARMS, order
from kstack.probe.recipe import Bits, Job, Observation

ROOT: Final = Path(kstack.__file__).parents[1]
START: Final = "import sys; sys.path.insert(0, sys.argv[1]); from kstack.probe.child import main; main()"
SILENCE: Final = 60.0  # seconds without a word after which the process is given up

Progress = Callable[[int, int], None]
"""Told trials made, and all."""


@dataclass
class Measured:
    """What the measuring process has said.

    Attributes:
        observed: trials.
        cpu: on which they were made, or None.
        hypervisor: what it calls itself, or None.
        failure: why it could not go on; "" if it could.
        complete: all trials were made.
    """

    observed: list[Observation] = field(default_factory=list)
    cpu: int | None = None
    hypervisor: str | None = None
    failure: str = ""
    complete: bool = False

    def take(self, document: dict[str, Any]) -> None:
        """Take what a line says."""
        match document:
            case {"seen": seen}:
                self.observed += [Observation(n, Bits(before), Bits(after), *rest) for n, before, after, *rest in seen]
            case {"cpu": cpu, "hypervisor": hypervisor}:
                self.cpu, self.hypervisor = cpu, hypervisor
            case {"error": text}:
                self.failure = text
            case {"done": _}:
                self.complete = True


def job(trials: int, seed: int, cpu: int | None = None, naive: bool = False) -> Job:
    """What the process is told.

    Args:
        trials: of each arm.
        seed: of their order.
        cpu: to run on; None for the last that may be used.
        naive: as in `Job`.
    """
    recipes = [list(recipe) for recipe in ARMS.values()]
    code = gadgets()
    return Job(
        code=code.code.hex(), at=code.at, cpu=cpu, recipes=recipes, trials=list(order(trials, seed)), naive=naive
    )


def measure(asked: Job, progress: Progress, start: str = START) -> Measured:
    """Make all trials; fewer if Ctrl-C is pressed, or if the process cannot go on.

    Args:
        asked: what is to be done.
        progress: told now and then.
        start: program of the process (Python).
    """
    found = Measured()
    try:
        with _process(asked, start) as process:
            for line in _lines(process):
                found.take(json.loads(line))
                progress(len(found.observed), len(asked["trials"]))
            code = process.wait()
        if not found.complete and not found.failure:
            found.failure = f"the measuring process {_end(code)} after {len(found.observed)} trials"
    except TimeoutError as error:
        found.failure = str(error)
    except KeyboardInterrupt:
        pass
    return found


@contextmanager
def _process(asked: Job, start: str) -> Iterator[subprocess.Popen[bytes]]:
    """The process, with its task; it is gone when the block ends. Ctrl-C is for the one that asks."""
    command = [sys.executable, "-I", "-S", "-c", start, str(ROOT)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0) as process:
        try:
            assert process.stdin is not None
            with suppress(BrokenPipeError):  # it has died already: of what, is told by its end
                process.stdin.write(json.dumps(asked).encode())
                process.stdin.close()
            yield process
        finally:
            process.kill()


def _lines(process: subprocess.Popen[bytes]) -> Iterator[bytes]:
    """What it says, line by line.

    Raises:
        TimeoutError: it says nothing any more.
    """
    assert process.stdout is not None
    waiting = b""
    while True:
        if not select.select([process.stdout], [], [], SILENCE)[0]:
            raise TimeoutError(f"the measuring process has said nothing for {SILENCE:.0f} seconds")
        more = os.read(process.stdout.fileno(), 1 << 16)
        if not more:
            return
        *lines, waiting = (waiting + more).split(b"\n")
        yield from lines


def _end(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
