"""Why a run has ended, in a sentence: what `--json` calls `reason`, and text says above its last line.

    exit         the guest wrote to the debug-exit port
    shutdown     a CPU faulted in the delivery of #DF, or was asked for what is not modelled
    asleep       every CPU sleeps, and nothing will wake one
    deadlock     every CPU waits for others in steps of the policy
    bound        so much virtual time has passed as it was given
    finding      there was one at which it was to end
    unfinished   what it repeats was cut off while it was recorded

A policy that does what none may ends a run, too: by `PolicyError`, which says why.
"""

from __future__ import annotations

from itertools import groupby
from typing import Final

from kstack.hw.cpu.cpu import Cpu
from kstack.hw.cpu.events import Event, EventKind, Outcome
from kstack.hw.cpu.hooks import Delivery
from kstack.hw.cpu.state import ActivityState
from kstack.kernels.kernel import Exits
from kstack.machine import Machine
from kstack.x86.vectors import name_of

ENDS: Final = ("exit", "shutdown", "asleep", "deadlock", "bound", "bound of host work", "finding", "unfinished")


class Ending:
    """Remembers what the end of a run cannot be asked any more: of what each CPU shut down.

    Args:
        machine: that runs.
        exits: what its guest says by its end.
    """

    def __init__(self, machine: Machine, exits: Exits) -> None:
        self._machine, self._exits = machine, exits
        self._shut_down: dict[int, str] = {}
        machine.instruments.add(self)

    def on_delivery(self, delivery: Delivery) -> None:
        """A CPU has taken events, or shut down of them."""
        cpu, events, outcome = delivery
        if outcome is Outcome.SHUTDOWN:
            at = self._machine.cpus[cpu].linear_rip()
            names = ", then ".join(event_name(event) for event in events)
            self._shut_down[cpu] = (
                f"CPU {cpu} shut down (triple fault) at {at:#x}: {names}, whose delivery faulted, too"
            )

    def save(self) -> dict[int, str]:
        """What it remembers; nobody changes it."""
        return dict(self._shut_down)

    def load(self, state: dict[int, str]) -> None:
        """Become what `save` returned."""
        self._shut_down = dict(state)

    def reason(self, ended: str, most: int, idle: int, found: str) -> str:
        """Why it has ended, as its session names that.

        Args:
            ended: one of the words above.
            most: units of virtual time, or of the host's work, that it was given.
            idle: how often in a row time has jumped and woken nobody.
            found: the finding at which it was to end, in words.
        """
        if ended == "exit":
            return self._exit()
        if ended == "shutdown":
            return "; ".join(self._of(cpu) for cpu in self._machine.cpus if cpu.state is ActivityState.SHUTDOWN)
        if ended == "asleep":
            jumped = f"the last {idle} timers woke nobody" if idle > 1 else "no timer is set"
            return f"every CPU sleeps, and {jumped}: {states(self._machine.cpus)}"
        return {
            "deadlock": "every CPU waits for others in a step of the policy, and nothing can interrupt one",
            "bound": f"{most} units of virtual time have passed, which is the bound",
            "bound of host work": f"the guest has made the host do {most} units of work, which is the bound; "
            f"--max-work {10 * most} lets it go on",
            "finding": f"it was to end at a finding: {found}",
            "unfinished": "the recording was cut off here",
        }[ended]

    def _exit(self) -> str:
        value, serial = self._machine.exit_port.code or 0, self._machine.uart.sent.decode("utf-8", "replace")
        said = "" if value in self._exits.passed else self._exits.last_words(serial)
        return f"the guest wrote {value:#x} to the debug-exit port" + (f", and had printed {said!r}" if said else "")

    def _of(self, cpu: Cpu) -> str:
        if cpu.unsupported is not None:
            return f"CPU {cpu.index} was asked for what is not modelled: {cpu.unsupported}"
        return self._shut_down.get(cpu.index, f"CPU {cpu.index} shut down")


def event_name(event: Event) -> str:
    """An exception by its mnemonic, any other event by its kind, and vector where it has one."""
    if event.kind is EventKind.EXCEPTION:
        return name_of(event.vector)
    if event.kind in (EventKind.NMI, EventKind.SYSCALL):
        return str(event.kind.value)
    return f"{'INT' if event.kind is EventKind.SOFTWARE else 'interrupt'} {event.vector:#x}"


def states(cpus: list[Cpu]) -> str:
    """What CPUs do, those that do the same together: `CPU 0 halted, interrupts off; CPUs 1-3 waiting for SIPI`."""
    found = []
    for what, several in groupby(cpus, _state):
        numbers = [cpu.index for cpu in several]
        whose = f"CPU {numbers[0]}" if len(numbers) == 1 else f"CPUs {numbers[0]}-{numbers[-1]}"
        found.append(f"{whose} {what}")
    return "; ".join(found)


def _state(cpu: Cpu) -> str:
    off = cpu.state is ActivityState.HALTED and not cpu.registers.interrupt_flag
    return f"{cpu.state.value}, interrupts off" if off else cpu.state.value
