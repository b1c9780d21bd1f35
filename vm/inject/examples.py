"""Recordings of trials: of the shortest of each fault and outcome, or of all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from kstack.base.errors import ConfigError
from kstack.inject.campaign import TrialBatch
from kstack.inject.sites import census
from kstack.inject.trial import NOT_FIRED, Trial, TrialOutcome, TrialPair
from kstack.recording import Recording, write_recording

Simpler = Callable[[Trial, TrialOutcome, Recording], Recording]


class Example(NamedTuple):
    """A trial that is recorded: what was tried, what it came to, and where the recording is."""

    pair: TrialPair
    outcome: TrialOutcome
    path: Path


def shortest(found: list[tuple[TrialBatch, list[TrialOutcome]]]) -> list[tuple[TrialPair, TrialOutcome]]:
    """The shortest trial of each fault and outcome, the masked ones left out, and those whose fault did not happen."""
    best: dict[tuple[str, str], tuple[TrialPair, TrialOutcome]] = {}
    for batch, outcomes in found:
        for one in outcomes:
            key = (one.fault.what, one.outcome)
            if one.column not in ("masked", NOT_FIRED) and (key not in best or one.time < best[key][1].time):
                best[key] = (batch.pair, one)
    return list(best.values())


def everything(found: list[tuple[TrialBatch, list[TrialOutcome]]]) -> list[tuple[TrialPair, TrialOutcome]]:
    """All trials."""
    return [(batch.pair, one) for batch, outcomes in found for one in outcomes]


def make_folder(folder: Path) -> None:
    """Make a folder for recordings, if it is not there.

    Raises:
        ConfigError: it cannot be made, or not be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--recordings {folder}: {error.strerror}; give a folder") from error
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"--recordings {folder}: the folder cannot be written")


def record(
    folder: Path,
    chosen: list[tuple[TrialPair, TrialOutcome]],
    simpler: Simpler = lambda _trial, _outcome, recording: recording,
) -> list[Example]:
    """Try them again, and write what repeats them.

    Args:
        folder: made if it is not there.
        chosen: trials.
        simpler: what is written instead of a trial's own recording.

    Raises:
        RecordingError: they cannot be written.
    """
    make_folder(folder)
    written = []
    for number, (pair, one) in enumerate(chosen):
        trial = Trial(pair, one.fault, one.site, census(pair).usual)
        again, recording = trial.recorded()
        assert again == one, "the same trial comes to the same"
        names = (f"{number:04}", Path(pair.policy).stem, Path(pair.scenario).stem, one.fault.what, one.outcome)
        path = folder / f"{'-'.join(names)}.json"
        write_recording(path, simpler(trial, one, recording))
        written.append(Example(pair, one, path))
    return written
