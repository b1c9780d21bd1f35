"""What a run is made of, as plain values: how a session is set up anew, here, elsewhere or later.

What is run, recorded, replayed, judged, debugged and tested says the same things of a run; `RunSpec` says them once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, TypeVar

import msgspec
from msgspec.structs import replace

from kstack.base.errors import ConfigError, RecordingError, ScenarioError
from kstack.fault import Fault, Injector
from kstack.hw.modes import Modes
from kstack.kernels.guests import Guests
from kstack.kernels.known import usual_guests
from kstack.kernels.scenario import Scenario
from kstack.load import Format, load
from kstack.machine import Machine, MachineConfig, size
from kstack.recording import RULES_VERSION, UNFINISHED, VERSION, Recording, check_rules, image_hash, other_rules, pack
from kstack.run.booted import BootedScenario
from kstack.run.boots import booted
from kstack.run.options import RunOptions
from kstack.run.result import RunResult
from kstack.run.session import Session
from kstack.run.writes import Write, Writes
from kstack.schedule import Choice, ReplaySchedule, Scheduler, Script, ScriptStep
from kstack.stacks.host.pool import PoolConfig
from kstack.stacks.loading.registry import find_policy, name_of, policy_hash
from kstack.stacks.policy import Policy

Parts = TypeVar("Parts")
STATIC: Final = "fixed-16k"
"""The policy of a scenario's run where none is named."""


