"""Target: the checkpoint of a search, up to the first states that are made again from it."""

from __future__ import annotations

from functools import cache

import msgspec

from kstack.explore.breadth_first import Bounds, Problem, search
from kstack.explore.checkpoint import VERSION, SearchCheckpoint, identity, read_checkpoint
from kstack.hw.modes import Modes
from tests.fuzz.files import written

PROBLEM = Problem("litmus-laight", "entry-exit", Modes())
STATES = 60


@cache
def _identity() -> dict[str, str]:
    return identity(PROBLEM)


@cache
def _saved() -> bytes:
    """What a search leaves that was stopped after a few dozen states."""
    path = written("search.checkpoint", b"")
    path.unlink()
    search(PROBLEM, Bounds(states=STATES), checkpoint=path)
    return path.read_bytes()


def checkpoint(data: bytes) -> object:
    """Read a checkpoint and go on from it for a layer; what it says of the search it is of is put right."""
    try:
        document = msgspec.msgpack.decode(data)
        document["search"] = _identity()
        data = msgspec.msgpack.encode(document)
    except (
        msgspec.MsgspecError,
        UnicodeDecodeError,
        TypeError,
        ValueError,
        OverflowError,
        RecursionError,
        LookupError,
    ):
        pass
    path = written("checkpoint", data)
    read_checkpoint(path, PROBLEM)
    return search(PROBLEM, Bounds(states=1), checkpoint=path)


def checkpoints() -> list[bytes]:
    """One as it is written, and parts of it."""
    whole = msgspec.msgpack.decode(_saved())
    assert whole["version"] == VERSION and set(whole["checkpoint"]) == set(SearchCheckpoint.__struct_fields__)
    return [_saved()]
