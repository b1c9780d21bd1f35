"""Partial-order reduction against plain enumeration: the same ends, findings and histories, by fewer executions."""

from __future__ import annotations

import hashlib
from collections.abc import Generator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pytest

from kstack.explore import start
from kstack.explore import world as world_module
from kstack.explore.breadth_first import Bounds, Outcome, Problem, search
from kstack.explore.dpor import dpor
from kstack.explore.model.gate import Visible
from kstack.explore.model.lazy_tlb import How
from kstack.explore.states import Grown, Move, State
from kstack.explore.witness import witness
from kstack.explore.world import World
from kstack.guest.asm import KERNEL_LAYOUT, build
from kstack.guest.images import CORE, ENTRY, KERNEL
from kstack.guest.scenario import FOLDER
from kstack.hw.modes import VALUES, Modes
from kstack.run.booted import BootedScenario
from kstack.sanitizer.findings import Finding
from kstack.stacks import (
    EMPTY,
    AllocPage,
    ExchangePte,
    GiveBack,
    Invlpg,
    Invlpgb,
    Load,
    Lock,
    OtherCpus,
    Policy,
    PoolLevel,
    PostFlush,
    Pte,
    ReadPte,
    SendIpi,
    Sleepers,
    Store,
    Swap,
    SwapPte,
    TakePage,
    Thread,
    ThreadAt,
    Tlbsync,
    Unlock,
    WritePte,
    ZeroPage,
)
from kstack.stacks.idioms import map_pages, shootdown
from kstack.stacks.loading.registry import find_policy
from kstack.x86.entries import FRAME_MASK

LAIGHT = "litmus-laight"
Steps = Generator[Any, Any, None]

# --- programs: one a CPU, instructions separated by semicolons; r15 is a page of shared words, Q stands for qword ptr

