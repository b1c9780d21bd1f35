"""Which values of a mode the trials refute, and to which they point.

A value that was not refuted is not proved, and what was seen too seldom to be told from noise leaves none: a processor *may* do what it was never seen to do. So the rest have a bound, and a mode
has a value where one remains, or where what the others say was bounded below `LIMIT` for every gadget that works.

    speculation            refuted by
      none                 anything that comes, or is cached, without an instruction that asked
      needs-accessed       A that is set by it; a line or translation through an entry whose A is clear and stays clear
      sets-accessed        a line or translation through an entry whose A is clear and stays clear
      keeps-accessed-clear A that is set by it

    dirty-rewalk
      no                   a store through an entry cached with D=0 that goes to the entry again (it sets A there)
      yes                  one that sets D and does not
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from kstack.base.documents import Document
from kstack.hw.modes import VALUES
from kstack.probe.controls import ProbeControl
from kstack.probe.evidence import DATA_UNMARKED, ENTRY_UNMARKED, MARKED, Evidence
from kstack.probe.questions import CLEAR, SET

LIMIT: Final = 0.01
"""Rate below which what was never, or hardly ever, seen is left out of account."""
WORKS: Final = 0.5
"""Share of trials with A set in which a gadget gets through, for its silence with A clear to say something."""
SHOWN_BY: Final = {"sets-accessed": (MARKED,), "keeps-accessed-clear": (DATA_UNMARKED, ENTRY_UNMARKED)}
"""What would be seen of a processor that does as a value says, and of none that does as `needs-accessed` says."""


@dataclass(frozen=True)
class ModeVerdict:
    """What a probe says of one mode.

    Attributes:
        mode: its name.
        value: to which the trials point, or None.
        why: in a sentence.
        refuted: by value, what has refuted it.
        bounded: by value that was not refuted and is not `value`, the rate that it can have at the most.
        evidence: all that was looked for.
        controls: all that must hold.
    """

    mode: str
    value: str | None
    why: str
    refuted: Mapping[str, Sequence[Evidence]] = field(default_factory=dict)
    bounded: Mapping[str, float] = field(default_factory=dict)
    evidence: Sequence[Evidence] = ()
    controls: Sequence[ProbeControl] = ()

    @property
    def conclusive(self) -> bool:
        """Whether there is a value: all controls held, and every other is refuted or bounded."""
        return self.value is not None

    @property
    def asked_of(self) -> list[str]:
        """What was tried and does something: for these the verdict holds. What does nothing tells nothing."""
        return list(
            dict.fromkeys(one.question.text for one in self.evidence if one.believed and one.rate.at_least() >= WORKS)
        )

    @property
    def left(self) -> list[str]:
        """Values that the trials do not contradict; none where there are no trials that count."""
        return [value for value in VALUES[self.mode] if value not in self.refuted] if self.evidence else []


def inconclusive(mode: str, why: str, controls: Sequence[ProbeControl] = ()) -> ModeVerdict:
    """Of a mode of which nothing can be said."""
    return ModeVerdict(mode, None, why, controls=controls)


def verdict(mode: str, evidence: Sequence[Evidence], controls: Sequence[ProbeControl], complete: bool) -> ModeVerdict:
    """What the trials say of a mode.

    Args:
        mode: `speculation` or `dirty-rewalk`.
        evidence: of it.
        controls: of it.
        complete: whether all trials were made that were asked for.
    """
    failed = [one for one in controls if not one.held]
    if failed:
        why = f"control {failed[0].name} failed: {failed[0]}"
        return inconclusive(mode, why if complete else f"interrupted; {why}", controls)
    refuted = _refuted(evidence)
    bounded = _bounded(evidence) if mode == "speculation" and "none" in refuted else {}
    value, why = _pointed_at(mode, refuted, bounded, evidence)
    if not complete:
        value, why = None, "interrupted"
    rest = {one: bound for one, bound in bounded.items() if one not in refuted and one != value}
    return ModeVerdict(mode, value, why, refuted, rest, evidence, controls)


def _refuted(evidence: Iterable[Evidence]) -> dict[str, list[Evidence]]:
    found: dict[str, list[Evidence]] = {}
    for one in evidence:
        for value in one.sight.refutes if one.believed else ():
            found.setdefault(value, []).append(one)
    return found


def _pointed_at(
    mode: str, refuted: Mapping[str, object], bounded: Mapping[str, float], evidence: Iterable[Evidence]
) -> tuple[str | None, str]:
    """The value that the trials point to, and why; or None, and why not."""
    left = [value for value in VALUES[mode] if value not in refuted]
    if len(left) == 1:
        return left[0], "every other value is refuted"
    if not left:
        return None, "every value is refuted: this processor does not do one thing"
    if not refuted:
        return None, "nothing that was tried shows what it does"
    wide = [
        f"{one} may be as often as {bounded.get(one, 1.0):.2%}" for one in SHOWN_BY if bounded.get(one, 1.0) >= LIMIT
    ]
    if wide:
        return None, f"too little is excluded: {', '.join(wide)}"
    doubts = [one for one in evidence if one.doubts("needs-accessed")]
    if doubts:
        return None, f"it may be noise, and may be none: {doubts[0]}"
    return "needs-accessed", f"what the others say was hardly ever seen, or never: in less than {LIMIT:.0%} of trials"


def _bounded(evidence: Sequence[Evidence]) -> dict[str, float]:
    """How often, at the most, a gadget that works does what shows a value; the worst of all gadgets."""
    found: dict[str, float] = {}
    for value, sights in SHOWN_BY.items():
        bounds = [_bound(one, evidence) for one in evidence if one.arm == CLEAR and one.sight in sights]
        known = [bound for bound in bounds if bound is not None]
        if known:
            found[value] = max(known)
    return found


def _bound(one: Evidence, evidence: Iterable[Evidence]) -> float | None:
    """The most of what one kind of trial may have done unseen; None if it would not have been seen.

    What is seen of a gadget with A set is how well it is seen at all. A is seen in itself, if the gadget does anything.
    """
    through = [
        two.rate.at_least()
        for two in evidence
        if two.question == one.question
        and two.arm == SET
        and two.believed
        and (one.sight is MARKED or two.sight.name == one.sight.name)
    ]
    best = max(through, default=0.0)
    return one.rate.at_most() / best if best >= WORKS else None


def as_dict(found: ModeVerdict) -> Document:
    """A verdict, but for its trials, for JSON."""
    return {
        "value": found.value,
        "conclusive": found.conclusive,
        "why": found.why,
        "refuted": {value: [str(one) for one in why] for value, why in found.refuted.items()},
        "not_contradicted": found.left,
        "asked_of": found.asked_of,
        "bounded_below": {value: round(bound, 6) for value, bound in found.bounded.items()},
        "controls": {one.name: one.as_dict() for one in found.controls},
    }
