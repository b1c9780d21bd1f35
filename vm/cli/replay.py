"""kstack replay: repeat a recording exactly."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter
from rich.text import Text

from kstack.base.documents import Document
from kstack.base.errors import ConfigError, KstackError, PolicyError, RecordingError
from kstack.cli.options import Anyway, Json, check_machine, recording_in
from kstack.cli.output import console, echo, explain, failed_document, print_json, run_document
from kstack.explore.path import follow, is_path, read_path
from kstack.hw.modes import Modes
from kstack.kernels.known import usual_guests
from kstack.recording import RULES_VERSION, UNFINISHED, Recording, other_rules
from kstack.report.panic import panic_report
from kstack.report.table import path_lanes
from kstack.report.words import modes_line
from kstack.run.expected import judged
from kstack.run.result import RunResult
from kstack.run.session import Session
from kstack.run.spec import replay_session


def replay(
    file: Path,
    /,
    *,
    to: Annotated[int | None, Parameter(help="Stop at this virtual time and show every CPU.")] = None,
    anyway: Anyway = False,
    json: Json = False,
) -> int:
    """Repeat a recording exactly, and say whether it came out the same.

    Parameters
    ----------
    file:
        written by `kstack run --record`, `kstack compare --witnesses` or `kstack explore --witness`
    """
    if to is not None and to < 1:
        raise ConfigError("--to: give a virtual time of 1 or more")
    if is_path(file):
        if to is not None:
            raise ConfigError(f"--to: {file} is a witness of kstack explore, in which there is no time")
        return _follow(file, anyway, json)
    recording = recording_in(file, anyway)
    session = replay_session(recording, anyway)
    other = other_rules(recording.rules) is not None
    if not json and to is None:
        echo(session)
    try:
        if to is not None:
            return _up_to(session, to, json)
        result = session.run()
    except (PolicyError, RecordingError) as error:
        if other:
            return _failed(session, "diverged", error, json)
        if recording.ended != UNFINISHED or isinstance(error, RecordingError):
            raise
        return _failed(session, "policy-failed", error, json)
    if session.writer is not None and session.writer.left and not other:
        raise RecordingError(f"recording {file}: the run has ended, and {session.writer.left} of its writes never came")
    scenario = usual_guests().scenario(recording.image) if recording.booted else None
    return _compared(file, recording, session, judged(scenario, result), json)


def _up_to(session: Session, to: int, json: bool) -> int:
    """Run to a virtual time, and show every CPU."""
    machine = session.machine
    if to < machine.time:
        print(f"kstack: --to {to}: the recording begins at virtual time {machine.time}", file=sys.stderr)
    ended = session.run_to(to)
    reason = None if ended is None else session.reason(ended)
    if machine.time < to:
        print(f"kstack: --to {to}: the recording ends at virtual time {machine.time}: {reason}", file=sys.stderr)
    if json:
        cpus = [
            {
                "cpu": cpu.index,
                "state": cpu.state.value,
                "rip": f"{cpu.rip():#x}",
                "linear_rip": f"{cpu.linear_rip():#x}",
            }
            for cpu in machine.cpus
        ]
        end = {"exit": ended, "reason": reason, "exit_value": machine.exit_port.code}
        print_json({"version": 1, "time": machine.time, "cpus": cpus, **end, "state_hash": machine.state_hash()})
    else:
        print(panic_report(machine, session.symbols, exits=session.kernel.facts.exits))
    return 0


def _failed(session: Session, how: str, error: KstackError, json: bool) -> int:
    """The policy does what none may, as it has when this was recorded; or another machine has come to something else."""
    found = failed_document(session, how, 1, error)
    if json:
        print_json({**found, **({"identical": False} if how == "diverged" else {})})
    end = f"virtual time {found['instructions']}, state {found['state_hash']}"
    print(f"{error}\n{how.replace('-', ' ')}: {end}", file=sys.stderr)
    return 1


def _compared(file: Path, recording: Recording, session: Session, result: RunResult, json: bool) -> int:
    """What it has come to, and whether that is what was recorded."""
    modes = session.machine.modes
    cut = recording.is_cut and other_rules(recording.rules) is None
    identical = result.state_hash == recording.state_hash or cut
    if json:
        found: Document = {"identical": identical, "rules": _rules(recording.rules)}
        print_json({**run_document(result, str(file), modes), **found})
    else:
        word = "identical"
        if cut:
            word = "all that was written down before the recording run was cut off"
        elif not identical:
            word = f"NOT identical: recorded {recording.state_hash or 'no end'}"
        command = f"kstack replay {shlex.quote(str(file))}"
        explain(session, result, command, Modes.of(recording.modes), f", {word}")
    return result.code if identical else 1


def _rules(recorded: int) -> dict[str, int]:
    """Versions of the machine's rules, for JSON: of what was recorded, and of this machine."""
    return {"recorded": recorded, "machine": RULES_VERSION}


def _follow(file: Path, anyway: bool, json: bool) -> int:
    """Make the moves of a witness of `kstack explore` again."""
    saved = read_path(file)
    check_machine(file, saved.rules, anyway)
    lines, divergence = follow(saved, anyway)
    if json:
        found = None if divergence is None else msgspec.to_builtins(divergence)
        finding = saved.finding if divergence is None else None
        print_json(
            {"version": 1, "moves": len(lines), "finding": finding, "divergence": found}
            | {"modes": saved.modes, "rules": _rules(saved.rules)}
        )
    else:
        console().print(path_lanes(lines))
        if divergence is None:
            what = ": ".join(saved.finding) if saved.finding else "from here no end can be reached"
            console().print(Text(what), soft_wrap=True)
            print(f"{len(lines)} moves, identical", file=sys.stderr)
        else:
            text = (
                f"move {divergence.number} is not what it was.\nrecorded: {divergence.recorded}\nnow: {divergence.now}"
            )
            console().print(Text(text), soft_wrap=True)
        print(modes_line(Modes.of(saved.modes), explored=True), file=sys.stderr)
    return 1
