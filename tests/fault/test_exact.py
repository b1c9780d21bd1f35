"""Each field of a fault and of its trigger is used exactly as it is given, or refused: over all kinds and all triggers.

A fault is drawn, and what changes in a machine is compared with a table that says what was asked for; when a trigger must
come is counted in a run without a fault, by other means than the injector's.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from kstack.base.errors import ConfigError, PolicyError
from kstack.fault import ACTIONS, At, Fault, Flush, Injector, Moment, Send, Step, When, Where, places
from kstack.fault.actions import DEEDS
from kstack.fault.records import FLAG_BITS, KINDS, STEP_NAMES, STEPS
from kstack.hw.apic.apic import DeliveryMode
from kstack.hw.cpu.decode import decode
from kstack.hw.modes import Modes
from kstack.kernels.kstack.scenarios import find_scenario
from kstack.machine import FOR_EVER, Ipi
from kstack.run.options import RunOptions
from kstack.run.session import Session
from kstack.run.spec import boot
from kstack.schedule import RoundRobin
from kstack.stacks.host.pool import PoolConfig, Pools
from kstack.stacks.loading.registry import find_policy
from kstack.x86.flags import Flags
from kstack.x86.registers import Gpr, Seg
from kstack.x86.segments import Segment
from kstack.x86.vectors import MC
from tests.support.long_mode import AREA, HANDLERS, LongModeGuest

CPUS: Final = 2
REGISTERS: Final = tuple(register.name.lower() for register in Gpr)
MAPPED, FRAMES = 4, 3  # pages of AREA that are mapped; of these some are cached
EXACT = settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])

# --- what a fault does


class Target:
    """A machine of two CPUs with some pages mapped, some of them cached, and pools; a boundary between instructions."""

    def __init__(self) -> None:
        self.guest = LongModeGuest(cpus=CPUS, modes=Modes(speculation="sets-accessed"))
        self.machine = self.guest.machine
        self.leaves = [self.guest.map(AREA + 4096 * page, self.guest.frame(7)) for page in range(MAPPED)]
        code = self.guest.kernel_code("\n".join(f"mov rax, [rbx+{4096 * page}]" for page in range(2)) + "\nnop\n" * 8)
        for cpu in range(CPUS):
            self.guest.start(code, cpu, rbx=AREA + 4096 * cpu, r9=0x1234)
            self.guest.step(cpu, 3)
        self.online = list(range(CPUS))
        self.pools = Pools(PoolConfig(), CPUS, [0x200000 + 4096 * number for number in range(20)])
        runtime = SimpleNamespace(calls=[[]] * CPUS, pools=self.pools, online=self.online, gone=self.online.remove)
        symbols = SimpleNamespace(address={"here": code}.get, name=hex, near=lambda address: [])
        self.session: Any = SimpleNamespace(machine=self.machine, runtime=runtime, symbols=symbols)

    def facts(self) -> dict[Any, Any]:
        """Everything that a fault could change, by name."""
        machine, found = self.machine, {}
        for frame, data in machine.memory.snapshot().items():
            found |= {("ram", frame * 4096 + at): byte for at, byte in enumerate(data) if byte}
        for index, cpu in enumerate(machine.cpus):
            registers = cpu.registers
            found |= {(name, index): registers.gpr[Gpr[name.upper()]] for name in REGISTERS}
            found |= {
                ("rip", index): registers.rip,
                ("rflags", index): registers.rflags,
                ("cr2", index): registers.cr[2],
            }
            for name, tlb in (("data", cpu.mmu.data), ("code", cpu.mmu.code)):
                found |= {(name, index, entry.page, entry.shift): entry.frame | 1 for _, entry in tlb.entries()}
            found |= {("nmi", index): cpu.nmi_pending, ("irr", index): machine.apics[index]._irr}
            found |= {("state", index): cpu.state, ("stall", index): machine.stalls.get(index, 0)}
        return found | {"online": tuple(self.online), "pools": self.pools.snapshot()[:3]}

    def let(self, fault: Fault) -> tuple[dict[Any, tuple[Any, Any]], list[int | None]]:
        """Let a fault happen now: what it has changed (before, after), and what the injector says."""
        before = self.facts()
        injector = Injector(self.session, [fault])
        injector.come()  # it is its moment; no instruction is executed
        after = self.facts()
        both = sorted(before.keys() | after.keys(), key=repr)
        changed = {key: (before.get(key, 0), after.get(key, 0)) for key in both}
        changed = {key: pair for key, pair in changed.items() if pair[0] != pair[1]}
        return changed, injector.fired


def flipped(target: Target, byte: int, bit: int) -> dict[Any, Any]:
    if not 0 <= byte < target.machine.memory.size:
        return {}
    old = target.machine.memory.read(byte, 1)[0]
    return {("ram", byte): (old, old ^ 1 << bit)}


def flip_ram(target: Target, fault: Fault, cpu: int) -> dict[Any, Any]:
    return flipped(target, fault.address + fault.bit // 8, fault.bit % 8)


def flip_pte(target: Target, fault: Fault, cpu: int) -> dict[Any, Any]:
    page = fault.address - AREA >> 12
    if not 0 <= page < 512:
        return {}
    return flipped(target, target.leaves[0] + 8 * page + fault.bit // 8, fault.bit % 8)


def flip_register(target: Target, fault: Fault, cpu: int) -> dict[Any, Any]:
    old = target.facts()[fault.register, cpu]
    return {(fault.register, cpu): (old, old ^ 1 << fault.bit)}


def evict(target: Target, fault: Fault, cpu: int) -> dict[Any, Any]:
    facts = target.facts()
    keys = [key for key in facts if key[0] == "data" and key[1] == cpu and fault.address >> key[3] == key[2]]
    return {key: (facts[key], 0) for key in keys}


def fill(target: Target, fault: Fault, cpu: int) -> dict[Any, Any]:
    page, facts = fault.address - AREA >> 12, target.facts()
    if fault.address < 4 << 20:  # in two pages of 2 MiB
        large = fault.address >> 21
        return {} if ("data", cpu, large, 21) in facts else {("data", cpu, large, 21): (0, large << 21 | 1)}
    key = ("data", cpu, fault.address >> 12, 12)
    if not 0 <= page < MAPPED or key in facts:
        return {}
    return {key: (0, target.machine.memory.read64(target.leaves[page]) & 0xFFFF_F000 | 1)}


def event(vector: int, pushed: list[int], cr2: int | None = None) -> Callable[[Target, Fault, int], dict[Any, Any]]:
    """An exception: its handler is to be executed, on the stack aligned to 16 (SDM 6.14.2), less a frame with RF (17.3.1.1)."""

    def changes(target: Target, fault: Fault, cpu: int) -> dict[Any, Any]:
        facts = target.facts()
        top = facts["rsp", cpu] & ~15
        words = [0x18, facts["rsp", cpu], facts["rflags", cpu] | Flags.RF, 0x08, facts["rip", cpu], *pushed]
        found: dict[Any, Any] = {("rip", cpu): (facts["rip", cpu], HANDLERS + 16 * vector)}
        for page in (0, 1):  # the tables and the stack, for the first time
            found["data", cpu, page, 21] = (facts.get(("data", cpu, page, 21), 0), page << 21 | 1)
        found["rsp", cpu] = (facts["rsp", cpu], top - 8 * len(words))
        for number, word in enumerate(words, 1):
            for at, byte in enumerate(word.to_bytes(8, "little")):
                found["ram", top - 8 * number + at] = (facts.get(("ram", top - 8 * number + at), 0), byte)
        if vector == 14:
            found["cr2", cpu] = (facts["cr2", cpu], fault.address)
        return {key: (old, new) for key, (old, new) in found.items() if old != new}

    return changes


def stall(units: Callable[[Fault, int], int]) -> Callable[[Target, Fault, int], dict[Any, Any]]:
    return lambda target, fault, cpu: {("stall", cpu): (0, units(fault, target.machine.time))}


def offline(target: Target, fault: Fault, cpu: int) -> dict[Any, Any]:
    left = tuple(each for each in target.online if each != cpu)
    return {("stall", cpu): (0, FOR_EVER), "online": (tuple(target.online), left)}


CHANGES: Final[dict[str, Callable[[Target, Fault, int], dict[Any, Any]]]] = {
    "flip-ram": flip_ram,
    "flip-pte": flip_pte,
    "flip-register": flip_register,
    "evict-tlb": evict,
    "fill-tlb": fill,
    "spurious-fault": event(14, [0]),
    "machine-check": event(MC, []),
    "nmi": lambda target, fault, cpu: {("nmi", cpu): (0, 1)},
    "timer": lambda target, fault, cpu: {("irr", cpu): (0, 1 << fault.vector)},
    "stall": stall(lambda fault, now: now + fault.units),
    "hang": stall(lambda fault, now: FOR_EVER),
    "offline": offline,
    "drain-pool": lambda target, fault, cpu: {"pools": (target.pools.snapshot()[:3], ((), (), ((), ())))},
}
"""What a fault that hits a CPU at a moment must change, and nothing else; the others are below, and in test_deeds.py."""


def addresses() -> st.SearchStrategy[int]:
    """Of RAM, its end, pages that are mapped, that have a table, that have none; in the middle of words and pages."""
    near = st.sampled_from((0, 0x100000, (4 << 20) - 8, AREA, AREA + 4096 * (MAPPED - 1), AREA + (1 << 30), 1 << 47))
    return st.one_of(
        st.builds(lambda base, more: base + more, near, st.integers(0, 2 * 4096)),
        st.integers(0, (1 << 64) - 1),
    )


FIELDS: Final = {
    "address": addresses(),
    "bit": st.integers(0, 63),
    "register": st.sampled_from((*REGISTERS, "rip", "rflags")),
    "vector": st.integers(16, 255),
    "units": st.integers(1, 1 << 20),
}


@pytest.mark.parametrize("what", sorted(CHANGES))
@EXACT
@given(data=st.data())
def test_a_fault_changes_what_it_says_and_nothing_else(what: str, data: st.DataObject) -> None:
    fields = {name: data.draw(FIELDS[name], name) for name in ACTIONS[what].needs}
    assume(fields.get("register") != "rflags" or fields["bit"] in FLAG_BITS)
    cpu = data.draw(st.sampled_from((None, 0, 1))) if ACTIONS[what].hits_a_cpu else None
    target = Target()
    fault = Fault(what, Moment(target.machine.time), cpu=cpu, **fields)
    asked, now = CHANGES[what](target, fault, cpu or 0), target.machine.time
    changed, fired = target.let(fault)
    assert changed == asked
    assert fired == [now if asked else None], "it says that it has happened where it has"


def test_the_table_has_every_deed() -> None:
    assert set(CHANGES) == set(DEEDS) - {"skip"}, "skip needs an instruction"


@EXACT
@given(st.integers(1, 6), st.sampled_from((None, 0, 1)))
def test_what_is_skipped_is_the_instruction_and_all_of_it(nth: int, cpu: int | None) -> None:
    target = Target()
    code = target.guest.kernel_code(
        "nop\nlock inc qword ptr [rbx+0x1000]\nmov r9, 0x123456789a\nrep stosb\njmp [rbx]\nhlt"
    )
    lengths = (1, 8, 10, 2, 2, 1)
    place = code + sum(lengths[: nth - 1])
    for each in range(CPUS):
        target.guest.start(place, each)
    injector = Injector(target.session, [Fault("skip", At(hex(place)), cpu=cpu)])
    injector._before(0)
    moved = [target.machine.cpus[each].registers.rip - place for each in range(CPUS)]
    assert moved == [lengths[nth - 1] if each == (cpu or 0) else 0 for each in range(CPUS)]


@EXACT
@given(st.lists(st.sampled_from(("drop-ipi", "duplicate-ipi", "delay-ipi", "reorder-ipi")), max_size=4), st.data())
def test_faults_of_one_ipi_act_on_what_the_others_have_left(whats: list[str], data: st.DataObject) -> None:
    target, arrived = Target(), []
    units = data.draw(st.integers(1, 100))
    faults = [Fault(what, Send(2), units=units if what == "delay-ipi" else None) for what in whats]
    injector = Injector(target.session, faults)
    target.machine.arrive = lambda ipi: arrived.append(ipi.vector)  # type: ignore[method-assign]
    for vector in (0x50, 0x51, 0x52):
        target.machine.send(0, (1,), DeliveryMode.FIXED, vector)
    gone = next((number for number, what in enumerate(whats) if what != "duplicate-ipi"), len(whats))
    copies = 1 << gone
    late = [0x51] * copies if whats[gone : gone + 1] == ["reorder-ipi"] else []
    here = [0x51] * copies if gone == len(whats) else []
    assert arrived == [0x50, *here, 0x52, *late]
    assert [at is not None for at in injector.fired] == [number <= gone for number in range(len(whats))]
    if whats[gone : gone + 1] == ["delay-ipi"]:
        assert injector.due == target.machine.time + units


# --- when

PLACES: Final = ("again", "copy", "count", "back")
LOOP: Final = "mov ecx, {turns}\nagain:\nadd r10, 1\nmov r8, r9\ndec ecx\njnz again\nhlt"
OFFSETS: Final = {"again": 5, "copy": 9, "count": 12, "back": 14}  # bytes from the first instruction on


class Model:
    """The loop on two CPUs, an instruction at a time: what is executed when, with what in R10."""

    def __init__(self, turns: int, slices: list[tuple[int, int]]) -> None:
        self.executed: list[tuple[int, str, int]] = []  # CPU, place, R10 before it; one a unit of time
        program = ["first", *PLACES * turns, "halt"]
        at, r10 = [0] * CPUS, [0] * CPUS
        for cpu, units in slices:
            for _ in range(units):
                if at[cpu] < len(program):
                    place = program[at[cpu]]
                    self.executed.append((cpu, place, r10[cpu]))
                    r10[cpu] += place == "again"
                    at[cpu] += 1

    def when(self, trigger: When) -> int | None:
        """Units from the start on at which a trigger comes."""
        if isinstance(trigger, Moment):
            return trigger.time if trigger.time < len(self.executed) else None
        fits = [
            unit
            for unit, (cpu, place, r10) in enumerate(self.executed)
            if trigger.cpu in (None, cpu)
            and (place == trigger.place if isinstance(trigger, At) else r10 == trigger.value)
        ]
        nth = trigger.nth if isinstance(trigger, At) else 1
        return fits[nth - 1] + (isinstance(trigger, At) and trigger.after) if len(fits) >= nth else None


def triggers() -> st.SearchStrategy[When]:
    who = st.sampled_from((None, 0, 1))
    return st.one_of(
        st.builds(At, st.sampled_from(PLACES), st.integers(1, 12), who, st.booleans()),
        st.builds(Moment, st.integers(0, 60)),
        st.builds(Where, st.just("r10"), st.integers(0, 7), who),
    )


@settings(max_examples=100)
@given(
    st.integers(1, 5),
    st.lists(st.tuples(st.integers(0, 1), st.integers(1, 9)), min_size=1, max_size=12),
    st.lists(triggers(), min_size=1, max_size=3),
)
def test_a_trigger_at_an_instruction_a_value_or_a_time_comes_exactly_then(
    turns: int, slices: list[tuple[int, int]], drawn: list[When]
) -> None:
    guest = LongModeGuest(cpus=CPUS)
    code = guest.kernel_code(LOOP.format(turns=turns))
    for cpu in range(CPUS):
        guest.start(code, cpu, r9=0, r10=0)
    begin, model = guest.machine.time, Model(turns, slices)
    # At the end of what is executed it comes to whoever runs next, and perhaps nobody does.
    assume(not any(isinstance(when, Moment) and when.time == len(model.executed) for when in drawn))
    faults = [
        Fault(
            "nmi",
            Moment(begin + when.time) if isinstance(when, Moment) else when,
            cpu=0 if isinstance(when, Moment) else None,
        )
        for when in drawn
    ]
    places = {name: code + offset for name, offset in OFFSETS.items()}
    session: Any = SimpleNamespace(
        machine=guest.machine,
        runtime=SimpleNamespace(calls=[[]] * CPUS, pools=None),
        symbols=SimpleNamespace(address=places.get, name=hex, near=lambda address: []),
    )
    hit = []
    injector = Injector(session, faults)
    for cpu in guest.machine.cpus:
        cpu.nmi = lambda cpu=cpu.index: hit.append((guest.machine.time - begin, cpu))  # type: ignore[method-assign, misc]
    for cpu, units in slices:
        injector.advance(cpu, units)
    asked = [model.when(when) for when in drawn]
    assert [None if at is None else at - begin for at in injector.fired] == asked
    assert sorted(time for time, _ in hit) == sorted(at for at in asked if at is not None)
    for number, at in enumerate(asked):
        assert (injector.why(number) == "") == (at is not None), "it says why it has not happened"


class Log:
    """What triggers wait for in a run without a fault, as it comes: time, and what a trigger asks of it."""

    def __init__(self, session: Session) -> None:
        self.sends: list[tuple[int, int, int]] = []  # time, CPU, vector
        self.flushes: list[tuple[int, int]] = []  # time, CPU
        self.steps: list[tuple[int, int, str]] = []  # time at which one was tried first, CPU, kind
        self._session, self._machine = session, session.machine
        self._asked: dict[int, Any] = {}
        self._machine.instruments.add(self)
        session.runtime.decides_step.hold(self._step)
        for cpu in self._machine.cpus:
            cpu.mmu.decides_invlpg.hold(lambda address, index=cpu.index: self._flush(index))

    def on_ipi(self, ipi: Ipi) -> None:
        self.sends.append((self._machine.now(), ipi.source, ipi.vector))

    def _flush(self, cpu: int) -> bool:
        self.flushes.append((self._machine.now(), cpu))
        return True

    def _step(self, cpu: int, call: Any) -> None:
        this = (id(call), len(call.answers))  # no call is gone while it is compared
        if self._asked.get(cpu) != this:
            self._asked[cpu] = this
            self.steps.append((self._machine.now(), cpu, type(call.step).__name__))

    def when(self, trigger: Any) -> int | None:
        """Virtual time at which a trigger comes."""
        if isinstance(trigger, Send):
            fits = [
                time
                for time, cpu, vector in self.sends
                if trigger.vector in (None, vector) and trigger.cpu in (None, cpu)
            ]
        elif isinstance(trigger, Flush):
            fits = [time for time, cpu in self.flushes if trigger.cpu in (None, cpu)]
        else:
            fits = [time for time, cpu, name in self.steps if trigger.name in ("", name) and trigger.cpu in (None, cpu)]
        return fits[trigger.nth - 1] if len(fits) >= trigger.nth else None


@pytest.fixture(scope="module")
def laight() -> Any:
    return boot(find_scenario("laight"))


def fresh(laight: Any) -> Session:
    made: Session = laight.session(find_policy("switch-sp-ipi")(), RoundRobin(50), RunOptions(200_000, hashed=False))
    return made


@pytest.fixture(scope="module")
def log(laight: Any) -> Log:
    session = fresh(laight)
    found = Log(session)
    session.run()
    assert min(len(found.sends), len(found.flushes), len(found.steps)) > 5
    return found


def waits(what: str) -> st.SearchStrategy[Any]:
    who, nth = st.sampled_from((None, 0, 1)), st.integers(1, 40)
    kind = ACTIONS[what].triggers[0]
    if kind is Send:
        return st.builds(Send, nth, st.sampled_from((None, 0xF0, 0xF1, 0xFB, 0x20)), who)
    if kind is Flush:
        return st.builds(Flush, nth, who)
    return st.builds(Step, st.sampled_from(STEPS.get(what, ("", *STEP_NAMES))), nth, who)


BY_EVENT: Final = [what for what, action in ACTIONS.items() if what not in DEEDS]


@pytest.mark.parametrize("what", BY_EVENT)
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_trigger_at_an_ipi_an_invalidation_or_a_step_comes_exactly_then(
    what: str, laight: Any, log: Log, data: st.DataObject
) -> None:
    when = data.draw(waits(what))
    units = {name: data.draw(FIELDS[name]) for name in ACTIONS[what].needs}
    session = fresh(laight)
    injector = Injector(session, [Fault(what, when, **units)])
    ended = None
    while ended is None and injector.fired == [None]:
        try:
            ended = session.step(200_000)
        except PolicyError:
            break
    asked = log.when(when)
    if what == "narrow-flush" and asked is not None and injector.fired == [None]:
        assert "nothing that it could do" in injector.why(0), "that one asks for a single page"
        return
    assert injector.fired == [asked]


# --- what is refused

GOOD: Final[dict[str, Any]] = {"address": 0x1000, "bit": 3, "register": "rax", "vector": 0x40, "units": 5}
BAD: Final[dict[str, tuple[Any, ...]]] = {
    "address": (-1, 1 << 64),
    "bit": (-1, 64),
    "register": ("cr0", "eax", "RAX", "r16", ""),
    "vector": (-1, 0, 15, 256),
    "units": (-1, 0, (1 << 62) + 1),
    "cpu": (-1, CPUS),
}
TRIGGERS: Final[dict[type, When]] = {
    At: At("here"),
    Moment: Moment(5),
    Step: Step("WaitForAck"),
    Send: Send(),
    Flush: Flush(),
    Where: Where("rax", 1),
}
BAD_TRIGGERS: Final = (
    At("here", nth=0), At("here", nth=-1), At("here", cpu=-1), At("here", cpu=CPUS), Moment(-1), Moment((1 << 62) + 1),
    Step("WaitForAck", nth=0), Step("WaitForAck", cpu=CPUS), Step("Wait"), Send(0), Send(vector=-1), Send(vector=256),
    Send(cpu=CPUS), Flush(0), Flush(cpu=CPUS), Flush(cpu=-1), Where("eip", 1), Where("rip", 1), Where("rax", -1),
    Where("rax", 1 << 64), Where("rax", 1, cpu=CPUS),
)  # fmt: skip


def good(what: str, when: When | None = None, **more: Any) -> Fault:
    action = ACTIONS[what]
    needs = {name: GOOD[name] for name in action.needs}
    trigger = when or TRIGGERS[action.triggers[0]]
    if what in STEPS and when is None:
        trigger = Step(STEPS[what][0])
    return Fault(what, trigger, **{**needs, **more})


def wrong() -> list[tuple[Fault, str]]:
    """Every way in which one field of a fault can be wrong, each with a word of what is said of it."""
    found: list[tuple[Fault, str]] = []
    for what, action in ACTIONS.items():
        found += [
            (good(what, when), "its trigger must be") for kind, when in TRIGGERS.items() if kind not in action.triggers
        ]
        found += [(good(what, when), "") for when in BAD_TRIGGERS if type(when) in action.triggers]
        found += [(good(what, **{name: None}), f"needs {name}") for name in action.needs]
        found += [(good(what, **{name: GOOD[name]}), f"takes no {name}") for name in GOOD if name not in action.needs]
        found += [(good(what, **{name: bad}), name) for name in action.needs for bad in BAD[name]]
        if not action.hits_a_cpu:
            found += [(good(what, cpu=0), "takes no cpu")]
        found += [(good(what, cpu=bad), "cpu" if not action.hits_a_cpu else "no CPU") for bad in BAD["cpu"]]
        found += [
            (good(what, Step(name)), "its step must be") for name in STEP_NAMES if name not in STEPS.get(what, (name,))
        ]
    flags = [bit for bit in range(64) if bit not in FLAG_BITS]
    return found + [(good("flip-register", register="rflags", bit=bit), "is reserved") for bit in flags]


def test_every_wrong_field_is_refused_and_named() -> None:
    cases = wrong()
    for fault, says in cases:
        with pytest.raises(ConfigError, match=fault.what) as caught:
            fault.checked(CPUS)
        assert says in str(caught.value), fault
    assert len(cases) > 700
    assert {type(fault.when) for fault, _ in cases} == set(KINDS)


def test_every_right_field_is_taken() -> None:
    for what, action in ACTIONS.items():
        for kind in action.triggers:
            when = Step(STEPS[what][0]) if kind is Step and what in STEPS else TRIGGERS[kind]
            assert good(what, when).checked(CPUS) == good(what, when)
            if action.hits_a_cpu:
                good(what, when, cpu=1).checked(CPUS)


# --- places


def executed(session: Session) -> dict[int, int]:
    """Instructions of 64-bit code that a run executes: where they begin, and their lengths (bytes)."""
    found: dict[int, int] = {}

    def advance(cpu: int, units: int) -> Any:
        processor = session.machine.cpus[cpu]
        if processor.registers.rip not in found and processor.registers.bits == 64:
            instruction = decode(processor.linear.code(processor.registers.rip), 64)
            found[processor.registers.rip] = 1 if instruction is None else instruction.length
        return session.machine.run(cpu, 1)

    session.injector = SimpleNamespace(  # type: ignore[assignment] # all that a session asks of one
        advance=advance, pending=False, due=None, come=lambda: None
    )
    session.run()
    return found


@pytest.mark.parametrize("scenario", ["laight", "two-faults", "hotplug"])
def test_every_instruction_that_runs_is_a_place_and_no_byte_inside_one_is(scenario: str) -> None:
    """The code is followed from its symbols: what that says is compared with what is executed."""
    modes = Modes(df_restart="exact")
    session = boot(find_scenario(scenario), modes=modes).session(find_policy("switch-sp-ipi")(), RoundRobin(200))
    cpu, symbols = session.machine.cpus[0], session.symbols
    starts = {at: length for at, length in executed(session).items() if at >= places.LONG_CODE}
    inside = [(at, at + more) for at, length in starts.items() for more in range(1, length)]
    found = places.followed(cpu.linear.code, symbols.near(max(starts), max(starts)))
    covered = {at + more for at, length in found.items() for more in range(1, length)}
    assert [hex(at) for at in starts if at in covered] == [], "none of them is refused"
    unseen = [at for at in starts if at not in found]
    assert len(unseen) < 10, "reached through a pointer"
    assert [hex(at) for start, at in inside if start in found and (at in found or at not in covered)] == []
    assert len(starts) > 700
    assert len(inside) > 1500
    for at in list(starts)[::40]:
        places.check(cpu, symbols, "p", at)
    for start, at in [one for one in inside if one[0] in found][::80]:
        with pytest.raises(ConfigError, match="is inside an instruction") as caught:
            Injector(session, [Fault("nmi", At(hex(at)))])
        near = f"the nearest begin at {symbols.name(start)} and {symbols.name(start + starts[start])}"
        assert str(caught.value).endswith(near)


def test_code_below_four_gib_may_be_of_any_width_and_the_run_says_what_is_an_instruction() -> None:
    """The same bytes are two instructions in 32-bit code, and one in 64-bit code: 48 89 D8."""
    for bits, second in ((32, True), (64, False)):
        target = Target()
        code = target.guest.kernel_code("nop\nhlt")
        target.machine.memory.write(code, b"\x48\x89\xd8\xf4")
        target.guest.start(code)
        if bits == 32:
            selector = target.machine.cpus[0].registers
            selector.set_segment(Seg.CS, Segment(0x10, 0, 0xFFFFFFFF, 0x00CF9B00))
        injector = Injector(target.session, [Fault("nmi", At(hex(code + 1)))])
        injector.advance(0, 3)
        assert (injector.fired != [None]) == second
        said = injector.misplaced(0) or ""
        assert said.endswith("" if second else f"the nearest begin at {code:#x} and {code + 3:#x}")
        assert (said == "") == second


def test_a_place_in_a_segment_with_a_base_is_a_linear_address() -> None:
    target = Target()
    code = target.guest.kernel_code("nop\nnop\nnop\nhlt")
    registers = target.machine.cpus[0].registers
    target.guest.start(code - 0x5000)
    registers.set_segment(Seg.CS, Segment(0x10, 0x5000, 0xFFFFFFFF, 0x00CF9B00))
    injector = Injector(target.session, [Fault("skip", At(hex(code + 1))), Fault("nmi", At(hex(code + 2), after=True))])
    begin = target.machine.time
    injector.advance(0, 2)
    assert injector.fired == [begin + 1, begin + 2]
    assert registers.rip == code - 0x5000 + 3


def test_an_instruction_to_which_a_fault_lets_a_cpu_go_is_a_place_too() -> None:
    """The handler of a machine check that another fault has let happen, at its first instruction."""
    target = Target()
    code = target.guest.kernel_code("nop\nnop\nhlt")
    handler = HANDLERS + 16 * MC
    faults = [
        Fault("machine-check", At(hex(code + 1))),
        Fault("nmi", At(hex(handler))),
        Fault("nmi", At(hex(code + 1), 2)),
    ]
    target.guest.start(code)
    injector = Injector(target.session, faults)
    injector.advance(0, 5)
    assert [at is not None for at in injector.fired] == [True, True, False], "what it interrupted was one execution"


@pytest.mark.parametrize("place", ["0x800000000000", "0xffff7fffffffffff"])
def test_a_place_where_no_instruction_can_be_is_refused(place: str) -> None:
    with pytest.raises(ConfigError, match="no canonical address"):
        Injector(Target().session, [Fault("nmi", At(place))])


# --- recordings


@EXACT
@given(addresses(), st.integers(0, 63))
def test_a_recording_has_a_bit_of_ram_by_its_word(address: int, bit: int) -> None:
    fault = Fault("flip-ram", Moment(1), address=address, bit=bit)
    kept = fault.to_recording()
    assert kept.address is not None
    assert kept.bit is not None
    if fault != kept:
        assert kept.address % 8 == 0
        assert 8 * kept.address + kept.bit == 8 * address + bit, "the same bit"
        assert kept.from_recording() == kept


@pytest.mark.parametrize(
    ("then", "now"),
    [
        (Fault("flip-ram", Moment(1), cpu=1, address=0x1007, bit=60), Fault("flip-ram", Moment(1), address=0x1000, bit=60)),
        (Fault("drop-ipi", Send(), cpu=1), Fault("drop-ipi", Send())),
        (Fault("flip-register", Moment(1), register="rflags", bit=1), None),
        (Fault("flip-register", Moment(1), register="rflags", bit=9), Fault("flip-register", Moment(1), register="rflags", bit=9)),
        (Fault("nmi", Moment(1), cpu=1), Fault("nmi", Moment(1), cpu=1)),
    ],
)  # fmt: skip
def test_a_fault_of_an_earlier_recording_does_what_it_did(then: Fault, now: Fault | None) -> None:
    assert then.from_recording() == now
    if now is not None:
        now.checked(CPUS)
