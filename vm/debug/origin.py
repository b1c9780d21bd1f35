"""Where a debugged run begins, so that it can begin there again any number of times.

The machine is made, and a scenario's guest booted, once; every further run starts from a snapshot
of that moment with a new policy, oracle and schedule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from kstack.fault import Fault, Injector
from kstack.hw.memory import MemorySnapshot
from kstack.load import Symbols
from kstack.machine import FOR_EVER, Machine
from kstack.recording import Recording
from kstack.run.result import BOUND, WORK
from kstack.run.session import Session
from kstack.run.spec import RunSpec, faults_of, replay_session, writes_of
from kstack.run.writes import Write
from kstack.schedule import Choice, RoundRobin, Scheduler
from kstack.stacks.loading.registry import find_policy
from kstack.stacks.policy import Policy

UNBOUNDED: Final = 1 << 62


class Origin:
    """The beginning of one run.

    Args:
        template: a session that stands at the beginning; it is never run itself.
        policy: id or path, as it was set up with; None without a policy.
        choices: what the schedule chose when the run was recorded; None for a live run.
        booted: the beginning is where a scenario's guest has booted.
        faults: what goes wrong.
        writes: what an earlier debugger has written.
        head: a recording of the same beginning; None if there can be none.

    Attributes:
        limit: virtual time at which a recorded run ends, if it has not before.
        why_limited: as `Session` names that end.
    """

    def __init__(
        self,
        template: Session,
        policy: str | None = None,
        choices: list[Choice] | None = None,
        booted: bool = False,
        faults: Sequence[Fault] = (),
        writes: Sequence[Write] = (),
        head: Recording | None = None,
    ) -> None:
        self._template = template
        self._policy = policy
        self._booted = booted
        self._faults = faults
        self.writes = writes
        self.head = head
        self._snapshot = template.machine.snapshot()
        self.choices = choices
        self.limit = template.machine.time + template.options.max_time
        self.why_limited = BOUND

    @classmethod
    def of_setup(cls, setup: RunSpec) -> Origin:
        """A live run.

        Raises:
            KstackError: image, policy or configuration are wrong.
        """
        setup = replace(setup, options=replace(setup.options, max_time=UNBOUNDED))
        session = setup.session(RoundRobin(1))
        return cls(session, setup.named, None, setup.is_scenario, setup.faults, (), setup.head())

    @classmethod
    def of_recording(cls, recording: Recording, anyway: bool = False) -> Origin:
        """A recorded run.

        Args:
            recording: what was run.
            anyway: repeat it also on a machine of other rules.

        Raises:
            RecordingError: it is damaged, or its image, its policy or the machine's rules have changed.
            KstackError: image or policy are not there any more.
        """
        choices, template = list(recording.schedule()), replay_session(recording, anyway)
        faults, writes = faults_of(recording), writes_of(recording)
        found = cls(template, recording.policy, choices, recording.booted, faults, writes, recording)
        if recording.ended == WORK:
            found.limit, found.why_limited = recording.time, WORK
        return found

    @property
    def machine(self) -> Machine:
        """The machine, which all runs use."""
        return self._template.machine

    @property
    def memory(self) -> MemorySnapshot:
        """RAM at the beginning."""
        return self._snapshot.memory

    @property
    def symbols(self) -> Symbols:
        """Of the image."""
        return self._template.symbols

    def session(self, scheduler: Scheduler) -> Session:
        """A new run; it ends the one before.

        No bound of the host's work ends it: who runs it in pieces, looks at it or goes back makes other work of it. A recording
        that has ended by one says where.
        """
        template = self._template
        template.machine.restore(self._snapshot)
        runtime = template.runtime if self._booted else None
        session = Session(template.machine, template.symbols, scheduler, self._new_policy(), template.options, runtime)
        template.machine.work_limit = FOR_EVER
        if self._faults:
            Injector(session, self._faults, recorded=True)
        return session

    def _new_policy(self) -> Policy | None:
        if self._template.runtime.policy is None:
            return None
        return type(self._template.runtime.policy)() if self._policy is None else find_policy(self._policy)()
