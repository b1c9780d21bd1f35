"""A policy against a scenario: which runs are made, and what they say together.

A pair is run under the scenario's script, round robin at several quanta, and random schedules by
seed, all from one booted state. One unexpected finding makes it unsafe. Without one it is safe as
far as these runs go, if they exercised anything: a policy that cleared entries of living threads
while no access could ever have gone two ways has shown nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Final

from guest.scenario import Scenario
from vm.coherence import Finding, Kind
from vm.errors import PolicyError, ScenarioError
from vm.hw.modes import Modes
from vm.machine import size
from vm.recording import Recording
from vm.scenarios import find_image, find_scenario
from vm.schedule import RandomSchedule, RoundRobin, Scheduler, Script, ScriptedSchedule, ScriptStep
from vm.session import GUEST_FAILED, GUEST_PASSED, BootedScenario, RunOptions, RunResult
from vm.setup import Setup
from vm.stacks.costs import Cycles, cycles
from vm.stacks.policy import Policy
from vm.stacks.pool import PoolConfig
from vm.stacks.registry import find_policy

QUANTA: Final = (1, 10, 100, 1000)
DEFAULT_SCHEDULES: Final = 20
GAVE_UP: Final = "waited too long"  # what guests print when a bounded wait ends; no word about data


@dataclass(frozen=True)
class Portfolio:
    """Which runs a pair gets.

    Attributes:
        schedules: number of random schedules, seeds 0, 1, 2, ...
        pool: how page pools behave.
    """

    schedules: int = DEFAULT_SCHEDULES
    pool: PoolConfig = PoolConfig()

    def runs(self, scenario: Scenario) -> Iterator[Scheduler]:
        """Fresh schedules, the script first."""
        if scenario.script:
            yield ScriptedSchedule(script_of(scenario))
        for quantum in QUANTA:
            yield RoundRobin(quantum)
        for seed in range(self.schedules):
            yield RandomSchedule(seed)


@dataclass(frozen=True)
class Judgement:
    """What the runs of one pair say.

    Attributes:
        safe: True, False, or None where the runs do not decide it.
        basis: `scripted` or `sampled`; of the run that found something, else of all.
        reason: one sentence: why undecided, or what `safe` rests on.
        exercised: accesses that could have gone two ways, over all runs.
        finding: the first unexpected one, or None.
        found_by: name of the schedule that found it.
        runs: how many were made.
        hits: in how many of them there was an unexpected finding.
        witness: what repeats the first of those, or None.
        reference: the first run, from which costs are taken; None if the policy failed.
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

    @property
    def cycles(self) -> Cycles | None:
        """What the policy cost in the reference run."""
        if self.reference is None:
            return None
        faults = sum(cpu["page_faults"] for cpu in self.reference.cpus)
        invlpg = sum(cpu["invlpg"] for cpu in self.reference.cpus)
        return cycles(self.reference.counts, faults, invlpg)

    def as_dict(self, witness: str | None = None) -> dict[str, Any]:
        """The result object of `kstack compare --json`; `witness` is the file that repeats the finding."""
        total = self.cycles
        return {
            "policy": self.policy,
            "scenario": self.scenario,
            "safe": self.safe,
            "basis": self.basis,
            "reason": self.reason,
            "exercised": self.exercised,
            "finding": None if self.finding is None else self.finding.as_dict(),
            "found_by": self.found_by,
            "witness": witness,
            "bound": {"runs": self.runs, "random": self.portfolio.schedules, "round_robin": list(QUANTA)},
            "hits": self.hits,
            "kib_per_thread": None if self.reference is None else self.reference.kib_per_thread,
            "cycles": None if total is None else {"low": total.low, "nominal": total.nominal, "high": total.high},
            "counts": self._counts(),
        }

    def _counts(self) -> dict[str, int] | None:
        """Exact counts of the reference run."""
        run = self.reference
        if run is None:
            return None
        counts = run.counts
        return {
            "faults": sum(cpu["page_faults"] for cpu in run.cpus),
            "pte_writes": counts.pte_writes + counts.pte_exchanges,
            "invlpg": counts.invlpg + sum(cpu["invlpg"] for cpu in run.cpus),
            "ipis": counts.ipis,
            "walks": sum(cpu["walks"] for cpu in run.cpus),
            "switches": counts.switches,
            "syscalls": counts.syscalls,
        }


def script_of(scenario: Scenario) -> Script:
    """The scenario's script as a schedule takes it.

    Raises:
        ScenarioError: it has none.
    """
    if not scenario.script:
        raise ScenarioError(f"scenario {scenario.id} has no script; use round-robin or random")
    return Script(tuple(ScriptStep(entry.cpu, entry.until) for entry in scenario.script))


def boot(
    scenario: Scenario, ram: int | None = None, modes: Modes | None = None, cpus: int | None = None
) -> BootedScenario:
    """Build a scenario's guest and boot it.

    Raises:
        ScenarioError: it wants more CPUs than it is given, or does not boot.
    """
    cpus = scenario.cpus if cpus is None else cpus
    if cpus < scenario.cpus:
        raise ScenarioError(f"scenario {scenario.id} needs {scenario.cpus} CPUs; give --cpus {scenario.cpus} or more")
    return BootedScenario(find_image(scenario.id), scenario.id, cpus, ram or size(scenario.ram), modes)


