"""How much memory stacks take: pages mapped per thread, over time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vm.stacks.area import PAGE, Pte, Thread
from vm.stacks.runtime import HookCall
from vm.stacks.steps import ExchangePte, WritePte


class Usage:
    """Watches a policy's stores to leaf entries.

    Args:
        clock: virtual time.
    """

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._mapped: dict[int, int] = {}
        self._since = 0
        self._page_time = 0
        self._thread_time = 0
        self.peak_pages = 0

    def _settle(self) -> None:
        now = self._clock()
        elapsed, self._since = now - self._since, now
        self._thread_time += elapsed * len(self._mapped)
        self._page_time += elapsed * sum(self._mapped.values())

    @property
    def kib_per_thread(self) -> float | None:
        """KiB mapped per living thread, averaged over time; None where no thread has lived."""
        self._settle()
        return self._page_time * PAGE / 1024 / self._thread_time if self._thread_time else None

    def booted(self, frames: list[int]) -> None:
        """Time before the first thread does not count."""
        self._since = self._clock()

    def thread_created(self, thread: Thread) -> None:
        """A thread begins to live."""
        self._settle()
        self._mapped[thread.id] = 0

    def thread_gone(self, thread: Thread) -> None:
        """A thread has exited."""
        self._settle()
        self._mapped.pop(thread.id, None)

    def stepped(self, cpu: int, call: HookCall, step: Any, answer: Any, previous: Pte | None) -> None:
        """Count pages as their entries appear and vanish."""
        if isinstance(step, WritePte):
            old = previous
        elif isinstance(step, ExchangePte) and answer == step.expected:
            old = step.expected
        else:
            return
        change = int(step.pte.present) - int(old is not None and old.present)
        if change and step.page.thread in self._mapped:
            self._settle()
            self._mapped[step.page.thread] += change
            self.peak_pages = max(self.peak_pages, sum(self._mapped.values()))

    def fault_refused(self, cpu: int, thread: Thread, address: int) -> None:
        """Makes no difference."""

    def event(self, cpu: int, name: str) -> None:
        """Makes no difference."""
