"""Targets: a trace, of which either the head or a table is another than was written."""

from __future__ import annotations

import hashlib
import json
import shutil
from functools import cache
from pathlib import Path

from kstack.base.digests import digest_of
from kstack.base.errors import KstackError
from kstack.trace.query import Database, ask
from kstack.trace.show import lines
from kstack.trace.store import SCHEMAS, read_trace
from tests.fuzz.files import written
from tests.support.command import ROOT

GOLDEN = ROOT / "tests" / "golden"


@cache
def _golden() -> Path:
    return max(GOLDEN.glob("trace-*"))


def _folder(name: str) -> Path:
    """A copy of the golden trace."""
    place = written(f"{name}/trace.json", b"").parent
    shutil.copytree(_golden(), place, dirs_exist_ok=True)
    return place


def trace(data: bytes) -> object:
    """Read the head of a trace whose tables are right; its own digest is right wherever it can be."""
    place = _folder("head")
    try:
        document = json.loads(data)
        document.pop("digest")
        data = json.dumps({**document, "digest": digest_of(document)}).encode()
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError):
        pass
    (place / "trace.json").write_bytes(data)
    return read_trace(place)


def traces() -> list[bytes]:
    """The golden one's."""
    return [(_golden() / "trace.json").read_bytes()]


def parquet(data: bytes) -> object:
    """Show and ask a trace, one of whose tables (its first byte says which) is another; its digest is right."""
    place = _folder("tables")
    name = sorted(SCHEMAS)[data[0] % len(SCHEMAS) if data else 0]
    (place / f"{name}.parquet").write_bytes(data[1:])
    meta = json.loads((place / "trace.json").read_bytes())
    meta["digests"][name] = hashlib.blake2b(data[1:], digest_size=16).hexdigest()
    meta.pop("digest")
    (place / "trace.json").write_text(json.dumps({**meta, "digest": digest_of(meta)}))
    database = Database(read_trace(place))
    errors: list[KstackError] = []
    for read in (
        lambda: ask(database, "hot", []),
        lambda: database.findings(),
        lambda: database.range(),
        lambda: list(lines(database, 0, 5000)),
    ):
        try:
            read()
        except KstackError as error:
            errors.append(error)
    return errors


def parquets() -> list[bytes]:
    """The golden one's tables, behind their numbers."""
    return [bytes((at,)) + (_golden() / f"{name}.parquet").read_bytes() for at, name in enumerate(sorted(SCHEMAS))]
