"""The command line, as a user runs it, on this checkout."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, Final

import pytest

from kstack.cli import main

ROOT: Final = Path(__file__).parents[2]


ENVIRONMENT: Final = {"COLUMNS": "120", "NO_COLOR": "1"}


def kstack(*words: object) -> subprocess.CompletedProcess[str]:
    """Run `kstack` with these words, in this process, as on no terminal, in 120 columns, without colours."""
    arguments = list(map(str, words))
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["kstack", *arguments])
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        with pytest.raises(SystemExit) as caught:
            main()
    code = caught.value.code
    assert isinstance(code, int)
    return subprocess.CompletedProcess(arguments, code, _text(out), _text(err))


def _text(stream: io.TextIOWrapper) -> str:
    buffer = stream.buffer
    assert isinstance(buffer, io.BytesIO)
    return buffer.getvalue().decode()


def document(*words: object, told: bool = False) -> dict[str, Any]:
    """The one JSON document that a command prints, of the version that others rely on.

    Args:
        words: what follows `kstack`, without `--json`.
        told: something may stand on standard error.
    """
    done = kstack(*words, "--json")
    assert told or done.stderr == ""
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["version"] == 1
    return found


def python(*words: str, seconds: float = 250, **environment: str) -> subprocess.CompletedProcess[str]:
    """Python in a process of its own, in the repository's root, which is then the first place where modules are looked for."""
    return subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


def kstack_process(*words: object) -> subprocess.CompletedProcess[str]:
    """The same in a process of its own, as a user runs it."""
    environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", "from kstack.cli import main; main()", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=100, check=False)
