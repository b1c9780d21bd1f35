"""A trace on disk: a folder with five Parquet tables and one JSON file that says what it is of.

    trace.json             version, recording, what ran, how many rows, a digest of each table
    instructions.parquet   count, cpu, rip, size (bytes), ring, rsp, thread: by count
    accesses.parquet       count, cpu, store, model, size (bytes), address, physical, value: by count
    events.parquet         as `TraceEvent`: by count
    registers.parquet      count, cpu, rax to r15 before the instruction at that count, which is the first of a block of
                           code: what the block before has left; without rows unless asked for: by count
    code.parquet           rip, count (from when on), code (bytes), bits (16, 32 or 64: how wide the code is), symbol: by count

`rip` is linear: with the base of CS, where there is one. `count` is virtual time: each instruction and each delivered event takes one unit. `model` is set for accesses that the
CPU model makes by itself: descriptors, event frames, operands of instructions that the engine does not execute.
Two traces of one recording are byte-identical.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, TypedDict, Unpack

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from kstack.base.digests import digest_of, digest_of_file
from kstack.base.errors import TraceError
from kstack.base.files import refused_as, replace_folder
from kstack.load import Symbols
from kstack.recording import UNNAMED_RULES
from kstack.trace.columns import REGISTERS
from kstack.trace.events import TraceEvent
from kstack.trace.tracer import TracePart

VERSION: Final = 4
READABLE: Final = (1, 2, 3, 4)  # 3 has the version of the machine's rules, 4 how wide code is
WIDTHS: Final = 4
OLD: Final = 1  # it has no registers and no digest of its own
META: Final = "trace.json"
LEVEL: Final = 1  # of zstd: more takes longer and saves little
ROWS: Final = 1 << 20  # of a row group
SCHEMAS: Final = {
    "instructions": pa.schema(
        [
            ("count", pa.uint64()),
            ("cpu", pa.uint8()),
            ("rip", pa.uint64()),
            ("size", pa.uint8()),
            ("ring", pa.uint8()),
            ("rsp", pa.uint64()),
            ("thread", pa.int32()),
        ]
    ),
    "accesses": pa.schema(
        [
            ("count", pa.uint64()),
            ("cpu", pa.uint8()),
            ("store", pa.bool_()),
            ("model", pa.bool_()),
            ("size", pa.uint8()),
            ("address", pa.uint64()),
            ("physical", pa.uint64()),
            ("value", pa.uint64()),
        ]
    ),
    "registers": pa.schema([(name, pa.uint8() if name == "cpu" else pa.uint64()) for name in REGISTERS]),
    "events": pa.schema(
        [
            ("count", pa.uint64()),
            ("cpu", pa.uint8()),
            ("kind", pa.string()),
            ("name", pa.string()),
            ("thread", pa.int32()),
            ("address", pa.uint64()),
            ("frame", pa.uint64()),
            ("value", pa.uint64()),
            ("text", pa.string()),
        ]
    ),
    "code": pa.schema(
        [
            ("rip", pa.uint64()),
            ("count", pa.uint64()),
            ("code", pa.binary()),
            ("bits", pa.uint8()),
            ("symbol", pa.string()),
        ]
    ),
}
ENCODINGS: Final = {pa.uint64(): "BYTE_STREAM_SPLIT", pa.int32(): "BYTE_STREAM_SPLIT"}
"""Of numbers: a column's first bytes, then its second ones, and so on; most of them are always the same. Written twice
as fast as plain or with a dictionary, and smaller."""
COUNT: Final = "DELTA_BINARY_PACKED"  # of virtual time, which ascends by small steps
TEXTS: Final = (pa.string(), pa.binary())  # with a dictionary


class Meta(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a trace is of.

    Attributes:
        version: of this format.
        recording: digest of the recording.
        image, policy: what ran.
        rules: version of the rules of the machine that ran it.
        cpus: CPUs of the machine.
        ended: how the run ended.
        time: virtual time at its end.
        begun: virtual time at its start.
        state_hash: of the machine at the end.
        rows: of each table.
        digests: BLAKE2b of each table's file.
    """

    version: int
    recording: str
    image: str
    policy: str | None
    cpus: int
    ended: str
    time: int
    begun: int
    state_hash: str
    rows: dict[str, int]
    digests: dict[str, str]
    rules: int = UNNAMED_RULES


class About(TypedDict):
    """What a trace is of, as `Meta` has it, but for what its writer knows."""

    recording: str
    rules: int
    image: str
    policy: str | None
    cpus: int
    ended: str
    time: int
    begun: int
    state_hash: str


