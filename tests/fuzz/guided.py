"""One target under atheris: `python -m tests.fuzz.guided TARGET LIBFUZZER-OPTIONS... CORPUS...`, by `python -m tests.fuzz`."""

from __future__ import annotations

import contextlib
import io
import random
import sys
from pathlib import Path

import atheris

with (
    contextlib.redirect_stderr(io.StringIO()),
    atheris.instrument_imports(include=["kstack", "tomllib", "json"], enable_loader_override=False),
):
    from tests.fuzz.targets import TARGETS

from tests.fuzz.bounds import limit_addresses, tried
from tests.fuzz.mutate import mutated


def main(name: str, options: list[str]) -> None:
    """Fuzz until an option of libFuzzer's says that it is enough."""
    target = TARGETS[name]
    seeds = list(target.seeds())
    place = Path(next(word for word in options if not word.startswith("-")))
    for number, data in enumerate(seeds):
        (place / f"seed-{number}").write_bytes(data)

    def mutate(data: bytes, limit: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if rng.random() < 0.5:
            return bytes(atheris.Mutate(data, limit))
        return mutated(rng, data, seeds)[:limit]

    limit_addresses()
    atheris.RunSpec([sys.argv[0], *options], lambda data: _one(name, data), custom_mutator=mutate)
    atheris.Fuzz()


def _one(name: str, data: bytes) -> None:
    tried(TARGETS[name].run, data)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
