"""A probe as a JSON document: printed, kept in a file, and read again for `--modes-from`.

The file has a digest: what was changed after it was written is refused. That keeps accidents and touched-up figures out;
it is no signature.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from kstack.base.digests import digest_of
from kstack.base.documents import Document
from kstack.base.errors import ConfigError
from kstack.base.files import refused_as
from kstack.base.release import release
from kstack.hw.modes import VALUES
from kstack.probe.cpu import CpuModel
from kstack.probe.evidence import Evidence
from kstack.probe.questions import ALL, Question
from kstack.probe.result import ProbeResult
from kstack.probe.verdict import ModeVerdict, as_dict

VERSION: Final = 1
AGAIN: Final = "kstack probe -o FILE writes one"
_KEYS: Final = {"version", "cpu", "modes", "digest"}


class FileMode(msgspec.Struct, frozen=True):
    """What a file says of one mode.

    Attributes:
        value: to which the trials point, or None.
        conclusive: whether they do.
        why: in a sentence.
        refuted: by value, what has refuted it.
        not_contradicted: the other values.
    """

    value: str | None
    conclusive: bool
    why: str
    refuted: dict[str, list[str]]
    not_contradicted: list[str]


class ProbeFile(msgspec.Struct, frozen=True):
    """What others read of a probe.

    Attributes:
        version: of the file.
        cpu: that was measured; None if its system did not say.
        modes: by name.
    """

    version: int
    cpu: CpuModel | None
    modes: dict[str, FileMode]


def document(found: ProbeResult) -> Document:
    """All of a probe, with its digest."""
    cpu: Any = None if found.cpu is None else msgspec.to_builtins(found.cpu)
    asked = {one.question.name for verdict in found.verdicts for one in verdict.evidence}
    content: Document = {
        "version": VERSION,
        "kstack": release(),
        "cpu": cpu and {**cpu, "hypervisor": found.hypervisor, "number": found.number},
        "kernel": found.kernel,
        "date": found.date,
        "seed": found.seed,
        "trials": found.trials,
        "made": found.made,
        "complete": found.complete,
        "failure": found.failure or None,
        "ticks": found.ticks,
        "modes": {one.mode: {**as_dict(one), "trials": _trials(found, one)} for one in found.verdicts},
        "questions": _questions(found, [one for one in ALL if one.name not in asked], ()),
    }
    return {**content, "digest": digest_of(content)}


def _trials(found: ProbeResult, verdict: ModeVerdict) -> Document:
    """The questions by which a mode is decided."""
    asked = {one.question.name: one.question for one in verdict.evidence}
    return _questions(found, list(asked.values()), verdict.evidence)


def _questions(found: ProbeResult, asked: Iterable[Question], evidence: Sequence[Evidence]) -> Document:
    """Questions, with all that was counted."""
    return {
        question.name: {
            "text": question.text,
            "arms": {arm: found.tally(question, arm).as_dict() for arm in question.arms},
            "evidence": [one.as_dict() for one in evidence if one.question == question],
        }
        for question in asked
    }


def text(content: Document) -> str:
    """A document as its file has it."""
    return json.dumps(content, indent=1) + "\n"


def read_probe(path: Path) -> ProbeFile:
    """Read what a probe has found.

    Raises:
        ConfigError: it cannot be read, is no such file, is of another version, or was changed.
    """
    with refused_as(f"{path} cannot be read"):
        data = path.read_bytes()
    content = _content(path, data)
    if content["version"] != VERSION:
        raise ConfigError(f"{path} has version {content['version']}, and this kstack reads {VERSION}: measure again")
    said = content.pop("digest")
    if said != digest_of(content):
        raise ConfigError(f"{path} was changed after it was written: measure again")
    try:
        found = msgspec.convert(content, ProbeFile)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path} is no file of kstack probe: {error}; {AGAIN}") from error
    _check_values(path, found)
    return found


def _content(path: Path, data: bytes) -> dict[str, Any]:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is no JSON, so no file of kstack probe; {AGAIN}") from error
    if not isinstance(content, dict) or not content.keys() >= _KEYS:
        raise ConfigError(f"{path} is no file of kstack probe; {AGAIN}")
    return content


def _check_values(path: Path, found: ProbeFile) -> None:
    """What a file names is there.

    Raises:
        ConfigError: it is not.
    """
    for mode, said in found.modes.items():
        named = {*said.refuted, *said.not_contradicted, *([] if said.value is None else [said.value])}
        if not named <= set(VALUES.get(mode, ())):
            raise ConfigError(f"{path}: no mode {mode} with values {', '.join(sorted(named))}")
