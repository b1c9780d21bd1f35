"""What is fuzzed: for each format a function that takes an input as far as kstack itself takes such a file.

A digest guards a file against accidents, not against its author: where a format has one, the target puts the right
one into what it is given, so that inputs get behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from tests.fuzz import code, documents, searches, tables, texts
from tests.support.command import ROOT

CORPUS: Final = ROOT / "tests" / "fuzz" / "corpus"


class Target(NamedTuple):
    """One format.

    Attributes:
        run: takes an input; raises nothing but a `KstackError`.
        seeds: valid inputs, or nearly, to begin from.
        tries: mutants in one run of the tests, by what they cost.
    """

    run: Callable[[bytes], object]
    seeds: Callable[[], Sequence[bytes]]
    tries: int


TARGETS: Final[dict[str, Target]] = {
    "image": Target(code.image, code.images, 700),
    "elf": Target(code.elf, code.elfs, 4000),
    "policy": Target(code.policy, code.policies, 400),
    "scenario": Target(texts.scenario, texts.scenarios, 1500),
    "toml": Target(texts.toml, texts.tomls, 1500),
    "campaign": Target(texts.campaign, texts.campaigns, 1500),
    "words": Target(texts.words, texts.some_words, 4000),
    "packets": Target(texts.packets, texts.some_packets, 1000),
    "recording": Target(documents.recording, documents.recordings, 1500),
    "replay": Target(documents.replay, documents.recordings, 300),
    "journal": Target(documents.journal, documents.journals, 1500),
    "witness": Target(documents.witness, documents.witnesses, 1000),
    "probe": Target(documents.probe, documents.probes, 1500),
    "checkpoint": Target(searches.checkpoint, searches.checkpoints, 150),
    "trace": Target(tables.trace, tables.traces, 1000),
    "parquet": Target(tables.parquet, tables.parquets, 100),
}


def kept(name: str) -> list[tuple[str, bytes]]:
    """The kept inputs of a target, with their names: they have found something once, or reach far."""
    return [(path.name, path.read_bytes()) for path in sorted((CORPUS / name).glob("*")) if path.is_file()]
