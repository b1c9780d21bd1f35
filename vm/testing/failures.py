"""What a failed test says of the guests it ran: the section `kstack` of its report."""

from __future__ import annotations

import re
import shlex
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Final

from kstack.base.digests import digest
from kstack.base.errors import KstackError, PolicyError
from kstack.explore.path import write_path
from kstack.explore.witness import witness
from kstack.hw.cpu.decode import disassemble
from kstack.hw.cpu.state import SliceEnd
from kstack.recording import write_recording
from kstack.report.panic import panic_report
from kstack.report.words import modes_line
from kstack.run.session import Session
from kstack.schedule import ReplaySchedule
from kstack.stacks.loading.registry import name_of
from kstack.testing.bench import DoneSearch
from kstack.testing.guests import GuestRun
from kstack.testing.minimise import Minimised, minimise
from kstack.testing.schedulers import REST_QUANTUM

SHOWN: Final = 200
"""Units of virtual time before the end from which the command that traces begins."""
STRETCHES: Final = 12
"""Choices that are shown of a schedule."""
MOVES: Final = 12
"""Moves that are shown of a witness, the last ones."""
LAST: Final = 8
"""Instructions of each CPU that are shown, at most, of the last SHOWN units."""
DIED: Final = 3
"""`RunResult.code` of a guest that shut down, panicked or sleeps for ever."""
NAME: Final = 60
"""Characters of a test's id in a file name, at most."""


class ReportSection:
    """Writes what repeats a failed test's runs, and says how to use it.

    Args:
        test: the test's id.
        folder: where files are written.
        here: the folder in which commands will be typed.
        runs: that may be tried to find a simpler schedule; 0 leaves it as it was.
    """

    def __init__(self, test: str, folder: Path, here: Path, runs: int) -> None:
        self._test, self._folder, self._here, self._runs = test, folder, here, runs

    def of_run(self, run: GuestRun, whole: bool = True) -> str:
        """Of a guest's run: why, where it is recorded, the schedule, last instructions, commands.

        Args:
            run: the one that failed, or the last.
            whole: all of the panic report, where the guest has died.
        """
        failure = run.failure
        best = Minimised(run, None, 0, True) if failure is None else minimise(run, self._runs)
        start = run.start
        kind = start.kind
        under = "" if kind is None else f" under {kind.id}"
        wrong = "the guest itself came to a good end" if failure is None else f"{failure.kind}: {failure.text}"
        lines = [f"{start.image}{under}, {run.schedule}: {wrong}", *_faults(best.run), _schedule(run, best)]
        lines += [*self._recorded(best.run), modes_line(run.session.machine.modes, given=start.modes)]
        last, session = _last_instructions(best.run)
        lines += ["", *last]
        if whole and best.run.outcome is not None and best.run.outcome.code == DIED:
            lines += ["", panic_report(session.machine, session.symbols, exits=session.kernel.facts.exits)]
        return "\n".join(lines)

    def _recorded(self, run: GuestRun) -> list[str]:
        path = self._path("json")
        try:
            write_recording(path, run.start.recording_of(run))
        except KstackError as error:
            return [f"no recording: {error}"]
        file, time = self._shown(path), run.session.machine.time
        return [
            f"recording: {file}",
            f"    kstack replay {file}",
            f"    kstack gdb {file}",
            f"    kstack trace show {file} --from {max(0, time - SHOWN)}",
        ]

    def of_search(self, search: DoneSearch) -> str:
        """Of a search that found something: what, and its witness."""
        outcome, problem = search.outcome, search.problem
        assert not isinstance(problem.policy, str), "the bench gives the class"
        found = witness(problem.scenario, problem.policy, problem.modes, outcome.visible, outcome.path)
        lines = [f"{problem.scenario} under {problem.policy.id}: {outcome.verdict}, {len(found.path)} moves"]
        if found.finding is not None:
            lines.append(f"{found.finding.kind.value}: {found.finding.text}")
        modes = problem.modes
        lines.append(modes_line(modes.resolved(problem.policy.delivery), given=modes, explored=True))
        lines += [f"... {len(found.lines) - MOVES} moves"] if len(found.lines) > MOVES else []
        lines += [f"{line.number:>4} CPU {line.cpu} {line.what} ({line.symbol})" for line in found.lines[-MOVES:]]
        path = self._path("witness.json")
        try:
            name = search.policy or name_of(problem.policy)
            write_path(path, problem.scenario, name, problem.modes, outcome.visible, found)
        except KstackError as error:
            return "\n".join([*lines, f"no witness: {error}"])
        return "\n".join([*lines, f"witness: {self._shown(path)}", f"    kstack replay {self._shown(path)}"])

    def _path(self, suffix: str) -> Path:
        """A file of the test's own: its id, as far as a file may be called so, and what tells it from others."""
        plain = re.sub(r"[^A-Za-z0-9.-]+", "_", self._test.rpartition("/")[2]).strip("_")[:NAME]
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder / f"{plain}-{digest(self._test, 4)}.{suffix}"

    def _shown(self, path: Path) -> str:
        """A path as a command takes it."""
        return shlex.quote(str(path.relative_to(self._here) if path.is_relative_to(self._here) else path))


