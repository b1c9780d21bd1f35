"""What a policy forgets and nobody can read is seen while its hooks run: every hook x way to forget."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable
from typing import Any, Final

import pytest

from kstack.base.errors import PolicyError
from kstack.hw.modes import Modes
from kstack.run.options import RunOptions
from kstack.run.result import RunResult
from kstack.schedule import RandomSchedule
from kstack.stacks import Invlpg, Load, OtherCpus, Page, Policy, Step, Steps, Thread, free, shootdown
from kstack.stacks.hooks import HookKind
from kstack.stacks.host.call import HookCall, Interposed
from kstack.stacks.loading.registry import find_policy
from tests.support.boots import booted
from tests.support.policy_mistakes import HOOKS

IST: Final = Modes().resolved("ist")
TABLE: Final[dict[str, Callable[..., Any]]] = {"free": free, "shootdown": shootdown}


def run_hook(policy: type[Policy], hook: str = "enter_kernel") -> RunResult:
    """A run in which the hook is called."""
    scenario = "litmus-sweep" if hook == "tick" else "pressure"
    return booted(scenario, IST).session(policy(), RandomSchedule(0), RunOptions(400_000, hashed=False)).run()


def out_of_a_table(self: Any) -> Steps:
    TABLE["free"](())  # here
    yield OtherCpus()


def by_a_name(self: Any, name: str = "late") -> Steps:
    getattr(self, name)()  # here
    yield OtherCpus()


def given_away(self: Any) -> Steps:
    yield Load("x", len([shootdown(())]))  # here


def kept_to_the_end(self: Any) -> Steps:
    work = []
    work.append(shootdown(()))  # here
    yield OtherCpus()


def overwritten(self: Any) -> Steps:
    work = {1: shootdown(())}  # here
    yield OtherCpus()
    work[1] = TABLE["free"](())
    yield from work[1]


def a_step_in_a_list(self: Any) -> Steps:
    work = [OtherCpus()]  # here
    yield Load("x", len(work))


def a_step_for_later(self: Any) -> Steps:
    first, second = OtherCpus(), Load("x")  # here
    yield first
    if self.never:
        yield second


def a_step_by_another(self: Any) -> Steps:
    steps = {"x": OtherCpus}
    steps["x"]()  # here
    yield OtherCpus()


def a_step_compared(self: Any) -> Steps:
    if Load("x") == 0:  # here
        yield OtherCpus()


def a_step_in_a_helper(self: Any) -> Steps:
    def helper() -> Step:
        return OtherCpus()  # here

    TABLE.get("x", helper)()
    yield OtherCpus()


def a_step_out_of_a_map(self: Any) -> Steps:
    for page in (Page(1, 0, 0),):
        map(Invlpg, (page,)).__next__()  # here
        yield OtherCpus()


RUNNING: Final = (
    out_of_a_table,
    by_a_name,
    given_away,
    kept_to_the_end,
    overwritten,
    a_step_in_a_list,
    a_step_for_later,
    a_step_by_another,
    a_step_compared,
    a_step_in_a_helper,
    a_step_out_of_a_map,
)


class Late(find_policy("multiplex")):  # type: ignore[misc] # a class found at run time
    """Takes part in every hook; has what the mistakes need."""

    never = False

    def late(self) -> Steps:
        yield OtherCpus()


def with_code(hook: str, code: Callable[[Any], Steps]) -> type[Policy]:
    """A policy one of whose hooks does something more."""

    def more(self: Any, *arguments: Any) -> Any:
        yield from code(self)
        return (yield from getattr(Late, hook)(self, *arguments))

    return type("Forgets", (Late,), {hook: more})


@pytest.mark.parametrize("code", RUNNING, ids=lambda code: code.__name__)
def test_what_any_hook_forgets_is_named_with_its_line_and_the_remedy(code: Callable[[Any], Steps]) -> None:
    lines, first = inspect.getsourcelines(code)
    here = next(first + number for number, line in enumerate(lines) if line.endswith("# here\n"))
    for hook in HOOKS:
        with pytest.raises(PolicyError) as error:
            run_hook(with_code(hook, code), hook)
        said = rf"policy multiplex, hook {hook}: .*: write `yield .*\(\.\.\.\)` \({__file__}, line {here}\)"
        assert re.fullmatch(said, str(error.value)), (hook, here, str(error.value))


WITHOUT_SOURCE: Final = """
from kstack.stacks import Load, OtherCpus, free
def forgets(self, cpu, thread):
    free(())
    yield OtherCpus()
def makes(self, cpu, thread):
    Load("x")
    yield OtherCpus()
