"""A policy's hooks, asked again: each depends on its arguments and on the answers to its steps, and on nothing else.

That is what a snapshot rests on (a hook in flight is saved as its answers, and made again from them), and the explorer,
which makes hooks again in any order. `NotedPolicy` notes what a policy's hooks are asked in a run, and what they do. `again`
asks for it in ways that tell one that keeps something of its own, wherever it keeps it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from kstack.stacks import Policy, Step, Thread
from kstack.stacks.host.call import HookSteps
from kstack.stacks.steps import Answered
from kstack.testing.mutants import HOOKS, Argument, result_of
from kstack.testing.worlds import world

IN_FLIGHT: Final = "in flight"
"""What a hook answers that has not ended."""
RAISED: Final = (Exception, SystemExit, GeneratorExit)
"""What a hook may raise when it is asked again, of which the test tells; KeyboardInterrupt is the user's."""
_NO_STEP: Final = "nothing more"


@dataclass
class Asked:
    """A hook that was called.

    Attributes:
        hook: its name.
        arguments: as it was given them.
        steps: that it made, in order.
        answers: that it was given; the last step may have none yet.
        result: what it answered, or IN_FLIGHT.
    """

    hook: str
    arguments: tuple[Argument, ...]
    steps: list[Step] = field(default_factory=list)
    answers: list[Answered] = field(default_factory=list)
    result: object = IN_FLIGHT

    def __str__(self) -> str:
        thread = next((f" of thread {one.id}" for one in self.arguments if isinstance(one, Thread)), "")
        return f"{self.hook}{thread} on CPU {self.arguments[0]}"


class NotedPolicy(Policy):
    """A policy's hooks, as they are; what they are asked is noted.

    Args:
        policy: the policy.
        asked: where it is noted.
    """

    id = title = proposer = source = "watched"

    def __init__(self, policy: Policy, asked: list[Asked]) -> None:
        self._policy, self._asked = policy, asked
        for name in ("id", "title", "proposer", "source", "delivery", "pool_pages"):
            setattr(self, name, getattr(policy, name))

    def _follow(self, hook: str, arguments: tuple[Argument, ...]) -> HookSteps:
        noted = Asked(hook, _copied(arguments))
        self._asked.append(noted)
        answer: Answered = None
        steps: HookSteps | None = None
        while True:
            try:
                steps, step = _next(self._policy, steps, hook, arguments, answer)
            except StopIteration as end:
                noted.result = end.value
                return result_of(end)
            noted.steps.append(step)
            answer = yield step
            noted.answers.append(answer)


def _next(
    policy: Policy, steps: HookSteps | None, hook: str, arguments: tuple[Argument, ...], answer: Answered
) -> tuple[HookSteps, Step]:
    """A hook's generator, begun where there is none, and its next step."""
    if steps is None:
        steps = getattr(policy, hook)(*arguments)
        return steps, next(steps)
    return steps, steps.send(answer)


def _follower(hook: str) -> Callable[..., HookSteps]:
    return lambda self, *arguments: self._follow(hook, arguments)


for _hook in HOOKS:
    setattr(NotedPolicy, _hook, _follower(_hook))


def _copied(arguments: tuple[Argument, ...]) -> tuple[Argument, ...]:
    """Arguments of which a policy cannot change those that were noted."""
    return tuple(replace(one) if isinstance(one, Thread) else one for one in arguments)


# --- asked again


class _Again:
    """A hook that is asked again, a step at a time."""

    def __init__(self, policy: Policy, asked: Asked) -> None:
        self._asked, self._policy = asked, policy
        self._steps: HookSteps | None = None
        self._made = 0
        self._arguments = _copied(asked.arguments)
        self.ended = False
        self.wrong = ""

    @property
    def is_half_done(self) -> bool:
        """Half of its steps have been made, or it has ended."""
        return self.ended or self._made > len(self._asked.steps) // 2

    def step(self) -> None:
        """Ask for the next step, and compare."""
        asked, number = self._asked, self._made
        answer = asked.answers[number - 1] if number else None
        made, self._made = self._next(answer), number + 1
        wanted = asked.steps[number] if number < len(asked.steps) else _NO_STEP
        self.ended = self.ended or self._made > len(asked.answers)
        if not self.wrong and made != wanted:
            self.wrong = f"{asked} made {wanted} as step {number + 1}, and asked again {made}"

    def _next(self, answer: Answered) -> Step | str:
        asked = self._asked
        try:
            self._steps, step = _next(self._policy, self._steps, asked.hook, self._arguments, answer)
        except StopIteration as end:
            self.ended = True
            if asked.result is not IN_FLIGHT and end.value != asked.result:
                self.wrong = f"{asked} answered {asked.result!r}, and asked again {end.value!r}"
            return _NO_STEP
        except RAISED as error:
            self.ended, self.wrong = True, f"{asked} raises {type(error).__name__} when it is asked again: {error}"
            return _NO_STEP
        return step


def _finished(hooks: Sequence[_Again]) -> str:
    """Ask some hooks for their steps in turn, to their ends; what one does otherwise, or nothing."""
    while not all(one.ended for one in hooks):
        for one in hooks:
            if not one.ended:
                one.step()
            if one.wrong:
                return one.wrong
    return ""


def _half_then_twice(policy: type[Policy], asked: Sequence[Asked]) -> Iterable[list[_Again]]:
    """One object is asked for half of each hook, as before a state is restored; then for all of it, twice."""
    made = policy()
    for one in asked:
        half = _Again(made, one)
        while not half.is_half_done:
            half.step()
        yield [_Again(made, one)]
        yield [_Again(made, one)]


def _backwards(policy: type[Policy], asked: Sequence[Asked]) -> Iterable[list[_Again]]:
    """One object, the last hook first."""
    made = policy()
    return ([_Again(made, one)] for one in reversed(asked))


def _in_turn(policy: type[Policy], asked: Sequence[Asked]) -> Iterable[list[_Again]]:
    """Each with the next one, and with the next of its kind: two are in flight together, as on two CPUs."""
    made = policy()
    for number, one in enumerate(asked):
        others = asked[number + 1 :]
        alike = next((other for other in others if other.hook == one.hook), one)
        for other in (*others[:1], alike):
            yield [_Again(made, one), _Again(made, other)]


ORDERS: Final = {
    "in the opposite order": _backwards,  # first: what is remembered for ever is remembered by it in another process
    "half of it, then all of it, then once more, by one object": _half_then_twice,
    "two at a time": _in_turn,
}


def differences(policy: type[Policy], asked: Sequence[Asked]) -> list[str]:
    """What hooks do otherwise when they are asked again, the first of each order; nothing of a policy that is right.

    Args:
        policy: its class.
        asked: what its hooks were asked, and what they did, in the first world.
    """
    found = []
    for order, made in ORDERS.items():
        wrong = next((wrong for hooks in (made(policy, asked) if asked else ()) if (wrong := _finished(hooks))), "")
        if wrong:
            found.append(f"{wrong} ({order})")
    return found


def differences_in(number: int, policy: type[Policy], asked: Sequence[Asked]) -> list[str]:
    """The same in a world, by its number."""
    with world(number, policy):
        return differences(policy, asked)


def differences_elsewhere(policy: type[Policy], asked: Sequence[Asked]) -> list[str]:
    """The same in the first world of a process in which it is called."""
    return differences_in(0, policy, asked)