class TraceWriter:
    """Writes a trace, whole or not at all: the folder appears when `finish` has been called.

    Args:
        folder: that is to be.
        symbols: of the image.

    Raises:
        TraceError: it exists and is no trace, or cannot be written.
    """

    def __init__(self, folder: Path, symbols: Symbols) -> None:
        self.folder, self._symbols = folder, symbols
        if folder.exists() and not _replaceable(folder):
            raise TraceError(f"--output {folder} exists and is no trace, or has other files in it; give another name")
        self._place = folder.with_name(f".{folder.name}.{os.getpid()}.part")
        self._rows = dict.fromkeys(SCHEMAS, 0)
        with refused_as(f"trace {folder} cannot be written", TraceError):
            self._place.mkdir(parents=True)
            self._writers = {name: self._open(name) for name in SCHEMAS}

    def _open(self, name: str) -> pq.ParquetWriter:
        schema = SCHEMAS[name]
        encodings = {field.name: ENCODINGS[field.type] for field in schema if field.type in ENCODINGS}
        return pq.ParquetWriter(
            self._place / f"{name}.parquet",
            schema,
            compression="zstd",
            compression_level=LEVEL,
            use_dictionary=[field.name for field in schema if field.type in TEXTS],
            column_encoding={**encodings, "count": COUNT},
            write_statistics=["count"],  # by which queries pass over row groups
            data_page_version="2.0",
            dictionary_pagesize_limit=1 << 22,
        )

    def __enter__(self) -> TraceWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for writer in self._writers.values():
            writer.close()
        shutil.rmtree(self._place, ignore_errors=True)

    def part(self, part: TracePart) -> None:
        """The next part of the trace."""
        self._write("instructions", part.instructions.arrays)
        self._write("accesses", part.accesses.arrays)
        self._write("registers", part.registers.arrays)
        self._write("events", _transposed(part.events, len(TraceEvent._fields)))
        code = [(rip, count, code, bits, self._symbols.name(rip)) for count, rip, code, bits in part.code]
        self._write("code", _transposed(code, len(SCHEMAS["code"])))

    def _write(self, name: str, columns: Iterable[object]) -> None:
        schema = SCHEMAS[name]
        table = pa.table([pa.array(column, kind) for column, kind in zip(columns, schema.types, strict=True)], schema)
        if table.num_rows:
            self._writers[name].write_table(table, row_group_size=ROWS)
            self._rows[name] += table.num_rows

    def finish(self, **about: Unpack[About]) -> Meta:
        """All parts are written: what the trace is of, by the fields of `Meta`."""
        for writer in self._writers.values():
            writer.close()
        digests = {name: digest_of_file(self._place / f"{name}.parquet") for name in SCHEMAS}
        found = Meta(version=VERSION, rows=self._rows, digests=digests, **about)
        document = msgspec.to_builtins(found)
        (self._place / META).write_text(json.dumps({**document, "digest": digest_of(document)}, indent=1) + "\n")
        replace_folder(self._place, self.folder)
        return found


def _replaceable(folder: Path) -> bool:
    """Whether a folder is a trace of any version, and nothing else."""
    try:
        document = json.loads((folder / META).read_bytes())
        names = {path.name for path in folder.iterdir()}
    except (OSError, ValueError, RecursionError):
        return False
    ours = isinstance(document, dict) and {"version", "recording", "state_hash", "digests"} <= set(document)
    return ours and names <= {META, *(f"{name}.parquet" for name in SCHEMAS)}


def _transposed(rows: Iterable[tuple[object, ...]], width: int) -> list[list[object]]:
    columns: list[list[object]] = [list(column) for column in zip(*rows, strict=True)]
    return columns or [[] for _ in range(width)]


class Trace(NamedTuple):
    """A trace that can be read: its folder, and what it is of."""

    folder: Path
    meta: Meta

    @property
    def tables(self) -> list[str]:
        """Names of those it has."""
        return [name for name in SCHEMAS if name in self.meta.digests]

    @property
    def has_widths(self) -> bool:
        """Whether its table of code says how wide code is."""
        return self.meta.version >= WIDTHS

    def file(self, table: str) -> Path:
        """A table's file."""
        return self.folder / f"{table}.parquet"


def is_trace(folder: Path) -> bool:
    """Whether this is, or once was, a trace."""
    return (folder / META).is_file()


def read_trace(folder: Path) -> Trace:
    """Read what a trace is of, and check that its tables are what they were.

    Raises:
        TraceError: it is damaged, incomplete, or of another version.
    """
    try:
        document = msgspec.json.decode((folder / META).read_bytes(), type=dict[str, Any])
        version = document.get("version")
        if version not in READABLE:
            raise TraceError(f"trace {folder} has version {version!r}; this kstack reads {READABLE[0]} to {VERSION}")
        if version != OLD and document.pop("digest", None) != digest_of(document):
            raise TraceError(f"trace {folder} is damaged: {META} is not what was written; make it again")
        meta = msgspec.convert(document, Meta)
        tables = [name for name in SCHEMAS if version != OLD or name != "registers"]
        wrong = [name for name in tables if digest_of_file(folder / f"{name}.parquet") != meta.digests.get(name)]
    except OSError as error:
        raise TraceError(f"trace {folder}: {error.filename}: {error.strerror}; make it again") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise TraceError(f"{folder} is no trace of kstack: {error}") from error
    if wrong:
        raise TraceError(f"trace {folder} is damaged: {wrong[0]}.parquet is not what was written; make it again")
    return Trace(folder, meta)
