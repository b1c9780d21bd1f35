"""What commands print: JSON documents for programs, tables for people."""

from __future__ import annotations

import json
import sys
from typing import Any, Final

from rich.console import Console

from vm.hw.modes import Modes
from vm.session import RunResult

WIDTH: Final = 120  # columns where stdout is no terminal


def print_json(document: dict[str, Any]) -> None:
    """One JSON document on stdout."""
    json.dump(document, sys.stdout, indent=2)
    sys.stdout.write("\n")


def console() -> Console:
    """Stdout for people; as wide as tables need where it is no terminal."""
    plain = Console()
    return plain if plain.is_terminal else Console(width=WIDTH, no_color=True)


def run_document(result: RunResult, recording: str | None, modes: Modes) -> dict[str, Any]:
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
