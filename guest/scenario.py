"""Scenarios: what runs, on how many CPUs, and the question it answers, read from TOML.

A scenario is a guest program (assembly beside the TOML, linked with the kernel) and, if it has one,
a script that names guest events. It knows nothing of policies.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import msgspec

MAX_CPUS: Final = 64  # that the guest kernel starts (defs.s)
FOLDER: Final = Path(__file__).parent / "scenarios"


class ScenarioFileError(Exception):
    """A scenario's TOML is wrong; the message names file and key."""


class ScriptEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Run `cpu` until it marks the event `until`."""

    cpu: int
    until: str


class Mutant(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a scenario is known to find: a policy, perhaps with steps left out.

    Attributes:
        policy: its id.
        without: names of the steps it leaves out; none if the policy is unsafe as it is.
        hook: the hook that leaves them out; empty for all.
        modes: architecture modes, as on the command line.
    """

    policy: str
    without: list[str] = []
    hook: str = ""
    modes: list[str] = []


class Scenario(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One scenario.

    Attributes:
        id, title, question, source: for people.
        cpus: how many the guest needs.
        sources: assembly files beside the TOML, linked behind the kernel.
        success: what the serial console says when the guest's own check has passed.
        events: names of the events the guest marks.
        concerns: kinds of findings it can show.
        expects: kinds of findings that are right here and do not make a policy unsafe.
        script: the order that the scenario was written for.
        max_instructions: bound of one run, in virtual time after boot.
        mutant: under what it is unsafe; a scenario that nothing breaks proves nothing.
        ram: what it wants, as on the command line.
        litmus: it is small enough to be explored exhaustively.
        managed: pages of ordinary memory whose translations are explored, as those of its stacks are: symbols of the
            image, `symbol+offset` (bytes), `0xaddress`; with `:pages` behind it for more than one.
        quanta: round-robin quanta it is run at; none for the usual ones.
        schedules: random schedules it needs at the most, where each is long.
        long: a run takes half a minute or more, so it is judged only where it is named.
        outcomes: final values that `kstack explore --outcomes` lists, by name (vm/explore/outcomes.py).
    """

    id: str
    title: str
    question: str
    source: str
    cpus: int
    sources: list[str]
    success: str
    events: list[str] = []
    concerns: list[str] = []
    expects: list[str] = []
    script: list[ScriptEntry] = []
    max_instructions: int = 2_000_000
    mutant: Mutant
    ram: str = "64M"
    litmus: bool = False
    managed: list[str] = []
    quanta: list[int] = []
    schedules: int | None = None
    long: bool = False
    outcomes: dict[str, str] = {}


def read_scenario(path: Path) -> Scenario:
    """Read and check one scenario file.

    Raises:
        ScenarioFileError: the file cannot be read, or says something it may not.
    """
    try:
        table: Mapping[str, Any] = tomllib.loads(path.read_text())
        scenario = msgspec.convert(table, Scenario)
    except (OSError, ValueError, RecursionError) as error:  # tomllib raises both on numbers and nesting without end
        raise ScenarioFileError(f"{path}: {error}") from error
    except msgspec.ValidationError as error:
        known = ", ".join(Scenario.__struct_fields__)
        raise ScenarioFileError(f"{path}: {error} (keys: {known})") from error
    if not 1 <= scenario.cpus <= MAX_CPUS:
        raise ScenarioFileError(f"{path}: cpus = {scenario.cpus}: give 1 to {MAX_CPUS}")
    for entry in scenario.script:
        if entry.until not in scenario.events:
            raise ScenarioFileError(f"{path}: script waits for {entry.until!r}, which is not among its events")
        if not 0 <= entry.cpu < scenario.cpus:
            raise ScenarioFileError(f"{path}: script names CPU {entry.cpu} of {scenario.cpus}")
    return scenario


def scenarios() -> dict[str, Scenario]:
    """All scenarios that come with kstack, by id, sorted."""
    return dict(_scenarios())


@cache
def _scenarios() -> dict[str, Scenario]:
    found = [read_scenario(path) for path in sorted(FOLDER.glob("*.toml"))]
    return {scenario.id: scenario for scenario in sorted(found, key=lambda scenario: scenario.id)}
