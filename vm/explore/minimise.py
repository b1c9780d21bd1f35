"""A shorter way to the same kind of finding: moves left out while it still comes, then switches of CPU merged.

Left out by ddmin (Zeller and Hildebrandt, IEEE TSE 28(2), 2002): halves, quarters, ... down to single moves. What
cannot be made any more where another move has been left out is left out too. Then neighbouring stretches of two CPUs
change places where that saves a switch. The outcome is minimal in this sense and need not be a shortest way, which
the engine `stateful` finds.
"""

from __future__ import annotations

from collections.abc import Sequence

from kstack.explore.transitions import Memo
from kstack.explore.world import Move
from kstack.sanitizer.findings import Kind


def minimised(memo: Memo, path: Sequence[Move], kind: Kind) -> tuple[Move, ...]:
    """A path that still ends with a finding of this kind, from which no move can be left out.

    Args:
        memo: of the world in which the path was found, with all that is visible on it.
        path: ends with the finding.
        kind: of the finding.

    Raises:
        Grown: more is visible than the world knew.
    """
    found = tuple(path)
    while True:
        shorter = _merged(memo, _left_out(memo, found, kind), kind)
        if shorter == found:
            return found
        found = shorter


def _attempt(memo: Memo, moves: Sequence[Move], kind: Kind) -> tuple[Move, ...] | None:
    """The moves that can be made of these, up to a finding of this kind; None if none comes."""
    node, made = memo.root, []
    for move in moves:
        if move not in memo.moves(node):
            continue
        outcome = memo.make(node, move)
        made.append(move)
        node = outcome.node
        if outcome.finding is not None:
            return tuple(made) if outcome.finding.kind is kind else None
    return None


def _left_out(memo: Memo, path: tuple[Move, ...], kind: Kind) -> tuple[Move, ...]:
    """As many moves left out as ddmin can."""
    found, pieces = path, 2
    while pieces <= len(found):
        size = -(-len(found) // pieces)
        for start in range(0, len(found), size):
            attempt = _attempt(memo, found[:start] + found[start + size :], kind)
            if attempt is not None and len(attempt) < len(found):
                found, pieces = attempt, max(2, pieces - 1)
                break
        else:
            if size == 1:
                break
            pieces = min(len(found), 2 * pieces)
    return found


def _merged(memo: Memo, path: tuple[Move, ...], kind: Kind) -> tuple[Move, ...]:
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
            attempt = _attempt(memo, moves, kind)
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
