"""A guest that has booted, from which any number of runs start: the same state for every policy and schedule."""

from __future__ import annotations

from typing import Final

from kstack.base.errors import ScenarioError
from kstack.hw.modes import Modes
from kstack.kernels.kernel import KernelOf
from kstack.load import load
from kstack.machine import Machine, MachineConfig, MachineSnapshot
from kstack.run.options import RunOptions
from kstack.run.session import Session
from kstack.schedule import RoundRobin, Scheduler
from kstack.stacks.policy import Policy

BOOT_QUANTUM: Final = 1000
BOOT_LIMIT: Final = 50_000_000


class _Detached(Policy):
    """Attached while a scenario boots: no thread exists yet, so no hook of it can run."""

    id, title, proposer, source = "boot", "boot", "", ""


class BootedScenario:
    """A guest that has booted up to the event with which its kernel's runs begin; any number of them start there.

    Args:
        image: an ELF image with hypercalls.
        name: what to call it in errors.
        cpus: CPUs of the machine.
        ram: bytes.
        modes: architecture modes.
        kernel: makes the kernel of its guest; None makes kstack's own.

    Attributes:
        machine: its own.
        symbols: of the image.
        facts: of the guest's kernel.

    Raises:
        ScenarioError: the guest gives a policy no frames, or never marks the event.
        ImageError: the image cannot be loaded.
    """

    def __init__(
        self,
        image: bytes,
        name: str,
        cpus: int,
        ram: int = 64 << 20,
        modes: Modes | None = None,
        kernel: KernelOf | None = None,
    ) -> None:
        self.machine = Machine(MachineConfig(cpus, ram, modes or Modes()))
        self.symbols = load(self.machine, image, name)
        self._kernel = kernel
        session = Session(self.machine, self.symbols, RoundRobin(BOOT_QUANTUM), _Detached(), kernel=kernel)
        self.facts = session.kernel.facts
        begins = self.facts.begins
        while not any(event == begins for _, _, event in session.events):
            if self.machine.time > BOOT_LIMIT or session.step(BOOT_LIMIT) is not None:
                raise ScenarioError(f"{name}: the guest never marked the event {begins!r}")
        if not session.runtime.is_booted:
            raise ScenarioError(f"{name}: the guest marked {begins!r} without a BOOT hypercall before")
        self._runtime = session.runtime
        self._snapshot: MachineSnapshot = self.machine.snapshot()

    def session(self, policy: Policy, scheduler: Scheduler, options: RunOptions = RunOptions()) -> Session:
        """A new run from the booted state; it ends any earlier run of this object."""
        self.rewind()
        return Session(self.machine, self.symbols, scheduler, policy, options, self._runtime, self._kernel)

    def rewind(self) -> None:
        """Let the machine be as it was when the guest had booted; it ends any run of this object."""
        self.machine.restore(self._snapshot)