@dataclass(frozen=True)
class RunSpec:
    """One run, but for its schedule.

    Attributes:
        image: built-in name, scenario id, or path.
        cpus: CPUs of the machine.
        ram: bytes.
        modes: architecture modes.
        policy: id or path of a Python file, or its class; None runs an image without a policy, and a scenario under fixed-16k.
        options: bounds and pools.
        faults: what goes wrong.
        format: what a file is taken for.
        policy_name: by what a recording finds a policy again that is given as a class; empty for `name_of` it.
        guests: of which kernel the image is; an image that is nobody's has what kstack's own kernel offers, and need not use it.
    """

    image: str
    cpus: int = 1
    ram: int = 64 << 20
    modes: Modes = field(default_factory=Modes)
    policy: str | type[Policy] | None = None
    options: RunOptions = field(default_factory=RunOptions)
    faults: tuple[Fault, ...] = ()
    format: Format = "auto"
    policy_name: str = ""
    guests: Guests = field(default_factory=usual_guests, repr=False)

    @property
    def is_scenario(self) -> bool:
        """Whether the image is a scenario, whose runs start when its guest has booted."""
        return self.guests.is_scenario(self.image)

    @property
    def scenario(self) -> Scenario | None:
        """What the image is a scenario of, if it is one."""
        return self.guests.scenario(self.image) if self.is_scenario else None

    @property
    def kind(self) -> type[Policy] | None:
        """The policy's class; None for none.

        Raises:
            PolicyError: there is none of this name.
        """
        if self.policy is None:
            return find_policy(STATIC) if self.is_scenario else None
        return find_policy(self.policy) if isinstance(self.policy, str) else self.policy

    @property
    def resolved(self) -> Modes:
        """The modes that the machine gets: where they leave the delivery of stack faults open, the policy's."""
        kind = self.kind
        return self.modes if kind is None else self.modes.resolved(kind.delivery)

    def session(self, scheduler: Scheduler, recorded: bool = False, shared: bool = False) -> Session:
        """A session ready to run, with an `Injector` where there are faults.

        Args:
            scheduler: decides every slice.
            recorded: the faults are of a recording, as `Injector` takes them.
            shared: in the guest that this process has booted for all runs of the scenario (`kstack.run.boots`): it ends the session
                before it; else in a machine of its own.

        Raises:
            KstackError: image, policy or configuration are wrong.
        """
        session = self._session(scheduler, shared)
        if self.faults:
            Injector(session, self.faults, recorded)
        return session

    def _session(self, scheduler: Scheduler, shared: bool) -> Session:
        check_format(self.image, self.format, self.guests)
        kind, modes = self.kind, self.resolved
        policy = None if kind is None else kind()
        if self.is_scenario:
            assert policy is not None
            guest = booted if shared else _alone
            found = guest(self.image, self.cpus, self.ram, modes, self.guests)
            return found.session(policy, scheduler, self.options)
        machine = Machine(MachineConfig(self.cpus, self.ram, modes))
        symbols = load(machine, self.guests.image(self.image), self.image, self.format)
        return Session(machine, symbols, scheduler, policy, self.options, kernel=self.guests.kernel)

    @property
    def named(self) -> str | None:
        """By what a recording finds the policy again.

        Raises:
            KstackError: it is a class that cannot be found again.
        """
        if self.policy is None or isinstance(self.policy, str):
            return self.policy
        return self.policy_name or name_of(self.policy)

    def head(self) -> Recording:
        """A recording that has not begun: what is to be run.

        Raises:
            KstackError: the policy is a class that cannot be found again.
        """
        pool, policy = self.options.pool, self.named
        return Recording(
            version=VERSION,
            image=self.image,
            image_hash=image_hash(self.guests.image(self.image)),
            booted=self.is_scenario,
            cpus=self.cpus,
            ram=self.ram,
            modes=self.modes.as_dict(),
            policy=policy,
            policy_hash=None if policy is None else policy_hash(policy),
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


def _alone(image: str, cpus: int, ram: int, modes: Modes, guests: Guests) -> BootedScenario:
    return BootedScenario(guests.image(image), image, cpus, ram, modes, guests.kernel)


def check_format(image: str, format: Format, guests: Guests | None = None) -> None:
    """Find out whether an image can be taken for that.

    Args:
        image: its name.
        format: what it is to be taken for.
        guests: of which it is one; None for kstack's own.

    Raises:
        ConfigError: it is a scenario.
    """
    if format != "auto" and (guests or usual_guests()).is_scenario(image):
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
    scenario: Scenario,
    ram: int | None = None,
    modes: Modes | None = None,
    cpus: int | None = None,
    guests: Guests | None = None,
) -> BootedScenario:
    """Build a scenario's guest and boot it.

    Args:
        scenario: what is to run.
        ram: bytes; None for what it says.
        modes: architecture modes; None for the usual ones.
        cpus: of the machine; None for as many as it needs.
        guests: of which it is one; None for kstack's own.

    Raises:
        ScenarioError: it wants more CPUs than it is given, or does not boot.
    """
    cpus = scenario.cpus if cpus is None else cpus
    if cpus < scenario.cpus:
        raise ScenarioError(f"scenario {scenario.id} needs {scenario.cpus} CPUs; give --cpus {scenario.cpus} or more")
    found = usual_guests() if guests is None else guests
    image = found.image(scenario.id)
    return BootedScenario(image, scenario.id, cpus, ram or size(scenario.ram), modes, found.kernel)


def replay_session(recording: Recording, anyway: bool = False, guests: Guests | None = None) -> Session:
    """A session that repeats a recording.

    Args:
        recording: what was run.
        anyway: repeat it also on a machine of other rules, as far as its choices can be made there.
        guests: of which its image is one; None for kstack's own.

    Raises:
        RecordingError: the image is another one now, or so are the machine's rules.
        KstackError: image or policy are not there any more.
    """
    check_rules(f"the recording of {recording.image}", recording.rules, anyway)
    found = usual_guests() if guests is None else guests
    if image_hash(found.image(recording.image)) != recording.image_hash:
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
    setup = RunSpec(
        *(recording.image, recording.cpus, recording.ram, modes, recording.policy, options),
        faults=tuple(faults),
        format=recording.format,
        guests=found,
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


def _parts(what: str, found: object, kind: type[Parts]) -> Parts:
    try:
        return msgspec.convert(found, kind)
    except (msgspec.ValidationError, UnicodeEncodeError) as error:  # the latter of half a surrogate pair
        raise RecordingError(f"the recording's {what} are damaged: {error}") from error
