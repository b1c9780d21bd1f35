"""Steps that no policy should make: with pages, frames, CPUs, names and values that are none, or not its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from kstack.stacks import Thread, steps
from kstack.stacks.area import EMPTY, Pte

HUGE: Final = 1 << 200


class Unshown:
    def __repr__(self) -> str:
        raise ValueError("cannot be shown")

    __str__ = __repr__


class Unhashed:
    def __hash__(self) -> int:
        raise RuntimeError("cannot be hashed")


class Valueless:
    @property
    def value(self) -> int:
        raise RuntimeError("no value")


class Strange(steps.ReadPte):
    """A step that the machine does not know."""


def page(thread: Thread, /, **other: Any) -> Any:
    return thread.top._replace(**other)


WILD: Final[dict[str, Callable[[int, Thread], Any]]] = {
    "a page that is none": lambda cpu, thread: steps.ReadPte("page"),  # type: ignore[arg-type]
    "a page without a number": lambda cpu, thread: steps.ReadPte(page(thread, address="x")),
    "a page nowhere": lambda cpu, thread: steps.WritePte(page(thread, address=0), EMPTY),
    "a page of the kernel": lambda cpu, thread: steps.WritePte(page(thread, address=0xFFFFFFFF80100000), EMPTY),
    "another page by this page's name": lambda cpu, thread: steps.WritePte(page(thread, address=1 << 46), EMPTY),
    "a page below zero": lambda cpu, thread: steps.ReadPte(page(thread, address=-4096)),
    "a page beyond all": lambda cpu, thread: steps.ReadPte(page(thread, address=HUGE)),
    "an unhashable page": lambda cpu, thread: steps.ReadPte(page(thread, thread=[])),
    "a page of an object": lambda cpu, thread: steps.ReadPte(page(thread, index=Unhashed())),
    "an exchange for an object": lambda cpu, thread: steps.ExchangePte(thread.top, EMPTY, Valueless()),  # type: ignore[arg-type]
    "a broken page": lambda cpu, thread: steps.ReadPte(page(thread, address=float("nan"))),
    "an entry that is none": lambda cpu, thread: steps.WritePte(thread.top, 0),  # type: ignore[arg-type]
    "an entry below zero": lambda cpu, thread: steps.WritePte(thread.top, Pte(-1)),
    "an entry of 65 bits": lambda cpu, thread: steps.SwapPte(thread.top, Pte(1 << 64)),
    "an entry of text": lambda cpu, thread: steps.WritePte(thread.top, Pte("1")),  # type: ignore[arg-type]
    "an exchange for nothing": lambda cpu, thread: steps.ExchangePte(thread.top, EMPTY, None),  # type: ignore[arg-type]
    "an exchange of 65 bits": lambda cpu, thread: steps.ExchangePte(thread.top, Pte(1 << 64), EMPTY),
    "INVLPG nowhere": lambda cpu, thread: steps.Invlpg(page(thread, address=HUGE)),
    "INVLPG of nothing": lambda cpu, thread: steps.Invlpg(None),  # type: ignore[arg-type]
    "INVLPGB of too much": lambda cpu, thread: steps.Invlpgb(thread.top, 1 << 30),
    "INVLPGB of half a page": lambda cpu, thread: steps.Invlpgb(thread.top, 1.5),  # type: ignore[arg-type]
    "a frame of the kernel": lambda cpu, thread: steps.GiveBack(0x100000),
    "a frame below zero": lambda cpu, thread: steps.GiveBack(-4096),
    "a frame beyond all": lambda cpu, thread: steps.GiveBack(HUGE),
    "a frame that is none": lambda cpu, thread: steps.GiveBack(None),  # type: ignore[arg-type]
    "zeros in the kernel": lambda cpu, thread: steps.ZeroPage(0x100000),
    "zeros nowhere": lambda cpu, thread: steps.ZeroPage(HUGE),
    "an IPI to nobody": lambda cpu, thread: steps.SendIpi(99),
    "an IPI below zero": lambda cpu, thread: steps.SendIpi(-1),
    "a request to nobody": lambda cpu, thread: steps.PostFlush(99, 0, 1),
    "a request below zero": lambda cpu, thread: steps.PostFlush(-1, 0, 1),
    "a request from beyond": lambda cpu, thread: steps.PostFlush(0, HUGE, 1),
    "a request of less than nothing": lambda cpu, thread: steps.PostFlush(0, 0, -1),
    "a wait for nobody": lambda cpu, thread: steps.WaitForAck(HUGE),
    "a lock that is none": lambda cpu, thread: steps.Lock(["x"]),  # type: ignore[arg-type]
    "a lock by number": lambda cpu, thread: steps.Lock(5),  # type: ignore[arg-type]
    "another's lock": lambda cpu, thread: steps.Unlock("x"),
    "a lock for ever": lambda cpu, thread: steps.Lock("for ever"),
    "a variable by number": lambda cpu, thread: steps.Store(5, 1),  # type: ignore[arg-type]
    "a variable by list": lambda cpu, thread: steps.Load([]),  # type: ignore[arg-type]
    "a variable for text": lambda cpu, thread: steps.Store("x", 1, "key"),  # type: ignore[arg-type]
    "a variable of a list": lambda cpu, thread: steps.Store("x", [1]),  # type: ignore[arg-type]
    "a variable of an object": lambda cpu, thread: steps.Swap("x", object()),  # type: ignore[arg-type]
    "a variable of a huge number": lambda cpu, thread: steps.Store("x", 1 << 10_000_000),
    "a variable of much text": lambda cpu, thread: steps.Store("x", "x" * 10_000_000),
    "a variable that is deep": lambda cpu, thread: steps.Store("x", deep(5000)),
    "a variable that is wide": lambda cpu, thread: steps.Store("x", (0,) * 10_000_000),
    "a variable that grows": lambda cpu, thread: steps.Store("x", doubled(60)),
    "an address of text": lambda cpu, thread: steps.ThreadAt("x"),  # type: ignore[arg-type]
    "sleepers for text": lambda cpu, thread: steps.Sleepers("x"),  # type: ignore[arg-type]
    "sleepers in halves": lambda cpu, thread: steps.Sleepers(0, 0, 0.5),  # type: ignore[arg-type]
    "what cannot be shown": lambda cpu, thread: steps.GiveBack(Unshown()),  # type: ignore[arg-type]
}


def deep(levels: int) -> Any:
    value: Any = 0
    for _ in range(levels):
        value = (value,)
    return value


def doubled(levels: int) -> Any:
    value: Any = (0,)
    for _ in range(levels):
        value = (value, value)
    return value