PROGRAMS = {
    "store buffering": ["mov Q[r15], 1; mov rax, [r15+8]", "mov Q[r15+8], 1; mov rax, [r15]"],
    "message passing": ["mov Q[r15], 5; mov Q[r15+8], 1", "wait:; cmp Q[r15+8], 1; jne wait; mov rax, [r15]"],
    "two writers": ["mov Q[r15], 1; mov Q[r15], 2", "mov Q[r15], 3; mov rax, [r15]"],
    "increments": ["inc Q[r15]; lock inc Q[r15+8]", "lock inc Q[r15+8]; inc Q[r15]"],
    "independent": ["mov Q[r15], 1; mov rax, [r15]", "mov Q[r15+8], 1; mov rax, [r15+8]"],
    "three readers": ["mov Q[r15], 1", "mov rax, [r15]; mov rbx, [r15]", "mov rax, [r15]; mov [r15+8], rax"],
    "part of a word": ["mov byte ptr [r15+4], 1; mov eax, [r15]", "mov rax, [r15]; mov word ptr [r15+3], 0x0202"],
    "across words": ["mov Q[r15+4], 1; mov rax, [r15+8]", "mov Q[r15+8], 3; mov rax, [r15]"],
    "either word": [
        "mov Q[r15], 1; mov Q[r15+8], 1",
        "wait:; cmp Q[r15], 1; je leave; cmp Q[r15+8], 1; jne wait; mov Q[r15+16], 7; leave:",
    ],
    "a value that goes away": ["mov Q[r15], 1; mov Q[r15], 2", "wait:; cmp Q[r15], 1; jne wait"],
    "never comes": ["mov Q[r15], 1; mov rax, [r15+8]", "wait:; cmp Q[r15], 2; jne wait"],
    "test and set": [
        "take:; mov rax, 1; xchg rax, [r15]; test rax, rax; jnz take; mov Q[r15+8], 1; mov Q[r15], 0",
        "again:; mov rax, 1; xchg rax, [r15]; test rax, rax; jnz again; mov rax, [r15+8]; mov Q[r15], 0",
    ],
    "pausing": ["mov Q[r15+8], 1", "wait:; pause; cmp Q[r15+8], 1; jne wait; mov Q[r15], 1"],
    "switches": ["IN 0; OUT 0", "IN 1; OUT 1"],
    "one after the other": ["IN 0; OUT 0; mov Q[r15], 1", "wait:; cmp Q[r15], 1; jne wait; IN 0; OUT 0"],
    "read while there": ["IN 0; ADDRESS 0; mov Q[rbx], 7; OUT 0", "ADDRESS 0; mov rax, [rbx]"],
    "read while there, waiting": [
        "IN 0; ADDRESS 0; mov Q[rbx], 7; mov Q[r15], 1; OUT 0; IN 1",
        "ADDRESS 0; wait:; cmp Q[r15], 1; jne wait; mov rax, [rbx]; mov rcx, [rbx]",
    ],
    "write while there": [
        "IN 0; ADDRESS 0; mov Q[r15], 1; OUT 0",
        "ADDRESS 0; wait:; cmp Q[r15], 1; jne wait; mov Q[rbx], 9; invlpg [rbx]; mov rax, [rbx]",
    ],
    "spin on a stack": [
        "IN 0; ADDRESS 0; mov Q[r15], 1; mov Q[rbx], 8; OUT 0",
        "ADDRESS 0; start:; cmp Q[r15], 1; jne start; wait:; cmp Q[rbx], 8; jne wait",
    ],
    "interrupted": ["IN 0; OUT 0; mov rax, [r15]", "mov Q[r15], 1; cli; mov Q[r15], 2; sti; mov Q[r15], 3"],
    "interrupted, waiting": ["IN 0; OUT 0; mov Q[r15], 1", "wait:; cmp Q[r15], 1; jne wait; mov Q[r15], 2"],
    "three switch": ["IN 0; OUT 0", "mov rax, [r15]; mov Q[r15], 1", "mov Q[r15], 2"],
    "the end of a thread": ["IN 0; EXIT 0; mov Q[r15], 1", "mov rax, [r15]; PRESSURE"],
    "the end of all": ["mov Q[r15], 1; mov Q[r15+8], 2; END", "mov rax, [r15]; mov [r15+16], rax; mov Q[r15+8], 3"],
    "pressure": ["IN 0; OUT 0; mov Q[r15], 1", "PRESSURE; mov rax, [r15]"],
    "pressure twice": ["IN 0; PRESSURE", "PRESSURE"],
}
OPERATIONS = {
    "IN": "L_SWITCH_IN {}",
    "OUT": "L_SWITCH_OUT {}, 256",
    "EXIT": "L_CALL HYPER_EXIT_THREAD, {}",
    "END": "mov eax, 0; out 0xf4, al",
    "ADDRESS": "L_ADDRESS rbx, {}, LITMUS_DEEP",
    "PRESSURE": "mov edi, 1; mov eax, 10; out PORT_HYPERCALL, eax",
}


def source(programs: list[str]) -> str:
    """Assembly of a litmus scenario."""
    text = [".text"]
    for cpu, program in enumerate(programs):
        text.append(f"p{cpu}:")
        for operation in program.replace("Q[", "qword ptr [").split(";"):
            name, _, rest = operation.strip().partition(" ")
            text += OPERATIONS.get(name, f"{name} {rest}").format(rest).split(";")
        text.append("jmp litmus_end")
    names = ", ".join(f"p{cpu}" for cpu in range(len(programs)))
    text += [".section .rodata", "scenario_name:", '.asciz "small"', ".p2align 3"]
    text += ["scenario_pool:", ".quad 48", "litmus_stacks:", ".quad 2", "litmus_programs:", f".quad {names}, 0"]
    return "\n".join(text) + "\n"


# --- policies of one page, each with other steps