def _faults(run: GuestRun) -> list[str]:
    return [
        f"fault {fault.what}: {'did not happen' if at is None else f'at virtual time {at}'}"
        for fault, at in zip(run.start.faults, run.fired, strict=False)
    ]


def _schedule(run: GuestRun, best: Minimised) -> str:
    """How the schedule was made simpler, in words."""
    made = f"schedule: {len(run.choices)} slices"
    tried = f"{best.tried} run{'' if best.tried == 1 else 's'} tried"
    if best.kept is None:
        return f"{made}, as it was{f'; {tried}' if best.tried else ''}"
    if not best.kept:
        return f"{made}; everybody in turn for {REST_QUANTUM} will do; {tried}"
    first = [f"CPU {choice.cpu} for {choice.quantum}" for choice in best.kept[:STRETCHES]]
    if len(best.kept) > STRETCHES:
        first.append(f"{len(best.kept) - STRETCHES} more")
    bound = "" if best.complete else ", which is the bound"
    return f"{made}; {len(best.kept)} will do, then everybody in turn: {', '.join(first)}; {tried}{bound}"


def _last_instructions(run: GuestRun) -> tuple[list[str], Session]:
    """Of each CPU, the newest last, by running it again and its end one by one; and the session that has done so."""
    session = run.start.session(ReplaySchedule(run.choices, finished=False))
    machine, begin = session.machine, max(0, run.end - SHOWN)
    listed: list[deque[str]] = [deque(maxlen=LAST) for _ in machine.cpus]
    with suppress(PolicyError):  # as it has then
        while machine.time < run.end and not isinstance(choice := session.begin(run.end - machine.time), str):
            left = 0 if choice is None else choice.quantum
            while choice is not None and left > 0:
                cpu = machine.cpus[choice.cpu]
                rip = cpu.linear_rip()
                _, text = disassemble(cpu.linear.code(rip), rip, cpu.registers.bits)
                near = machine.time >= begin
                piece = session.advance(choice.cpu, 1 if near else min(left, begin - machine.time))
                left -= piece.elapsed
                if near and piece.elapsed:
                    listed[choice.cpu].append(f"    {rip:#018x}  {session.symbols.name(rip):<28} {text}")
                if piece.end is not SliceEnd.BUDGET:
                    break
            if choice is not None and session.finish() is not None:
                break
    lines = []
    for cpu, own in zip(machine.cpus, listed, strict=True):
        where = session.symbols.name(cpu.linear_rip())
        lines += [f"CPU {cpu.index}: {cpu.state.value} at {where}, last instructions, newest last:", *own]
    return lines, session
