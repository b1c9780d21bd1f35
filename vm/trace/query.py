"""Questions to a trace, in SQL by DuckDB: ready-made ones by name, and any other.

The tables are views: `instructions`, `accesses`, `registers`, `events`, `code`; `symbols` has each RIP's symbol.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import duckdb

from kstack.base.errors import TraceError
from kstack.trace.store import Trace

SHOWN: Final = 40  # rows of a ready-made query, where nothing else is asked for
_READ: Final = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN)
WINDOWS: Final = 40  # into which a thread's time is cut


class QueryAnswer(NamedTuple):
    """What a query gives: names of columns, and rows; addresses are numbers."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]


class Query(NamedTuple):
    """A ready-made query: what it takes and tells, and the SQL of it with what its parameters are."""

    takes: str
    tells: str
    ask: Callable[[Database, list[int]], QueryAnswer]


class Database:
    """A trace that can be asked.

    Args:
        trace: that has been read.

    Raises:
        TraceError: a table is none.
    """

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self._connection = duckdb.connect(":memory:", config={"threads": 1})
        try:
            for name in trace.tables:
                place = str(trace.file(name)).replace("'", "''")
                more = ", null::utinyint bits" if name == "code" and not trace.has_widths else ""
                self._connection.execute(f"create view {name} as select *{more} from read_parquet('{place}')")
            self._connection.execute(
                "create view symbols as select rip, any_value(symbol) symbol from code group by rip"
            )
        except (duckdb.Error, UnicodeDecodeError) as error:
            raise TraceError(f"trace {trace.folder} is damaged: {error}") from error

    def sql(self, text: str, *parameters: int) -> QueryAnswer:
        """Any query.

        Raises:
            TraceError: it is wrong, or changes anything.
        """
        try:
            statements = self._connection.extract_statements(text)
            if len(statements) != 1 or statements[0].type not in _READ:
                raise TraceError("the query must be one SELECT or EXPLAIN: a trace is not changed")
            found = self._connection.execute(text, parameters or None)
            columns = tuple(column[0] for column in found.description or ())
            return QueryAnswer(columns, found.fetchall())
        except duckdb.Error as error:
            raise TraceError(f"the query is wrong: {error}") from error
        except UnicodeDecodeError as error:
            raise TraceError(f"trace {self.trace.folder} is damaged: {error}") from error

    def findings(self) -> QueryAnswer:
        """All findings, numbered from 1."""
        return self.sql(
            "select row_number() over (order by count) number, count, cpu, name kind, address, frame, text "
            "from events where kind = 'finding' order by count"
        )

    def range(self, cpu: int | None = None) -> tuple[int, int] | None:
        """Virtual time of the first and the last instruction, of all CPUs or of one; None where there is none."""
        where = "" if cpu is None else f" where cpu = {int(cpu)}"
        first, last = self.sql(f"select min(count), max(count) from instructions{where}").rows[0]
        return None if first is None else (first, last)


def _writes(database: Database, arguments: list[int]) -> QueryAnswer:
    address, before = arguments[0], arguments[1] if len(arguments) > 1 else (1 << 63) - 1
    return database.sql(
        "select a.count, a.cpu, i.rip, symbol, thread, a.address, a.size, a.value, a.physical, "
        "case when a.model then 'CPU' else '' end made_by "
        "from (select * from accesses where store and address <= $1 and address > $1 - 16 "
        "and address + size > $1 and count < $2 order by count desc limit $3) a "
        "left join instructions i on i.count = a.count left join symbols s on s.rip = i.rip order by a.count desc",
        address,
        before,
        SHOWN,
    )


def _entry(database: Database, arguments: list[int]) -> QueryAnswer:
    page = arguments[0] & ~0xFFF
    return database.sql(
        "select count, cpu, kind, name, thread, address, frame, value, text from events "
        "where address >= $1 and address < $1 + 4096 and kind <> 'thread' order by count",
        page,
    )


def _stack(database: Database, arguments: list[int]) -> QueryAnswer:
    thread = arguments[0]
    area = database.sql(
        "select address, address + value from events where kind = 'thread' and thread = $1 order by count desc limit 1",
        thread,
    ).rows
    if not area:
        raise TraceError(f"thread {thread} is not in this trace; `query TRACE threads` lists those that are")
    first, last = database.range() or (0, 0)
    width = max(1, -(-(last + 1 - first) // WINDOWS))
    return database.sql(
        "with own as (select count, rip, $2 - rsp depth from instructions where thread = $3 and rsp > $1 and rsp <= $2) "
        "select min(own.count) from_count, max(own.count) to_count, count(*) instructions, min(depth) least_bytes, "
        "max(depth) most_bytes, arg_max(own.rip, depth) deepest_rip, arg_max(symbol, depth) deepest "
        "from own left join symbols s on s.rip = own.rip group by (own.count - $4) // $5 order by 1",
        *area[0],
        thread,
        first,
        width,
    )


def _between(database: Database, arguments: list[int]) -> QueryAnswer:
    found = {row[0]: row[1] for row in database.findings().rows}
    for number in arguments:
        if number not in found:
            raise TraceError(f"there is no finding {number}; `query TRACE findings` lists {len(found)}")
    first, last = sorted(found[number] for number in arguments)
    return database.sql(
        "select count, cpu, kind, name, thread, address, frame, value, text from events "
        "where count between $1 and $2 order by count",
        first,
        last,
    )


def _threads(database: Database, _: list[int]) -> QueryAnswer:
    return database.sql(
        "with areas as (select thread, max(count) created, arg_max(address, count) bottom, arg_max(value, count) size_bytes "
        "from events where kind = 'thread' group by thread) "
        "select e.thread, created, bottom, size_bytes, count(i.count) instructions, "
        "max(bottom + size_bytes - rsp) deepest_bytes from areas e "
        "left join instructions i on i.thread = e.thread and rsp > bottom and rsp <= bottom + size_bytes "
        "group by all order by e.thread"
    )


def _hot(database: Database, _: list[int]) -> QueryAnswer:
    return database.sql(
        "with each as (select rip, count(*) times, bit_or(1 << cpu) mask from instructions group by rip) "
        "select split_part(symbol, '+', 1) function, sum(times)::bigint instructions, bit_count(bit_or(mask)) cpus "
        "from each left join symbols using (rip) group by 1 order by 2 desc, 1 limit $1",
        SHOWN,
    )


QUERIES: Final = {
    "writes": Query("ADDRESS [BEFORE-COUNT]", "who wrote this address, the last first", _writes),
    "entry": Query("ADDRESS", "every use of the page-table entry of this address", _entry),
    "stack": Query("THREAD", "depth of a thread's stack over time", _stack),
    "between": Query("FINDING FINDING", "what happened between two findings", _between),
    "findings": Query("", "what was found", lambda database, _: database.findings()),
    "threads": Query("", "threads, and how deep each was", _threads),
    "hot": Query("", "functions by instructions executed", _hot),
}


def ask(database: Database, name: str, arguments: list[int]) -> QueryAnswer:
    """A ready-made query.

    Args:
        database: of the trace.
        name: one of QUERIES.
        arguments: numbers, as the query takes them.

    Raises:
        TraceError: there is no such query, or it takes other arguments.
    """
    query = QUERIES.get(name)
    if query is None:
        raise TraceError(f"there is no query {name!r}; there are {', '.join(QUERIES)}, and --sql TEXT")
    words = query.takes.split()
    needed = [word for word in words if not word.startswith("[")]
    if not len(needed) <= len(arguments) <= len(words):
        raise TraceError(f"query {name} takes {query.takes or 'nothing more'}")
    return query.ask(database, arguments)
