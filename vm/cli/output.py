"""What commands print: JSON documents for programs, tables for people; and what they say of a run that has ended."""

from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.text import Text

from kstack.base.documents import Document
from kstack.base.errors import ConfigError, KstackError
from kstack.base.files import refused_as
from kstack.hw.modes import Modes
from kstack.probe.taken import Taken
from kstack.report.panic import panic_report
from kstack.report.table import finding_text, lanes
from kstack.report.words import modes_line
from kstack.run.result import BOUND, WORK, RunResult
from kstack.run.session import Session

DIED: Final = 3  # exit code where the guest has died
WIDTH: Final = 120  # columns where stdout is no terminal


def print_json(document: Document) -> None:
    """One JSON document on stdout."""
    json.dump(document, sys.stdout, indent=2)
    sys.stdout.write("\n")


def place_for(file: Path) -> Path:
    """Where a file is to be written: links are followed, and what is no file is left alone.

    Raises:
        ConfigError: its folder is not there, or a folder, a device or a pipe has its name.
    """
    with refused_as(f"{file} cannot be written"):
        place = Path(os.path.realpath(file))
        if place.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not place.parent.is_dir():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        if place.exists() and not place.is_file():
            raise ConfigError(f"{file} cannot be written: it is no file")
    return place


def console() -> Console:
    """Stdout for people; as wide as tables need where it is no terminal."""
    plain = Console()
    return plain if plain.is_terminal else Console(width=WIDTH, no_color=True)


def show_taken(taken: Taken) -> None:
    """On which processor modes that a probe gave were not contradicted, and whether it is this one."""
    for line in taken.lines:
        console().print(Text(line, "red" if taken.mark else "dim"))


def run_document(result: RunResult, recording: str | None, modes: Modes) -> Document:
    """The JSON of one run.

    Args:
        result: what it came to.
        recording: its file, or None.
        modes: of the machine.
    """
    return {
        "version": 1,
        "exit": result.ended,
        "code": result.code,
        "reason": result.reason,
        "told": list(result.told),
        "stuck": result.stuck,
        "exit_value": result.exit_value,
        "instructions": result.time,
        "cpus": list(result.cpus),
        "serial": result.serial,
        "findings": [finding.as_dict() for finding in result.findings],
        "exercised": result.exercised,
        "modes": modes.as_dict(),
        "recording": recording,
        "state_hash": result.state_hash,
    }


def failed_document(session: Session, how: str, code: int, error: KstackError) -> Document:
    """The JSON of a run that could not go on.

    Args:
        session: as it was left.
        how: in place of how a run ends.
        code: exit code of the command.
        error: why.
    """
    time, state = session.machine.time, session.machine.state_hash()
    said: Document = {"exit": how, "code": code, "reason": str(error), "error": str(error)}
    return {"version": 1, **said, "instructions": time, "state_hash": state}


def echo(session: Session) -> None:
    """Send the guest's serial output to stdout, what it has printed so far first."""

    def put(data: bytes) -> None:
        sys.stdout.write(data.decode("utf-8", "replace"))
        sys.stdout.flush()

    put(bytes(session.machine.uart.sent))
    session.machine.uart.output = put


def explain(session: Session, result: RunResult, command: str, given: Modes, more: str = "") -> None:
    """Say what a run has come to: findings on stdout, and on stderr the state of a guest that died, the reason, the end.

    Args:
        session: that has run.
        result: of it.
        command: what runs it again.
        given: the modes before the policy chose how stack faults are taken.
        more: behind the last line.
    """
    for finding in result.findings:
        console().print(finding_text(finding), soft_wrap=True)
    if result.findings and result.findings[0].history:
        console().print(lanes(result.findings[0]))
    if result.code == DIED or result.ended in (BOUND, WORK):
        print(panic_report(session.machine, session.symbols, command, exits=result.exits), file=sys.stderr)
    for told in result.told:
        print(f"not modelled, and set up by the guest: {told} (docs/rules.md)", file=sys.stderr)
    for line in (result.stuck, result.reason):
        if line:
            print(line, file=sys.stderr)
    print(f"{result.ended}: virtual time {result.time}, state {result.state_hash}{more}", file=sys.stderr)
    print(modes_line(session.machine.modes, given=given), file=sys.stderr)
