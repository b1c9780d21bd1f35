"""Everything that can be found in a scenario, not the first alone: every move out of every state is made, past findings too."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from kstack.explore.problem import Problem
from kstack.explore.states import Grown
from kstack.explore.transitions import StateSpace
from kstack.sanitizer.findings import Finding


class Found(NamedTuple):
    """A finding without what was before it: its kind, the CPU, the place in the guest, and the sentence."""

    kind: str
    cpu: int
    symbol: str
    text: str


def all_findings(problem: Problem) -> frozenset[Found]:
    """All findings that can be reached; that no end can be is none.

    Raises:
        FoundBefore: there is one before the first move.
    """
    booted = problem.boot()
    while True:
        try:
            return _findings(StateSpace(problem.world(booted)))
        except Grown as grown:
            problem = replace(problem, visible=grown.frames)


def _findings(space: StateSpace) -> frozenset[Found]:
    seen, work, found = {space.root.key}, [space.root], set[Found]()
    for node in work:
        for move in space.moves(node):
            made = space.make(node, move)
            if made.finding is not None:
                found.add(_of(made.finding))
            if made.node.key not in seen:
                seen.add(made.node.key)
                work.append(made.node)
    return frozenset(found)


def _of(finding: Finding) -> Found:
    return Found(finding.kind.value, finding.cpu, finding.symbol, finding.text)
