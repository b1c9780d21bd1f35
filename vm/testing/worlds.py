"""The same code in another world: what depends on nothing but its arguments does the same there.

A `world` is this process with Python's generator drawn from another seed, clocks that begin somewhere else and go at
another pace, and other identities of objects; everything that happens in a world is the same each time. `elsewhere` is
another process: other orders of sets, nothing left over in modules and classes.
"""

from __future__ import annotations

import builtins
import datetime
import importlib
import importlib.util
import os
import pickle
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Final, TypeVar

SubjectT = TypeVar("SubjectT")
GivenT = TypeVar("GivenT")
AnswerT = TypeVar("AnswerT")

BEGIN: Final = 1_000_000_000
"""Seconds at which the clocks of the first world begin."""
LATER: Final = 1_000_003
"""Seconds by which those of the next one begin later: odd, and no whole number of minutes, hours or days."""
PACES: Final = (1, 997_001)
"""Milliseconds that pass in each world from reading to reading."""
SECONDS: Final = ("time", "monotonic", "perf_counter", "process_time", "thread_time")
"""Clocks of the module `time`; each has one of nanoseconds beside it."""
HASH_SEEDS: Final = ("0", "1", "2")
"""Of the other processes: sets of two strings have one order under every second seed."""
PATIENCE: Final = 100  # seconds of the host's that another process may take
_MILLION: Final = 10**6


class _Clock:
    """Of a world: nanoseconds, which pass as it is read."""

    def __init__(self, number: int) -> None:
        self._now, self._pace = (BEGIN + number * LATER) * 10**9, PACES[number] * _MILLION

    def nanoseconds(self) -> int:
        self._now += self._pace
        return self._now

    def seconds(self) -> float:
        return self.nanoseconds() / 10**9


@contextmanager
def world(number: int, *classes: type) -> Iterator[None]:
    """Python's own generator, clocks and identities of objects are those of a world in here.

    Args:
        number: 0 or 1.
        classes: whose modules may have imported clocks by name.
    """
    state = random.getstate()
    random.seed(number)
    others = _others(number)
    places: list[tuple[object, str]] = [(datetime, "datetime"), (builtins, "id")]
    places += [(time, name) for name in vars(time)]
    places += [(module, name) for module in _modules(classes) for name in vars(module)]
    changed = []
    for module, name in places:
        value = getattr(module, name)
        other = next((other for real, other in others if real is value), None)
        if other is not None:
            changed.append((module, name, value))
            setattr(module, name, other)
    try:
        yield
    finally:
        for module, name, value in changed:
            setattr(module, name, value)
        random.setstate(state)


def _modules(classes: tuple[type, ...]) -> list[ModuleType]:
    """Modules in which classes and their bases are defined."""
    names = dict.fromkeys(base.__module__ for each in classes for base in each.__mro__)
    return [sys.modules[name] for name in names if name in sys.modules and name != "builtins"]


def _others(number: int) -> list[tuple[object, object]]:
    """What reads clocks and identities, each with what takes its place in a world."""
    clock = _Clock(number)
    found: list[tuple[object, object]] = [(id, _identity(id, number)), (datetime.datetime, _calendar(clock))]
    for name in SECONDS:
        found.append((getattr(time, name), clock.seconds))
        found.append((getattr(time, f"{name}_ns"), clock.nanoseconds))
    return found + [(read, _broken_down(read, clock)) for read in (time.localtime, time.gmtime, time.ctime)]


def _identity(real: Callable[[object], int], number: int) -> Callable[[object], int]:
    return lambda value: real(value) ^ number * LATER << 4  # addresses are multiples of 16


def _broken_down(read: Callable[[float], AnswerT], clock: _Clock) -> Callable[..., AnswerT]:
    return lambda *when: read(*(when or (clock.seconds(),)))


def _calendar(clock: _Clock) -> type[datetime.datetime]:
    """A class of dates whose present is a clock's."""
    real = datetime.datetime

    class Calendar(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Any:
            return real.fromtimestamp(clock.seconds(), tz)

        utcnow = today = now

    return Calendar


class ElsewhereError(Exception):
    """A class cannot be imported by another process, or something was raised there."""


def elsewhere(
    function: Callable[[type[SubjectT], GivenT], AnswerT], subject: type[SubjectT], given: GivenT
) -> list[AnswerT]:
    """What a function of a class returns in other processes, each with hashes of its own.

    Args:
        function: of a module; called with the class and what is given.
        subject: the class; it must be found in its module by its name.
        given: picklable.

    Raises:
        ElsewhereError: the class cannot be found there, or the function has raised something.
    """
    if _found(sys.modules.get(subject.__module__), subject.__qualname__) is None:
        raise ElsewhereError(
            f"class {subject.__qualname__} cannot be imported by another process: define it at the top of its module"
        )
    where = getattr(sys.modules[subject.__module__], "__file__", None)
    paths = [str(Path(path or ".").resolve()) for path in sys.path]
    asked = pickle.dumps((paths, subject.__module__, where, subject.__qualname__, function.__name__))
    asked += pickle.dumps((function.__module__, given))
    with ThreadPoolExecutor(len(HASH_SEEDS)) as together:  # each waits for a process
        return list(together.map(lambda seed: _ask(asked, seed), HASH_SEEDS))


def _ask(asked: bytes, seed: str) -> Any:
    paths = os.pathsep.join(path for path in sys.path if path)
    environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": paths}
    command = [sys.executable, "-m", __name__]
    done = subprocess.run(command, input=asked, capture_output=True, env=environment, timeout=PATIENCE, check=False)
    if done.returncode:
        raise ElsewhereError(f"in another process: {done.stderr.decode(errors='replace').strip()}")
    return pickle.loads(done.stdout)


def _found(module: object, qualname: str) -> object:
    """What a module has under a name with dots; None if nothing."""
    for name in qualname.split("."):
        module = getattr(module, name, None)
    return module


def _imported(name: str, where: str | None) -> ModuleType | None:
    """A module by its name, or, where that is another one here or none, from its file."""
    try:
        module = importlib.import_module(name)
    except ImportError:
        module = None
    if where is None or (module is not None and getattr(module, "__file__", None) == where):
        return module
    spec = importlib.util.spec_from_file_location(name, where)
    if spec is None or spec.loader is None:
        raise ElsewhereError(f"{where} is no file of Python's")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _answer() -> None:
    """In the other process: do what stdin asks, and say on stdout what it came to."""
    read, write = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the subject prints is no answer
    sys.path[:], name, where, qualname, function = pickle.load(read)
    module = _imported(name, where)
    function_of, given = pickle.load(read)
    answer = getattr(importlib.import_module(function_of), function)(_found(module, qualname), given)
    with write:
        write.write(pickle.dumps(answer))


if __name__ == "__main__":
    _answer()
