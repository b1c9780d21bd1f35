"""Sees, while a policy's hook runs, which steps it makes and does not yield, and which generators it never starts.

`forgotten` reads the code; this sees what cannot be read: a function out of a table, code without its
source. CPython 3.11 tells a profile function of each call, and also of a generator that is dropped before
it was started: it is closed, which resumes it at the instruction that made it a generator. Another
interpreter may not, and where another profiler runs nothing is seen.
"""

from __future__ import annotations

import dis
import inspect
import sys
from collections.abc import Callable, Iterator
from functools import lru_cache
from types import CodeType, FrameType
from typing import Any, Final, NamedTuple

from kstack.stacks.loading.makers import makes_steps
from kstack.stacks.loading.sources import top_of
from kstack.stacks.steps import Step

_RUNTIME: Final = "kstack.stacks.host.runtime"  # which runs hooks
_YIELD: Final = dis.opmap["YIELD_VALUE"]
_RETURN_GENERATOR: Final = dis.opmap["RETURN_GENERATOR"]


class MadeStep(NamedTuple):
    """A step that has been made and not been yielded yet.

    Attributes:
        step: it.
        where: file and line.
    """

    step: Step
    where: str


class Watch:
    """Watches the hooks of a policy.

    Args:
        policy: its class.
    """

    def __init__(self, policy: type) -> None:
        self._policy = policy
        self._made: list[MadeStep] = []
        self._lost: list[str] = []
        self._ended: CodeType | None = None  # what has returned or yielded just now

    def resume(self, made: list[MadeStep], ask: Callable[[], Any]) -> Any:
        """Let a hook run to its next step: what `ask` answers.

        Args:
            made: the steps that the hook has made and not yielded; changed.
            ask: runs it.
        """
        self._made, self._lost = made, []
        if sys.getprofile() is not None:
            return ask()
        sys.setprofile(self._seen)
        try:
            return ask()
        finally:
            sys.setprofile(None)

    def mistake(self, ended: bool) -> str | None:
        """What is wrong with what the hook has done when it ran last, with the line and the remedy.

        Args:
            ended: the hook has ended, and cannot yield any more.
        """
        if self._lost:
            return self._lost[0]
        if not ended or not self._made:
            return None
        name = type(self._made[0].step).__name__
        return f"{name} was made and never yielded: write `yield {name}(...)` ({self._made[0].where})"

    def _seen(self, frame: FrameType, event: str, value: Any) -> None:
        code = frame.f_code
        if event == "call":
            if code.co_flags & inspect.CO_GENERATOR:
                if frame.f_lasti <= _made_at(code):
                    self._dropped(frame)
            elif code.co_name == "__init__":
                self._constructed(frame)
            elif code.co_name == "__eq__":
                self._compared(frame)
        elif event == "return":
            self._ended = code
            if issubclass(type(value), Step) and _yields(code, frame.f_lasti):
                self._forget(value)
            return
        self._ended = None

    def _constructed(self, frame: FrameType) -> None:
        step: Any = frame.f_locals.get("self")
        if issubclass(type(step), Step) and not any(made.step is step for made in self._made):
            maker = _policys(frame.f_back)
            self._made.append(MadeStep(step, "?" if maker is None else _place(maker.f_code, [maker.f_lineno])))

    def _compared(self, frame: FrameType) -> None:
        """Steps that are compared with each other, as by a policy that leaves some of another's out."""
        both = frame.f_locals.get("self"), frame.f_locals.get("other")
        if all(issubclass(type(step), Step) for step in both):
            for step in both:
                self._forget(step)

    def _forget(self, step: Any) -> None:
        self._made[:] = [made for made in self._made if made.step is not step]

    def _dropped(self, frame: FrameType) -> None:
        """A generator is closed that has not been started."""
        code = frame.f_code
        if code.co_name != "<genexpr>" and makes_steps(code, {**frame.f_globals, **frame.f_locals}, self._policy):
            where = self._maker(frame.f_back, code.co_name)
            text = f"{code.co_name} made a generator that nothing runs: write `yield from {code.co_name}(...)`"
            self._lost.append(f"{text} ({where})")

    def _maker(self, frame: FrameType | None, name: str) -> str:
        """Where a generator was made that is dropped now: by what frame has called, or by what has just ended."""
        at = _policys(frame)
        ended = [] if self._ended is None else list(_lines(self._ended, name))
        if at is None or (at.f_lineno not in _lines(at.f_code, name) and ended):
            return _place(self._ended, ended)
        lines = list(_lines(at.f_code, name))
        return _place(at.f_code, [at.f_lineno] if at.f_lineno in lines or not lines else lines)


@lru_cache(maxsize=1024)
def _made_at(code: CodeType) -> int:
    """Where in a generator function's code the generator is made."""
    return next((one.offset for one in dis.get_instructions(code) if one.opcode == _RETURN_GENERATOR), -1)


@lru_cache(maxsize=1024)
def _yielding(code: CodeType) -> frozenset[int]:
    return frozenset(one.offset for one in dis.get_instructions(code) if one.opcode == _YIELD)


def _yields(code: CodeType, offset: int) -> bool:
    """Whether a generator's code yields at this offset, and does not end there."""
    return bool(code.co_flags & inspect.CO_GENERATOR) and offset in _yielding(code)


def _lines(code: CodeType, name: str) -> Iterator[int]:
    """The lines of a function that name something."""
    line = code.co_firstlineno
    for one in dis.get_instructions(code):
        line = one.starts_line or line
        if one.argval == name:
            yield line
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _lines(constant, name)


def _place(code: CodeType | None, lines: list[int]) -> str:
    if code is None:
        return "?"
    return f"{code.co_filename}, line {' or '.join(map(str, dict.fromkeys(lines or [code.co_firstlineno])))}"


def _policys(frame: FrameType | None) -> FrameType | None:
    """The policy's frame that a frame is, or was called from; None if the machine called it."""
    while frame is not None and top_of(str(frame.f_globals.get("__name__"))) in sys.stdlib_module_names:
        frame = frame.f_back
    return None if frame is None or frame.f_globals.get("__name__") == _RUNTIME else frame
