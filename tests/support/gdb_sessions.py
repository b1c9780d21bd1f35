"""Sessions of GDB itself with `kstack gdb`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.command import ROOT

gdb_is_needed = pytest.mark.system("gdb")


@contextmanager
def served(*words: object) -> Iterator[tuple[str, Path | None]]:
    """`kstack gdb` with these words: the target and the file of symbols that it prints; it must end by itself."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", "from kstack.cli import main; main()", "gdb", *map(str, words)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as server:
        assert server.stdout is not None and server.stderr is not None
        try:
            first, second = server.stdout.readline(), server.stdout.readline()
            assert re.fullmatch(r"listening on 127\.0\.0\.1:\d+\n", first), server.stderr.read()
            target = first.split()[-1]
            found = re.fullmatch(rf"gdb -q(?: -ex 'file (.*)')? -ex 'target remote {target}'\n", second)
            assert found is not None, second
            yield target, found[1] and Path(found[1])
            assert server.wait(60) == 0, server.stderr.read()
            assert server.stderr.read() == ""
        finally:
            server.kill()


def gdb_says(words: tuple[object, ...], *commands: str) -> str:
    """What GDB prints for these commands on what `kstack gdb` serves with these words."""
    with served(*words) as (target, file):
        options = [*(("-ex", f"file {file}") if file else ()), "-ex", f"target remote {target}"]
        for command in ("set width 0", *commands):
            options += ["-ex", command]
        done = subprocess.run(
            ["gdb", "-nx", "-q", "-batch", *options], capture_output=True, text=True, timeout=100, check=False
        )
    assert file is None or not file.exists(), "the file of symbols is removed"
    return re.sub(r"warning: .*\n", "", done.stdout + done.stderr)
