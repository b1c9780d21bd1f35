"""Fuzz for as long as one likes: `python -m tests.fuzz [TARGET...] [--seconds N] [--corpus FOLDER]`; `make fuzz SECONDS=600`.

Guided by coverage where atheris is installed (`pip install -e '.[fuzz]'`), else by seeded mutation alone. Each target
runs in a process of its own for its share of the time. What it has learned stays in FOLDER/TARGET (out/fuzz, unless
said otherwise) for the next time; an input that fails is named, and belongs into tests/fuzz/corpus once it is fixed.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
from pathlib import Path

from tests.fuzz.targets import CORPUS, TARGETS
from tests.support.command import ROOT


def main() -> int:
    """Fuzz each target; 1 if any input did what it may not."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; all without")
    parser.add_argument("--seconds", type=int, default=600, help="for all together")
    parser.add_argument("--corpus", type=Path, default=ROOT / "out" / "fuzz")
    arguments = parser.parse_args()
    names = arguments.targets or list(TARGETS)
    if unknown := [name for name in names if name not in TARGETS]:
        parser.error(f"{unknown[0]}: there are {', '.join(TARGETS)}")
    guided = importlib.util.find_spec("atheris") is not None
    if not guided:
        print("atheris is not installed: seeded mutation alone", file=sys.stderr)
    failed = []
    for name in names:
        place: Path = arguments.corpus / name
        place.mkdir(parents=True, exist_ok=True)
        seconds = max(1, arguments.seconds // len(names))
        command = _guided(name, place, seconds) if guided else _mutation(name, seconds)
        if subprocess.run(command, cwd=ROOT, check=False).returncode:
            failed.append(name)
        print(
            f"{name}: {'FAILED, see above and ' + str(place.parent) if name in failed else 'nothing found'}", flush=True
        )
    return int(bool(failed))


def _guided(name: str, place: Path, seconds: int) -> list[str]:
    kept = [str(CORPUS / name)] if (CORPUS / name).is_dir() else []
    options = [f"-max_total_time={seconds}", f"-artifact_prefix={place.parent}/{name}-", "-max_len=65536"]
    options += ["-rss_limit_mb=3000", "-timeout=60", "-print_final_stats=1", "-verbosity=0"]
    return [sys.executable, "-m", "tests.fuzz.guided", name, *options, str(place), *kept]


def _mutation(name: str, seconds: int) -> list[str]:
    return [sys.executable, "-m", "tests.fuzz.replay", name, "0", str(1 << 40), str(seconds)]


if __name__ == "__main__":
    sys.exit(main())
