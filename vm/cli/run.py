"""kstack run: a guest image or a scenario, once."""

from __future__ import annotations

import shlex
import sys
from typing import Annotated, Any

from cyclopts import Parameter

from vm.cli.options import Json, ModeList, PoolOptions, modes_of, size
from vm.cli.output import print_json
from vm.errors import ConfigError
from vm.hw.modes import Modes
from vm.judge import boot, script_of
from vm.load import load
from vm.machine import Machine, MachineConfig
from vm.report.panic import panic_report
from vm.scenarios import find_image, scenarios
from vm.schedule import parse
from vm.session import RunOptions, RunResult, Session
from vm.stacks.registry import find_policy

DEFAULT_MAX = 1_000_000_000


def run(
    image: str,
    /,
    *,
    cpus: int | None = None,
    ram: str = "64M",
    policy: str | None = None,
    schedule: str | None = None,
    seed: int = 0,
    max_instructions: Annotated[int, Parameter(help="Bound on virtual time.")] = DEFAULT_MAX,
    stop_at_finding: Annotated[bool, Parameter(negative=())] = False,
    mode: ModeList = None,
    pool: PoolOptions = PoolOptions(),
    json: Json = False,
) -> int:
    """Run a guest image or a scenario; its serial port goes to stdout.

    Parameters
    ----------
    image: built-in name, scenario, or file (flat, ELF, multiboot)
    cpus: number of CPUs (default: what a scenario needs, else 1)
    ram: size of RAM, like 64M
    policy: stack policy by id, or a Python file with one
    schedule: scripted, round-robin:QUANTUM, random[:LONGEST]
    seed: of the random schedule and of seeded pools
    stop_at_finding: end the run at the first finding
    """
    if max_instructions < 1:
        raise ConfigError("--max-instructions: give 1 or more")
    options = RunOptions(max_instructions, stop_at_finding, pool.config(seed))
    session = _session(image, cpus, size(ram), policy, schedule, seed, modes_of(mode), options, quiet=json)
    result = session.run()
    if json:
        print_json(document(result))
    else:
        _explain(session, result)
    return result.code


def _session(
    image: str,
    cpus: int | None,
    ram: int,
    policy: str | None,
    schedule: str | None,
    seed: int,
    modes: Modes,
    options: RunOptions,
    quiet: bool,
) -> Session:
    scenario = scenarios().get(image)
    chosen = find_policy(policy)() if policy else None
    if scenario is not None:
        booted = boot(scenario, ram, modes, cpus)
        default = "scripted" if scenario.script else "round-robin"
        wanted = schedule or default
        scheduler = parse(wanted, seed, script_of(scenario) if wanted == "scripted" else None)
        chosen = chosen or find_policy("fixed-16k")()
        session = booted.session(chosen, scheduler, options)
        if not quiet:
            _echo(session.machine)
        return session
    machine = Machine(MachineConfig(cpus or 1, ram, modes))
    if not quiet:
        _echo(machine)
    symbols = load(machine, find_image(image), image)
    return Session(machine, symbols, parse(schedule or "round-robin", seed), chosen, options)


def _echo(machine: Machine) -> None:
    """Send the guest's serial output to stdout, what it has printed so far first."""

    def echo(data: bytes) -> None:
        sys.stdout.write(data.decode("utf-8", "replace"))
        sys.stdout.flush()

    echo(bytes(machine.uart.sent))
    machine.uart.output = echo


def document(result: RunResult) -> dict[str, Any]:
    """The JSON of a run."""
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
        "recording": None,
        "state_hash": result.state_hash,
    }


def _explain(session: Session, result: RunResult) -> None:
    from vm.cli.output import console
    from vm.report.table import finding_text

    err = sys.stderr
    for finding in result.findings:
        console().print(finding_text(finding), soft_wrap=True)
    if result.code == 3 or result.ended == "bound":
        command = "kstack " + " ".join(shlex.quote(word) for word in sys.argv[1:])
        print(panic_report(session.machine, session.symbols, command), file=err)
    print(f"{result.ended}: virtual time {result.time}, state {result.state_hash}", file=err)
