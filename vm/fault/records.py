"""Faults as records: (where, when, what).

A trigger says when, exactly:

    at     before, or after, the nth execution of an instruction, on one CPU or on any. An execution ends when the
           instruction retires; one that faults and is tried again is one execution, and so is a whole repetition
           (REP). `before` means that nothing of it has been done.
    time   the first boundary between instructions at which virtual time is this or more, on whatever CPU then runs
    step   when the nth step of a kind is carried out by a policy (in its place, or behind it)
    send   when the nth IPI is sent
    flush  when the nth INVLPG is carried out, be it an instruction or a policy's step
    when   before the first instruction at which a register has a value, on one CPU or on any

What can go wrong is in ACTIONS, each with the triggers that it can have.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from vm.errors import ConfigError
from vm.hw.engine import Gpr
from vm.stacks import steps


class At(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="at", tag_field="on"):
    """At an instruction.

    Attributes:
        place: `symbol`, `symbol+offset` or an address.
        nth: which execution, from 1.
        cpu: on this CPU; None for any, all counted together.
        after: when it has retired, and not before it begins.
    """

    place: str
    nth: int = 1
    cpu: int | None = None
    after: bool = False


class Moment(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="time", tag_field="on"):
    """At a virtual time (units since reset)."""

    time: int


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="step", tag_field="on"):
    """At a policy's step.

    Attributes:
        name: kind of step, as `WritePte`; empty for any.
        nth: from 1.
        cpu: on this CPU; None for any.
    """

    name: str = ""
    nth: int = 1
    cpu: int | None = None


class Send(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="send", tag_field="on"):
    """At an IPI.

    Attributes:
        nth: from 1.
        vector: of this vector; None for any.
        cpu: sent by this CPU; None for any.
    """

    nth: int = 1
    vector: int | None = None
    cpu: int | None = None


class Flush(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="flush", tag_field="on"):
    """At an INVLPG.

    Attributes:
        nth: from 1.
        cpu: on this CPU; None for any.
    """

    nth: int = 1
    cpu: int | None = None


class Where(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="when", tag_field="on"):
    """At the first instruction at which a register has a value.

    Attributes:
        register: `rax` to `r15`.
        value: of all 64 bits.
        cpu: on this CPU; None for any.
    """

    register: str
    value: int
    cpu: int | None = None


When = At | Moment | Step | Send | Flush | Where
KINDS: Final[dict[type, str]] = {At: "at", Moment: "time", Step: "step", Send: "send", Flush: "flush", Where: "when"}
"""Names of triggers in files."""
_ANY: Final = (At, Moment, Where)


STEP_NAMES: Final = tuple(
    name
    for name, kind in vars(steps).items()
    if isinstance(kind, type) and issubclass(kind, steps.Step) and not kind.__subclasses__()
)


class Action(NamedTuple):
    """What can go wrong: the triggers that it can have, the fields that it needs, and what it is."""

    triggers: tuple[type, ...]
    needs: tuple[str, ...]
    text: str


ACTIONS: Final = {
    "drop-ipi": Action((Send,), (), "the IPI never arrives"),
    "duplicate-ipi": Action((Send,), (), "it arrives twice"),
    "delay-ipi": Action((Send,), ("units",), "it arrives so many units later"),
    "reorder-ipi": Action((Send,), (), "it arrives behind the next one"),
    "drop-invlpg": Action((Flush,), (), "the INVLPG does nothing"),
    "narrow-flush": Action((Step,), (), "a request to flush several pages (PostFlush) has one page less"),
    "lose-ack": Action((Step,), (), "an acknowledgement (WaitForAck) never comes"),
    "delay-ack": Action((Step,), ("units",), "it comes so many units later"),
    "early-ack": Action((Step,), (), "it is there before anybody has done anything"),
    "evict-tlb": Action(_ANY, ("address",), "the CPU drops what it has cached of a page"),
    "fill-tlb": Action(_ANY, ("address",), "the CPU walks for a page that nobody asks for"),
    "flip-pte": Action(_ANY, ("address", "bit"), "a bit of the page's leaf entry is the other one"),
    "flip-ram": Action(_ANY, ("address", "bit"), "a bit of a word is the other one, by physical address"),
    "flip-register": Action(_ANY, ("register", "bit"), "a bit of a register is the other one"),
    "fail-alloc": Action((Step,), (), "there is no page (TakePage, AllocPage)"),
    "drain-pool": Action(_ANY, (), "all pages of the pools are gone"),
    "spurious-fault": Action(_ANY, ("address",), "a page fault is delivered that nothing has caused"),
    "nmi": Action(_ANY, (), "an NMI arrives"),
    "machine-check": Action(_ANY, (), "a machine check (#MC) is delivered"),
    "timer": Action(_ANY, ("vector",), "an interrupt of the local timer arrives"),
    "stall": Action(_ANY, ("units",), "the CPU does nothing for so many units"),
    "hang": Action(_ANY, (), "it does nothing ever again"),
    "offline": Action(_ANY, (), "it does nothing ever again, and the policy is told that it is gone"),
    "skip": Action((At,), (), "the instruction is passed over"),
    "raise": Action((Step,), (), "the policy's code fails there"),
    "endless-step": Action((Step,), (), "the step never ends"),
    "corrupt-page": Action((Step,), (), "the frame that is taken (TakePage, AllocPage) is full of something"),
}
STEPS: Final = {
    "narrow-flush": ("PostFlush",),
    "lose-ack": ("WaitForAck",),
    "delay-ack": ("WaitForAck",),
    "early-ack": ("WaitForAck",),
    "fail-alloc": ("TakePage", "AllocPage"),
    "corrupt-page": ("TakePage", "AllocPage"),
}
"""Kinds of steps at which an action makes sense; where it is not here, all."""


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One thing that goes wrong.

    Attributes:
        what: one of ACTIONS.
        when: its trigger.
        cpu: whom it hits; None for the CPU at which it is triggered.
        address: linear, or physical where the action says so (bytes).
        bit: 0 to 63.
        register: `rax` to `r15`, `rip` or `rflags`.
        vector: 16 to 255.
        units: of virtual time.
    """

    what: str
    when: When
    cpu: int | None = None
    address: int | None = None
    bit: int | None = None
    register: str | None = None
    vector: int | None = None
    units: int | None = None

    def checked(self, cpus: int) -> Fault:
        """This fault, if it makes sense on a machine of so many CPUs.

        Raises:
            ConfigError: it does not; the message says why.
        """
        action = ACTIONS.get(self.what)
        if action is None:
            raise ConfigError(f"fault {self.what!r} does not exist; there are {', '.join(ACTIONS)}")
        if not isinstance(self.when, action.triggers):
            kinds = ", ".join(KINDS[kind] for kind in action.triggers)
            raise ConfigError(f"fault {self.what}: its trigger must be one of {kinds}")
        for name in ("address", "bit", "register", "vector", "units"):
            if (getattr(self, name) is None) == (name in action.needs):
                word = "needs" if name in action.needs else "takes no"
                raise ConfigError(f"fault {self.what} {word} {name}")
        allowed = STEPS.get(self.what)
        if allowed is not None and isinstance(self.when, Step) and self.when.name not in allowed:
            raise ConfigError(f"fault {self.what}: its step must be {' or '.join(allowed)}")
        self._check_numbers(cpus)
        return self

    def _check_numbers(self, cpus: int) -> None:
        limits = {"bit": (0, 63), "vector": (16, 255), "units": (1, 1 << 62), "address": (0, (1 << 64) - 1)}
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ConfigError(f"fault {self.what}: {name} {value} is not {low} to {high}")
        for cpu in (self.cpu, getattr(self.when, "cpu", None)):
            if cpu is not None and not 0 <= cpu < cpus:
                raise ConfigError(f"fault {self.what}: there is no CPU {cpu}; the machine has {cpus}")
        for name, most in (("time", (1 << 62)), ("value", (1 << 64) - 1), ("vector", 255)):
            value = getattr(self.when, name, None)
            if value is not None and not 0 <= value <= most:
                raise ConfigError(f"fault {self.what}: {name} {value} of its trigger is not 0 to {most}")
        if isinstance(self.when, Step) and self.when.name not in ("", *STEP_NAMES):
            raise ConfigError(
                f"fault {self.what}: there is no step {self.when.name!r}; there are {', '.join(STEP_NAMES)}"
            )
        nth = getattr(self.when, "nth", 1)
        if nth < 1:
            raise ConfigError(f"fault {self.what}: nth {nth}: give 1 or more")
        names = [register.name.lower() for register in Gpr]
        if self.register is not None and self.register not in (*names, "rip", "rflags"):
            raise ConfigError(f"fault {self.what}: there is no register {self.register!r}")
        if isinstance(self.when, Where) and self.when.register not in names:
            raise ConfigError(f"fault {self.what}: there is no register {self.when.register!r}")
