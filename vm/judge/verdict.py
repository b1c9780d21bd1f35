"""A policy against a scenario: which runs are made, and what they say together.

A pair is run under the scenario's script, round robin at several quanta, and random schedules by
seed, all from one booted state. One unexpected finding makes it unsafe. Without one it is safe as
far as these runs go, if they exercised anything: a policy that cleared entries of living threads
while no access could ever have gone two ways has shown nothing, and one that is there to reclaim and
never did has done nothing here. Only one that reclaims nothing by design is safe without having been asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from kstack.base.documents import Document
from kstack.base.errors import ConfigError, PolicyError
from kstack.explore.breadth_first import Bounds, Outcome, Problem, search
from kstack.hw.modes import Modes
from kstack.kernels.known import usual_guests
from kstack.kernels.scenario import Scenario
from kstack.machine import size
from kstack.recording import Recording
from kstack.run.booted import BootedScenario
from kstack.run.boots import booted
from kstack.run.expected import unexpected
from kstack.run.options import RunOptions
from kstack.run.result import RunResult
from kstack.run.spec import RunSpec, script_of
from kstack.run.statistics import detail_of, operations_of, totals_of, usage_of
from kstack.sanitizer.findings import Finding, Kind
from kstack.schedule import RandomSchedule, RoundRobin, Scheduler, ScriptedSchedule
from kstack.stacks.host.pool import PoolConfig
from kstack.stacks.loading.registry import find_policy
from kstack.stacks.measure.costs import CostModel, Cycles, cycles
from kstack.stacks.policy import Policy

QUANTA: Final = (10, 100, 1000)
LITMUS_QUANTA: Final = (1, 10, 100, 1000)  # one instruction at a time is slow where there are many
DEFAULT_SCHEDULES: Final = 20
LITMUS_SCHEDULES: Final = 200  # of a scenario of a few dozen operations
ENOUGH: Final = 3  # runs with an unexpected finding after which a pair is decided
MEASURED_QUANTUM: Final = 1000  # of the run that is measured: long enough for nobody to wait for the schedule
KEPT_FINDINGS: Final = 4
NEVER: Final = "never reclaims, by design"


def quanta_of(scenario: Scenario) -> list[int]:
    """Round-robin quanta at which a scenario is run (units of virtual time)."""
    return list(scenario.quanta or (LITMUS_QUANTA if scenario.litmus else QUANTA))


@dataclass(frozen=True)
class Portfolio:
    """Which runs a pair gets.

    Attributes:
        schedules: number of random schedules, seeds 0, 1, 2, ..., whatever the scenario says. None for the usual
            number: 20, and 200 for a litmus scenario; a long scenario may say fewer.
        pool: how page pools behave.
        enough: runs with an unexpected finding after which no more are made.
        explore: seconds in which all interleavings of a litmus scenario are tried as well; None does not.
    """

    schedules: int | None = None
    pool: PoolConfig = PoolConfig()
    enough: int = ENOUGH
    explore: float | None = None

    def schedules_of(self, scenario: Scenario) -> int:
        """Random schedules that a scenario gets."""
        if self.schedules is not None:
            return self.schedules
        usual = LITMUS_SCHEDULES if scenario.litmus else DEFAULT_SCHEDULES
        return usual if scenario.schedules is None else min(usual, scenario.schedules)

    def runs(self, scenario: Scenario) -> Iterator[Scheduler]:
        """Fresh schedules, the script first."""
        if scenario.script:
            yield ScriptedSchedule(script_of(scenario))
        for quantum in quanta_of(scenario):
            yield RoundRobin(quantum)
        for seed in range(self.schedules_of(scenario)):
            yield RandomSchedule(seed)


@dataclass(frozen=True)
class Judgement:
    """What the runs of one pair say.

    Attributes:
        safe: True, False, or None where the runs do not decide it.
        reclaims: the policy takes pages from living threads; else it says that it does not, by design.
        did_nothing: it reclaims, and in none of these runs it did.
        basis: `scripted` or `sampled`; of the run that found something, else of all.
        reason: one sentence: why undecided, or what `safe` rests on.
        exercised: accesses that could have gone two ways, over all runs.
        finding: the first unexpected one, or None.
        found_by: name of the schedule that found it.
        runs: how many were made.
        hits: in how many of them there was an unexpected finding.
        witness: what repeats the first of those, or None.
        reference: a run of its own that is measured and not judged: round robin, and no speculative
            fills or evictions; memory and costs are taken from it. None if the policy failed.
    """

    policy: str
    scenario: str
    safe: bool | None
    basis: str
    reason: str
    exercised: int
    finding: Finding | None
    found_by: str | None
    runs: int
    hits: int
    reference: RunResult | None
    modes: Modes
    portfolio: Portfolio
    findings: tuple[Finding, ...] = ()
    witness: Recording | None = None
    reclaims: bool = True
    did_nothing: bool = False

    @property
    def verdict(self) -> str:
        """In one word: `safe`, `unsafe`, `did-nothing`, or `undecided` for everything else."""
        if self.safe is not None:
            return "safe" if self.safe else "unsafe"
        return "did-nothing" if self.did_nothing else "undecided"

    def cycles(self, model: CostModel | None = None) -> Cycles | None:
        """What the policy cost in the reference run, by a cost model (None: kstack's own)."""
        return None if self.reference is None else cycles(operations_of(self.reference), model)

    def as_dict(self, witness: str | None = None, model: CostModel | None = None) -> Document:
        """The result object of `kstack compare --json`; `witness` is the file that repeats the finding."""
        total, found = self.cycles(model), usual_guests().scenario(self.scenario)
        run = self.reference
        return {
            "policy": self.policy,
            "scenario": self.scenario,
            "safe": self.safe,
            "verdict": self.verdict,
            "basis": self.basis,
            "reason": self.reason,
            "reclaims": self.reclaims,
            "modes": self.modes.as_dict(),
            "exercised": self.exercised,
            "finding": None if self.finding is None else self.finding.as_dict(),
            "found_by": self.found_by,
            "witness": witness,
            "bound": {
                "runs": self.runs,
                "random": self.portfolio.schedules_of(found),
                "round_robin": quanta_of(found),
            },
            "hits": self.hits,
            "measured": None if run is None else {"ended": run.ended, "exit_value": run.exit_value, "time": run.time},
            "kib_per_thread": None if run is None else run.kib_per_thread,
            "cycles": None if total is None else {"low": total.low, "nominal": total.nominal, "high": total.high},
            "counts": None if run is None else totals_of(run),
            "detail": None if run is None else detail_of(run),
            "usage": None if run is None else usage_of(run),
        }


def judge(
    policy: type[Policy],
    scenario: Scenario,
    guest: BootedScenario,
    portfolio: Portfolio,
    modes: Modes,
    name: str | None = None,
) -> Judgement:
    """Run a pair's whole portfolio and sum it up.

    Args:
        policy: the policy's class; each run gets an object of its own.
        scenario: what runs.
        guest: its guest.
        portfolio: which runs.
        modes: the modes `guest` was booted with.
        name: what finds the policy again when a witness is replayed; without it there is no witness.

    Raises:
        PolicyError: the policy did what no policy may.
    """
    options = RunOptions(max_time=scenario.max_instructions, pool=portfolio.pool, hashed=False, exact_pools=True)
    results: list[tuple[Scheduler, RunResult, tuple[Finding, ...]]] = []
    witness: Recording | None = None
    for seed, scheduler in enumerate(portfolio.runs(scenario)):
        options = replace(options, adversary=seed)
        session = guest.session(policy(), scheduler, options)
        result = session.run()
        found = unexpected(scenario, result)
        results.append((scheduler, result, found))
        if found and witness is None and name is not None:
            config = guest.machine.config
            setup = RunSpec(scenario.id, config.cpus, config.ram, modes, name, options)
            witness = setup.recording(session.choices, replace(result, state_hash=session.machine.state_hash()))
        if sum(bool(one) for _, _, one in results) >= portfolio.enough:
            break
    measured = guest.session(policy(), RoundRobin(MEASURED_QUANTUM), replace(options, undisturbed=True)).run()
    hits = [(scheduler, found) for scheduler, _, found in results if found]
    said = _verdict(results, policy.reclaims)
    finding = hits[0][1][0] if hits else None
    scripted = hits[0][0].name == "scripted" if hits else False
    return Judgement(
        policy=policy.id,
        scenario=scenario.id,
        safe=said.safe,
        basis="scripted" if scripted else "sampled",
        reason=said.reason,
        exercised=sum(result.exercised for _, result, _ in results),
        finding=finding,
        found_by=hits[0][0].name if hits else None,
        runs=len(results),
        hits=len(hits),
        reference=measured,
        modes=modes,
        portfolio=portfolio,
        findings=hits[0][1][:KEPT_FINDINGS] if hits else (),
        witness=witness,
        reclaims=policy.reclaims,
        did_nothing=said.did_nothing,
    )


@dataclass(frozen=True)
class JudgedPair:
    """A policy and a scenario by name, and the runs they get: all that another process needs."""

    policy: str
    scenario: str
    portfolio: Portfolio
    modes: Modes

    def judge(self) -> Judgement:
        """Boot the scenario and judge the pair."""
        scenario = usual_guests().scenario(self.scenario)
        policy = find_policy(self.policy)
        modes = self.modes.resolved(policy.delivery)
        sampled_modes = modes if self.portfolio.explore is None else replace(modes, memory_order="sc")
        guest = booted(scenario.id, scenario.cpus, size(scenario.ram), sampled_modes)
        try:
            sampled = judge(policy, scenario, guest, self.portfolio, sampled_modes, self.policy)
            if self.portfolio.explore is None or not scenario.litmus:
                return sampled
            outcome = search(Problem(self.scenario, self.policy, modes), Bounds(budget=self.portfolio.explore))
            return _explored(sampled, outcome, modes)
        except (PolicyError, ConfigError) as error:
            return self._failed(policy, str(error), modes)

    def _failed(self, policy: type[Policy], error: str, modes: Modes) -> Judgement:
        """What can be said of a policy that did what no policy may, or of pools that this guest cannot fill.

        The other pairs are judged all the same.
        """
        return Judgement(
            policy=policy.id,
            scenario=self.scenario,
            safe=None,
            basis="sampled",
            reason=error,
            exercised=0,
            finding=None,
            found_by=None,
            runs=0,
            hits=0,
            reference=None,
            modes=modes,
            portfolio=self.portfolio,
            reclaims=policy.reclaims,
        )


def _explored(sampled: Judgement, outcome: Outcome, modes: Modes) -> Judgement:
    """A judgement by all interleavings, under these modes; what a sampled run has found stays found.

    A proof in which nothing was exercised leaves it at what the runs have said, unless the policy reclaims nothing by
    design.
    """
    if outcome.verdict != "unsafe" and sampled.safe is False:
        return sampled
    whole = replace(sampled, basis="exhaustive", modes=modes, did_nothing=False)
    if outcome.verdict == "safe" and sampled.reclaims and not outcome.exercised:
        return replace(sampled, reason=f"{sampled.reason}; all {outcome.states} states ask nothing of it")
    if outcome.verdict == "safe":
        reason = f"no violation in all {outcome.states} states" + ("" if outcome.exercised else f"; {NEVER}")
        return replace(whole, safe=True, reason=reason, exercised=outcome.exercised)
    if outcome.verdict != "unsafe":
        return replace(whole, safe=None, reason=f"undecided after {outcome.states} states: {outcome.cut}")
    reason = f"shortest way: {len(outcome.path)} operations"
    finding = outcome.finding
    if finding is None:
        text = f"no end can be reached from {outcome.stuck} of {outcome.states} states"
        finding = Finding(Kind.LIVELOCK, outcome.path[-1].cpu if outcome.path else 0, "-", 0, 0, text)
    return replace(
        whole,
        safe=False,
        reason=reason,
        exercised=outcome.exercised,
        finding=finding,
        found_by="exploration",
        findings=(finding,),
    )


class _Said(NamedTuple):
    """What runs say of a pair: `safe`, `reason` and `did_nothing` as in `Judgement`."""

    safe: bool | None
    reason: str
    did_nothing: bool = False


def _verdict(results: list[tuple[Scheduler, RunResult, tuple[Finding, ...]]], reclaims: bool) -> _Said:
    runs = len(results)
    hits = sum(bool(found) for _, _, found in results)
    if hits:
        return _Said(False, f"found in {hits} of {runs}")
    for scheduler, result, _ in results:
        if result.stuck:
            return _Said(None, f"under {scheduler.name}: {result.stuck}")
        if result.ended != "exit":
            return _Said(None, f"under {scheduler.name} the guest did not end ({result.ended}: {result.reason})")
        if not result.passed:
            last = result.serial.strip().rsplit("\n", 1)[-1] or result.reason
            return _Said(None, f"under {scheduler.name} the guest gave up: {last}")
    exercised = sum(result.exercised for _, result, _ in results)
    unmaps = sum(result.unmaps for _, result, _ in results)
    if exercised:
        return _Said(True, f"none found in {runs}")
    if unmaps:
        return _Said(None, f"not exercised in {runs}")
    if reclaims:
        return _Said(None, f"reclaimed nothing in {runs}", did_nothing=True)
    return _Said(True, f"{NEVER}, in {runs}")