def judge(
    policy: type[Policy],
    scenario: Scenario,
    booted: BootedScenario,
    portfolio: Portfolio,
    modes: Modes,
    name: str | None = None,
) -> Judgement:
    """Run a pair's whole portfolio and sum it up.

    Args:
        policy: the policy's class; each run gets an object of its own.
        scenario: what runs.
        booted: its guest.
        portfolio: which runs.
        modes: the modes `booted` was booted with.
        name: what finds the policy again when a witness is replayed; without it there is no witness.

    Raises:
        PolicyError: the policy did what no policy may.
    """
    options = RunOptions(max_time=scenario.max_instructions, pool=portfolio.pool)
    results: list[tuple[Scheduler, RunResult, tuple[Finding, ...]]] = []
    witness: Recording | None = None
    for seed, scheduler in enumerate(portfolio.runs(scenario)):
        options = replace(options, adversary=seed)
        session = booted.session(policy(), scheduler, options)
        result = session.run()
        found = unexpected(scenario, result)
        results.append((scheduler, result, found))
        if found and witness is None and name is not None:
            config = booted.machine.config
            setup = Setup(scenario.id, config.cpus, config.ram, modes, name, options)
            witness = setup.recording(session.choices, result)
    hits = [(scheduler, found) for scheduler, _, found in results if found]
    safe, reason = _verdict(results)
    finding = hits[0][1][0] if hits else None
    scripted = hits[0][0].name == "scripted" if hits else False
    return Judgement(
        policy=policy.id,
        scenario=scenario.id,
        safe=safe,
        basis="scripted" if scripted else "sampled",
        reason=reason,
        exercised=sum(result.exercised for _, result, _ in results),
        finding=finding,
        found_by=hits[0][0].name if hits else None,
        runs=len(results),
        hits=len(hits),
        reference=results[0][1],
        modes=modes,
        portfolio=portfolio,
        findings=hits[0][1] if hits else (),
        witness=witness,
    )


@dataclass(frozen=True)
class Pair:
    """A policy and a scenario by name, and the runs they get: all that another process needs."""

    policy: str
    scenario: str
    portfolio: Portfolio
    modes: Modes

    def judge(self) -> Judgement:
        """Boot the scenario and judge the pair."""
        scenario = find_scenario(self.scenario)
        policy = find_policy(self.policy)
        modes = self.modes.resolved(policy.delivery)
        booted = boot(scenario, modes=modes)
        try:
            return judge(policy, scenario, booted, self.portfolio, modes, self.policy)
        except PolicyError as error:
            return self._failed(policy.id, str(error))

    def _failed(self, policy: str, error: str) -> Judgement:
        """What can be said of a policy that did what no policy may: the other pairs are judged all the same."""
        return Judgement(
            policy=policy,
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
            modes=self.modes,
            portfolio=self.portfolio,
        )


def judge_all(pairs: list[Pair], jobs: int) -> Iterator[Judgement]:
    """Judge pairs in order, in `jobs` processes; the results do not depend on how many.

    Raises:
        KstackError: as `judge`, from whichever pair comes first.
    """
    if jobs == 1:
        yield from (pair.judge() for pair in pairs)
        return
    with ProcessPoolExecutor(min(jobs, len(pairs))) as executor:
        yield from executor.map(Pair.judge, pairs)


def unexpected(scenario: Scenario, result: RunResult) -> tuple[Finding, ...]:
    """A run's findings, less those the scenario expects; a guest whose own check of its data failed is one too."""
    found = result.without(scenario.expects).findings
    failed = result.ended == "exit" and result.exit_value == GUEST_FAILED and GAVE_UP not in result.serial
    if failed and not found:
        last = result.serial.strip().rsplit("\n", 1)[-1]
        text = f"the guest's own check failed, and the oracle saw nothing: {last!r}"
        found = (Finding(Kind.WRONG_DATA, 0, "-", 0, result.time, text),)
    return found


def _verdict(results: list[tuple[Scheduler, RunResult, tuple[Finding, ...]]]) -> tuple[bool | None, str]:
    runs = len(results)
    hits = sum(bool(found) for _, _, found in results)
    if hits:
        return False, f"found in {hits} of {runs}"
    for scheduler, result, _ in results:
        if result.stuck:
            return None, f"under {scheduler.name}: {result.stuck}"
        if result.ended != "exit":
            return None, f"under {scheduler.name} the guest did not end ({result.ended})"
        if result.exit_value not in GUEST_PASSED:
            last = result.serial.strip().rsplit("\n", 1)[-1]
            return None, f"under {scheduler.name} the guest gave up: {last}"
    exercised = sum(result.exercised for _, result, _ in results)
    unmaps = sum(result.unmaps for _, result, _ in results)
    if exercised:
        return True, f"none found in {runs}"
    if not unmaps:
        return True, f"clears nothing in {runs}"
    return None, f"not exercised in {runs}"
