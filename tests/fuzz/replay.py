"""One target's kept inputs and seeded mutants: `python -m tests.fuzz.replay NAME SEED COUNT [SECONDS]`.

Each input is named on stdout before it is tried; one that fails is written to the folder that KSTACK_FUZZ_FOUND
names, if it does.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import random
import sys
import time
import traceback
from pathlib import Path
from typing import Final

from tests.fuzz.bounds import limit_addresses, tried
from tests.fuzz.mutate import mutated
from tests.fuzz.targets import TARGETS, kept

FOUND: Final = "KSTACK_FUZZ_FOUND"
ENOUGH: Final = 5  # failures, after which the rest would be the same
_CLOCK = time.monotonic  # for the time that may be spent


def main(name: str, seed: int, count: int, seconds: float = 1e9) -> int:
    """Try all; the number of inputs that did what they may not."""
    faulthandler.enable()
    end = _CLOCK() + seconds
    target = TARGETS[name]
    old = kept(name)
    seeds = list(target.seeds())
    limit_addresses()
    gc.freeze()  # so that collecting what an input left takes little
    wrong = sum(_try(name, f"kept {label}", data) for label, data in old)
    wrong += sum(_try(name, f"seed {number}", data) for number, data in enumerate(seeds))
    pool = [*seeds, *(data for _, data in old)]
    for number in range(seed, seed + count):
        rng = random.Random(number)
        wrong += _try(name, f"mutant {number}", mutated(rng, rng.choice(pool), pool))
        if wrong >= ENOUGH or _CLOCK() > end:
            break
    print("done", flush=True)
    return wrong


def _try(name: str, label: str, data: bytes) -> bool:
    print(label, flush=True)
    if os.environ.get(FOUND):
        (Path(os.environ[FOUND]) / f"{name}.last").write_bytes(data)
    try:
        tried(TARGETS[name].run, data)
    except BaseException:  # noqa: BLE001 - whatever comes out is what is looked for
        print(f"{name}, {label}, {data[:200]!r}:\n{traceback.format_exc()}", file=sys.stderr, flush=True)
        if os.environ.get(FOUND):
            (Path(os.environ[FOUND]) / f"{name}.{label.replace(' ', '-')}").write_bytes(data)
        return True
    return False


if __name__ == "__main__":
    sys.exit(min(1, main(sys.argv[1], *map(int, sys.argv[2:]))))
