"""A shorter way to the same kind of finding: moves left out while it still comes, then switches of CPU merged.

Left out by ddmin (`kstack.base.ddmin`). What cannot be made any more where another move has been left out is left out
too. Then neighbouring stretches of two CPUs change places where that saves a switch. The outcome is minimal in this sense
and need not be a shortest way, which the engine `stateful` finds.
"""

from __future__ import annotations

from collections.abc import Sequence

from kstack.base.ddmin import reduced
from kstack.explore.states import Move
from kstack.explore.transitions import StateSpace
from kstack.sanitizer.findings import Kind


def minimised(space: StateSpace, path: Sequence[Move], kind: Kind) -> tuple[Move, ...]:
    """A path that still ends with a finding of this kind, from which no move can be left out.

    Args:
        space: of the world in which the path was found, with all that is visible on it.
        path: ends with the finding.
        kind: of the finding.

    Raises:
        Grown: more is visible than the world knew.
    """
    found = tuple(path)
    while True:
        fewer = reduced(found, lambda moves: _attempt(space, moves, kind))
        shorter = _merged(space, tuple(fewer), kind)
        if shorter == found:
            return found
        found = shorter


def _attempt(space: StateSpace, moves: Sequence[Move], kind: Kind) -> tuple[Move, ...] | None:
    """The moves that can be made of these, up to a finding of this kind; None if none comes."""
    node, made = space.root, []
    for move in moves:
        if move not in space.moves(node):
            continue
        transition = space.make(node, move)
        made.append(move)
        node = transition.node
        if transition.finding is not None:
            return tuple(made) if transition.finding.kind is kind else None
    return None


def _merged(space: StateSpace, path: tuple[Move, ...], kind: Kind) -> tuple[Move, ...]:
    """With neighbouring stretches exchanged as long as that saves switches."""
    found = path
    improved = True
    while improved:
        improved = False
        stretches = _stretches(found)
        for at in range(len(stretches) - 1):
            swapped = [*stretches[:at], stretches[at + 1], stretches[at], *stretches[at + 2 :]]
            moves = tuple(move for stretch in swapped for move in stretch)
            if len(_stretches(moves)) >= len(stretches):
                continue
            attempt = _attempt(space, moves, kind)
            if attempt is not None and len(attempt) <= len(found) and len(_stretches(attempt)) < len(stretches):
                found, improved = attempt, True
                break
    return found


def _stretches(path: Sequence[Move]) -> list[list[Move]]:
    """A path cut where the CPU changes."""
    found: list[list[Move]] = []
    for move in path:
        if not found or found[-1][-1].cpu != move.cpu:
            found.append([])
        found[-1].append(move)
    return found
