"""The command line in a process of its own, as a user runs it, on this checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]


def kstack(*words: object) -> subprocess.CompletedProcess[str]:
    """Run `kstack` with these words, on a terminal of 120 columns without colours."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120", "NO_COLOR": "1"}
    command = [sys.executable, "-c", "from vm.cli import main; main()", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=100, check=False)