class Small(Policy):
    """The second page of a stack is there between switch-in and switch-out."""

    id = title = proposer = source = "small"

    def create_thread(self, cpu: int, thread: Thread) -> Any:
        return (yield from map_pages((thread.top,)))

    def switch_in(self, cpu: int, thread: Thread) -> Any:
        yield from map_pages((thread.pages[1],))

    def switch_out(self, cpu: int, thread: Thread) -> Any:
        page = thread.pages[1]
        old = yield SwapPte(page, EMPTY)
        if old.present:
            yield from self.flush(thread)
            yield from self.free(cpu, old)

    def stack_fault(self, cpu: int, thread: Thread, address: int, error: int) -> Any:
        owner = yield ThreadAt(address)
        return (yield from map_pages((owner.page_at(address),)))

    def flush(self, thread: Thread) -> Steps:
        yield Invlpg(thread.pages[1])

    def free(self, cpu: int, old: Pte) -> Steps:
        if old.dirty:
            yield ZeroPage(old.frame)
        yield GiveBack(old.frame)


class Local(Small):
    """Unsafe: nobody else is told."""


class Everywhere(Small):
    def flush(self, thread: Thread) -> Steps:
        yield from shootdown((thread.pages[1],))


class Unlocked(Small):
    """A shootdown without its lock, and nobody waits."""

    def flush(self, thread: Thread) -> Steps:
        for other in (yield OtherCpus()):
            yield PostFlush(other, thread.pages[1].address, 1)
            yield SendIpi(other)


class Broadcasting(Small):
    def flush(self, thread: Thread) -> Steps:
        yield Invlpgb(thread.pages[1], 1)
        yield Tlbsync()


class NotSynced(Small):
    def flush(self, thread: Thread) -> Steps:
        yield Invlpgb(thread.pages[1], 1)


class Abroad(Small):
    """Frames go to the other CPU's pool, dirty."""

    def free(self, cpu: int, old: Pte) -> Steps:
        yield GiveBack(old.frame, 1 - cpu if cpu < 2 else 0)


class Kept(Small):
    """One frame is kept in a variable, for whoever comes first."""

    def switch_in(self, cpu: int, thread: Thread) -> Any:
        kept = yield Load("kept")
        frame = kept if kept is not None else (yield TakePage())
        yield Store("kept", None)
        yield WritePte(thread.pages[1], Pte.of(frame))

    def free(self, cpu: int, old: Pte) -> Steps:
        had = yield Swap("kept", old.frame)
        if had is not None:
            yield GiveBack(had)


class Allocating(Small):
    def switch_in(self, cpu: int, thread: Thread) -> Any:
        level = yield PoolLevel()
        frame = yield AllocPage()
        if frame is not None and level:
            yield WritePte(thread.pages[1], Pte.of(frame))


class Dry(Small):
    """Pools of one page, so that they are filled up from what all share."""

    pool_pages = 1

    def switch_in(self, cpu: int, thread: Thread) -> Any:
        yield TakePage()
        frame = yield TakePage()
        yield WritePte(thread.pages[1], Pte.of(frame))


class Crossed(Small):
    """Two locks in an order that depends on the thread."""

    def switch_in(self, cpu: int, thread: Thread) -> Any:
        first, second = ("a", "b") if thread.id % 2 else ("b", "a")
        yield Lock(first)
        yield Lock(second)
        yield Unlock(second)
        yield Unlock(first)


class Shrinking(Small):
    """Under pressure, every stack loses its second page if nobody has used it."""

    def memory_pressure(self, cpu: int, pages: int) -> Any:
        for thread in (yield Sleepers(0)):
            page = thread.pages[1]
            pte = yield ReadPte(page)
            if pte.present and not pte.accessed:
                seen = yield ExchangePte(page, EMPTY, pte)
                if seen == pte:
                    yield GiveBack(pte.frame)

    def switch_out(self, cpu: int, thread: Thread) -> Any:
        yield ReadPte(thread.pages[1])


POLICIES: tuple[type[Policy], ...] = (
    Local, Everywhere, Unlocked, Broadcasting, NotSynced, Abroad, Kept, Allocating, Dry, Crossed, Shrinking,
)  # fmt: skip


# --- worlds


