"""kstack trace: what a recording did, instruction by instruction."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Annotated

from cyclopts import App, Parameter
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kstack.base.documents import Document, JsonValue
from kstack.base.errors import TraceError
from kstack.cli.options import Anyway, Json, recording_in
from kstack.cli.output import console, print_json
from kstack.recording import read_recording
from kstack.report.panic import panic_report
from kstack.run.spec import replay_session
from kstack.trace.diff import Parting, Place, diff
from kstack.trace.export import FORMATS, export
from kstack.trace.make import make_trace
from kstack.trace.query import QUERIES, Database, QueryAnswer, ask
from kstack.trace.show import ShownLine, lines
from kstack.trace.store import Trace, is_trace, read_trace
from kstack.trace.view import serve

UNBOUND = 10_000  # columns
STRETCH = 200  # virtual time that `show` shows, where nothing else is asked for
_JSON = (int, float, str, bool)
HEXADECIMAL = frozenset({"rip", "address", "frame", "physical", "bottom", "deepest_rip", "rsp", "value"})

trace = App(
    name="trace", help="What a recording did, instruction by instruction; FILE is a recording, or a trace of one."
)


@contextmanager
def opened(file: Path, anyway: bool) -> Iterator[Trace]:
    """A trace that has been made, or one of a recording, for as long as it is needed."""
    if is_trace(file):
        yield read_trace(file)
        return
    if file.is_dir():
        raise TraceError(f"{file} is no trace: it has no trace.json")
    recording = recording_in(file, anyway)
    place = Path(mkdtemp(prefix="kstack-"))
    try:
        make_trace(recording, place / "trace", anyway=anyway)
        yield read_trace(place / "trace")
    finally:
        shutil.rmtree(place, ignore_errors=True)


@trace.command
def show(
    file: Path,
    /,
    *,
    begin: Annotated[
        int | None, Parameter(name="--from", help="Virtual time (default: the first instruction).")
    ] = None,
    to: Annotated[int | None, Parameter(help=f"Virtual time, included (default: {STRETCH} later).")] = None,
    cpu: Annotated[int | None, Parameter(help="Of this CPU alone.")] = None,
    registers: Annotated[
        bool, Parameter(negative=(), help="Registers before --from, by replay, of every CPU or of --cpu.")
    ] = False,
    anyway: Anyway = False,
    json: Json = False,
) -> int:
    """Instructions with what they read and wrote, and events between them.

    Parameters
    ----------
    file:
        a recording, or a trace
    """
    with opened(file, anyway) as found:
        database = Database(found)
        first, end = _stretch(database, begin, to, cpu)
        shown, ended = list(lines(database, first, end, cpu)), found.meta.ended
    state = _registers(file, first, cpu, anyway) if registers else None
    if json:
        print_json({"version": 1, "lines": [line._asdict() for line in shown], "registers": state, "exit": ended})
        return 0
    if state is not None:
        print(state)
    for line in shown:
        print(_text(line))
    return 0


def _stretch(database: Database, begin: int | None, to: int | None, cpu: int | None) -> tuple[int, int]:
    """What is to be shown: the first and the last virtual time.

    Raises:
        TraceError: the trace has nothing of it.
    """
    meta = database.trace.meta
    known = cpu is None or 0 <= cpu < meta.cpus
    executed = database.range(cpu) if known and begin is None else (meta.begun, meta.time)
    if executed is None and cpu is not None:
        raise TraceError(f"nothing to show: CPU {cpu} has executed nothing; give --from")
    executed = executed or (meta.begun, meta.time)
    first = executed[0] if begin is None else begin
    end = first + STRETCH if to is None else to
    if end < first or first > meta.time or end < meta.begun or not known:
        raise TraceError(
            f"nothing to show: the trace goes from {meta.begun} to {meta.time}, and has CPUs 0 to {meta.cpus - 1}"
        )
    return first, end


def _registers(file: Path, time: int, cpu: int | None, anyway: bool) -> str:
    if is_trace(file):
        raise TraceError(f"--registers: {file} is a trace; give the recording, which is replayed for it")
    session = replay_session(read_recording(file), anyway)
    session.run_to(time)
    return panic_report(session.machine, session.symbols, cpu=cpu, exits=session.kernel.facts.exits)


def _text(line: ShownLine) -> str:
    return f"{line.count:>10} CPU {line.cpu} {'* ' if line.event else '  '}{line.text}"


@trace.command
def query(
    file: Path,
    name: str = "",
    /,
    *arguments: str,
    sql: Annotated[
        str | None, Parameter(help="Any query of instructions, accesses, registers, events, code, symbols.")
    ] = None,
    anyway: Anyway = False,
    json: Json = False,
) -> int:
    """Ask a trace: a ready-made query, or SQL. Without either, list the ready-made ones.

    Parameters
    ----------
    file:
        a recording, or a trace
    name:
        of a ready-made query
    arguments:
        the numbers that it takes
    """
    if not name and sql is None:
        if not file.exists():
            raise TraceError(f"{file}: there is no such recording or trace")
        if json:
            print_json(
                {"version": 1, "queries": [{"name": n, "takes": q.takes, "tells": q.tells} for n, q in QUERIES.items()]}
            )
            return 0
        for known, one in QUERIES.items():
            print(f"{known + ' ' + one.takes:<28} {one.tells}")
        return 0
    if name and sql is not None:
        raise TraceError("--sql: give a ready-made query or SQL, not both")
    with opened(file, anyway) as found:
        database = Database(found)
        answer = database.sql(sql) if sql is not None else ask(database, name, [_number(text) for text in arguments])
    if json:
        print_json({"version": 1, "columns": list(answer.columns), "rows": [_plain(row) for row in answer.rows]})
    else:
        out = console()
        wide = (
            out if out.is_terminal else Console(width=UNBOUND, no_color=True)
        )  # a file's lines are as long as they are
        wide.print(_table(answer))
    return 0


def _number(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise TraceError(f"{text!r} is no number; addresses are given as 0x...") from None


def _plain(row: tuple[object, ...]) -> list[JsonValue]:
    """As JSON has it: bytes as hexadecimal digits, what JSON does not have as text."""
    return [_value(value) for value in row]


def _value(value: object) -> JsonValue:
    if value is None or (isinstance(value, int | float | str) and type(value) in _JSON):
        return value
    return _as_text(value)


def _as_text(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)


def _table(answer: QueryAnswer) -> Table:
    shown = Table(header_style="bold", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for column in answer.columns:
        shown.add_column(Text(column), overflow="fold")
    for row in answer.rows:
        shown.add_row(*(Text(_cell(column, value)) for column, value in zip(answer.columns, _plain(row), strict=True)))
    return shown


def _cell(column: str, value: JsonValue) -> str:
    if value is None:
        return ""
    return f"{value:#x}" if column in HEXADECIMAL and isinstance(value, int) else str(value)


@trace.command(name="export")
def write(
    file: Path,
    /,
    *,
    format: Annotated[str, Parameter(help=f"parquet, {', '.join(FORMATS)}.")] = "parquet",
    output: Annotated[Path | None, Parameter(help="Where to write it (default: beside FILE).")] = None,
    registers: Annotated[
        bool, Parameter(negative=(), help="Parquet: RAX to R15 where each block of code begins, as one more table.")
    ] = False,
    anyway: Anyway = False,
) -> int:
    """Write a trace: as a folder of Parquet tables, or in the format of another tool.

    Parameters
    ----------
    file:
        a recording, or a trace
    """
    if format == "parquet":
        place = output or file.with_suffix(".trace")
        if is_trace(file):
            raise TraceError(f"{file} is a folder of Parquet tables already")
        make_trace(recording_in(file, anyway), place, registers, anyway)
    else:
        if registers:
            raise TraceError(f"--registers: the format {format} has no place for them; leave out --format")
        known = FORMATS.get(format)
        place = output or file.with_suffix(known.suffix if known is not None else "")
        if place.resolve() == file.resolve():
            raise TraceError(f"--output {place} is the recording itself; give another name")
        with opened(file, anyway) as found:
            export(found, format, place)
    print(place)
    return 0


@trace.command
def view(
    file: Path,
    /,
    *,
    port: Annotated[int, Parameter(help="Of 127.0.0.1; 0 for any that is free.")] = 0,
    anyway: Anyway = False,
) -> int:
    """Serve the Perfetto UI with a trace on this machine alone, without internet, until Ctrl-C.

    Parameters
    ----------
    file:
        a recording, or a trace
    """
    with TemporaryDirectory(prefix="kstack-") as place, opened(file, anyway) as found:
        timeline = Path(place) / "trace.pftrace"
        export(found, "perfetto", timeline)
        serve(timeline, port, lambda url: print(url, flush=True))
    return 0


@trace.command(name="diff")
def compare(one: Path, other: Path, /, *, anyway: Anyway = False, json: Json = False) -> int:
    """Where two recordings part, with the context of both; exit code 1 if they do.

    Parameters
    ----------
    one:
        a recording, or a trace
    other:
        a recording, or a trace
    """
    with opened(one, anyway) as here, opened(other, anyway) as there:
        found, metas = diff(here, there), (here.meta, there.meta)
    differ = [
        what
        for what in ("image", "policy", "rules", "state_hash")
        if getattr(metas[0], what) != getattr(metas[1], what)
    ]
    if json:
        print_json({"version": 1, "partings": [_document(parting) for parting in found], "differ": differ})
    for what in () if json else differ:
        values = (f"{path}: {getattr(meta, what)}" for path, meta in zip((one, other), metas, strict=True))
        print(f"{what.replace('_', ' ')}: {', '.join(values)}")
    if not json and not found:
        print("the same instructions, on every CPU" + (", and other data" if "state_hash" in differ else ""))
    for parting in () if json else found:
        whose = "all CPUs together" if parting.cpu is None else f"CPU {parting.cpu} by itself"
        print(f"{whose}: the same up to instruction {parting.here.number}; then")
        for path, place, before, since in zip((one, other), parting[1:3], parting.before, parting.since, strict=True):
            print(f"  {path}: {_where(place)}")
            if parting.cpu is None:
                print("".join(f"    {_text(line)}\n" for line in (*before, *since)), end="")
        print(f"  why: {parting.why}")
    return 1 if found or differ else 0


def _where(place: Place) -> str:
    if place.count is None:
        return "the end"
    return f"{place.symbol} on CPU {place.cpu}, virtual time {place.count}"


def _document(parting: Parting) -> Document:
    return {
        "cpu": parting.cpu,
        "here": parting.here._asdict(),
        "there": parting.there._asdict(),
        "why": parting.why,
    }
