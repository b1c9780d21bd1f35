"""kstack gdb: a recording or a live run behind GDB's remote serial protocol."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, Annotated, Final

from cyclopts import Parameter

from kstack.base.errors import ConfigError, ScenarioError
from kstack.cli.options import Anyway, ImageFormat, ModeList, modes_of, recording_in
from kstack.debug.forks import beside, checked
from kstack.debug.origin import Origin
from kstack.debug.server import HOST, serve
from kstack.explore.path import is_path
from kstack.kernels.known import usual_guests
from kstack.machine import size
from kstack.run.spec import RunSpec

ELF_MAGIC: Final = b"\x7fELF"
DEFAULT_RAM: Final = "64M"


def gdb(
    image: str,
    /,
    *,
    port: Annotated[int, Parameter(help="TCP port on the loopback interface; 0 for any that is free.")] = 0,
    policy: str | None = None,
    cpus: int | None = None,
    mode: ModeList = None,
    record: Path | None = None,
    anyway: Anyway = False,
    format: ImageFormat = "auto",
) -> int:
    """Wait for one GDB on the loopback interface, and serve it, forwards and backwards.

    Parameters
    ----------
    image:
        a recording, or what `kstack run` takes: built-in name, scenario, or file
    policy:
        stack policy by id, or in a Python file: FILE.py, or FILE.py:NAME for one of several (not for a recording, which has its own)
    cpus:
        number of CPUs (default: what a scenario needs, else 1)
    record:
        keep a recording of the run here, or of what a recording becomes once GDB writes a register or memory \
(default then: a file beside it)
    """
    recorded = _is_document(Path(image))
    place: Callable[[], Path] | None = None
    if record is not None:
        place = partial(checked, record, Path(image) if recorded else None)
        place()
    if recorded:
        if (policy, cpus, mode, format) != (None, None, None, "auto"):
            raise ConfigError("--policy, --cpus, --mode, --format: a recording has its own")
        if is_path(Path(image)):
            raise ConfigError(f"{image} is a witness of kstack explore, in which there is no time; see: kstack replay")
        recording = recording_in(Path(image), anyway)
        name, origin = recording.image, Origin.of_recording(recording, anyway)
        if record is None and os.access(Path(image).parent, os.W_OK):
            place = partial(beside, Path(image))
    else:
        name, origin = image, Origin.of_setup(_setup(image, policy, cpus, mode, format))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the file is removed
    with tempfile.NamedTemporaryFile(prefix="kstack-", suffix=".elf") as file:
        symbols = _elf(name, file)

        def listening(chosen: int) -> None:
            print(f"listening on {HOST}:{chosen}")
            file_option = "" if symbols is None else f" -ex 'file {symbols}'"
            print(f"gdb -q{file_option} -ex 'target remote {HOST}:{chosen}'", flush=True)

        kept = serve(origin, port, listening, place)
        if kept is not None:
            print(f"wrote {kept}")
    return 0


def _is_document(path: Path) -> bool:
    """Whether a file is JSON, as recordings are and images are not."""
    try:
        with path.open("rb") as file:
            return file.read(64).lstrip().startswith(b"{")
    except OSError:
        return False  # no file, or none to be read: whoever reads the image says so


def _setup(image: str, policy: str | None, cpus: int | None, mode: list[str] | None, format: ImageFormat) -> RunSpec:
    scenario = usual_guests().scenario(image) if usual_guests().is_scenario(image) else None
    if scenario is not None and cpus is not None and cpus < scenario.cpus:
        raise ScenarioError(f"scenario {image} needs {scenario.cpus} CPUs; give --cpus {scenario.cpus} or more")
    if cpus is None:
        cpus = scenario.cpus if scenario else 1
    return RunSpec(image, cpus, size(scenario.ram if scenario else DEFAULT_RAM), modes_of(mode), policy, format=format)


def _elf(name: str, file: IO[bytes]) -> Path | None:
    """Where GDB finds the image's symbols: its own file, or `file` if it is built; None if it has none."""
    data = usual_guests().image(name)
    if not data.startswith(ELF_MAGIC):
        return None
    own = Path(name)
    if own.is_file() and own.read_bytes() == data:
        return own
    file.write(data)
    file.flush()
    return Path(file.name)
