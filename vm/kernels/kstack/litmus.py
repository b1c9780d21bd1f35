"""Litmus scenarios as values: a straight program a CPU, written into a folder as TOML and assembly.

A program of memory operations is a text (kstack.kernels.kstack.language): stores, loads, exchanges, fences and locked operations. Here
its locations are words of one page; tests of page-table entries are in kstack.kernels.kstack.pages.

A program of visits is what threads do to their stacks: `Visit`s, one after the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from kstack.base.errors import ConfigError
from kstack.kernels.kstack.language import Operation, parse
from kstack.x86.addresses import PAGE
from kstack.x86.registers import Gpr

LOCATIONS: Final = "xyz"
RESULTS: Final = (Gpr.R8, Gpr.R9, Gpr.R10, Gpr.R11)
STRIDE: Final = 64

STACK: Final = 4 * PAGE
"""Bytes of a thread's stack."""
SHALLOW: Final = 256
"""Bytes of stack of a thread that is on its way to user mode."""
MOST_STACKS: Final = 8
"""That guest/scenarios/lib_litmus.s has room for."""
SHARED: Final = "litmus_words"
"""The symbol of the page of words that all CPUs reach, those in which shootdowns are counted among them."""


class Visit(NamedTuple):
    """A thread is switched in, goes deep in the kernel, leaves a value there and reads it back; then it is switched out.

    Attributes:
        thread: by number; no two CPUs have the same.
        depth: bytes below the top of its stack at which the value lies, a multiple of 8, 8 to STACK.
        sleeps: it is switched out there, in the kernel, and first looks at the value when it comes back; else it
            returns to user mode before.
    """

    thread: int
    depth: int
    sleeps: bool = False


def write_scenario(folder: Path, programs: list[tuple[Operation, ...]]) -> Path:
    """A scenario that runs these programs: its TOML. It names what each load gave, `0.1` for CPU 0's second, and x, y and z.

    Raises:
        ConfigError: an operation is about page-table entries.
    """
    lines = [".text"]
    watched = {name: f"word {SHARED}+{number * STRIDE}" for number, name in enumerate(LOCATIONS)}
    for cpu, program in enumerate(programs):
        lines.append(f"program_{cpu}:")
        loads = 0
        for one in program:
            what, where, value = one[:3]
            if one.pages:
                raise ConfigError(
                    f"program of CPU {cpu}, {str(one)!r}: such a test is written by kstack.kernels.kstack.pages"
                )
            at = f"qword ptr [r15+{hex(where * STRIDE)}]"
            register = RESULTS[loads].name.lower()
            if what == "store":
                lines.append(f"    mov {at}, {value}")
            elif what == "load":
                lines.append(f"    mov {register}, {at}")
            elif what == "exchange":
                lines += [f"    mov {register}d, {value}", f"    xchg {register}, {at}"]
            else:
                lines.append("    mfence" if what == "fence" else "    lock inc qword ptr [rsp-8]")
            if one.gives:
                watched[f"{cpu}.{loads}"] = f"cpu {cpu} {register}"
                loads += 1
        lines.append("    jmp litmus_end")
    return write_guest(folder, "\n".join(lines) + "\n", len(programs), 0, watched)


def write_guest(folder: Path, text: str, programs: int, stacks: int, watched: Mapping[str, str] | None = None) -> Path:
    """A litmus scenario of so many programs, `program_0` and so on, and stacks, which names these final values: its TOML."""
    names = ", ".join(f"program_{cpu}" for cpu in range(programs))
    (folder / "order.s").write_text(
        f'{text}.section .rodata\nscenario_name:\n    .asciz "order"\n.p2align 3\nscenario_pool:\n    .quad 48\n'
        f"litmus_stacks:\n    .quad {stacks}\nlitmus_programs:\n    .quad {names}, 0\n"
    )
    toml = folder / "order.toml"
    toml.write_text(
        'id = "order"\ntitle = "memory order"\nquestion = "which outcomes are there?"\nsource = "x86-TSO"\n'
        f'cpus = {programs}\nsources = ["lib_litmus.s", "order.s"]\nsuccess = ""\n'
        'events = ["ready", "done", "wrong"]\nlitmus = true\n[mutant]\npolicy = "fixed-16k"\n'
        + ("[outcomes]\n" if watched else "")
        + "".join(f'"{name}" = "{value}"\n' for name, value in (watched or {}).items())
    )
    return toml


def write_visits(folder: Path, programs: Sequence[Sequence[Visit]]) -> Path:
    """A scenario in which the threads of each CPU make these visits: its TOML.

    Raises:
        ConfigError: two CPUs have one thread, or a number is out of range.
    """
    lines, owners = [".text"], dict[int, int]()
    for cpu, program in enumerate(programs):
        lines.append(f"program_{cpu}:")
        asleep: dict[int, tuple[int, int]] = {}  # by thread: depth, and the value there
        for value, visit in enumerate(program, 1):
            if owners.setdefault(visit.thread, cpu) != cpu or not 0 <= visit.thread < MOST_STACKS:
                raise ConfigError(f"thread {visit.thread}: give each CPU threads of its own, 0 to {MOST_STACKS - 1}")
            if visit.depth % 8 or not 8 <= visit.depth <= STACK:
                raise ConfigError(f"depth {visit.depth}: give a multiple of 8, up to {STACK}")
            lines += _visit(visit, value, asleep.pop(visit.thread, None))
            if visit.sleeps:
                asleep[visit.thread] = visit.depth, value
        lines.append("    jmp litmus_end")
    return write_guest(folder, "\n".join(lines) + "\n", len(programs), max(owners, default=0) + 1)


def _visit(visit: Visit, value: int, asleep: tuple[int, int] | None) -> list[str]:
    thread, depth, sleeps = visit
    lines = [f"    L_SWITCH_IN {thread}"]
    lines += [f"    L_ENTER {thread}"] if asleep is None else _check(thread, *asleep)
    lines += [
        f"    L_REQUEST {thread}, {depth}",
        f"    L_ADDRESS rbx, {thread}, {depth}",
        f"    mov qword ptr [rbx], {value}",
    ]
    lines += _check(thread, depth, value)
    lines += [] if sleeps else [f"    L_EXIT {thread}"]
    return [*lines, f"    L_SWITCH_OUT {thread}, {depth if sleeps else SHALLOW}"]


def _check(thread: int, depth: int, value: int) -> list[str]:
    return [f"    L_ADDRESS rbx, {thread}, {depth}", f"    cmp qword ptr [rbx], {value}", "    jne litmus_wrong"]


__all__ = [
    "LOCATIONS",
    "MOST_STACKS",
    "PAGE",
    "RESULTS",
    "SHARED",
    "STACK",
    "Operation",
    "Visit",
    "parse",
    "write_guest",
    "write_scenario",
    "write_visits",
]
