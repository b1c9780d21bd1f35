"""What is looked for in the counts, and which values of a mode it refutes.

One event refutes: what a value says never happens has happened. That it was no noise is told by the same trials without an attack:
an event is believed if it was seen more often than there, by 99.9 % intervals. What was never seen refutes nothing, and bounds a rate.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from kstack.base.documents import Document
from kstack.probe.bounds import Rate
from kstack.probe.questions import (
    CACHED,
    CLEAN,
    CLEAR,
    IDLE_CLEAR,
    IDLE_SET,
    KEPT,
    REWALK,
    SET,
    STORE,
    UNASKED,
    Arm,
    Question,
)
from kstack.probe.tally import ACCESSED, DATA, DIRTY, ENTRY, Tallies


class Sight(NamedTuple):
    """Something that may be seen.

    Attributes:
        name: short, for JSON.
        text: in words.
        having: what a trial has seen then.
        without: and what it has not.
        refutes: the values that say it never happens.
    """

    name: str
    text: str
    having: tuple[str, ...]
    without: tuple[str, ...]
    refutes: tuple[str, ...]


MARKED: Final = Sight("accessed", "A is set", (ACCESSED,), (), ("none", "needs-accessed", "keeps-accessed-clear"))
DATA_UNMARKED: Final = Sight(
    "data", "the line comes, and A stays clear", (DATA,), (ACCESSED,), ("none", "needs-accessed", "sets-accessed")
)
ENTRY_UNMARKED: Final = Sight(
    "entry",
    "a translation is cached, and A stays clear",
    (ENTRY,),
    (ACCESSED,),
    ("none", "needs-accessed", "sets-accessed"),
)
DATA_THROUGH: Final = Sight("data", "the line comes where A is set", (DATA,), (), ("none",))
ENTRY_THROUGH: Final = Sight("entry", "a translation is cached where A is set", (ENTRY,), (), ("none",))
WALKED: Final = Sight("walked", "it sets A again, so it has gone to the entry", (ACCESSED, DIRTY), (), ("no",))
UNWALKED: Final = Sight("unwalked", "it sets D, and leaves A clear", (DIRTY,), (ACCESSED,), ("yes",))

WHERE_CLEAR: Final = (MARKED, DATA_UNMARKED, ENTRY_UNMARKED)
WHERE_SET: Final = (DATA_THROUGH, ENTRY_THROUGH)


class Evidence(NamedTuple):
    """How often something was seen.

    Attributes:
        question: asked.
        arm: its trials.
        sight: what was looked for.
        rate: how often it was seen.
        noise: and how often where it cannot be the attack's.
    """

    question: Question
    arm: str
    sight: Sight
    rate: Rate
    noise: Rate

    @property
    def believed(self) -> bool:
        """Whether it happened: more of it was seen than noise explains."""
        return self.rate.exceeds(self.noise)

    def doubts(self, value: str) -> bool:
        """Whether it would refute a value if it happened, and was seen, too seldom to tell: more often than without the attack."""
        return value in self.sight.refutes and not self.believed and self.rate.share > self.noise.share

    def __str__(self) -> str:
        """It, with its counts."""
        noise = f"; {self.noise.count} of {self.noise.of} without" if self.noise.count or not self.believed else ""
        return f"{self.question.text}: {self.sight.text} in {self.rate.count} of {self.rate.of} trials{noise}"

    def as_dict(self) -> Document:
        """It, for JSON."""
        return {
            "arm": self.arm,
            "sight": self.sight.name,
            "text": self.sight.text,
            "count": self.rate.count,
            "of": self.rate.of,
            "bounds": [round(bound, 6) for bound in self.rate.bounds()],
            "noise": {"count": self.noise.count, "of": self.noise.of},
            "believed": self.believed,
            "refutes": list(self.sight.refutes) if self.believed else [],
        }


def speculation_evidence(tallies: Tallies, questions: tuple[Question, ...] = UNASKED) -> tuple[Evidence, ...]:
    """What speaks of the mode `speculation`: of accesses that no instruction asked for."""
    return tuple(one for question in questions for one in _speculative(tallies, question))


def _speculative(tallies: Tallies, question: Question) -> Iterator[Evidence]:
    for arm, idle, sights in ((CLEAR, IDLE_CLEAR, WHERE_CLEAR), (SET, IDLE_SET, WHERE_SET)):
        for sight in sights:
            rate, noise = (_rate(tallies, Arm(question.name, one), sight) for one in (arm, idle))
            yield Evidence(question, arm, sight, rate, noise)


def rewalk_evidence(tallies: Tallies) -> tuple[Evidence, ...]:
    """What speaks of the mode `dirty-rewalk`.

    A of the entry was cleared behind its translation, so that A tells whether the store went to the entry. It is noise if a load
    finds A set too: the translation was lost. And if a store that must walk leaves A clear, A tells nothing.
    """
    kept = tallies[Arm(KEPT.name, CACHED)].rate(ACCESSED)
    return (
        Evidence(REWALK, CACHED, WALKED, _rate(tallies, Arm(REWALK.name, CACHED), WALKED), kept),
        Evidence(
            REWALK,
            CACHED,
            UNWALKED,
            _rate(tallies, Arm(REWALK.name, CACHED), UNWALKED),
            _rate(tallies, Arm(STORE.name, CLEAN), UNWALKED),
        ),
    )


def _rate(tallies: Tallies, arm: Arm, sight: Sight) -> Rate:
    return tallies[arm].rate(*sight.having, without=sight.without)
