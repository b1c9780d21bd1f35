"""Which thread runs on which CPU, by what the guest tells its policy.

A switch to an idle thread is not told: the CPU has none from when the policy hears that its thread is out, or gone.
"""

from __future__ import annotations

from kstack.trace.events import TraceEvent


class Running:
    """Threads by CPU, from event to event; 0 is none.

    Args:
        cpus: of the machine.
    """

    def __init__(self, cpus: int) -> None:
        self.now = [0] * cpus

    def told(self, event: TraceEvent) -> list[tuple[int, int]]:
        """The next event: CPUs whose thread has changed with it, and to which."""
        if event.kind not in ("switch", "hook", "thread-gone"):
            return []
        thread = event.thread or 0
        before = list(self.now)
        if event.kind == "switch" or (event.kind == "hook" and event.name == "switch_in"):
            self.now = [0 if one == thread else one for one in self.now]
            self.now[event.cpu] = thread
        elif event.kind == "hook" and event.name == "switch_out" and self.now[event.cpu] == thread:
            self.now[event.cpu] = 0
        elif event.kind == "thread-gone":
            self.now = [0 if one == thread else one for one in self.now]
        return [(cpu, now) for cpu, (was, now) in enumerate(zip(before, self.now, strict=True)) if was != now]
