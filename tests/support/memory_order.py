"""Litmus tests of memory order: as guest programs on the machine, and on an abstract x86-TSO machine.

Programs are those of `kstack.kernels.kstack.litmus`.
An outcome is what each load of each CPU gave, in order, and what the locations hold in the end.
"""

from __future__ import annotations

from pathlib import Path

from kstack.explore.outcomes import outcomes as reached
from kstack.explore.problem import Bounds, Problem
from kstack.hw.modes import Modes
from kstack.kernels.kstack.litmus import LOCATIONS, Operation, parse, write_guest, write_scenario
from kstack.stacks import Policy

Outcome = tuple[tuple[tuple[int, ...], ...], tuple[int, ...]]


def abstract(programs: list[tuple[Operation, ...]], buffered: bool) -> set[Outcome]:
    """All outcomes on the abstract machine of Owens, Sarkar and Sewell (2009); without buffers, all of SC."""
    start = (tuple(0 for _ in LOCATIONS), tuple((0, (), ()) for _ in programs))  # place, buffer, loaded
    seen, work, ends = {start}, [start], set()
    while work:
        memory, cpus = work.pop()
        following = []
        for cpu, (place, buffer, loaded) in enumerate(cpus):
            if buffer:
                (where, value), *rest = buffer
                following.append((_set(memory, where, value), cpu, (place, tuple(rest), loaded)))
            if place == len(programs[cpu]):
                continue
            what, where, value = programs[cpu][place][:3]
            if what == "store" and buffered:
                following.append((memory, cpu, (place + 1, (*buffer, (where, value)), loaded)))
            elif what == "store":
                following.append((_set(memory, where, value), cpu, (place + 1, (), loaded)))
            elif what == "load":
                seen_here = next((one for at, one in reversed(buffer) if at == where), memory[where])
                following.append((memory, cpu, (place + 1, buffer, (*loaded, seen_here))))
            elif not buffer and what == "exchange":
                following.append((_set(memory, where, value), cpu, (place + 1, (), (*loaded, memory[where]))))
            elif not buffer:
                following.append((memory, cpu, (place + 1, (), loaded)))
        if not following:
            ends.add((tuple(loaded for _, _, loaded in cpus), memory))
        for after, cpu, state in following:
            new = (after, (*cpus[:cpu], state, *cpus[cpu + 1 :]))
            if new not in seen:
                seen.add(new)
                work.append(new)
    return ends


def _set(memory: tuple[int, ...], where: int, value: int) -> tuple[int, ...]:
    return (*memory[:where], value, *memory[where + 1 :])


def outcomes(
    toml: Path,
    programs: list[tuple[Operation, ...]],
    order: str,
    policy: str | type[Policy] = "fixed-16k",
    every_move: bool = True,
) -> set[Outcome]:
    """All outcomes on the machine, over all its states; or, not by `every_move`, with what commutes in one order."""
    found = reached(Problem(str(toml), policy, Modes(memory_order=order)), Bounds(every_move=every_move))
    assert found.complete and not found.stuck
    return {_outcome(dict(zip(found.names, values, strict=True)), programs) for values in found.outcomes}


def _outcome(values: dict[str, int], programs: list[tuple[Operation, ...]]) -> Outcome:
    loads = tuple(
        tuple(values[f"{cpu}.{number}"] for number in range(sum(one.gives for one in program)))
        for cpu, program in enumerate(programs)
    )
    return loads, tuple(values.get(name, 0) for name in LOCATIONS)


__all__ = ["Operation", "Outcome", "abstract", "outcomes", "parse", "write_guest", "write_scenario"]
