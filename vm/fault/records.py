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

What can go wrong is in ACTIONS, each with the triggers that it can have. Every field of a fault is used exactly as it is
given, or refused by `checked`; the run says what it came to nothing with (`Injector.why`).
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec
from msgspec.structs import replace

from kstack.base.errors import ConfigError
from kstack.stacks import steps
from kstack.x86.flags import WRITABLE_FLAGS
from kstack.x86.registers import Gpr
from kstack.x86.vectors import FIRST_LEGAL, VECTORS


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


def described(when: When) -> str:
    """A trigger in words."""
    whose = "" if getattr(when, "cpu", None) is None else f" on CPU {when.cpu}"  # type: ignore[union-attr] # not Moment
    if isinstance(when, At):
        return f"{'after' if when.after else 'before'} execution {when.nth} of {when.place}{whose}"
    if isinstance(when, Moment):
        return f"at {when.time}"
    if isinstance(when, Where):
        return f"where {when.register} is {when.value:#x}{whose}"
    if isinstance(when, Send):
        return f"IPI {when.nth}{'' if when.vector is None else f' of vector {when.vector:#x}'}{whose}"
    return f"{'INVLPG' if isinstance(when, Flush) else when.name or 'step'} {when.nth}{whose}"


KINDS: Final[dict[type, str]] = {At: "at", Moment: "time", Step: "step", Send: "send", Flush: "flush", Where: "when"}
"""Names of triggers in files."""
_ANY: Final = (At, Moment, Where)


_STEPS: Final = {
    name: kind for name, kind in vars(steps).items() if isinstance(kind, type) and issubclass(kind, steps.Step)
}
STEP_NAMES: Final = tuple(
    name
    for name, kind in _STEPS.items()
    if not any(other is not kind and issubclass(other, kind) for other in _STEPS.values())
)
"""Steps of the SDK that no other of them derives from; what a user derives from one changes nothing here."""


class Action(NamedTuple):
    """What can go wrong.

    Attributes:
        triggers: that it can have.
        needs: fields.
        text: what it is.
        hits_a_cpu: it happens to one CPU, which `Fault.cpu` may choose; else to what triggers it, or to the machine.
    """

    triggers: tuple[type, ...]
    needs: tuple[str, ...]
    text: str
    hits_a_cpu: bool = False


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
    "evict-tlb": Action(
        _ANY, ("address",), "the CPU's data TLB drops what it has of the page at a linear address", True
    ),
    "fill-tlb": Action(_ANY, ("address",), "the CPU walks for a page that nobody asks for, and caches it", True),
    "flip-pte": Action(
        _ANY, ("address", "bit"), "a bit of the leaf entry of the page at a linear address is the other one", True
    ),
    "flip-ram": Action(_ANY, ("address", "bit"), "a bit of the 8 bytes from a physical address on is the other one"),
    "flip-register": Action(_ANY, ("register", "bit"), "a bit of a register is the other one", True),
    "fail-alloc": Action((Step,), (), "there is no page (TakePage, AllocPage)"),
    "drain-pool": Action(_ANY, (), "all pages of the pools are gone"),
    "spurious-fault": Action(_ANY, ("address",), "a page fault is delivered that nothing has caused", True),
    "nmi": Action(_ANY, (), "an NMI arrives", True),
    "machine-check": Action(_ANY, (), "a machine check (#MC) is delivered", True),
    "timer": Action(_ANY, ("vector",), "an interrupt of the local timer arrives", True),
    "stall": Action(_ANY, ("units",), "the CPU does nothing for so many units", True),
    "hang": Action(_ANY, (), "it does nothing ever again", True),
    "offline": Action(_ANY, (), "it does nothing ever again, and the policy is told that it is gone", True),
    "skip": Action((At,), (), "the instruction is passed over", True),
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
FLAG_BITS: Final = tuple(bit for bit in range(64) if WRITABLE_FLAGS >> bit & 1)
"""Bits of RFLAGS that can be the other one; the others are reserved (SDM volume 1, 3.4.3)."""
WORD: Final = 8
"""Bytes of which `flip-ram` flips a bit."""


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One thing that goes wrong.

    Attributes:
        what: one of ACTIONS.
        when: its trigger.
        cpu: whom it hits, where it hits one; None for the CPU at which it is triggered.
        address: linear, or physical where the action says so (bytes). Any; one of a page names the page.
        bit: 0 to 63; of `rflags` those that are not reserved.
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
        if self.cpu is not None and not action.hits_a_cpu:
            raise ConfigError(f"fault {self.what} takes no cpu: it hits what triggers it{self._whose()}")
        allowed = STEPS.get(self.what)
        if allowed is not None and isinstance(self.when, Step) and self.when.name not in allowed:
            raise ConfigError(f"fault {self.what}: its step must be {' or '.join(allowed)}")
        self._check_numbers(cpus)
        return self

    def _whose(self) -> str:
        return ", and its trigger may have one" if hasattr(self.when, "cpu") else ""

    def _check_numbers(self, cpus: int) -> None:
        limits = {
            "bit": (0, 63),
            "vector": (FIRST_LEGAL, VECTORS - 1),
            "units": (1, 1 << 62),
            "address": (0, (1 << 64) - 1),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ConfigError(f"fault {self.what}: {name} {value} is not {low} to {high}")
        for cpu in (self.cpu, getattr(self.when, "cpu", None)):
            if cpu is not None and not 0 <= cpu < cpus:
                raise ConfigError(f"fault {self.what}: there is no CPU {cpu}; the machine has {cpus}")
        for name, most in (("time", (1 << 62)), ("value", (1 << 64) - 1), ("vector", VECTORS - 1)):
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
        if self.register == "rflags" and self.bit not in FLAG_BITS:
            raise ConfigError(
                f"fault {self.what}: bit {self.bit} of rflags is reserved; give one of {', '.join(map(str, FLAG_BITS))}"
            )
        if isinstance(self.when, Where) and self.when.register not in names:
            raise ConfigError(f"fault {self.what}: there is no register {self.when.register!r}")

    # --- in recordings

    def to_recording(self) -> Fault:
        """This fault as recordings have it: a bit of RAM by the word (8 bytes, aligned) in which it lies."""
        if self.what != "flip-ram" or self.address is None or self.bit is None:
            return self
        byte, bit = self.address + self.bit // 8, self.bit % 8
        if byte >= 1 << 64:
            return self  # no RAM
        return replace(self, address=byte - byte % WORD, bit=8 * (byte % WORD) + bit)

    def from_recording(self) -> Fault | None:
        """What a fault of a recording does, whichever kstack has written it.

        Earlier ones took fields that they did not use, and rounded an address of RAM down to its word. None is a fault
        that did nothing.
        """
        action = ACTIONS.get(self.what)
        if self.register == "rflags" and self.bit is not None and self.bit not in FLAG_BITS:
            return None
        cpu = None if action is not None and not action.hits_a_cpu else self.cpu
        address = self.address
        if self.what == "flip-ram" and address is not None:
            address -= address % WORD
        return replace(self, cpu=cpu, address=address)