@cache
def _booted(program: str, modes: Modes) -> BootedScenario:
    cpus = len(PROGRAMS[program])
    with TemporaryDirectory() as folder:
        path = Path(folder) / "program.s"
        path.write_text(source(PROGRAMS[program]))
        files = [*(KERNEL / f"{part}.s" for part in CORE), FOLDER / "lib_litmus.s", path]
        image = build(files, layout=KERNEL_LAYOUT, entry=ENTRY, include=[KERNEL]).to_elf()
    return BootedScenario(image, "small", cpus, 16 << 20, modes)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Worlds are of the programs here, booted once."""

    def boot(program: Any, modes: Modes) -> BootedScenario:
        booted = _booted(program.id, modes)
        booted.machine.hold_ipis = False
        for cpu in booted.machine.cpus:
            cpu.mmu.translator = None
        return booted

    class Found(NamedTuple):
        id: str
        litmus: bool = True
        expects: tuple[str, ...] = ()
        managed: tuple[str, ...] = ()
        concerns: tuple[str, ...] = ()

    class Guests:
        scenario = Found

    for module in (start, world_module):
        monkeypatch.setattr(module, "usual_guests", Guests)
    monkeypatch.setattr(start, "boot", boot)


# --- histories: what each CPU has seen; rounds of loops that changed nothing are left out


class Seen(NamedTuple):
    local: bytes
    what: str
    looked: bool


History = tuple[Seen, ...]


def local(world: World, cpu: int) -> bytes:
    cached = sorted((page, sorted(values)) for (who, page), values in world.lazy.may.items() if who == cpu)
    rest = repr((world.held[cpu], cached)).encode()
    return hashlib.blake2b(world.machine.cpus[cpu].registers.canonical() + rest, digest_size=8).digest()


def observe(world: World, move: Move) -> str:
    """What a move is about to see."""
    held, memory = world.held[move.cpu], world.machine.memory
    if move.kind == "store":
        return f"its own {world.buffers.stores[move.cpu][0].value!r} becomes visible"
    if move.kind == "interrupt" or held is None:
        return f"interrupt {world.machine.ipis[move.choice].vector:#x}"
    mmu = world.machine.cpus[move.cpu].mmu
    if move.kind == "access":
        option = world.choices.options(move.cpu, held)[move.choice]
        found = mmu.peek(held.address)
        if option.how is How.CACHED:
            frame: int | None = option.value & FRAME_MASK
        else:
            frame = None if found is None else found.frame
        word = None if frame is None else memory.read64((frame | held.address & 0xFFF) & ~7)
        return f"{held} by {option}: {word if word is None else hex(word)}"
    calls = world.runtime.calls[move.cpu]
    return f"{held.what} {calls[-1].step if calls else ''} {move.choice}"


def answer(world: World, move: Move) -> str:
    """What a policy's step has answered; of threads what is no time."""
    calls = world.runtime.calls[move.cpu]
    if move.kind != "step" or not calls or not calls[-1].answers:
        return ""
    given = calls[-1].answers[-1]
    plain = [(one.id, one.saved_rsp, one.since >= 0) if isinstance(one, Thread) else one for one in _all(given)]
    return f" -> {plain}"


def _all(given: Any) -> list[Any]:
    return list(given) if isinstance(given, tuple) and not isinstance(given, Pte) else [given]


def extended(history: History, before: bytes, what: str, looked: bool, after: bytes) -> History:
    history = (*history, Seen(before, what, looked))
    at = len(history)
    while at and history[at - 1].looked:
        at -= 1
        if history[at].local == after:
            return history[:at]
    return history


def only_looked(move: Move, before: State, after: State) -> bool:
    same = before.memory == after.memory and before.policy == after.policy and before.rest.ipis == after.rest.ipis
    return same and move.kind in ("access", "instruction")


@dataclass
class Seens:
    """What all executions together have come to."""

    ends: set[bytes] = field(default_factory=set)
    findings: set[tuple[str, int, int]] = field(default_factory=set)
    histories: set[tuple[tuple[str, ...], ...]] = field(default_factory=set)

    def found(self, finding: Finding | None) -> None:
        if finding is not None:
            self.findings.add((finding.kind.value, finding.cpu, finding.address))

    def ended(self, key: bytes, histories: tuple[History, ...]) -> None:
        self.ends.add(key)
        self.histories.add(tuple(tuple(one.what for one in history) for history in histories))


