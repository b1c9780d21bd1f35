"""Traces in formats that other viewers read.

Each format is a module with one function that writes a file from a trace's tables, batch by batch. What is in no
table (registers but RIP and RSP, code that never ran) is in no export either.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from kstack.base.errors import TraceError
from kstack.base.files import whole
from kstack.trace.store import Trace


class Exporter(NamedTuple):
    """A format.

    Attributes:
        name: what `--format` calls it.
        suffix: of its files, with the dot.
        title: one line: what it is and who reads it.
        write: writes a file that does not exist yet.
    """

    name: str
    suffix: str
    title: str
    write: Callable[[Trace, Path], None]

    def default(self, trace: Trace) -> Path:
        """Where an export goes that is given no name: beside the trace."""
        return trace.folder.with_name(trace.folder.name + self.suffix)


def _perfetto(trace: Trace, path: Path) -> None:
    from kstack.trace.export.perfetto import write

    write(trace, path)


def _qemu(trace: Trace, path: Path) -> None:
    from kstack.trace.export.qemu import write

    write(trace, path)


def _drcov(trace: Trace, path: Path) -> None:
    from kstack.trace.export.drcov import write

    write(trace, path)


def _tenet(trace: Trace, path: Path) -> None:
    from kstack.trace.export.tenet import write

    write(trace, path)


def _vcd(trace: Trace, path: Path) -> None:
    from kstack.trace.export.vcd import write

    write(trace, path)


def _coverage(trace: Trace, path: Path) -> None:
    from kstack.trace.export.coverage import write

    write(trace, path)


FORMATS: Final = {
    exporter.name: exporter
    for exporter in (
        Exporter("perfetto", ".pftrace", "timeline of CPUs, threads and counters, for the Perfetto UI", _perfetto),
        Exporter("qemu", ".log", "text as of QEMU's -d in_asm,exec,int", _qemu),
        Exporter("drcov", ".drcov", "basic blocks that ran, for Lighthouse and others", _drcov),
        Exporter("tenet", ".tenet", "RIP, RSP and memory by instruction, for Tenet", _tenet),
        Exporter("vcd", ".vcd", "RIP, ring and thread of CPUs as waveforms, for GTKWave", _vcd),
        Exporter("coverage", ".html", "the guest's sources with how often each line ran, for a browser", _coverage),
    )
}


def export(trace: Trace, format: str, output: Path) -> None:
    """Write a trace in another format, whole or not at all; a file of that name is replaced.

    Args:
        trace: that has been read.
        format: of FORMATS.
        output: the file.

    Raises:
        TraceError: there is no such format, a library is missing, or the file cannot be written.
    """
    exporter = FORMATS.get(format)
    if exporter is None:
        near = difflib.get_close_matches(format, FORMATS, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(FORMATS)}"
        raise TraceError(f"--format {format!r} does not exist; {hint}")
    _check(output)
    try:
        with whole(output, f"--output {output} cannot be written", TraceError) as temporary:
            exporter.write(trace, temporary)
    except ModuleNotFoundError as error:
        extra = "report" if error.name in ("jinja2", "markupsafe") else "trace"
        raise TraceError(f"--format {format} needs {error.name}: pip install 'kstack[{extra}]'") from error


def _check(output: Path) -> None:
    parent = output.absolute().parent
    if output.is_dir():
        raise TraceError(f"--output {output} is a folder; give a file")
    if not parent.is_dir():
        raise TraceError(f"--output {output}: there is no folder {parent}")
    if not os.access(parent, os.W_OK):
        raise TraceError(f"--output {output}: the folder cannot be written")


__all__ = ["FORMATS", "Exporter", "export"]
