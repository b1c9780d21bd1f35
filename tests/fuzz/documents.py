"""Targets: recordings, journals, witnesses."""

from __future__ import annotations

import json
import os
from itertools import islice
from typing import Any

import msgspec

from kstack.base.digests import digest_of
from kstack.explore.path import is_path, read_path
from kstack.hw.modes import Modes
from kstack.machine import MachineConfig
from kstack.probe.taken import taken_from
from kstack.recording import VERSION, Recording, read_recording
from kstack.run.spec import replay_session
from kstack.stacks.host.pool import PoolConfig
from tests.fuzz.files import written
from tests.support.command import ROOT

GOLDEN = ROOT / "tests" / "golden"
CHOICES = 100_000  # of a schedule that are unpacked
UNITS = 20_000  # of virtual time that are replayed


def _signed(text: bytes) -> bytes:
    """A document with the digest that it should have, where it is a document."""
    try:
        document = json.loads(text)
        for word in ("kstack", "digest"):
            document.pop(word, None)
        signed = {**json.loads(text), "digest": digest_of(document)}
        return (json.dumps(signed) + "\n").encode()
    except (ValueError, RecursionError, AttributeError, TypeError):
        return text


def _signed_line(line: bytes) -> bytes:
    """The same for a line of a journal, whose digest covers its kind."""
    try:
        document = json.loads(line)
        document.pop("digest", None)
        return (json.dumps({**document, "digest": digest_of(document)}) + "\n").encode()
    except (ValueError, RecursionError, AttributeError, TypeError):
        return line


def _read(name: str, data: bytes) -> Recording:
    found = read_recording(written(name, data))
    for _ in islice(found.schedule(), CHOICES):
        pass
    MachineConfig(found.cpus, found.ram, Modes.of(found.modes))
    PoolConfig(*found.pool)
    return found


def recording(data: bytes) -> object:
    """Read a recording, unpack its choices, and make its parts."""
    return _read("recording.json", _signed(data))


def journal(data: bytes) -> object:
    """The same for one that was never finished."""
    return _read("journal.json", b"".join(map(_signed_line, data.splitlines(keepends=True))))


def probe(data: bytes) -> object:
    """Read a probe's file, and take modes from it."""
    return taken_from(written("probe.json", _sealed(data)), [])


def _sealed(text: bytes) -> bytes:
    """A probe's file with the digest that it should have, where it is one."""
    try:
        document = json.loads(text)
        document.pop("digest", None)
        return json.dumps({**document, "digest": digest_of(document)}).encode()
    except (ValueError, RecursionError, AttributeError, TypeError):
        return text


def probes() -> list[bytes]:
    """The golden ones."""
    return _files("probe-*.json")


def replay(data: bytes) -> object:
    """Run a recording again, for a while; its image is that of the golden one."""
    found = read_recording(written("recording.json", _signed(data)))
    golden = _golden("recording")
    bounded: dict[str, Any] = {name: getattr(golden, name) for name in ("image", "image_hash", "policy", "policy_hash")}
    bounded |= {"max_time": min(found.max_time, UNITS), "ram": min(found.ram, 64 << 20), "cpus": min(found.cpus, 4)}
    return replay_session(msgspec.structs.replace(found, **bounded)).run()


def _golden(kind: str) -> Recording:
    os.chdir(ROOT)  # its image is named from there
    return read_recording(GOLDEN / f"{kind}-{VERSION}.json")


def _files(pattern: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted(GOLDEN.glob(pattern))]


def recordings() -> list[bytes]:
    """The golden ones."""
    return _files("recording-*.json")


def journals() -> list[bytes]:
    """The golden ones."""
    return _files("journal-*.json")


def witness(data: bytes) -> object:
    """Read a witness of `kstack explore`."""
    path = written("witness.json", _signed(data))
    if not is_path(path):
        return None
    found = read_path(path)
    Modes.of(found.modes)
    return found


def witnesses() -> list[bytes]:
    """The golden one."""
    return _files("witness-*.json")
