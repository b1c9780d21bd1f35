"""kstack run: a guest image or a scenario, once."""

from __future__ import annotations

import shlex
import sys
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from msgspec import to_builtins

from guest.scenario import Scenario
from vm.cli.options import Anyway, ImageFormat, Json, ModeList, PoolOptions, modes_of, recording_in
from vm.cli.output import console, print_json, run_document
from vm.errors import ConfigError, ScenarioError
from vm.expected import ignored_kinds, judged
from vm.machine import size
from vm.recording import write_recording
from vm.recording.journal import Journal
from vm.report.panic import panic_report
from vm.report.table import finding_text, lanes
from vm.report.words import modes_line
from vm.scenarios import find_scenario, is_scenario, usual_work
from vm.schedule import ReplaySchedule, Scheduler, parse
from vm.session import BOUND, WORK, RunOptions, RunResult, Session
from vm.setup import Setup, script_of

DEFAULT_MAX = 1_000_000_000
DEFAULT_RAM = 64 << 20


def run(
    image: str,
    /,
    *,
    cpus: int | None = None,
    ram: str | None = None,
    policy: str | None = None,
    schedule: str | None = None,
    seed: int = 0,
    max_instructions: Annotated[int, Parameter(help="Bound on virtual time.")] = DEFAULT_MAX,
    max_work: int | None = None,
    stop_at_finding: Annotated[bool, Parameter(negative=())] = False,
    record: Path | None = None,
    mode: ModeList = None,
    pool: PoolOptions = PoolOptions(),
    anyway: Anyway = False,
    json: Json = False,
    format: ImageFormat = "auto",
) -> int:
    """Run a guest image or a scenario; its serial port goes to stdout.

    Parameters
    ----------
    image: built-in name, scenario, or file (ELF, multiboot, boot sector)
    cpus: number of CPUs (default: what a scenario needs, else 1)
    ram: size of RAM, like 64M (default: what a scenario needs, else 64M)
    policy: stack policy by id, or in a Python file: FILE.py, or FILE.py:NAME for one of several
    schedule: scripted, round-robin:QUANTUM, random[:LONGEST], pct:DEPTH, replay:FILE
    seed: of the random schedules and of seeded pools
    max_work: bound on what the guest makes the host do, about one unit an exception, interrupt, port access or page walk
        (default: 200000, and for a scenario no less than its max_instructions)
    stop_at_finding: end the run at the first unexpected finding
    record: write a recording for `kstack replay`
    """
    if max_instructions < 1:
        raise ConfigError("--max-instructions: give 1 or more")
    if max_work is not None and max_work < 1:
        raise ConfigError("--max-work: give 1 or more")
    scenario = find_scenario(image) if is_scenario(image) else None
    max_work = usual_work(scenario) if max_work is None else max_work
    if scenario is not None and cpus is not None and cpus < scenario.cpus:
        raise ScenarioError(f"scenario {image} needs {scenario.cpus} CPUs; give --cpus {scenario.cpus} or more")
    options = RunOptions(
        *(max_instructions, stop_at_finding, pool.config(seed), seed),
        ignored=ignored_kinds(scenario),
        exact_pools=True,
        max_work=max_work,
    )
    if cpus is None:
        cpus = scenario.cpus if scenario else 1
    wanted = size(scenario.ram) if scenario else 0
    memory = size(ram) if ram is not None else wanted or DEFAULT_RAM
    if memory < wanted:
        raise ScenarioError(f"scenario {image} needs {scenario.ram if scenario else 0} of RAM; give --ram that or more")
    setup = Setup(image, cpus, memory, modes_of(mode), policy, options, format=format)
    scheduler = _scheduler(schedule, seed, scenario, anyway)
    journal = None if record is None else Journal(record, to_builtins(setup.head()), scheduler)
    with nullcontext() if journal is None else closing(journal):
        session = setup.session(journal or scheduler)
        if not json:
            _echo(session)
        full = session.run()
    result = judged(scenario, full)
    if record is not None:
        write_recording(record, setup.recording(session.choices, full))
    if json:
        print_json(run_document(result, None if record is None else str(record), session.machine.modes))
    else:
        _explain(session, result, max_work)
        print(modes_line(session.machine.modes, given=setup.modes), file=sys.stderr)
    return result.code


def _scheduler(text: str | None, seed: int, scenario: Scenario | None, anyway: bool) -> Scheduler:
    script = script_of(scenario) if scenario is not None and scenario.script else None
    if text is None:
        text = "scripted" if script else "round-robin"
    if text.startswith("replay:"):
        return ReplaySchedule(recording_in(Path(text.removeprefix("replay:")), anyway).schedule())
    return parse(text, seed, script)


def _echo(session: Session) -> None:
    """Send the guest's serial output to stdout, what it has printed so far first."""

    def echo(data: bytes) -> None:
        sys.stdout.write(data.decode("utf-8", "replace"))
        sys.stdout.flush()

    echo(bytes(session.machine.uart.sent))
    session.machine.uart.output = echo


def _explain(session: Session, result: RunResult, max_work: int) -> None:
    for finding in result.findings:
        console().print(finding_text(finding), soft_wrap=True)
    if result.findings and result.findings[0].history:
        console().print(lanes(result.findings[0]))
    if result.code == 3 or result.ended in (BOUND, WORK):
        command = "kstack " + " ".join(shlex.quote(word) for word in sys.argv[1:])
        print(panic_report(session.machine, session.symbols, command), file=sys.stderr)
    print(f"{result.ended}: virtual time {result.time}, state {result.state_hash}", file=sys.stderr)
    if result.ended == WORK:
        print(f"The guest keeps the host busy; --max-work {10 * max_work} lets it go on.", file=sys.stderr)
