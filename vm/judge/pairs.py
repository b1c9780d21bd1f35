"""Many pairs: judged in worker processes, saved as they finish, and resumed.

A checkpoint is a log (`kstack.base.journal`). Its first line says of which kstack, machine and options the results
are; every further line is one pair. A line is on the disk before the next pair is taken up, so a kill loses what was in
flight and nothing else.
"""

from __future__ import annotations

import multiprocessing
import os
import platform
import signal
import threading
from collections.abc import Generator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from importlib.metadata import version as installed
from multiprocessing.connection import wait
from multiprocessing.context import ForkContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final

import msgspec

from kstack.base.digests import digest
from kstack.base.documents import Document
from kstack.base.errors import ConfigError, KstackError
from kstack.base.files import refused_as
from kstack.base.journal import BEFORE, Log, parse
from kstack.judge.verdict import JudgedPair, Judgement
from kstack.kernels.known import usual_guests
from kstack.recording import RULES_VERSION, image_hash
from kstack.stacks.loading.registry import policy_hash

VERSION: Final = 1
_NO_ROOMS: Final = ("guest", "policies")  # beside the rooms where kstack is installed; what they are has its own hash
JOIN_SECONDS: Final = 5.0  # for workers that have been ended
_PRESENTATION: Final = ("cli", "probe", "report", *_NO_ROOMS)  # folders whose code no result depends on


class _Line(msgspec.Struct, frozen=True):
    """One judged pair, and the sources it was judged by."""

    policy: str
    scenario: str
    policy_hash: str
    image_hash: str
    judgement: Judgement


def versions() -> dict[str, str]:
    """What results depend on beside the options: kstack with a hash of its code, Python, Unicorn, the machine's rules."""
    return {
        "kstack": f"{installed('kstack')}+{_code_hash()}",
        "python": _python(),
        "unicorn": installed("unicorn"),
        "rules": str(RULES_VERSION),
    }


def _python() -> str:
    return ".".join(platform.python_version_tuple()[:2])


def _code_hash() -> str:
    return code_hash(_PRESENTATION)


@cache
def code_hash(without: tuple[str, ...]) -> str:
    """What identifies kstack's code, but for these folders and files of it."""
    root = Path(__file__).resolve().parents[1]
    found: list[bytes] = []
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root)
        if not any(name.is_relative_to(one) for one in without):
            found.append(str(name).encode() + b"\0" + path.read_bytes())
    return digest(b"".join(found), 6)


@cache
def policy_hash_of(name: str) -> str:
    """What identifies a policy's source; found out once a process."""
    return policy_hash(name)


@cache
def image_hash_of(name: str) -> str:
    """What identifies an image; found out once a process."""
    return image_hash(usual_guests().image(name))


class PairCheckpoint:
    """Results of pairs in a file, which is made if it does not exist.

    Args:
        path: the file.
        pairs: what is to be judged; all have the same options.

    Raises:
        ConfigError: it is no checkpoint, is damaged, in use, or of other options, versions or sources.
    """

    def __init__(self, path: Path, pairs: list[JudgedPair]) -> None:
        self.path = path
        self.done: dict[int, Judgement] = {}
        self._head = _head(pairs[0])
        self._log = self._open()
        try:
            self._read({(pair.policy, pair.scenario): index for index, pair in enumerate(pairs)})
        except BaseException:
            self._log.close()
            raise

    def _open(self) -> Log:
        with refused_as(f"--resume {self.path}"):
            try:
                return Log(self.path, BEFORE, locked=True)
            except BlockingIOError as error:
                raise ConfigError(f"--resume {self.path}: another kstack is writing it") from error

    def _read(self, places: dict[tuple[str, str], int]) -> None:
        data = self._log.data()
        documents, size, damage = parse(data, BEFORE)
        if not documents:
            if not BEFORE.written(self._head).encode().startswith(data):  # empty, or a first line that was torn
                raise self._not_ours()
            self._log.cut(0)
            self._append(self._head)
            return
        self._check_head(documents[0])
        for number, document in enumerate(documents[1:], 2):
            self._take(document, number, places)
        if damage is not None:
            raise ConfigError(f"--resume {self.path}: line {damage.line} is damaged; give a new file")
        self._log.cut(size)

    def _not_ours(self) -> ConfigError:
        return ConfigError(f"--resume {self.path}: it is no checkpoint of kstack; give a new file")

    def _check_head(self, found: Document) -> None:
        if found.get("file") != self._head["file"]:
            raise self._not_ours()
        differing = [
            f"{name} was {_short(found.get(name))} and is {_short(now)}"
            for name, now in self._head.items()
            if found.get(name) != now
        ]
        if differing:
            raise ConfigError(f"--resume {self.path} is of another run: {'; '.join(differing)}; give a new file")

    def _take(self, found: Document, number: int, places: dict[tuple[str, str], int]) -> None:
        try:
            line = msgspec.convert(found, _Line)
        except msgspec.ValidationError as error:
            raise ConfigError(f"--resume {self.path}, line {number}: {error}") from error
        place = places.get((line.policy, line.scenario))
        if place is None:
            return
        if line.policy_hash != policy_hash_of(line.policy):
            raise ConfigError(
                f"--resume {self.path} is of another run: the source of policy {line.policy} differs; give a new file"
            )
        if line.image_hash != image_hash_of(line.scenario):
            raise ConfigError(
                f"--resume {self.path} is of another run: the image of scenario {line.scenario} differs; give a new file"
            )
        self.done[place] = line.judgement

    def add(self, pair: JudgedPair, judgement: Judgement) -> None:
        """Save one pair's result, on the disk when this returns."""
        line = _Line(pair.policy, pair.scenario, policy_hash_of(pair.policy), image_hash_of(pair.scenario), judgement)
        self._append(msgspec.to_builtins(line))

    def _append(self, document: Document) -> None:
        with refused_as(f"--resume {self.path} cannot be written"):
            self._log.add(document)

    def close(self) -> None:
        """Let others use the file."""
        self._log.close()


