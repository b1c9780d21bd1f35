"""How exploring begins: a litmus scenario's guest is booted, and each of its programs runs until it is ready."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from kstack.base.errors import ConfigError, ScenarioError
from kstack.hw.modes import Modes
from kstack.kernels.known import usual_guests
from kstack.run.booted import BootedScenario
from kstack.run.session import Session
from kstack.run.spec import boot
from kstack.sanitizer.findings import Finding
from kstack.stacks import Policy

TO_READY: Final = 3_000_000  # instructions until then
_SLICE: Final = 50  # instructions of a CPU at a time


class FoundBefore(ScenarioError):
    """A finding before a move could be made: there is nothing left to explore.

    Args:
        scenario: its id.
        what: before which of the programs' `event`s or operations it is.
        finding: the first.
    """

    def __init__(self, scenario: str, what: str, finding: Finding) -> None:
        super().__init__(f"scenario {scenario}: before its programs' {what}, {finding.kind.value}: {finding.text}")
        self.finding = finding


class NotReady(ScenarioError):
    """The programs of a scenario do not get ready."""


def boot_litmus(scenario: str, policy: type[Policy], modes: Modes) -> BootedScenario:
    """Boot the guest of a world.

    Raises:
        ScenarioError: the scenario is no litmus scenario.
        ConfigError: a mode cannot be explored.
    """
    found = usual_guests().scenario(scenario)
    if not found.litmus:
        raise ScenarioError(
            f"scenario {scenario} is not made to be explored (its TOML has no litmus = true); kstack scenarios lists those that are"
        )
    if modes.dirty_rewalk != "yes":
        raise ConfigError("dirty-rewalk=no cannot be explored; kstack compare and kstack run can have it")
    if modes.capacity:
        raise ConfigError("tlb=capacity cannot be explored: every fill and eviction is tried; leave it out")
    return boot(found, modes=replace(modes.resolved(policy.delivery), tlb="retain", memory_order="sc"))


def get_ready(session: Session, event: str) -> list[int]:
    """Run every CPU to its event that says its program is ready: the CPUs that have one, by number."""
    machine, ready = session.machine, list[int]()
    while machine.time < TO_READY:
        running = [cpu for cpu in machine.runnable() if cpu not in ready]
        if not running or machine.end() is not None:
            break
        for cpu in running:
            if cpu not in ready:
                machine.run(cpu, _SLICE)
                ready += [who for _, who, name in session.events if name == event and who not in ready]
    return sorted(ready)
