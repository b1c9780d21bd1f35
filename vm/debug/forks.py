"""Recordings that a debugger makes: of a run that was written to, or of a live one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
from msgspec.structs import replace

from kstack.base.errors import ConfigError, PolicyError, RecordingError
from kstack.debug.origin import UNBOUNDED
from kstack.debug.timeline import Timeline
from kstack.recording import RULES_VERSION, UNFINISHED, VERSION, Recording, pack, write_recording
from kstack.run.spec import replay_session

MOST_FORKS: Final = 1000  # of one recording


def recording_of(timeline: Timeline) -> Recording:
    """What repeats a run up to where it stands; it has been repeated once.

    Raises:
        ConfigError: the run has no setup by which it could be repeated.
        RecordingError: it does not come out the same.
    """
    head = timeline.origin.head
    if head is None:
        raise ConfigError("this run was set up by hand; only one of an image or a recording can be recorded")
    found = replace(
        head,
        version=VERSION,
        rules=RULES_VERSION,
        choices=pack(timeline.made()),
        writes=[msgspec.to_builtins(write) for write in timeline.written()],
        max_time=UNBOUNDED,
        max_work=None,
        stop_at_finding=False,
        ended=UNFINISHED,
        time=timeline.time,
        state_hash=timeline.machine.state_hash(),
        finding=None,
    )
    try:
        result = replay_session(found).run()
    except PolicyError:
        if timeline.ended is None:
            raise
        return replace(found, state_hash="")  # up to there it can be repeated
    if result.state_hash != found.state_hash:
        raise RecordingError(f"the run ends in state {found.state_hash}, and repeated in {result.state_hash}")
    finding = result.findings[0].kind.value if result.findings else None
    return replace(found, ended=result.ended, time=result.time, finding=finding)


class Keeper:
    """Keeps what a debugged run becomes in a file.

    Args:
        timeline: the run.
        place: names the file when it is first needed; None keeps nothing unless it is asked for.
    """

    def __init__(self, timeline: Timeline, place: Callable[[], Path] | None) -> None:
        self._timeline, self._place = timeline, place
        self._path: Path | None = None

    @property
    def keeps(self) -> bool:
        """Whether there is a file for it."""
        return self._place is not None

    def save(self) -> str:
        """Record the run up to where it stands, and say where.

        Raises:
            ConfigError: nobody has said where, or it cannot be repeated.
            RecordingError: the file cannot be written, or the run does not come out the same.
        """
        timeline = self._timeline
        if timeline.recorded and not timeline.forked:
            raise ConfigError("nothing has been written: this is the recording that there is already")
        if self._place is None:
            raise ConfigError("give kstack gdb --record FILE for a recording of this run")
        found = recording_of(timeline)
        self._path = self._path or self._place()
        write_recording(self._path, found)
        timeline.kept = timeline.time >= timeline.reached and len(timeline.written()) == len(timeline.writes)
        return f"{self._path}: up to time {found.time}, state {found.state_hash or 'unknown: the policy has failed'}"

    def close(self) -> str | None:
        """The debugger leaves: record what has not been, as far as it ever went; where, or None.

        Raises:
            RecordingError: as `save`.
        """
        timeline = self._timeline
        if self._place is None or timeline.kept or (timeline.recorded and not timeline.forked):
            return None
        timeline.goto(timeline.reached)
        if len(timeline.written()) < len(timeline.writes):
            timeline.goto(timeline.reached, chosen=True)  # it was written where the next slice had been chosen
        return self.save()


def beside(path: Path) -> Path:
    """The first name for a fork of a recording that is not taken.

    Raises:
        ConfigError: all are.
    """
    for number in range(1, MOST_FORKS):
        other = path.with_name(f"{path.stem}.fork-{number}{path.suffix}")
        if not other.exists():
            return other
    raise ConfigError(f"{path} has {MOST_FORKS} forks already; give --record FILE")


def checked(path: Path, recording: Path | None) -> Path:
    """A file for a recording, if it can be one.

    Args:
        path: of the file.
        recording: that is debugged, and must stay.

    Raises:
        ConfigError: there is no folder for it, it is one, or it is that recording.
    """
    if path.is_dir() or not path.name:
        raise ConfigError(f"--record {path}: it is a folder; give a file")
    if not path.parent.is_dir():
        raise ConfigError(f"--record {path}: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise ConfigError(f"--record {path}: the folder cannot be written to")
    if recording is not None and path.exists() and path.samefile(recording):
        raise ConfigError(f"--record {path}: it is the recording that is debugged; give another file")
    return path
