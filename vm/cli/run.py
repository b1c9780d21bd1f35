"""kstack run: a guest image or a scenario, once."""

from __future__ import annotations

import shlex
import sys
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from msgspec import to_builtins

from kstack.base.errors import ConfigError, PolicyError, ScenarioError
from kstack.cli import BAD_USAGE
from kstack.cli.options import (
    Anyway,
    ImageFormat,
    Json,
    ModeList,
    ModesFrom,
    PoolOptions,
    measured_modes,
    recording_in,
)
from kstack.cli.output import echo, explain, failed_document, print_json, run_document
from kstack.kernels.known import usual_guests
from kstack.kernels.scenario import Scenario, usual_work
from kstack.machine import size
from kstack.recording import write_recording
from kstack.recording.journal import Journal
from kstack.run.expected import ignored_kinds, judged
from kstack.run.options import RunOptions
from kstack.run.spec import RunSpec, script_of
from kstack.schedule import ReplaySchedule, Scheduler, parse

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
    strict: Annotated[bool, Parameter(negative=())] = False,
    record: Path | None = None,
    mode: ModeList = None,
    modes_from: ModesFrom = None,
    pool: PoolOptions = PoolOptions(),
    anyway: Anyway = False,
    json: Json = False,
    format: ImageFormat = "auto",
) -> int:
    """Run a guest image or a scenario; its serial port goes to stdout.

    Parameters
    ----------
    image:
        built-in name, scenario, or file (ELF, multiboot, boot sector)
    cpus:
        number of CPUs (default: what a scenario needs, else 1)
    ram:
        size of RAM, like 64M (default: what a scenario needs, else 64M)
    policy:
        stack policy by id, or in a Python file: FILE.py, or FILE.py:NAME for one of several
    schedule:
        scripted, round-robin:QUANTUM, random[:LONGEST], pct:DEPTH, replay:FILE
    seed:
        of the random schedules and of seeded pools
    max_work:
        bound on what the guest makes the host do, about one unit an exception, interrupt, port access or page walk
        (default: 200000, of more than 8 CPUs 25000 each, and for a scenario no less than its max_instructions)
    stop_at_finding:
        end the run at the first unexpected finding
    strict:
        end the run where the guest sets up what is not modelled, and not only say so
    record:
        write a recording for `kstack replay`
    """
    if max_instructions < 1:
        raise ConfigError("--max-instructions: give 1 or more")
    if max_work is not None and max_work < 1:
        raise ConfigError("--max-work: give 1 or more")
    scenario = usual_guests().scenario(image) if usual_guests().is_scenario(image) else None
    if scenario is not None and cpus is not None and cpus < scenario.cpus:
        raise ScenarioError(f"scenario {image} needs {scenario.cpus} CPUs; give --cpus {scenario.cpus} or more")
    if cpus is None:
        cpus = scenario.cpus if scenario else 1
    options = RunOptions(
        max_instructions,
        stop_at_finding,
        pool.config(seed),
        seed,
        ignored=ignored_kinds(scenario),
        exact_pools=True,
        strict=strict,
        max_work=usual_work(scenario, cpus) if max_work is None else max_work,
    )
    wanted = size(scenario.ram) if scenario else 0
    memory = size(ram) if ram is not None else wanted or DEFAULT_RAM
    if memory < wanted:
        raise ScenarioError(f"scenario {image} needs {scenario.ram if scenario else 0} of RAM; give --ram that or more")
    modes, taken = measured_modes(modes_from, mode)
    setup = RunSpec(image, cpus, memory, modes, policy, options, format=format)
    scheduler = _scheduler(schedule, seed, scenario, anyway)
    journal = None if record is None else Journal(record, to_builtins(setup.head()), scheduler)
    with nullcontext() if journal is None else closing(journal):
        session = setup.session(journal or scheduler)
        if not json:
            echo(session)
        try:
            full = session.run()
        except PolicyError as error:
            if json:
                failed = failed_document(session, "policy-failed", BAD_USAGE, error)
                print_json({**failed, "recording": _text(record), **taken.as_dict()})
            raise
    result = judged(scenario, full)
    if record is not None:
        write_recording(record, setup.recording(session.choices, full))
    if json:
        print_json(run_document(result, _text(record), session.machine.modes) | taken.as_dict())
    else:
        command = "kstack " + " ".join(shlex.quote(word) for word in sys.argv[1:])
        explain(session, result, command, setup.modes)
        for line in taken.lines:
            print(line, file=sys.stderr)
        if policy is not None and session.runtime.pools is None:
            print(f"policy {policy} was asked for nothing: the guest makes no hypercall BOOT", file=sys.stderr)
    return result.code


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _scheduler(text: str | None, seed: int, scenario: Scenario | None, anyway: bool) -> Scheduler:
    script = script_of(scenario) if scenario is not None and scenario.script else None
    if text is None:
        text = "scripted" if script else "round-robin"
    if text.startswith("replay:"):
        return ReplaySchedule(recording_in(Path(text.removeprefix("replay:")), anyway).schedule())
    return parse(text, seed, script)
