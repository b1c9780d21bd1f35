"""Mutants of a policy: one step left out, or one atomic step made two.

A site is the place of a `yield` in a hook: the hook, the function in which it stands (the hook's own,
or an idiom's) and the step's kind and order there. Sites are found by running the policy; a mutant
is the same policy with one site changed. A scenario that finds nothing of a mutant cannot see what
that step is for; a policy whose mutants all survive everywhere is not tested.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import Any, Final, NamedTuple

from kstack.stacks import (
    ExchangePte,
    GiveBack,
    Invlpg,
    Invlpgb,
    Load,
    Lock,
    OtherCpus,
    Policy,
    PostFlush,
    Pte,
    ReadPte,
    SendIpi,
    Step,
    Store,
    Swap,
    SwapPte,
    Thread,
    Tlbsync,
    Unlock,
    WaitForAck,
    WritePte,
    ZeroPage,
)
from kstack.stacks.host.call import HookSteps
from kstack.stacks.steps import Answer, Answered

DROPPED: Final = (Invlpg, Invlpgb, Tlbsync, PostFlush, SendIpi, WaitForAck, ZeroPage, GiveBack, Lock, WritePte, Store)
SPLIT: Final = (ExchangePte, SwapPte, Swap)
SWAPPED: Final = (Invlpg, PostFlush, SendIpi, WaitForAck, WritePte, ZeroPage, GiveBack, Store)  # they answer nothing
HOOKS: Final = (
    "create_thread",
    "exit_thread",
    "enter_kernel",
    "exit_kernel",
    "switch_in",
    "switch_out",
    "stack_fault",
    "request",
    "memory_pressure",
    "share",
    "tick",
)
Argument = int | Thread
"""What a hook is given."""
Change = Callable[[str, HookSteps], HookSteps]
"""What a mutant makes of a hook: its name, and as it was called."""


class Site(NamedTuple):
    """Where a step is made.

    Attributes:
        hook: name of the policy's hook.
        function: in which the `yield` stands.
        line: of that function's file.
        step: name of the step's class.
    """

    hook: str
    function: str
    line: int
    step: str

    def __str__(self) -> str:
        where = "" if self.function == self.hook else f" in {self.function}"
        return f"{self.hook}: {self.step}{where}, line {self.line}"


class Mutant(NamedTuple):
    """A policy with one site changed.

    Attributes:
        site: which.
        change: `dropped` or `made of two steps`.
        policy: the changed class.
    """

    site: Site
    change: str
    policy: type[Policy]


class Sites:
    """Collects the sites that a policy reaches in the runs it is put through.

    Args:
        policy: its class.
    """

    def __init__(self, policy: type[Policy]) -> None:
        self.found: dict[Site, type[Step]] = {}
        self.policy = _changed(policy, self._note, f"{policy.id}-watched")

    def _note(self, hook: str, steps: HookSteps) -> HookSteps:
        answer: Answered = None
        while True:
            try:
                step = steps.send(answer)
            except StopIteration as end:
                return result_of(end)
            if isinstance(step, DROPPED + SPLIT):
                self.found.setdefault(_site(hook, steps, step), type(step))
            answer = yield step


def result_of(end: StopIteration) -> bool | None:
    """What a hook has answered at its end."""
    result: bool | None = end.value
    return result


def without(policy: type[Policy], steps: Iterable[str], hook: str = "") -> type[Policy]:
    """A policy that leaves out all steps of some kinds; `OtherCpus` left out answers that there are none.

    Args:
        policy: its class.
        steps: names of the kinds.
        hook: the hook that leaves them out; empty for all.
    """
    dropped = frozenset(steps)

    def leave_out(name: str, made: HookSteps) -> HookSteps:
        answer: Answered = None
        while True:
            try:
                step = made.send(answer)
            except StopIteration as end:
                return result_of(end)
            if type(step).__name__ in dropped and hook in ("", name):
                answer = () if isinstance(step, OtherCpus) else None
            else:
                answer = yield step

    return _changed(policy, leave_out, f"{policy.id}-without-{'-'.join(sorted(dropped))}")


def mutants_of(policy: type[Policy], sites: Iterable[Site]) -> list[Mutant]:
    """The mutants of a policy at these sites, in order.

    Args:
        policy: its class.
        sites: as `Sites` has found them.
    """
    kinds = {kind.__name__: kind for kind in DROPPED + SPLIT}
    return [_mutant(policy, site, kinds[site.step]) for site in sorted(sites)]


def swaps_of(policy: type[Policy], sites: Iterable[Site]) -> list[Mutant]:
    """The mutants of a policy in which the step of one of these sites is made after the one that follows it.

    Args:
        policy: its class.
        sites: as `Sites` has found them; those of steps that answer something are left out.
    """
    names = {kind.__name__ for kind in SWAPPED}
    return [_swapped(policy, site) for site in sorted(sites) if site.step in names]


def _swapped(policy: type[Policy], site: Site) -> Mutant:
    def mutate(hook: str, steps: HookSteps) -> HookSteps:
        late: Step | None = None
        answer: Answered = None
        while True:
            try:
                step = steps.send(answer)
            except StopIteration as end:
                if late is not None:
                    yield late
                return result_of(end)
            if late is None and type(step).__name__ == site.step and _site(hook, steps, step) == site:
                late, answer = step, None
                continue
            answer = yield step
            if late is not None:
                yield late
                late = None

    name = f"{policy.id}-swapped-{site.hook}-{site.step}-{site.line}"
    return Mutant(site, "made after the next step", _changed(policy, mutate, name))


def _mutant(policy: type[Policy], site: Site, kind: type[Step]) -> Mutant:
    def mutate(hook: str, steps: HookSteps) -> HookSteps:
        dropped: list[str] = []  # locks not taken in this call, which must not be released either
        answer: Answered = None
        while True:
            try:
                step = steps.send(answer)
            except StopIteration as end:
                return result_of(end)
            if isinstance(step, Unlock) and step.name in dropped:
                dropped.remove(step.name)
                answer = None
            elif type(step) is not kind or _site(hook, steps, step) != site:
                answer = yield step
            elif kind in SPLIT:
                answer = yield from _split(step)
            else:
                if isinstance(step, Lock):
                    dropped.append(step.name)
                answer = None

    change = "made of two steps" if kind in SPLIT else "dropped"
    name = f"{policy.id}-without-{site.hook}-{site.step}-{site.line}"
    return Mutant(site, change, _changed(policy, mutate, name))


def _split(step: Step) -> Generator[Step, Answer, Answered]:
    """What an atomic step does, in two steps between which anybody may come."""
    if isinstance(step, Swap):
        value: Answered = yield Load(step.name, step.key)
        yield Store(step.name, step.value, step.key)
        return value
    assert isinstance(step, ExchangePte | SwapPte)
    pte: Pte = yield ReadPte(step.page)
    if isinstance(step, SwapPte) or pte == step.expected:
        yield WritePte(step.page, step.pte)
    return pte


def _site(hook: str, steps: HookSteps, step: Step) -> Site:
    """The site of the step at which a hook stands now."""
    inner: Any = steps
    while inner.gi_yieldfrom is not None and hasattr(inner.gi_yieldfrom, "gi_frame"):
        inner = inner.gi_yieldfrom
    return Site(hook, inner.gi_code.co_name, inner.gi_frame.f_lineno, type(step).__name__)


def _changed(policy: type[Policy], change: Change, name: str) -> type[Policy]:
    """A subclass whose hooks go through `change(hook, steps)`."""

    def wrapped(hook: str) -> Callable[..., HookSteps]:
        original = getattr(policy, hook)

        def run(self: Policy, *arguments: Argument) -> HookSteps:
            return change(hook, original(self, *arguments))

        return run

    return type(f"{policy.__name__}Changed", (policy,), {**{hook: wrapped(hook) for hook in HOOKS}, "id": name})