def _head(pair: JudgedPair) -> Document:
    portfolio = pair.portfolio
    return {
        "file": "kstack checkpoint",
        "format": VERSION,
        **versions(),
        "schedules": portfolio.schedules,
        "explore": portfolio.explore,
        **{f"pool {name}": value for name, value in vars(portfolio.pool).items()},
        **{f"mode {name}": value for name, value in pair.modes.as_dict().items()},
    }


def _short(value: object) -> str:
    return "absent" if value is None else str(value)


def judge_pairs(
    pairs: list[JudgedPair], jobs: int, checkpoint: PairCheckpoint | None = None
) -> Generator[tuple[int, Judgement], None, None]:
    """Judge pairs in worker processes: the place and the judgement of each, as they finish.

    What the checkpoint has comes first. Close the iterator to stop early: workers are ended then.

    Args:
        pairs: what to judge; the results do not depend on their order or on `jobs`.
        jobs: worker processes.
        checkpoint: where results are kept, or None.

    Raises:
        KstackError: as `JudgedPair.judge`, or a worker died.
    """
    done = dict(sorted(checkpoint.done.items())) if checkpoint is not None else {}
    yield from done.items()
    left = [index for index in range(len(pairs)) if index not in done]
    if not left:
        return
    context = _Workers()
    executor = ProcessPoolExecutor(min(jobs, len(left)), context, _begin_worker)
    workers = context.made
    try:
        futures: dict[Future[Judgement], int] = {executor.submit(pairs[index].judge): index for index in left}
        for future in as_completed(futures):
            index = futures.pop(future)
            judgement = future.result()
            if checkpoint is not None:
                checkpoint.add(pairs[index], judgement)
            yield index, judgement
        executor.shutdown()
    except BrokenProcessPool as error:
        executor.shutdown(cancel_futures=True)  # which takes the exit codes: who asks meanwhile may get none
        raise KstackError(f"a worker process {_end_of(workers)}; fewer --jobs need less memory") from error
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
        for worker in workers:
            if worker.pid is not None:
                worker.terminate()


class _Workers(ForkContext):
    """Makes the workers of one executor, and knows them: nobody else's are ended, also of one that has died at once."""

    def __init__(self) -> None:
        self.made: list[BaseProcess] = []

    def Process(self, *arguments: Any, **named: Any) -> BaseProcess:  # type: ignore[override] # noqa: N802 - a class there
        """A worker that has not been started."""
        self.made.append(super().Process(*arguments, **named))
        return self.made[-1]


def _end_of(workers: list[BaseProcess]) -> str:
    """How the first worker ended that was not ended because of another."""
    for worker in workers:
        worker.join(JOIN_SECONDS)
        code = worker.exitcode
        if code is not None and code not in (0, -signal.SIGTERM):
            return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return "died"


def _begin_worker() -> None:
    """Leave Ctrl-C, which reaches the whole process group, to the parent, and end when the parent has died."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_parent, daemon=True).start()


def _end_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
