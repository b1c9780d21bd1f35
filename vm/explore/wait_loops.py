"""Loops that wait: when a CPU has come back to where it was, and only a store can let it go on.

A CPU whose moves have changed nothing but itself and have led back to where it was would only do the same
again. It moves on when one of the things it has read is written.
"""

from __future__ import annotations

from typing import NamedTuple

from kstack.explore.dependence import ReadWriteSets, cpu_itself
from kstack.explore.footprint import Location
from kstack.explore.model.gate import Held
from kstack.explore.states import Move, State
from kstack.explore.world import World


class LocalState(NamedTuple):
    """A CPU by itself: its registers, the operation before which it stands, what it may have cached, by page."""

    registers: bytes
    held: Held | None
    cached: tuple[tuple[int, tuple[int, ...]], ...]


class IdleMove(NamedTuple):
    """A move that changed nothing but its CPU: where the CPU was, what it read, whether it could have chosen."""

    local: LocalState
    reads: frozenset[Location]
    chose: bool


class WaitLoop(NamedTuple):
    """A CPU that waits until one of these is written; `chose` if it might have left by another choice."""

    reads: frozenset[Location]
    chose: bool


def local_of(world: World, cpu: int) -> LocalState:
    """A CPU by itself, as it is now."""
    cached = tuple(sorted((page, tuple(sorted(may))) for (who, page), may in world.lazy.may.items() if who == cpu))
    return LocalState(world.machine.cpus[cpu].registers.canonical(), world.held[cpu], cached)


def idle_move_of(
    move: Move, sets: ReadWriteSets, before: State, after: State, local: LocalState, chose: bool
) -> IdleMove | None:
    """A move as an idle one, None if it may have changed more than its CPU.

    Args:
        move: what was made.
        sets: what it has read and written.
        before: the state before it.
        after: the state after it.
        local: of its CPU, before.
        chose: there was another choice.
    """
    if sets.everything or move.kind not in ("access", "instruction") or before.memory != after.memory:
        return None
    if before.policy != after.policy or before.rest.ipis != after.rest.ipis or before.stores != after.stores:
        return None
    return IdleMove(local, (sets.reads | sets.writes) - {cpu_itself(move.cpu)}, chose)


def idle_after(
    idle: dict[int, tuple[IdleMove, ...]], cpu: int, sets: ReadWriteSets, last: IdleMove | None
) -> dict[int, tuple[IdleMove, ...]]:
    """What each CPU has read since it last changed anything, and nobody has written since.

    Args:
        idle: before a move.
        cpu: whose move.
        sets: what it has read and written.
        last: the move, if it is one.
    """
    if sets.everything:
        return {}
    left = {
        other: seen
        for other, seen in idle.items()
        if other != cpu and all(one.reads.isdisjoint(sets.writes) for one in seen)
    }
    if last is not None:
        left[cpu] = (*idle.get(cpu, ()), last)
    return left


def waiting_after(
    waiting: dict[int, WaitLoop],
    cpu: int,
    sets: ReadWriteSets,
    idle: dict[int, tuple[IdleMove, ...]],
    local: LocalState,
) -> dict[int, WaitLoop]:
    """The CPUs that wait after a move.

    Args:
        waiting: before it.
        cpu: whose move.
        sets: what it has read and written.
        idle: after it.
        local: of `cpu`, after it.
    """
    left = {
        other: loop
        for other, loop in waiting.items()
        if other != cpu and not sets.everything and loop.reads.isdisjoint(sets.writes)
    }
    seen = idle.get(cpu, ())
    for at, first in enumerate(seen):
        if first.local == local:
            left[cpu] = WaitLoop(
                frozenset().union(*(one.reads for one in seen[at:])), any(one.chose for one in seen[at:])
            )
            break
    return left
