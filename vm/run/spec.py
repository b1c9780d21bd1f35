"""What a run is made of, as plain values: how a session is set up anew, here, elsewhere or later.

`kstack run`, a recording and a pair of `kstack compare` all say the same things of a run; `Setup`
says them once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from kstack.base.errors import ConfigError, RecordingError, ScenarioError
from kstack.fault import Fault, Injector
from kstack.guest.scenario import Scenario
from kstack.hw.modes import Modes
from kstack.kernels.kstack.scenarios import find_image, is_scenario
from kstack.load import Format, load
from kstack.machine import Machine, MachineConfig, size
from kstack.recording import RULES_VERSION, UNFINISHED, VERSION, Recording, check_rules, image_hash, other_rules, pack
from kstack.run.session import BootedScenario, RunOptions, RunResult, Session
from kstack.run.writes import Write, Writes
from kstack.schedule import Choice, ReplaySchedule, Scheduler, Script, ScriptStep
from kstack.stacks.host.pool import PoolConfig
from kstack.stacks.loading.registry import find_policy, policy_hash

Parts = TypeVar("Parts")


@dataclass(frozen=True)
class Setup:
    """One run, but for its schedule.

    Attributes:
        image: built-in name, scenario id, or path.
        cpus: CPUs of the machine.
        ram: bytes.
        modes: architecture modes.
        policy: id or path of a Python file; None runs without a policy (images only).
        options: bounds and pools.
        faults: what goes wrong.
        format: what a file is taken for.
    """

    image: str
    cpus: int = 1
    ram: int = 64 << 20
    modes: Modes = field(default_factory=Modes)
    policy: str | None = None
    options: RunOptions = field(default_factory=RunOptions)
    faults: tuple[Fault, ...] = ()
    format: Format = "auto"

    @property
    def is_scenario(self) -> bool:
        """Whether the image is a scenario, whose runs start when its guest has booted."""
        return is_scenario(self.image)

    def session(self, scheduler: Scheduler, recorded: bool = False) -> Session:
        """A session ready to run, with an `Injector` where there are faults.

        Args:
            scheduler: decides every slice.
            recorded: the faults are of a recording, as `Injector` takes them.

        Raises:
            KstackError: image, policy or configuration are wrong.
        """
        session = self._session(scheduler)
        if self.faults:
            Injector(session, self.faults, recorded)
        return session

    def _session(self, scheduler: Scheduler) -> Session:
        policy = None if self.policy is None else find_policy(self.policy)()
        if policy is None and self.is_scenario:
            policy = find_policy("fixed-16k")()
        check_format(self.image, self.format)
        modes = self.modes.resolved(policy.delivery) if policy is not None else self.modes
        if self.is_scenario:
            assert policy is not None
            booted = BootedScenario(find_image(self.image), self.image, self.cpus, self.ram, modes)
            return booted.session(policy, scheduler, self.options)
        machine = Machine(MachineConfig(self.cpus, self.ram, modes))
        symbols = load(machine, find_image(self.image), self.image, self.format)
        return Session(machine, symbols, scheduler, policy, self.options)

    def head(self) -> Recording:
        """A recording that has not begun: what is to be run."""
        pool = self.options.pool
        return Recording(
            version=VERSION,
            image=self.image,
            image_hash=image_hash(find_image(self.image)),
            booted=self.is_scenario,
            cpus=self.cpus,
            ram=self.ram,
            modes=self.modes.as_dict(),
            policy=self.policy,
            policy_hash=None if self.policy is None else policy_hash(self.policy),
            pool=(pool.order, pool.per_cpu, pool.seed, pool.shared, pool.reserve),
            max_time=self.options.max_time,
            stop_at_finding=self.options.stop_at_finding,
            adversary=self.options.adversary,
            choices="",
            ended=UNFINISHED,
            time=0,
            state_hash="",
            faults=[msgspec.to_builtins(fault.to_recording()) for fault in self.faults],
            ignored=sorted(self.options.ignored),
            rules=RULES_VERSION,
            format=self.format,
            strict=self.options.strict,
            max_work=self.options.max_work,
        )

    def recording(self, choices: list[Choice], result: RunResult) -> Recording:
        """What repeats a session of this setup that made these choices."""
        return replace(
            self.head(),
            choices=pack(choices),
            ended=result.ended,
            time=result.time,
            state_hash=result.state_hash,
            finding=result.findings[0].kind.value if result.findings else None,
        )


def check_format(image: str, format: Format) -> None:
    """Find out whether an image can be taken for that.

    Raises:
        ConfigError: it is a scenario.
    """
    if format != "auto" and is_scenario(image):
        raise ConfigError(f"--format {format}: {image} is a scenario, whose image kstack builds")


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


def replay_session(recording: Recording, anyway: bool = False) -> Session:
    """A session that repeats a recording.

    Args:
        recording: what was run.
        anyway: repeat it also on a machine of other rules, as far as its choices can be made there.

    Raises:
        RecordingError: the image is another one now, or so are the machine's rules.
        KstackError: image or policy are not there any more.
    """
    check_rules(f"the recording of {recording.image}", recording.rules, anyway)
    if image_hash(find_image(recording.image)) != recording.image_hash:
        raise RecordingError(f"image {recording.image} is not the one that was recorded; use the kstack of that time")
    if recording.policy is not None and policy_hash(recording.policy) != recording.policy_hash:
        raise RecordingError(f"policy {recording.policy} is not the one that was recorded: its source has changed")
    modes = Modes.of(recording.modes)
    options = RunOptions(
        recording.max_time,
        recording.stop_at_finding,
        PoolConfig(*recording.pool),
        recording.adversary,
        ignored=frozenset(recording.ignored),
        strict=recording.strict,
        max_work=recording.max_work,
    )
    faults, writes = faults_of(recording), writes_of(recording)
    setup = Setup(
        *(recording.image, recording.cpus, recording.ram, modes, recording.policy, options),
        faults=tuple(faults),
        format=recording.format,
    )
    if setup.is_scenario != recording.booted:
        raise RecordingError(
            f"{recording.image} was {'' if recording.booted else 'not '}a scenario when it was recorded"
        )
    whole = recording.ended != UNFINISHED and other_rules(recording.rules) is None
    session = setup.session(ReplaySchedule(recording.schedule(), whole), recorded=True)
    if writes:
        try:
            Writes(session, writes)
        except ConfigError as error:
            raise RecordingError(f"the recording's writes are damaged: {error}") from error
    return session


def faults_of(recording: Recording) -> list[Fault]:
    """What is injected, less what did nothing.

    Raises:
        RecordingError: they are no faults.
    """
    found = _parts("faults", recording.faults, list[Fault])
    return [now for fault in found if (now := fault.from_recording()) is not None]


def writes_of(recording: Recording) -> list[Write]:
    """What a debugger has written.

    Raises:
        RecordingError: it is nothing that one writes.
    """
    return _parts("writes", recording.writes, list[Write])


def _parts(what: str, found: list[dict[str, Any]], kind: type[Parts]) -> Parts:
    try:
        return msgspec.convert(found, kind)
    except (msgspec.ValidationError, UnicodeEncodeError) as error:  # the latter of half a surrogate pair
        raise RecordingError(f"the recording's {what} are damaged: {error}") from error
