"""Runs whose end states say whether the machine is still the one that it was: those of `tests/golden/rules`.

Their images and their policy are files that nobody changes, so that another state is another machine. Then
`kstack.hw.rules.RULES_VERSION` has to be one more, and `python -m tests.support.golden_runs` writes the states anew; it does
not without.
"""

from __future__ import annotations

import ast
import gzip
import hashlib
import json
import sys
from pathlib import Path
from typing import Any, Final, NamedTuple

from kstack.hw.modes import Modes
from kstack.hw.rules import RULES_VERSION
from kstack.load import load
from kstack.machine import Machine, MachineConfig
from kstack.run.booted import BootedScenario
from kstack.run.options import RunOptions
from kstack.run.result import RunResult
from kstack.run.session import Session
from kstack.schedule import Scheduler, parse
from kstack.stacks.host.pool import PoolConfig
from kstack.stacks.loading.registry import find_policy
from tests.support import hostile_guests
from tests.support.command import ROOT
from tests.support.hostile_guests import flat, run_image, run_long

FOLDER: Final = ROOT / "tests" / "golden" / "rules"
STATES: Final = FOLDER / "states.json"
POLICY: Final = FOLDER / "lends.py"
UNITS: Final = 400_000
RAM: Final = 64 << 20


class Run(NamedTuple):
    """A run of a guest that boots into a scenario, or from reset where `booted` is false."""

    image: str
    cpus: int = 2
    schedule: str = "random"
    seed: int = 0
    modes: tuple[str, ...] = ()
    pool: tuple[Any, ...] = ()
    booted: bool = True

    def state(self) -> str:
        """The hash of the state at its end."""
        modes = Modes()
        for option in self.modes:
            modes = modes.with_option(option)
        modes, image = modes.resolved("df"), gzip.decompress((FOLDER / f"{self.image}.elf.gz").read_bytes())
        options = RunOptions(UNITS, pool=PoolConfig(*self.pool), adversary=self.seed)
        scheduler: Scheduler = parse(self.schedule, self.seed, None)
        return self._result(image, modes, scheduler, options).state_hash

    def _result(self, image: bytes, modes: Modes, scheduler: Scheduler, options: RunOptions) -> RunResult:
        if self.booted:
            booted = BootedScenario(image, self.image, self.cpus, RAM, modes)
            return booted.session(find_policy(str(POLICY))(), scheduler, options).run()
        machine = Machine(MachineConfig(self.cpus, RAM, modes))
        return Session(machine, load(machine, image, self.image), scheduler, None, options).run()


class Hostile(NamedTuple):
    """Programs of instructions drawn by chance, in long mode or from reset: the states of many together."""

    kind: str
    first: int
    count: int

    def state(self) -> str:
        """A hash over the states at their ends."""
        whole = hashlib.blake2b(digest_size=16)
        for seed in range(self.first, self.first + self.count):
            machine = run_image(seed, flat, format="flat") if self.kind == "flat" else run_long(seed, False)
            whole.update(b"refused" if machine is None else machine.state_hash().encode())
        return whole.hexdigest()


RUNS: Final[dict[str, Run | Hostile]] = {
    "reset": Run("selftest", schedule="round-robin:500", booted=False),
    "reset of four": Run("selftest", cpus=4, schedule="random", seed=3, booted=False),
    "retain": Run("laight"),
    "one unit at a time": Run("laight", schedule="round-robin:1"),
    "adversarial": Run("laight", seed=5, modes=("tlb=adversarial",)),
    "adversarial, silent": Run("laight", seed=6, modes=("tlb=adversarial", "speculation=keeps-accessed-clear")),
    "adversarial, where fills need A": Run("laight", seed=19, modes=("tlb=adversarial", "speculation=needs-accessed")),
    "adversarial, no policy": Run(
        "selftest", schedule="round-robin:500", seed=1, modes=("tlb=adversarial",), booted=False
    ),
    "no speculation": Run("laight", seed=7, modes=("tlb=adversarial", "speculation=none")),
    "capacity": Run("hotplug", seed=8, modes=("tlb=capacity:4",)),
    "pcid": Run("hotplug", seed=9, modes=("kernel-pages=pcid", "tlb=adversarial"), pool=("fifo", 4)),
    "rewalk": Run("hotplug", seed=10, modes=("dirty-rewalk=no",), pool=("seeded", 3, 1, 4, 20)),
    "pct": Run("ticks", schedule="pct:3", seed=11),
    "ticks": Run("ticks", seed=12, modes=("tlb=adversarial",)),
    "double fault": Run("two-faults", 1, seed=13, modes=("df-restart=exact",)),
    "double fault, undefined": Run("two-faults", 1, seed=14),
    "ist": Run("two-faults", 1, seed=15, modes=("stack-fault-delivery=ist",)),
    "fred": Run("two-faults", 1, seed=16, modes=("stack-fault-delivery=fred",)),
    "interrupts": Run("interrupt-deep", seed=17, modes=("df-restart=exact",)),
    "interrupts, lost": Run("interrupt-deep", seed=18, modes=("stack-fault-delivery=ist", "interrupted-delivery=lost")),
    "any code, long mode": Hostile("long", 0, 120),
    "any code, from reset": Hostile("flat", 0, 80),
}


def source(run: Run | Hostile) -> str:
    """What a run is made of (hex digest): where that is another, so may the state be."""
    if isinstance(run, Hostile):
        parts = [_without_imports(Path(hostile_guests.__file__).read_text()).encode()]
    else:
        parts = [(FOLDER / f"{run.image}.elf.gz").read_bytes(), POLICY.read_bytes()]
    return hashlib.blake2b(b"".join([repr(run).encode(), *parts]), digest_size=8).hexdigest()


def _without_imports(text: str) -> str:
    """Where the modules lie that a program uses is nothing of what it makes."""
    imports = [part for part in ast.parse(text).body if isinstance(part, ast.Import | ast.ImportFrom)]
    theirs = {number for part in imports for number in range(part.lineno, (part.end_lineno or part.lineno) + 1)}
    return "\n".join(line for number, line in enumerate(text.splitlines(), 1) if number not in theirs)


def saved() -> dict[str, Any]:
    """What was written: the version of the rules, and of each run its source and its state."""
    found: dict[str, Any] = json.loads(STATES.read_text())
    return found


def changed(found: dict[str, tuple[str, str]], before: dict[str, Any]) -> list[str]:
    """Runs that are the same as before, and come to another state.

    Args:
        found: source and state of each.
        before: as `saved`.
    """
    runs = before["runs"]
    return [
        name
        for name, (made, state) in found.items()
        if name in runs and runs[name][0] == made and runs[name][1] != state
    ]


def states() -> dict[str, tuple[str, str]]:
    """Source and state of every run."""
    return {name: (source(run), run.state()) for name, run in RUNS.items()}


def main() -> None:
    """Write the states, unless the machine has changed and its version has not."""
    found = states()
    if STATES.exists():
        before = saved()
        different = changed(found, before)
        if different and before["rules"] == RULES_VERSION:
            sys.exit(
                f"the machine behaves otherwise ({', '.join(different)}): bump RULES_VERSION in vm/hw/rules.py first"
            )
    STATES.write_text(json.dumps({"rules": RULES_VERSION, "runs": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