"""


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("forgets", "write `yield from free(...)` (<nowhere>, line 4)"),
        ("makes", "write `yield Load(...)` (<nowhere>, line 7)"),
    ],
)
def test_code_without_a_source_is_watched_all_the_same(name: str, says: str) -> None:
    space: dict[str, Any] = {}
    exec(compile(WITHOUT_SOURCE, "<nowhere>", "exec"), space)
    with pytest.raises(PolicyError, match=re.escape(says)):
        run_hook(type("Nowhere", (Late,), {"enter_kernel": space[name]}))


def returns(answer: Callable[[], Any]) -> type[Policy]:
    """A policy whose hook answers something."""

    def enter_kernel(self: Any, cpu: int, thread: Thread) -> Any:
        return answer()

    return type("Answers", (Late,), {"enter_kernel": enter_kernel})


@pytest.mark.parametrize("answer", [None, [], 5, (OtherCpus(),), OtherCpus()], ids=str)
def test_a_hook_that_answers_no_generator_is_refused(answer: Any) -> None:
    with pytest.raises(PolicyError, match=r"hook enter_kernel answered .*, which is no generator: `yield` its steps"):
        run_hook(returns(lambda: answer))


@pytest.mark.parametrize(("answer", "how"), [(lambda: free(()), "yield from"), (OtherCpus, "yield")])
def test_a_hook_that_returns_what_it_should_yield_is_refused(answer: Callable[[], Any], how: str) -> None:
    def enter_kernel(self: Any, cpu: int, thread: Thread) -> Any:
        kept = [answer()]
        yield OtherCpus()
        return kept[0]

    with pytest.raises(PolicyError, match=rf"hook enter_kernel.*write `.*{how} "):
        run_hook(type("Returns", (Late,), {"enter_kernel": enter_kernel}))


# --- what is no mistake


def leaves_out(self: Any) -> Steps:
    """Drives another generator, and makes only some of its steps."""
    inner, answer = shootdown((Page(1, 0, 0),)), None
    while True:
        try:
            step = inner.send(answer)
        except StopIteration:
            return
        answer = () if isinstance(step, OtherCpus) else None
        if not isinstance(step, OtherCpus | Invlpg):
            answer = yield step


def compares(self: Any) -> Steps:
    """Leaves out one step of another's."""
    yield OtherCpus()
    assert Load("x") == Load("x") and Load("x") != OtherCpus()


def makes_early(self: Any) -> Steps:
    first, second = OtherCpus(), Load("x")
    yield second
    yield first


def drops_plain_generators(self: Any) -> Steps:
    def numbers() -> Any:
        yield from (1, 2)

    first = [numbers(), (one for one in ())]
    yield OtherCpus()
    first[0] = first[1] = None


@pytest.mark.parametrize(
    "code", [leaves_out, compares, makes_early, drops_plain_generators], ids=lambda code: code.__name__
)
def test_what_is_right_in_any_hook_is_let_be(code: Callable[[Any], Steps]) -> None:
    for hook in HOOKS:
        result = run_hook(with_code(hook, code), hook)
        assert (result.ended, result.findings) == ("exit", ())


def test_steps_that_wait_to_be_yielded_are_so_after_a_snapshot() -> None:
    """A hook that is made again has made its steps again: those are missed, and no others."""

    def early(self: Any) -> Steps:
        first, second = OtherCpus(), Load("x")
        yield OtherCpus()
        yield OtherCpus()
        yield first
        if self.never:
            yield second

    session = booted("pressure", IST).session(
        with_code("enter_kernel", early)(), RandomSchedule(0), RunOptions(400_000)
    )
    runtime = session.runtime
    while not any(call.made for calls in runtime.calls for call in calls):
        session.step(10)
    before = [[list(call.made or ()) for call in calls] for calls in runtime.calls]
    saved = session.machine.snapshot(), runtime.snapshot()
    session.machine.restore(saved[0])
    runtime.restore(saved[1])
    assert [[list(call.made or ()) for call in calls] for calls in runtime.calls] == before
    with pytest.raises(PolicyError, match="Load was made and never yielded"):
        session.run()


def test_a_hook_that_is_made_to_fail_may_leave_its_steps() -> None:
    def careful(self: Any) -> Steps:
        first, second = OtherCpus(), Load("x")
        try:
            yield first
        except RuntimeError:
            return
        yield second

    session = booted("pressure", IST).session(
        with_code("enter_kernel", careful)(), RandomSchedule(0), RunOptions(400_000)
    )
    failed: list[int] = []

    def interpose(cpu: int, call: HookCall) -> Interposed | None:
        if failed or call.hook is not HookKind.ENTER_KERNEL:
            return None
        failed.append(cpu)
        return Interposed(error=RuntimeError("injected"))

    session.runtime.decides_step.hold(interpose)
    session.run()
    assert failed


def test_another_profiler_is_left_alone() -> None:
    seen: list[str] = []

    def profiler(frame: Any, event: str, value: Any) -> None:
        seen.append(event)

    policy = with_code("enter_kernel", out_of_a_table)
    sys.setprofile(profiler)
    try:
        run_hook(policy)
        assert sys.getprofile() is profiler
    finally:
        sys.setprofile(None)
    assert seen
