"""Between two moves: a CPU runs at full speed to its next visible operation; what nobody can tell is done on the way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kstack.base.errors import ScenarioError
from kstack.explore.model.gate import Held, gate_of
from kstack.explore.model.store_buffers import drains
from kstack.explore.states import Grown
from kstack.hw.cpu.state import ActivityState
from kstack.machine import End
from kstack.stacks.hooks import HookKind
from kstack.x86.registers import Gpr

if TYPE_CHECKING:
    from kstack.explore.world import World

FENCE: Final = "fence"  # instead of an instruction: its CPU waits until all can see what it has stored
LOCAL: Final = 200_000  # instructions a CPU may run between two visible operations
_RSP: Final = int(Gpr.RSP)  # a plain integer, for the search's inner loops


class LocalRunner:
    """Runs the CPUs of a world.

    Args:
        world: whose `held` and `done` say where they have come to.
    """

    def __init__(self, world: World) -> None:
        self._world = world

    def run_on(self, cpu: int) -> None:
        """Run a CPU to its next visible operation.

        Raises:
            Grown: it waits for something that was not known to be visible.
            ScenarioError: it comes to none, or to what cannot be explored.
        """
        world, core, machine, left = self._world, self._world.machine.cpus[cpu], self._world.machine, LOCAL
        gate = gate_of(core)
        world.visible.recent.clear()
        while left > 0 and not self._rests(cpu):
            gate.held = None
            events = len(world.session.events)
            watched = bool(world.buffers.stores[cpu])
            if watched and drains(world.buffers.code(cpu)):
                world.held[cpu] = Held(FENCE)
                return
            left -= max(1, machine.run(cpu, 1 if world.done[cpu] or watched else left).elapsed)
            world.refusals.check(cpu)
            world.done[cpu] = world.done[cpu] or self._ends(cpu, events)
            if gate.held is None:
                if core.state is not ActivityState.RUNNING or machine.end() is not None:
                    break
                continue
            world.refusals.check_held(cpu, gate.held.what)
            if gate.held.what != "out" or not self._is_private(cpu):
                world.held[cpu] = gate.held
                return
            gate.granted = True
            machine.run(cpu, 1)
            gate.granted = False
            world.done[cpu] = world.done[cpu] or self._ends(cpu, events)
        if left <= 0:
            self._waits()
            raise ScenarioError(f"CPU {cpu} runs for {LOCAL} instructions without a visible operation")

    def _waits(self) -> None:
        """A CPU has run for long, and waits for what it has touched to change.

        Raises:
            Grown: more of that is visible from now on.
        """
        visible = self._world.visible
        own = [thread for thread in self._world.runtime.threads.values() if thread.id < self._world.marks.first_thread]
        recent = visible.recent.items()
        shared = [frame for frame, page in recent if not any(thread.contains(page << 12) for thread in own)]
        for frame in shared:
            visible.add(frame)
        if shared:
            raise Grown(tuple(sorted(visible.frames)))

    def _rests(self, cpu: int) -> bool:
        """Whether a CPU's program has ended, and no interrupt handler (which has IF clear) runs there."""
        return self._world.done[cpu] and self._world.machine.cpus[cpu].registers.interrupt_flag

    def _ends(self, cpu: int, events: int) -> bool:
        world = self._world
        names = [name for _, who, name in world.session.events[events:] if who == cpu]
        wrong = world.marks.wrong in names
        if wrong or self._exits_badly():
            world.oracle.check_failed(cpu)
        return wrong or world.marks.done in names or world.machine.end() is End.SHUTDOWN

    def _exits_badly(self) -> bool:
        """Whether the guest has said itself, by what it wrote to the debug-exit port, that something is wrong."""
        code, exits = self._world.machine.exit_port.code, self._world.facts.exits
        return code is not None and code not in exits.passed and code != exits.panicked

    def _is_private(self, cpu: int) -> bool:
        """Whether an OUT is one that nobody else can tell: an event, or the beginning of a hook."""
        hook = self._world.session.kernel.asks(cpu)
        if hook is None:
            return True  # an event, or the console, when the guest panics
        return not self.is_begun(cpu) and hook not in (HookKind.SWITCH_IN, HookKind.SWITCH_OUT)

    def is_begun(self, cpu: int) -> bool:
        """Whether the OUT before which a CPU stands makes the next step of a hook that has begun."""
        registers, calls = self._world.machine.cpus[cpu].registers, self._world.runtime.calls[cpu]
        return bool(calls) and calls[-1].key == (registers.rip, registers.gpr[_RSP])