class Watching(Seens):
    """Sees a search's executions."""

    def __init__(self) -> None:
        super().__init__()
        self._histories: list[tuple[History, ...]] = []
        self._before: tuple[State, bytes, str] | None = None

    def moves(self, world: World, depth: int, move: Move) -> None:
        if not depth:
            self._histories = [tuple(() for _ in world.machine.cpus)]
        del self._histories[depth + 1 :]
        self._before = world.state(), local(world, move.cpu), observe(world, move)

    def moved(self, world: World, depth: int, move: Move, finding: Finding | None) -> None:
        self.found(finding)
        assert self._before is not None
        state, was, what = self._before
        self._histories.append(_after(world, self._histories[depth], move, state, was, what))

    def ended(self, world: Any, depth: Any, state: Any = None) -> None:
        histories = self._histories[depth] if self._histories else ()
        super().ended(world.key(state), histories)


def _after(
    world: World, histories: tuple[History, ...], move: Move, before: State, was: bytes, what: str
) -> tuple[History, ...]:
    cpu, looked = move.cpu, only_looked(move, before, world.state())
    new = extended(histories[cpu], was, what + answer(world, move), looked, local(world, cpu))
    return (*histories[:cpu], new, *histories[cpu + 1 :])


def reduced(program: str, policy: type[Policy], modes: Modes) -> tuple[Outcome, Seens]:
    watching = Watching()
    while True:
        try:
            return dpor(Problem(program, policy, modes), watcher=watching), watching
        except Grown:
            watching = Watching()


def enumerated(program: str, policy: type[Policy], modes: Modes, visible: Visible) -> Seens:
    """Every move out of every state, for each history by which it is reached."""
    world, seen = World(program, policy, modes, visible), Seens()
    root = world.state()
    start = tuple(() for _ in world.machine.cpus)
    first = world.key(root)
    known: set[Any] = {(first, start)}
    work: list[tuple[State, int, tuple[History, ...]]] = [(root, first, start)]
    while work:
        state, here, histories = work.pop()
        world.become(state)
        moves = world.moves() if world.machine.end() is None else []
        went = False
        for move in moves:
            world.become(state)
            was, what = local(world, move.cpu), observe(world, move)
            finding = world.make(move)
            assert not world.visible.grown
            seen.found(finding)
            new = world.state()
            key = world.key(new)
            went = went or key != here
            node = key, _after(world, histories, move, state, was, what)
            if node not in known:
                known.add(node)
                work.append((new, *node))
        if not went:
            seen.ended(here, histories)
    return seen


def naive_executions(program: str, policy: type[Policy], modes: Modes, visible: Visible) -> int:
    """How many executions there are if every order counts (loops that change nothing left out)."""
    world = World(program, policy, modes, visible)
    counts: dict[bytes, int] = {}

    def count(state: State) -> int:
        key = world.key(state)
        if key not in counts:
            world.become(state)
            moves, total = world.moves(), 0
            for move in moves:
                world.become(state)
                world.make(move)
                new = world.state()
                if world.key(new) != key:
                    total += count(new)
            counts[key] = total or 1
        return counts[key]

    return count(world.state())


# --- the same


