"""Many trials: declared in a TOML file or systematic, in worker processes, resumed where a run was cut.

policies = ["switch-sp-ipi"]        # ids, files, or "all"
scenarios = ["laight", "wilcox"]
limit = 200                         # sites a fault and pair, at most

[[faults]]                          # a systematic one, at all its sites
what = "drop-ipi"

[[faults]]                          # or one of its own, as `kstack.fault.Fault` has it
what = "flip-pte"
when = { on = "at", place = "laight_watch+0x43", nth = 1 }
address = 0xffffc90000016000
bit = 0
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from kstack.base.digests import digest_of
from kstack.base.errors import ConfigError
from kstack.base.files import refused_as
from kstack.base.journal import INSIDE, WRONG, Log, parse
from kstack.base.toml import read_toml
from kstack.fault import Fault, Injector
from kstack.fault.records import described
from kstack.hw.modes import Modes
from kstack.inject.sites import SYSTEMATIC, NoBaselineError, census, faults_at
from kstack.inject.trial import Trial, TrialOutcome, TrialPair
from kstack.judge.pairs import versions
from kstack.kernels.known import usual_guests
from kstack.recording import RULES_VERSION, UNNAMED_RULES, image_hash, other_rules
from kstack.stacks.loading.registry import find_policy, policies, policy_hash

LIMIT: Final = 200  # sites a fault and pair, where nothing else is asked for
CHUNK: Final = 25  # trials of a batch, or so
Progress = Callable[[int, int], None]  # batches done, and all
Refused = Callable[[TrialPair, str], None]  # a pair in which nothing can be tried, and why


class Wanted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A campaign.

    Attributes:
        policies, scenarios: by name.
        systematic: faults that are tried at all their sites.
        single: faults of their own.
        limit: sites a systematic fault and pair, at most.
        modes: the machine's.
    """

    policies: list[str]
    scenarios: list[str]
    systematic: list[str] = []
    single: list[Fault] = []
    limit: int = LIMIT
    modes: dict[str, str] = {}


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    policies: list[str]
    scenarios: list[str]
    faults: list[dict[str, Any]]
    limit: int = LIMIT
    modes: dict[str, str] = {}


def read_campaign(path: Path) -> Wanted:
    """Read a campaign.

    Raises:
        ConfigError: it cannot be read, or something in it is wrong.
    """
    found = read_toml(path, _File)
    systematic, single = [], []
    for number, entry in enumerate(found.faults, 1):
        if set(entry) == {"what"} and entry["what"] in tuple(SYSTEMATIC):
            systematic.append(entry["what"])
            continue
        try:
            single.append(msgspec.convert(entry, Fault))
        except msgspec.ValidationError as error:
            raise ConfigError(f"campaign {path}: fault {number}: {error}") from error
    return Wanted(found.policies, found.scenarios, systematic, single, found.limit, found.modes)


def declared(fault: Fault) -> str:
    """A fault as a campaign's file declares it (TOML)."""
    plain = msgspec.to_builtins(fault)
    lines = ["[[faults]]"]
    for name, value in plain.items():
        if isinstance(value, dict):
            parts = ", ".join(f"{key} = {json.dumps(part)}" for key, part in value.items() if part is not None)
            lines.append(f"{name} = {{ {parts} }}")
        elif value is not None:
            lines.append(f"{name} = {json.dumps(value)}")
    return "\n".join(lines)


class TrialBatch(NamedTuple):
    """A pair, and some of what is tried in it: the work of one task.

    Attributes:
        pair: policy and scenario.
        systematic, single, limit: as in `Wanted`.
        part, parts: every so manieth trial of these, from which on.
    """

    pair: TrialPair
    systematic: tuple[str, ...]
    single: tuple[Fault, ...]
    limit: int
    part: int = 0
    parts: int = 1

    def trials(self) -> list[Trial]:
        """All trials, in order.

        Raises:
            NoBaselineError: the pair does not end without a fault.
        """
        found = census(self.pair)
        chosen = [each for what in self.systematic for each in faults_at(what, found, self.limit)]
        chosen += [(fault, described(fault.when)) for fault in self.single]
        return [Trial(self.pair, fault, site, found.usual) for fault, site in chosen[self.part :: self.parts]]

    def run(self) -> list[TrialOutcome]:
        """Try all."""
        return [trial.run() for trial in self.trials()]

    def tried(self) -> list[TrialOutcome] | str:
        """Outcomes of all; or why nothing can be tried in this pair."""
        try:
            return self.run()
        except NoBaselineError as error:
            return str(error)


