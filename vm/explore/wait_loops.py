"""Loops that wait: when a CPU has come back to where it was, and only a store can let it go on.

A CPU whose moves have changed nothing but itself and have led back to where it was would only do the same
again. It moves on when one of the things it has read is written.
"""

from __future__ import annotations

from typing import NamedTuple

from kstack.explore.dependence import Footprint, Thing
from kstack.explore.world import Move, State, World

Local = tuple[object, ...]


class Look(NamedTuple):
    """A move that changed nothing but its CPU: where the CPU was, what it read, whether it could have chosen."""

    local: Local
    reads: frozenset[Thing]
    chose: bool


class Spin(NamedTuple):
    """A CPU that waits until one of these is written; `chose` if it might have left by another choice."""

    reads: frozenset[Thing]
    chose: bool


def local_of(world: World, cpu: int) -> Local:
    """A CPU by itself: its registers, the operation before which it stands, what it may have cached."""
    cached = tuple(sorted((page, tuple(sorted(may))) for (who, page), may in world.lazy.may.items() if who == cpu))
    return world.machine.cpus[cpu].registers.canonical(), world.held[cpu], cached


def look_of(move: Move, footprint: Footprint, before: State, after: State, local: Local, chose: bool) -> Look | None:
    """A move as a look, None if it may have changed more than its CPU.

    Args:
        move: what was made.
        footprint: of the move.
        before: the state before it.
        after: the state after it.
        local: of its CPU, before.
        chose: there was another choice.
    """
    if footprint.everything or move.kind not in ("access", "instruction") or before.memory != after.memory:
        return None
    if before.runtime != after.runtime or before.rest.ipis != after.rest.ipis or before.stores != after.stores:
        return None
    return Look(local, (footprint.reads | footprint.writes) - {("cpu", move.cpu)}, chose)


def looks_after(
    looks: dict[int, tuple[Look, ...]], cpu: int, footprint: Footprint, look: Look | None
) -> dict[int, tuple[Look, ...]]:
    """What each CPU has read since it last changed anything, and nobody has written since.

    Args:
        looks: before a move.
        cpu: whose move.
        footprint: of the move.
        look: the move, if it is one.
    """
    if footprint.everything:
        return {}
    left = {
        other: seen
        for other, seen in looks.items()
        if other != cpu and all(one.reads.isdisjoint(footprint.writes) for one in seen)
    }
    if look is not None:
        left[cpu] = (*looks.get(cpu, ()), look)
    return left


def spins_after(
    spins: dict[int, Spin], cpu: int, footprint: Footprint, looks: dict[int, tuple[Look, ...]], local: Local
) -> dict[int, Spin]:
    """The CPUs that wait after a move.

    Args:
        spins: before it.
        cpu: whose move.
        footprint: of the move.
        looks: after it.
        local: of `cpu`, after it.
    """
    left = {
        other: spin
        for other, spin in spins.items()
        if other != cpu and not footprint.everything and spin.reads.isdisjoint(footprint.writes)
    }
    seen = looks.get(cpu, ())
    for at, look in enumerate(seen):
        if look.local == local:
            left[cpu] = Spin(frozenset().union(*(one.reads for one in seen[at:])), any(one.chose for one in seen[at:]))
            break
    return left
