"""GDB's `monitor` commands: what GDB itself has no words for (GDB manual, E.4, packet qRcmd)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from kstack.base.errors import KstackError
from kstack.debug import views
from kstack.debug.target import Target
from kstack.hw.cpu.cpu import Cpu

STALE_IN_GDB: Final = "GDB does not know yet: maintenance flush register-cache, and maintenance flush dcache"


class CommandError(Exception):
    """A command cannot be carried out; the message is for the user."""


class Monitor:
    """Carries out commands on a target.

    Args:
        target: the debugged machine.
    """

    def __init__(self, target: Target) -> None:
        self._target = target

    def run(self, line: str, cpu: int = 0) -> list[str]:
        """The lines that a command prints.

        Args:
            line: the command with its arguments.
            cpu: the one whose thread GDB has selected.
        """
        words = line.split()
        name, arguments = (words[0], words[1:]) if words else ("help", [])
        if name not in _COMMANDS:
            return [f"no command {name[:40]!r}; see: monitor help"]
        usage, _, command = _COMMANDS[name]
        wanted = usage.split()[1:]
        if len(arguments) > len(wanted) or len(arguments) < sum(not word.startswith("[") for word in wanted):
            return [f"usage: monitor {usage}"]
        try:
            return command(self, cpu, arguments)
        except CommandError as error:
            return [str(error)]

    def _help(self, _cpu: int, _arguments: list[str]) -> list[str]:
        return [f"{usage:<14}{what}" for usage, what, _ in _COMMANDS.values()]

    def _walk(self, cpu: int, arguments: list[str]) -> list[str]:
        return views.walk_lines(self._target.cpus[cpu], self._address(arguments[0]))

    def _code(self, cpu: int, arguments: list[str]) -> list[str]:
        processor = self._target.cpus[cpu]
        at = self._address(arguments[0]) if arguments else processor.linear_rip()
        return views.code_lines(processor, self._target.timeline.origin.symbols, at)

    def _tlb(self, cpu: int, arguments: list[str]) -> list[str]:
        return views.tlb_lines(self._cpu(cpu, arguments))

    def _apic(self, cpu: int, arguments: list[str]) -> list[str]:
        return views.apic_lines(self._cpu(cpu, arguments).apic)

    def _frames(self, _cpu: int, _arguments: list[str]) -> list[str]:
        return views.frame_lines(self._target.timeline.session)

    def _pool(self, _cpu: int, _arguments: list[str]) -> list[str]:
        return views.pool_lines(self._target.timeline.session)

    def _policy(self, _cpu: int, _arguments: list[str]) -> list[str]:
        return views.policy_lines(self._target.timeline.session)

    def _schedule(self, _cpu: int, _arguments: list[str]) -> list[str]:
        timeline = self._target.timeline
        if timeline.begun is not None:
            cpu, quantum = timeline.begun
            lines = [f"time {timeline.time}: CPU {cpu} runs, for {timeline.left} of {quantum} units more"]
        elif timeline.ended is not None:
            why = timeline.ended if timeline.reason is None else f"{timeline.ended}: {timeline.reason}"
            lines = [f"time {timeline.time}: the run has ended: {why}"]
        else:
            who = "in turn" if timeline.cpu is None else f"CPU {timeline.cpu}"
            lines = [f"time {timeline.time}: next is {who}"]
        made, kept = len(timeline.session.choices), len(timeline.schedule.choices)
        if not timeline.goes_on:
            lines.append(f"slice {made} of {kept} in the recording")
        elif timeline.forked:
            lines.append(f"forked by what was written; slice {made}, of which the first {kept} are fixed")
        else:
            lines.append(f"live, slice {made}, round robin")
        return lines + [f"written at time {write.time}: {write.change}" for write in timeline.writes]

    def _snapshot(self, _cpu: int, _arguments: list[str]) -> list[str]:
        machine = self._target.timeline.machine
        return [f"time {machine.time}, state {machine.state_hash()}"]

    def _record(self, _cpu: int, _arguments: list[str]) -> list[str]:
        try:
            return [f"wrote {self._target.keeper.save()}"]
        except KstackError as error:
            raise CommandError(str(error)) from error

    def _goto(self, _cpu: int, arguments: list[str]) -> list[str]:
        if not (arguments[0].isascii() and arguments[0].isdigit() and len(arguments[0]) < 20):
            raise CommandError(f"{arguments[0][:40]!r} is no virtual time; give a decimal number of units")
        self._target.goto(int(arguments[0]))
        return [f"time {self._target.timeline.time}. {STALE_IN_GDB}"]

    def _findings(self, _cpu: int, _arguments: list[str]) -> list[str]:
        session = self._target.timeline.session
        if session.sanitizer is None:
            return ["no policy is attached, and the kernel's frames are not followed, so nothing is looked for"]
        found = [
            f"time {one.time}, CPU {one.cpu}, {one.symbol}: {one.kind.value}: {one.text}" for one in session.findings
        ]
        return found or ["nothing found so far"]

    # --- arguments

    def _cpu(self, cpu: int, arguments: list[str]) -> Cpu:
        """The CPU whose number (from 0) is given, else the selected one."""
        cpus = self._target.cpus
        if not arguments:
            return cpus[cpu]
        if not (arguments[0].isascii() and arguments[0].isdigit() and int(arguments[0][:9]) < len(cpus)):
            raise CommandError(f"no CPU {arguments[0][:40]!r}; give 0 to {len(cpus) - 1}")
        return cpus[int(arguments[0])]

    def _address(self, text: str) -> int:
        """A number (decimal, or hexadecimal after 0x), or a symbol."""
        digits = text.lower().removeprefix("0x")
        known = self._target.timeline.origin.symbols.address(text)
        if known is not None:
            return known
        base = 16 if text.lower().startswith("0x") else 10
        allowed = "0123456789abcdef"[:base]
        if not digits or len(digits) > 20 or any(digit not in allowed for digit in digits) or int(digits, base) >> 64:
            raise CommandError(f"{text[:40]!r} is neither a symbol nor an address of 64 bits")
        return int(digits, base)


Command = Callable[[Monitor, int, list[str]], list[str]]
_COMMANDS: Final[dict[str, tuple[str, str, Command]]] = {
    usage.split()[0]: (usage, what, command)
    for usage, what, command in (
        ("help", "these commands", Monitor._help),
        ("walk VA", "the page-table entries for an address, and what the selected CPU has cached", Monitor._walk),
        (
            "code [VA]",
            "instructions at an address, or at the selected CPU's, of the width at which that runs",
            Monitor._code,
        ),
        ("tlb [CPU]", "all that a CPU has cached; CPUs count from 0, the selected one by default", Monitor._tlb),
        ("frames", "the frames of stack pages that have been used: owner and state", Monitor._frames),
        ("pool", "the pools of stack pages", Monitor._pool),
        ("policy", "the policy, and its hooks in flight on each CPU", Monitor._policy),
        ("apic [CPU]", "a local APIC", Monitor._apic),
        ("schedule", "who runs next, the place in the recording, what has been written", Monitor._schedule),
        ("snapshot", "virtual time and state hash", Monitor._snapshot),
        ("record", "save a recording of the run up to here, if it is not the one that there is", Monitor._record),
        ("goto COUNT", "go to a virtual time, forwards or backwards", Monitor._goto),
        (
            "findings",
            "what the oracle has found so far; kstack replay also tells what only the end shows",
            Monitor._findings,
        ),
    )
}
