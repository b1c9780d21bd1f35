"""Where two traces part: the first instruction that is not the same, of all CPUs together and of each alone."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import pyarrow.parquet as pq

from kstack.trace.columns import Numbers
from kstack.trace.query import Database
from kstack.trace.show import ShownLine, lines
from kstack.trace.store import Trace

BEFORE: Final = 12  # lines of context that are the same, at most
SHOWN: Final = 4  # events in a sentence
AFTER: Final = 4  # and those from where they part


class Place(NamedTuple):
    """An instruction: its number from 0, virtual time, CPU, RIP and symbol; None behind the end."""

    number: int
    count: int | None  # type: ignore[assignment] # hides tuple.count, which nobody calls on a place
    cpu: int | None
    rip: int | None
    symbol: str


class Parting(NamedTuple):
    """Where two traces part.

    Attributes:
        cpu: of this CPU alone; None for all together.
        here, there: the first instructions that are not the same.
        before, since: lines of both: last ones before, and the first ones from there on.
        why: in words.
    """

    cpu: int | None
    here: Place
    there: Place
    why: str
    before: tuple[tuple[ShownLine, ...], tuple[ShownLine, ...]]
    since: tuple[tuple[ShownLine, ...], tuple[ShownLine, ...]]


class _Flow(NamedTuple):
    """Instructions in order."""

    counts: Numbers
    cpus: Numbers
    rips: Numbers

    def of(self, cpu: int) -> _Flow:
        """One CPU's."""
        own = self.cpus == cpu
        return _Flow(self.counts[own], self.cpus[own], self.rips[own])


def _flow(trace: Trace) -> _Flow:
    table = pq.read_table(trace.file("instructions"), columns=["count", "cpu", "rip"])
    return _Flow(*(table.column(name).to_numpy() for name in ("count", "cpu", "rip")))


def diff(one: Trace, other: Trace) -> list[Parting]:
    """Where all CPUs together part first, then where each CPU by itself does; empty if they are the same.

    Virtual time is not compared: a delay that changes no instruction is no difference.

    Args:
        one: a trace.
        other: another.
    """
    flows, databases = (_flow(one), _flow(other)), (Database(one), Database(other))
    cpus = range(max(one.meta.cpus, other.meta.cpus))
    found = [_parting(None, flows, databases)]
    found += [_parting(cpu, (flows[0].of(cpu), flows[1].of(cpu)), databases) for cpu in cpus]
    return [parting for parting in found if parting is not None]


def _parting(cpu: int | None, flows: tuple[_Flow, _Flow], databases: tuple[Database, Database]) -> Parting | None:
    here, there = flows
    common = min(len(here.rips), len(there.rips))
    differs = (here.rips[:common] != there.rips[:common]) | (here.cpus[:common] != there.cpus[:common])
    number = int(np.argmax(differs)) if differs.any() else common
    if number == len(here.rips) == len(there.rips):
        return None
    pairs = list(zip(flows, databases, strict=True))
    places = [_place(flow, number, database) for flow, database in pairs]
    contexts = [_context(flow, number, database, cpu) for flow, database in pairs]
    return Parting(
        cpu,
        places[0],
        places[1],
        _why(places[0], places[1], [_news(flow, number, database, cpu) for flow, database in pairs], contexts),
        (contexts[0][0], contexts[1][0]),
        (contexts[0][1], contexts[1][1]),
    )


def _place(flow: _Flow, number: int, database: Database) -> Place:
    if number == len(flow.rips):
        return Place(number, None, None, None, "the end")
    rip = int(flow.rips[number])
    found = database.sql("select symbol from symbols where rip = $1", rip).rows
    return Place(number, int(flow.counts[number]), int(flow.cpus[number]), rip, found[0][0] if found else f"{rip:#x}")


def _context(
    flow: _Flow, number: int, database: Database, cpu: int | None
) -> tuple[tuple[ShownLine, ...], tuple[ShownLine, ...]]:
    first = int(flow.counts[max(0, number - BEFORE)]) if len(flow.counts) else 0
    end = int(flow.counts[min(number + AFTER, len(flow.counts) - 1)]) if len(flow.counts) else 0
    at = int(flow.counts[number]) if number < len(flow.counts) else end + 1
    all_lines = list(lines(database, first, end, cpu))
    before = [line for line in all_lines if line.count < at]
    return tuple(before[-2 * BEFORE :]), tuple(line for line in all_lines if line.count >= at)


def _news(flow: _Flow, number: int, database: Database, cpu: int | None) -> list[str]:
    """Events between the last instruction that is the same and the first that is not."""
    last = int(flow.counts[number - 1]) if number else 0
    end = int(flow.counts[number]) if number < len(flow.counts) else (1 << 63) - 1
    where = "count > $1 and count <= $2" + ("" if cpu is None else f" and cpu = {int(cpu)}")
    found = database.sql(
        f"select kind, name, text from events where {where} and kind not like 'tlb%' order by count", last, end - 1
    )
    return [f"{kind} {text or name}" for kind, name, text in found.rows]


def _why(
    here: Place,
    there: Place,
    news: list[list[str]],
    contexts: list[tuple[tuple[ShownLine, ...], tuple[ShownLine, ...]]],
) -> str:
    """What happened between the same and the different, else the last value before that is not the same."""
    if news[0] != news[1]:
        return f"in between, here: {_told(news[0])}; there: {_told(news[1])}"
    if here.cpu != there.cpu and None not in (here.cpu, there.cpu):
        return f"the schedule: CPU {here.cpu} goes on here, CPU {there.cpu} there"
    told = [[line.text for line in before if not line.event] for before, _ in contexts]
    for one, other in zip(reversed(told[0]), reversed(told[1]), strict=False):
        if one != other:
            return f"the last instruction before that differs: {one!r} here, {other!r} there"
    return "nothing that is shown differs before"


def _told(news: list[str]) -> str:
    more = f" and {len(news) - SHOWN} more" if len(news) > SHOWN else ""
    return ", ".join(news[:SHOWN]) + more if news else "nothing"
