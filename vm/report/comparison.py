"""All judgements of one `kstack compare`, by policy and by scenario, and what each policy cost a unit."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from kstack.hw.modes import Modes
from kstack.judge.verdict import Judgement
from kstack.kernels.known import usual_guests
from kstack.report.decisions import Break, in_words, readings_of, reads_alike
from kstack.report.words import VERDICTS
from kstack.run.statistics import operations_of
from kstack.stacks.measure.costs import CostModel, Cycles, cycles

BASELINE: Final = "fixed-16k"
_SWITCH: Final = ("switch_in", "switch_out", "tick", "memory_pressure")
_SYSCALL: Final = ("enter_kernel", "exit_kernel", "request", "share")
_THREAD: Final = ("create_thread", "exit_thread")
_FAULT: Final = ("stack_fault",)

Amounts = Mapping[str, float]


@dataclass(frozen=True)
class UnitCosts:
    """Operations of one policy a unit of work, over the scenarios that its guest finished.

    Attributes:
        policy: its id.
        scenarios: which they are.
        switch: operations a context switch, by hooks of the switch, of the timer and of memory pressure.
        syscall: operations a system call, by hooks of entry, exit, request and share.
        thread: operations a thread, by creation and exit.
        fault: operations a stack fault, delivery included.
        faults_per_thread, faults_per_switch: how often the guests' threads faulted.
        shrinks: it cleared entries of living threads, so a thread may fault again.
        walks: page walks a context switch beyond those of the fully backed policy in the same
            scenarios; None if that was not compared.
        total: operations a context switch, everything together.
    """

    policy: str
    scenarios: tuple[str, ...]
    switch: Amounts
    syscall: Amounts
    thread: Amounts
    fault: Amounts
    faults_per_thread: float
    faults_per_switch: float
    shrinks: bool
    walks: float | None
    total: Amounts


@dataclass(frozen=True)
class Comparison:
    """What `kstack compare` has found.

    Attributes:
        judgements: in the order of the command line.
        modes: of the machine.
        model: cost model.
        model_name: where it comes from.
        usual: the modes that it has by default.
        shipped: by policy, where the decisions that come with kstack have it broken.
        notes: what is said below the modes: on what they rest.
        mark: what is said beside each verdict for the same reason; "" for nothing.
    """

    judgements: tuple[Judgement, ...]
    modes: Modes
    model: CostModel
    model_name: str = "kstack's own"
    usual: Modes = Modes(tlb="adversarial")
    shipped: Mapping[str, tuple[Break, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    mark: str = ""
    _pairs: dict[tuple[str, str], Judgement] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        pairs = {(judgement.policy, judgement.scenario): judgement for judgement in self.judgements}
        object.__setattr__(self, "_pairs", pairs)

    @property
    def policies(self) -> tuple[str, ...]:
        """Policies, in order."""
        return tuple(dict.fromkeys(judgement.policy for judgement in self.judgements))

    @property
    def scenarios(self) -> tuple[str, ...]:
        """Scenarios, in order."""
        return tuple(dict.fromkeys(judgement.scenario for judgement in self.judgements))

    def pair(self, policy: str, scenario: str) -> Judgement | None:
        """The judgement of a pair, None if it was not judged."""
        return self._pairs.get((policy, scenario))

    def finished(self, policy: str) -> tuple[Judgement, ...]:
        """The judgements of a policy whose measured run came to the guest's own end."""
        return tuple(found for found in self.judgements if found.policy == policy and finished(found))

    @cached_property
    def units(self) -> dict[str, UnitCosts]:
        """Costs a unit of every policy that finished a scenario."""
        found = {policy: self.finished(policy) for policy in self.policies}
        return {policy: self._units(policy, done) for policy, done in found.items() if done}

    def _units(self, policy: str, done: tuple[Judgement, ...]) -> UnitCosts:
        hooks: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        calls: dict[str, int] = defaultdict(int)
        total: dict[str, int] = defaultdict(int)
        threads = unmaps = 0
        for judgement in done:
            run = judgement.reference
            assert run is not None
            assert run.usage is not None
            for name, amount in operations_of(run).items():
                total[name] += amount
            for name, amount in run.usage.hook_calls.items():
                calls[name] += amount
            for hook, counts in run.usage.hook_operations.items():
                for name, amount in counts.items():
                    hooks[hook][name] += amount
            for name in ("page_fault", "double_fault", "fred_fault"):
                hooks["stack_fault"][name] += operations_of(run)[name]
            threads += run.usage.threads
            unmaps += run.unmaps
        switches, faults = calls["switch_in"], calls["stack_fault"]
        return UnitCosts(
            policy=policy,
            scenarios=tuple(judgement.scenario for judgement in done),
            switch=_per(hooks, _SWITCH, switches),
            syscall=_per(hooks, _SYSCALL, calls["enter_kernel"]),
            thread=_per(hooks, _THREAD, threads),
            fault=_per(hooks, _FAULT, faults),
            faults_per_thread=faults / threads if threads else 0.0,
            faults_per_switch=faults / switches if switches else 0.0,
            shrinks=unmaps > 0,
            walks=self._walks(done),
            total={name: amount / switches if switches else 0.0 for name, amount in total.items()},
        )

    def _walks(self, done: tuple[Judgement, ...]) -> float | None:
        """Page walks a switch beyond the baseline's, in the scenarios that both finished."""
        extra = switches = 0
        for judgement in done:
            base = self.pair(BASELINE, judgement.scenario)
            if base is None or not finished(base):
                continue
            ours, theirs = judgement.reference, base.reference
            assert ours is not None
            assert ours.usage is not None
            assert theirs is not None
            assert theirs.usage is not None
            extra += ours.usage.walks - theirs.usage.walks
            switches += ours.counts.switches
        return extra / switches if switches else None

    def cost(self, amounts: Amounts) -> Cycles:
        """Cycles by this comparison's model."""
        return cycles(amounts, self.model)

    def kib(self, policy: str) -> float | None:
        """KiB a thread: the mean of a policy's finished scenarios."""
        found = [judgement.reference.kib_per_thread for judgement in self.finished(policy) if judgement.reference]
        return _mean([kib for kib in found if kib is not None])

    def verdicts(self, policy: str) -> dict[str, int]:
        """In how many scenarios a policy has which verdict."""
        found = [judgement.verdict for judgement in self.judgements if judgement.policy == policy]
        return {word: found.count(word) for word in VERDICTS}

    def broken_in(self, policy: str) -> tuple[Break, ...]:
        """Litmus scenarios in which a policy is broken: those found here first, then what was explored before."""
        here = [
            Break(one.scenario, None)
            for one in self.judgements
            if one.policy == policy and one.safe is False and usual_guests().scenario(one.scenario).litmus
        ]
        known = {one.scenario for one in here}
        return (*here, *(one for one in self.shipped.get(policy, ()) if one.scenario not in known))

    def is_broken(self, policy: str) -> bool:
        """Whether a policy is broken in a litmus scenario, under this comparison's reading of Accessed."""
        return any(reads_alike(one, self.modes) for one in self.broken_in(policy))

    def breakage(self, policy: str) -> str:
        """In words, in which litmus scenarios a policy is broken; those of another reading if there are no others."""
        return in_words(self.broken_in(policy), self.modes)

    def warning(self, judgement: Judgement) -> str:
        """What has to stand beside a verdict `safe` of a policy that is broken in a litmus scenario; else nothing."""
        return self.breakage(judgement.policy) if judgement.safe else ""

    @property
    def explored_before(self) -> tuple[Modes, ...]:
        """Under which modes that was explored which a warning here rests on and this command has not found itself."""
        warned = dict.fromkeys(one.policy for one in self.judgements if self.warning(one))
        return readings_of(one for policy in warned for one in self.broken_in(policy))


def finished(judgement: Judgement) -> bool:
    """Whether the measured run came to the guest's own end, so that its counts are of the whole scenario."""
    run = judgement.reference
    return run is not None and run.usage is not None and run.ended == "exit" and run.passed


def _per(hooks: Mapping[str, Mapping[str, int]], names: Iterable[str], number: int) -> Amounts:
    found: dict[str, float] = defaultdict(float)
    for hook in names:
        for operation, amount in hooks.get(hook, {}).items():
            found[operation] += amount / number if number else 0.0
    return dict(found)


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
