"""A probe as a JSON document: printed, and kept in a file, which `file.py` reads again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from kstack.base.digests import digest_of
from kstack.base.documents import Document
from kstack.base.release import release
from kstack.probe.evidence import Evidence
from kstack.probe.file import VERSION
from kstack.probe.questions import ALL, Question
from kstack.probe.result import ProbeResult
from kstack.probe.verdict import ModeVerdict, as_dict


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
