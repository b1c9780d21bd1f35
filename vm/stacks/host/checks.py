"""What a step may be given: checked as a whole before anything is changed, so that a wrong one is refused clean.

A policy is Python, and can put anything into a step. A page must lie in a stack area, a frame that is mapped must be of
those that the guest gave, a variable is plain and of a size that can be saved, shown and compared.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Container
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Final

from kstack.stacks import steps
from kstack.stacks.area import Areas, Page, Pte
from kstack.x86.addresses import PAGE

MAX_BITS: Final = 128  # of a number in a variable
MAX_TEXT: Final = 1 << 16  # characters of a string in a variable, and of a name
MAX_ITEMS: Final = 1 << 16  # of a variable's value, in all its tuples
MAX_DEPTH: Final = 16  # of tuples in tuples
_LONGEST: Final = 200  # characters of what an error shows
_SMALL: Final = 1 << MAX_BITS - 1


class StepChecks:
    """Of one machine's policy.

    Args:
        areas: all stack areas there are or were.
        cpus: of the machine.
    """

    def __init__(self, areas: Areas, cpus: int) -> None:
        self._areas, self._cpus = areas, cpus
        self.given: Container[int] = ()  # frames (physical addresses, bytes) that the guest gave

    def check(self, step: steps.Step) -> None:
        """Refuse a step whose arguments make no sense.

        Raises:
            TypeError, ValueError: they do not.
        """
        check = _CHECKS.get(type(step))
        if check is not None:
            check(self, step)

    def _page(self, page: object) -> None:
        if not isinstance(page, Page):
            raise TypeError("it has no page")
        if not all(type(number) is int for number in page):
            raise TypeError("its page is not named by numbers")
        if page.address % PAGE or not self._areas.has(page.address):
            raise ValueError("its page is in no stack")

    def _entry(self, pte: object, stored: bool = True) -> None:
        if not isinstance(pte, Pte) or type(pte.value) is not int:
            raise TypeError("its entry is no Pte of a number")
        if not 0 <= pte.value < 1 << 64:
            raise ValueError("its entry has more than 64 bits")
        if stored and pte.present and pte.frame not in self.given:
            raise ValueError(f"{pte.frame:#x} is no frame of the pool")

    def _of_page(self, step: steps.ReadPte | steps.Invlpg) -> None:
        self._page(step.page)

    def _invlpgb(self, step: steps.Invlpgb) -> None:
        self._page(step.page)
        if type(step.pages) is not int or not 1 <= step.pages <= 512:
            raise ValueError("it can invalidate 1 to 512 pages")

    def _store(self, step: steps.PteStore) -> None:
        self._page(step.page)
        self._entry(step.pte)

    def _exchange(self, step: steps.ExchangePte) -> None:
        self._store(step)
        self._entry(step.expected, False)

    def _cpu(self, step: steps.WaitForAck | steps.PostFlush) -> None:
        if type(step.cpu) is not int or not 0 <= step.cpu < self._cpus:
            raise ValueError(f"there is no such CPU of {self._cpus}")

    def _post(self, step: steps.PostFlush) -> None:
        self._cpu(step)
        for number in (step.start, step.pages):
            if type(number) is not int or not 0 <= number < 1 << 64:
                raise ValueError("it asks for no area")

    def _lock(self, step: steps.Lock | steps.Unlock) -> None:
        _name(step.name)

    def _variable(self, step: steps.Load | steps.Store | steps.Swap) -> None:
        _name(step.name)
        key = step.key if isinstance(step.key, tuple) else (step.key,)
        if not all(isinstance(part, int) for part in key) or len(key) > MAX_DEPTH:
            raise TypeError("a variable is kept for a number or a few numbers")
        if not isinstance(step, steps.Load):
            _value(step.value)

    def _numbers(self, step: steps.Step) -> None:
        for field in fields(step):
            if not isinstance(getattr(step, field.name), int):
                raise TypeError(f"{field.name} is no number")


def _name(name: object) -> None:
    if type(name) is not str or len(name) > MAX_TEXT:
        raise TypeError("its name is no short string")


def _value(value: object) -> None:
    if type(value) is int and -_SMALL < value < _SMALL:
        return
    work: list[tuple[object, int]] = [(value, 0)]
    items = 0
    while work:
        part, depth = work.pop()
        items += 1
        if isinstance(part, tuple):
            if depth >= MAX_DEPTH or items + len(part) > MAX_ITEMS:
                raise ValueError(f"a variable holds at most {MAX_ITEMS} items, in tuples {MAX_DEPTH} deep")
            work += [(item, depth + 1) for item in part]
        elif isinstance(part, int):
            if part.bit_length() > MAX_BITS:
                raise ValueError(f"a variable holds numbers of {MAX_BITS} bits at most")
        elif isinstance(part, str):
            if len(part) > MAX_TEXT:
                raise ValueError(f"a variable holds {MAX_TEXT} characters at most")
        elif part is not None:
            kind = type(part).__name__[:_LONGEST]
            raise TypeError(f"a variable holds numbers, strings, None and tuples of these, not {kind}")


_Check = Callable[[StepChecks, Any], None]
_CHECKS: Final[dict[type[steps.Step], _Check]] = {
    steps.ReadPte: StepChecks._of_page,
    steps.WritePte: StepChecks._store,
    steps.SwapPte: StepChecks._store,
    steps.ExchangePte: StepChecks._exchange,
    steps.Invlpg: StepChecks._of_page,
    steps.Invlpgb: StepChecks._invlpgb,
    steps.Load: StepChecks._variable,
    steps.Store: StepChecks._variable,
    steps.Swap: StepChecks._variable,
    steps.Sleepers: StepChecks._numbers,
    steps.ThreadAt: StepChecks._numbers,
    steps.PostFlush: StepChecks._post,
    steps.WaitForAck: StepChecks._cpu,
    steps.Lock: StepChecks._lock,
    steps.Unlock: StepChecks._lock,
}


# --- what errors show


class _Short(reprlib.Repr):
    """Shows anything, shortly; no address of the host's."""

    def repr1(self, x: object, level: int) -> str:
        """Anything."""
        try:
            if isinstance(x, tuple) and type(x) is not tuple:
                parts = [self.repr1(part, level - 1) for part in x] if level > 0 else ["..."]
            elif is_dataclass(x) and not isinstance(x, type):
                parts = [f"{field.name}={self.repr1(getattr(x, field.name), level - 1)}" for field in fields(x)]
            elif type(x) in (int, str, bytes, tuple, list, dict, type(None), bool, float):
                return super().repr1(x, level)
            else:
                return f"<{x.__name__ if isinstance(x, type) else type(x).__name__}>"
            return f"{type(x).__name__}({', '.join(parts)})"
        except Exception:  # noqa: BLE001 - it is not ours, and may do anything
            return f"<{type(x).__name__}>"