def batches(wanted: Wanted) -> list[TrialBatch]:
    """A campaign's work.

    Raises:
        KstackError: a policy, scenario, fault or mode does not exist.
    """
    if wanted.limit < 1:
        raise ConfigError(f"limit {wanted.limit}: give 1 or more")
    for what in ("policies", "scenarios"):
        if not getattr(wanted, what):
            raise ConfigError(f"{what}: give one at least, or all")
    if not wanted.systematic and not wanted.single:
        raise ConfigError(f"faults: give one at least; there are {', '.join(SYSTEMATIC)}")
    modes = Modes.of(wanted.modes)
    names = list(policies()) if wanted.policies == ["all"] else list(dict.fromkeys(wanted.policies))
    places = list(usual_guests().scenarios()) if wanted.scenarios == ["all"] else list(dict.fromkeys(wanted.scenarios))
    for name in names:
        find_policy(name)
    for what in wanted.systematic:
        if what not in SYSTEMATIC:
            raise ConfigError(f"--faults {what}: one of all, {', '.join(SYSTEMATIC)}")
    pairs = [TrialPair(policy, usual_guests().scenario(place).id, modes) for policy in names for place in places]
    if wanted.single:
        for pair in pairs[: len(places)]:  # each scenario once
            Injector(pair.session(), wanted.single)
    made = []
    for pair in pairs:
        for what in dict.fromkeys(wanted.systematic):
            parts = -(-wanted.limit // CHUNK)
            made += [TrialBatch(pair, (what,), (), wanted.limit, part, parts) for part in range(parts)]
        parts = -(-len(wanted.single) // CHUNK)
        made += [TrialBatch(pair, (), tuple(wanted.single), wanted.limit, part, parts) for part in range(parts)]
    return made


def run(
    work: list[TrialBatch],
    jobs: int = 1,
    journal: Path | None = None,
    progress: Progress = lambda *_: None,
    refused: Refused = lambda *_: None,
) -> Iterator[tuple[TrialBatch, list[TrialOutcome]]]:
    """Try everything: each batch with its outcomes, in order; nothing depends on `jobs`.

    Args:
        work: what is to be tried.
        jobs: worker processes.
        journal: outcomes are kept there as they come, and not tried again if they are there already.
        progress: told after each batch.
        refused: told of pairs in which nothing can be tried, once each.

    Raises:
        ConfigError: the journal is of other files or another kstack, damaged, or cannot be written.
        KstackError: as `TrialBatch.run`.
    """
    known: dict[str, list[TrialOutcome] | str] = {} if journal is None else dict(_read(journal))
    names = [_name(batch) for batch in work]
    left = {name: batch for batch, name in zip(work, names, strict=True) if name not in known}
    executor = ProcessPoolExecutor(min(jobs, len(left))) if jobs > 1 and len(left) > 1 else None
    told: set[TrialPair] = set()
    try:
        fresh = _fresh(left, executor)
        for number, (batch, name) in enumerate(zip(work, names, strict=True), 1):
            while name not in known:
                other, outcomes = next(fresh)
                known[other] = outcomes
                if journal is not None and not isinstance(outcomes, str):
                    _append(journal, other, outcomes)
            progress(number, len(work))
            found = known.pop(name)
            if not isinstance(found, str):
                yield batch, found
            elif batch.pair not in told:
                told.add(batch.pair)
                refused(batch.pair, found)
    finally:
        if executor is not None:
            executor.shutdown(cancel_futures=True)


def _fresh(
    left: dict[str, TrialBatch], executor: ProcessPoolExecutor | None
) -> Iterator[tuple[str, list[TrialOutcome] | str]]:
    """Names and outcomes, as they come."""
    if executor is None:
        yield from ((name, batch.tried()) for name, batch in left.items())
        return
    futures = {executor.submit(TrialBatch.tried, batch): name for name, batch in left.items()}
    for future in as_completed(futures):
        yield futures[future], future.result()


def _name(batch: TrialBatch) -> str:
    """What identifies a batch: all that its outcomes depend on."""
    pair = batch.pair
    return digest_of(
        {
            **versions(),
            "policy": policy_hash(pair.policy),
            "image": image_hash(usual_guests().image(pair.scenario)),
            "pair": [pair.policy, pair.scenario, pair.modes.as_dict()],
            "faults": [list(batch.systematic), msgspec.to_builtins(batch.single), batch.limit, batch.part, batch.parts],
        }
    )


def _append(journal: Path, name: str, outcomes: list[TrialOutcome]) -> None:
    document = {"batch": name, "rules": RULES_VERSION, "outcomes": msgspec.to_builtins(outcomes)}
    with refused_as(f"--resume {journal}"), Log(journal, INSIDE) as log:
        log.add(document)


def _read(journal: Path) -> dict[str, list[TrialOutcome]]:
    """Batches that are done; a torn line goes, so that what comes next has a line of its own."""
    try:
        data = journal.read_bytes() if journal.exists() else b""
    except OSError as error:
        raise ConfigError(f"--resume {journal} cannot be read: {error}") from error
    documents, size, damage = parse(data, INSIDE)
    found: dict[str, list[TrialOutcome]] = {}
    for number, document in enumerate(documents, 1):
        try:
            name = document["batch"]
            if not isinstance(name, str):
                raise TypeError("a batch is named by a text")
            found[name] = msgspec.convert(document["outcomes"], list[TrialOutcome])
            why = other_rules(document.get("rules", UNNAMED_RULES))
        except WRONG as error:  # msgspec.ValidationError, too, which is a ValueError
            raise _damaged(journal, number, error) from error
        if why is not None:
            raise ConfigError(f"--resume {journal} {why}; give a new file")
    if damage is not None:
        raise _damaged(journal, damage.line, damage.why)
    if size < len(data):
        with refused_as(f"--resume {journal}"), Log(journal, INSIDE) as log:
            log.cut(size)
    return found


def _damaged(journal: Path, line: int, why: object) -> ConfigError:
    return ConfigError(f"--resume {journal}: line {line} is damaged ({why}); give a new file")
