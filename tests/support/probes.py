"""Probe images: what they say, what each value of a mode can bring about, and the tables of docs/probe-images.md.

An event is what a trial counts. A value of a mode is refuted by an event that it does not allow. `EVENTS` says which values
allow which; `tests/machine/test_probe_bodies.py` holds it to `kstack explore` where that has the mode, and
`tests/machine/test_probe_images.py` holds the images to it, on a machine of each value.

`python -m tests.support.probes` prints the tables.
"""

from __future__ import annotations

import re
import sys
from functools import cache
from typing import Final, NamedTuple

from kstack.guest.images import PROBE_PREFIX, PROBE_TITLES, build_image
from kstack.hw.modes import VALUES, Modes
from kstack.hw.rules import ALL, Rule
from kstack.load import load
from kstack.machine import Machine, MachineConfig
from kstack.run.options import RunOptions
from kstack.run.session import Session
from kstack.schedule import RoundRobin

RAM: Final = 16 << 20
REFUTED, KEPT, INCONCLUSIVE = "refuted", "not-contradicted", "inconclusive"
_VERDICT: Final = re.compile(r"(MODE|RULE) (\S+) (refuted|not-contradicted|inconclusive) (\d+) of (\d+)")
_CONTROL: Final = re.compile(r"CONTROL (.+) (ok|failed) (\d+) of (\d+)")

EVENTS: Final[dict[str, dict[str, frozenset[str]]]] = {
    "speculation": {
        "an entry with A is used after it was taken, and nobody had accessed": frozenset(
            {"needs-accessed", "sets-accessed", "keeps-accessed-clear"}
        ),
        "A is set, and nobody has accessed": frozenset({"sets-accessed"}),
        "an entry without A is used after it was taken, and A was never set": frozenset({"keeps-accessed-clear"}),
    },
    "dirty-rewalk": {
        "a write goes by a clean entry after it was taken": frozenset({"no"}),
        "all writes walk, behind reads that did not": frozenset({"yes"}),
    },
    "df-restart": {"RIP, RSP or the restarted PUSH is wrong": frozenset({"undefined"})},
    "interrupted-delivery": {
        "the interrupt comes once more": frozenset({"restarted"}),
        "the interrupt never comes": frozenset({"lost"}),
    },
    "memory-order": {
        "two CPUs store, and neither finds the other's": frozenset({"tso", "tso-walks-memory"}),
        "an x2APIC IPI comes before an older store": frozenset({"tso", "tso-walks-memory"}),
        "an access faults by an entry before its own CPU's store": frozenset({"tso-walks-memory"}),
    },
}
"""By mode: what its probe counts, and the values that allow it."""

RULES: Final[dict[str, tuple[Rule, ...]]] = {
    "not-present": (Rule.NOT_PRESENT_NOT_CACHED,),
    "spurious-fault": (Rule.SPURIOUS_FAULT, Rule.FAULT_DROPS_PAGE),
    "structure-caches": (Rule.STRUCTURE_CACHES, Rule.INVLPG_STRUCTURE_CACHES),
    "global-invlpg": (Rule.INVLPG_GLOBAL, Rule.GLOBAL_SERVES_ANY_PCID),
}
"""By probe: the rules that it is about."""


class Verdict(NamedTuple):
    """Of one value of a mode, or of a rule: `how` it stands, by so many events in so many trials."""

    how: str
    events: int
    trials: int


class Answers(NamedTuple):
    """What a probe has said.

    Attributes:
        verdicts: by `name=value`, or name of the rule.
        controls: whether each was met, by what it is.
        text: all of it.
    """

    verdicts: dict[str, Verdict]
    controls: dict[str, bool]
    text: str

    @property
    def refuted(self) -> set[str]:
        """What is."""
        return {name for name, verdict in self.verdicts.items() if verdict.how == REFUTED}


def answers(text: str) -> Answers:
    """What stands on the serial port."""
    lines = text.replace("\r", "").splitlines()
    verdicts = [match for line in lines if (match := _VERDICT.fullmatch(line))]
    controls = [match for line in lines if (match := _CONTROL.fullmatch(line))]
    return Answers(
        {match[2]: Verdict(match[3], int(match[4]), int(match[5])) for match in verdicts},
        {match[1]: match[2] == "ok" for match in controls},
        text,
    )