_SHORT: Final = _Short()


def shown(value: object) -> str:
    """Anything that a policy has made, as a short text of one line."""
    return _one_line(_SHORT.repr(value))


def said(error: BaseException) -> str:
    """An error that a policy has raised, as a short text of one line."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - as above
        text = "it cannot be shown"
    return f"{type(error).__name__}: {_one_line(text)}"


_KSTACK: Final = Path(__file__).parents[2]
_POLICIES: Final = _KSTACK / "policies"  # all else there is no policy's code


def raised_at(error: BaseException) -> str:
    """Where a policy has raised an error: " (file, line)" of the innermost of its own code; empty if nobody knows."""
    found, trace = "", error.__traceback__
    while trace is not None:
        file = Path(trace.tb_frame.f_code.co_filename)
        if not file.is_relative_to(_KSTACK) or file.is_relative_to(_POLICIES):
            found = f" ({file.name}, line {trace.tb_lineno})"
        trace = trace.tb_next
    return found


def stands_at(generator: object) -> str:
    """Where a hook stands, in the same form."""
    frame = getattr(generator, "gi_frame", None)
    while (inner := getattr(getattr(generator, "gi_yieldfrom", None), "gi_frame", None)) is not None:
        generator, frame = getattr(generator, "gi_yieldfrom", None), inner
    return "" if frame is None else f" ({Path(frame.f_code.co_filename).name}, line {frame.f_lineno})"


def _one_line(text: str) -> str:
    line = " ".join(text[: 2 * _LONGEST].split())
    return line if len(line) <= _LONGEST else line[:_LONGEST] + "..."
