"""A stretch of a trace as lines: instructions with what they read and wrote, and events between them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from typing import Final, NamedTuple

from kstack.base.errors import TraceError
from kstack.trace.events import WRITTEN
from kstack.trace.query import Database
from kstack.trace.text import disassembly

RINGS: Final = "k??u"


class ShownLine(NamedTuple):
    """One line: virtual time, CPU, and text; `event` says that it is no instruction."""

    count: int  # type: ignore[assignment] # hides tuple.count, which nobody calls on a line
    cpu: int
    text: str
    event: bool


def lines(database: Database, first: int, last: int, cpu: int | None = None) -> Iterator[ShownLine]:
    """What happened from one virtual time to another, both included.

    Args:
        database: of the trace.
        first: virtual time.
        last: virtual time.
        cpu: of this CPU alone; None for all.

    Raises:
        TraceError: its tables hold what was never written into one.
    """
    try:
        yield from _sorted(database, first, last, cpu)
    except (TypeError, ValueError, LookupError) as error:
        raise TraceError(f"trace {database.trace.folder} is damaged: {error}") from error


def _sorted(database: Database, first: int, last: int, cpu: int | None) -> Iterator[ShownLine]:
    where = "count between $1 and $2" + ("" if cpu is None else f" and cpu = {int(cpu)}")
    accesses: dict[int, list[str]] = {}
    for count, store, model, size, address, value in database.sql(
        f"select count, store, model, size, address, value from accesses where {where} order by count", first, last
    ).rows:
        arrow = f"{address:#x} {'<-' if store else '->'} {value:#0{2 * size + 2}x}"
        accesses.setdefault(count, []).append(f"({arrow})" if model else arrow)
    rows: list[tuple[int, int, ShownLine]] = []
    code = _code(database, first, last)
    for count, on, rip, ring, thread, symbol in database.sql(
        f"select count, cpu, i.rip, ring, thread, symbol from instructions i "
        f"left join symbols s on s.rip = i.rip where {where} order by count",
        first,
        last,
    ).rows:
        what = _text(code.get(rip, []), count, rip)
        told = "; ".join(accesses.pop(count, ()))
        text = f"{RINGS[ring]}{thread:<4} {rip:016x} {symbol:<28} {what:<40} {told}".rstrip()
        rows.append((count, 1, ShownLine(count, on, text, False)))
    for count, on, kind, name, thread, address, frame, value, text in database.sql(
        f"select count, cpu, kind, name, thread, address, frame, value, text from events where {where}", first, last
    ).rows:
        words = [kind, name, *_named(thread=thread, address=address, frame=frame, value=value), text]
        told = "; ".join(accesses.pop(count, ())) if kind in ("fault", "interrupt", "nmi", "software") else ""
        rows.append(
            (
                count,
                0 if kind == WRITTEN else 2,
                ShownLine(count, on, " ".join(word for word in (*words, told) if word), True),
            )
        )
    rows.sort(key=lambda row: row[:2])
    yield from (line for _, _, line in rows)


def _code(database: Database, first: int, last: int) -> dict[int, list[tuple[int, bytes, int | None]]]:
    """What has been at the addresses of a stretch up to its end: since when, bytes and width, in order."""
    found: dict[int, list[tuple[int, bytes, int | None]]] = {}
    for rip, *version in database.sql(
        "select rip, count, code, bits from code where count <= $2 and rip in "
        "(select distinct rip from instructions where count between $1 and $2) order by count",
        first,
        last,
    ).rows:
        found.setdefault(rip, []).append((version[0], version[1], version[2]))
    return found


def _text(versions: list[tuple[int, bytes, int | None]], count: int, rip: int) -> str:
    """An instruction as it was then."""
    place = bisect_right(versions, count, key=lambda version: version[0])
    _, code, bits = versions[place - 1] if place else (0, b"", None)
    return " ".join(disassembly(code, rip, bits)).strip()


def _named(**numbers: int | None) -> list[str]:
    return [
        f"{name}={number}" if name == "thread" else f"{name}={number:#x}"
        for name, number in numbers.items()
        if number is not None
    ]