@cache
def image_of(probe: str) -> bytes:
    """The file of a probe."""
    return build_image(PROBE_PREFIX + probe).to_elf()


def session_of(
    probe: str,
    modes: Modes = Modes(),
    rules: frozenset[Rule] = ALL,
    cpus: int = 2,
    seed: int = 0,
    image: bytes = b"",
    quantum: int = 1000,
) -> Session:
    """A run of a probe.

    Args:
        probe: without the prefix.
        modes: of the machine.
        rules: that it obeys.
        cpus: how many it has.
        seed: of the adversary.
        image: in its place.
        quantum: of each slice.
    """
    machine = Machine(MachineConfig(cpus, RAM, modes, rules))
    symbols = load(machine, image or image_of(probe), probe)
    return Session(machine, symbols, RoundRobin(quantum), None, RunOptions(adversary=seed, hashed=False))


def here(session: Session) -> Answers:
    """What a probe says on this machine, if it comes to its end."""
    result = session.run()
    assert result.ended == "exit", result.reason
    found = answers(result.serial)
    assert result.exit_value == (0x10 if all(found.controls.values()) else 0x11), result.serial
    return found


def brought_about(mode: str, value: str) -> frozenset[str]:
    """The values of a mode that a machine of one value refutes: those that do not allow an event that this one does."""
    others = set(VALUES[mode])
    return frozenset(other for allowed in EVENTS[mode].values() if value in allowed for other in others - set(allowed))


# --- tables


def events_table() -> str:
    """What refutes what, as Markdown."""
    lines = ["| mode | event | allowed by | refutes |", "|---|---|---|---|"]
    for mode, events in EVENTS.items():
        for event, allowed in events.items():
            ordered = [value for value in VALUES[mode] if value in allowed]
            other = [value for value in VALUES[mode] if value not in allowed]
            lines.append(f"| `{mode}` | {event} | {_names(ordered)} | {_names(other)} |")
    return "\n".join(lines)


def modes_table() -> str:
    """What each machine is found to be, as Markdown: measured here and now."""
    lines = ["| machine | refuted | not contradicted |", "|---|---|---|"]
    for mode in EVENTS:
        for value in VALUES[mode] if mode != "memory-order" else ("sc",):
            found = here(session_of(mode, Modes(tlb="adversarial").with_option(f"{mode}={value}")))
            kept = [name for name in found.verdicts if name not in found.refuted]
            lines.append(f"| `{mode}={value}` | {_values(sorted(found.refuted))} | {_values(kept)} |")
    return "\n".join(lines)


def rules_table() -> str:
    """What is found with each rule off, as Markdown: measured here and now."""
    lines = ["| probe | rules that it is about | refuted with all | refuted without |", "|---|---|---|---|"]
    for probe, rules in RULES.items():
        usual = here(session_of(probe)).refuted
        without = [
            f"{rule.name}: {_names(sorted(here(session_of(probe, rules=ALL - {rule})).refuted))}" for rule in rules
        ]
        lines.append(
            f"| `probe-{probe}` | {_names([rule.name for rule in rules])} | {_names(sorted(usual))} | "
            f"{'; '.join(without)} |"
        )
    return "\n".join(lines)


def _names(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "nothing"


def _values(named: list[str]) -> str:
    return _names([name.partition("=")[2] for name in named])


def elsewhere_table(found: dict[str, Answers]) -> str:
    """What another machine has said to each probe, as Markdown."""
    lines = ["| probe | refuted | not contradicted | inconclusive |", "|---|---|---|---|"]
    for probe in PROBE_TITLES:
        by_how = {
            how: [name for name, verdict in found[probe].verdicts.items() if verdict.how == how]
            for how in (REFUTED, KEPT, INCONCLUSIVE)
        }
        lines.append(f"| `probe-{probe}` | {' | '.join(_names(names) for names in by_how.values())} |")
    return "\n".join(lines)


def main() -> None:
    """Print the tables of this machine."""
    sys.stdout.write("\n\n".join((events_table(), modes_table(), rules_table(), "")))


if __name__ == "__main__":
    main()