WORDS = [name for name, programs in PROGRAMS.items() if not any("IN" in one or "PRESS" in one for one in programs)]
EVERY = VALUES["speculation"]
CASES = [
    *((name, Small, "sets-accessed") for name in WORDS),
    *(("switches", policy, "none") for policy in (Local, NotSynced, Abroad, Kept, Allocating, Crossed, Shrinking)),
    *(("one after the other", policy, "none") for policy in POLICIES),
    *(("read while there", policy, "none") for policy in (Local, Broadcasting, NotSynced)),
    *(
        ("write while there", policy, "none")
        for policy in (Local, Everywhere, Unlocked, Broadcasting, NotSynced, Abroad)
    ),
    *(("write while there", policy, "sets-accessed") for policy in (Local, NotSynced)),
    *(("read while there, waiting", policy, "none") for policy in (Local, Broadcasting, NotSynced, Abroad, Kept)),
    *((name, policy, "none") for name in ("interrupted", "interrupted, waiting") for policy in (Everywhere, Unlocked)),
    ("three switch", NotSynced, "none"),
    *(("the end of a thread", policy, "none") for policy in (Local, Shrinking)),
    *(("spin on a stack", Kept, speculation) for speculation in EVERY),
    *((name, Shrinking, speculation) for name in ("pressure", "pressure twice") for speculation in EVERY),
]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("program", "policy", "speculation"), CASES, ids=[f"{one}-{two.__name__}-{three}" for one, two, three in CASES]
)
def test_it_comes_to_the_same_ends_findings_and_histories(program: str, policy: type[Policy], speculation: str) -> None:
    modes = Modes(speculation=speculation)
    outcome, seen = reduced(program, policy, modes)
    plain = enumerated(program, policy, modes, outcome.visible)
    assert seen.findings == plain.findings
    assert seen.ends == plain.ends
    assert seen.histories == plain.histories


@pytest.mark.usefixtures("small")
def test_work_that_does_not_depend_is_done_in_one_order() -> None:
    outcome, _ = reduced("independent", Small, Modes())
    assert outcome.executions == 1
    assert naive_executions("independent", Small, Modes(), outcome.visible) > 5
    modes = Modes(speculation="none")
    outcome, _ = reduced("switches", Local, modes)
    assert outcome.executions == 1
    assert naive_executions("switches", Local, modes, outcome.visible) > 10_000


@pytest.mark.usefixtures("small")
def test_what_waits_for_ever_is_stuck_and_the_way_there_is_told() -> None:
    for program, policy in (("never comes", Small), ("switches", Crossed)):
        outcome = dpor(Problem(program, policy, Modes()))
        assert (outcome.verdict, outcome.finding) == ("unsafe", None)
        assert outcome.stuck > 0
        world = World(program, policy, Modes(), outcome.visible)
        for move in outcome.path:
            world.make(move)
        assert not world.finished


@pytest.mark.parametrize("policy", ["fixed-16k", "entry-keep", "entry-exit", "switch-sp-local"])
def test_laight_comes_out_as_by_breadth_first_search(policy: str) -> None:
    chosen = find_policy(policy)
    plain, outcome = search(Problem(LAIGHT, policy, Modes())), dpor(Problem(LAIGHT, chosen, Modes()))
    assert (outcome.verdict, outcome.complete) == (plain.verdict, plain.complete)
    if outcome.path:
        shown = witness(LAIGHT, chosen, Modes(), outcome.visible, outcome.path)
        assert shown.finding is not None
        assert shown.finding.kind.value == "stale-translation"


@pytest.mark.usefixtures("small")
def test_a_bound_on_preemptions_finds_what_needs_no_more_and_proves_nothing() -> None:
    found = dpor(Problem("write while there", Local, Modes()), Bounds(preemptions=3))
    assert found.verdict == "unsafe"
    cut = dpor(Problem("store buffering", Small, Modes()), Bounds(preemptions=0))
    assert (cut.verdict, cut.complete, cut.cut) == ("undecided", False, "0 preemptions")
    enough = dpor(Problem("store buffering", Small, Modes()), Bounds(preemptions=4))
    assert (enough.verdict, enough.complete) == ("safe", True)


@pytest.mark.parametrize(("bounds", "reason"), [(Bounds(depth=9), "depth 9"), (Bounds(budget=0.01), "budget 0.01 s")])
def test_a_bound_that_cuts_leaves_it_undecided(bounds: Bounds, reason: str) -> None:
    outcome = dpor(Problem(LAIGHT, "switch-sp-ipi", Modes()), bounds)
    assert (outcome.verdict, outcome.complete, outcome.cut) == ("undecided", False, reason)
