"""Broken subjects: each breaks exactly one promise that a check of a conformance kit is for.

`BROKEN` says which check must fail on which. A kit here is a class of a user's; the checks run it in another process too,
so that every class stands at the top of this module.
"""

from __future__ import annotations

import dataclasses
import datetime
import random
import sys
import time
from collections.abc import Callable
from time import monotonic
from typing import Any, ClassVar, Final

from msgspec.structs import replace

from kstack.fault import At, Fault, Flush, Injector, Moment
from kstack.hw.cpu.state import ActivityState
from kstack.machine import Machine
from kstack.policies.switch_sp_ipi import SwitchSpIpi
from kstack.recording import Recording, pack
from kstack.run.session import Session
from kstack.sanitizer.findings import Finding, Kind
from kstack.schedule import Choice, RandomSchedule, RoundRobin, Scheduler, View
from kstack.stacks import (
    Decision,
    GiveBack,
    Load,
    Policy,
    Pte,
    ReadPte,
    Steps,
    TakePage,
    Thread,
    WritePte,
    map_pages,
    unmap_pages,
)
from kstack.stacks.oracle import Oracle
from kstack.testing import (
    Clock,
    DeviceConformance,
    FaultConformance,
    GuestRun,
    PolicyConformance,
    SchedulerConformance,
    Start,
)

BROKEN: Final[dict[str, list[type]]] = {}
"""By the kit's name and the check's: kits with a subject on which it must fail."""


def _kit(base: type, name: str, checks: tuple[str, ...], attributes: dict[str, Any]) -> None:
    kit = type(f"{name}Kit", (base,), {**attributes, "__module__": __name__, "__qualname__": f"{name}Kit"})
    globals()[kit.__name__] = kit
    for check in checks:
        assert hasattr(base, f"test_{check}"), check
        BROKEN.setdefault(f"{base.__name__}.test_{check}", []).append(kit)


# --- policies

SAID, ACCOUNT, SAME = "it_says_who_proposed_it_and_where", "it_keeps_account_of_its_frames", "it_does_the_same_again"
ASKED, ELSEWHERE = "its_hooks_do_the_same_when_they_are_asked_again", "its_hooks_do_the_same_in_another_process"
ON, BACK, REFUSED = "it_goes_on_from_a_snapshot", "it_goes_back_to_a_snapshot", "it_takes_no_for_an_answer"


def policy(*checks: str) -> Callable[[type], type]:
    """A policy on which these checks must fail."""

    def register(broken: type) -> type:
        broken.id = broken.__dict__.get("id", broken.__name__.lower())  # type: ignore[attr-defined] # a policy has one
        _kit(PolicyConformance, broken.__name__, checks, {"policy": broken})
        return broken

    return register


def more(thread: Thread, whether: Any) -> Steps:
    """One step more, by which it shows what a hook depends on."""
    if whether:
        yield ReadPte(thread.top)


def by_number(turns: int) -> bool:
    """Whether, in a turn: in no order that comes again, so that it shows wherever a count begins."""
    return bool(random.Random(turns).getrandbits(1))


@policy(SAID)
class Sourceless(SwitchSpIpi):
    source = " "


@policy(SAID)
class Untitled(SwitchSpIpi):
    title = None  # type: ignore[assignment] # that is what is broken


@policy(SAID)
class Anonymous(Policy):
    title, source = "nobody's", "nowhere"


@policy(ACCOUNT)
class Losing(SwitchSpIpi):
    """Frames of a thread that exits are nobody's."""

    def exit_thread(self, cpu: int, thread: Thread) -> Steps:
        yield from unmap_pages(thread.pages)


@policy(ACCOUNT)
class FreeingTwice(SwitchSpIpi):
    def exit_thread(self, cpu: int, thread: Thread) -> Steps:
        for pte in (yield from unmap_pages(thread.pages)):
            yield GiveBack(pte.frame)
            yield GiveBack(pte.frame)


@policy(ACCOUNT)
class Sharing(SwitchSpIpi):
    """A thread's second page is its first one."""

    def switch_in(self, cpu: int, thread: Thread) -> Steps:
        top = yield ReadPte(thread.top)
        yield WritePte(thread.pages[1], top)
        yield from super().switch_in(cpu, thread)


@policy(ACCOUNT)
class Mapless(SwitchSpIpi):
    """Nobody comes to an end at which anything could be counted."""

    def create_thread(self, cpu: int, thread: Thread) -> Decision:
        yield ReadPte(thread.top)
        return True

    def switch_in(self, cpu: int, thread: Thread) -> Steps:
        yield from ()


@policy(ASKED, ELSEWHERE, ON, BACK)  # each run has an object of its own
class InSelf(SwitchSpIpi):
    """Counts in its object."""

    turns = 0

    def switch_in(self, cpu: int, thread: Thread) -> Steps:
        self.turns += 1
        yield from more(thread, self.turns % 3 == 0)
        yield from super().switch_in(cpu, thread)


MODULE = [0]


@policy(SAME, ASKED, ON, BACK)
class InItsModule(SwitchSpIpi):
    def switch_out(self, cpu: int, thread: Thread) -> Steps:
        MODULE[0] += 1
        yield from more(thread, by_number(MODULE[0]))
        yield from super().switch_out(cpu, thread)


@policy(SAME, ASKED, ON, BACK)
class InItsClass(SwitchSpIpi):
    turns = 0

    def enter_kernel(self, cpu: int, thread: Thread) -> Steps:
        type(self).turns += 1
        yield from more(thread, by_number(self.turns))


@policy(SAME, ASKED)
class InADefault(SwitchSpIpi):
    def exit_kernel(self, cpu: int, thread: Thread, turns: list[int] = []) -> Steps:  # noqa: B006 # what is broken
        turns.append(cpu)
        yield from more(thread, by_number(len(turns)))


def _counter() -> Callable[[], int]:
    turns = 0

    def count() -> int:
        nonlocal turns
        turns += 1
        return turns

    return count


@policy(SAME, ASKED)
class InAClosure(SwitchSpIpi):
    count = staticmethod(_counter())

    def share(self, cpu: int, thread: Thread) -> Steps:
        yield from more(thread, by_number(self.count()))


@policy(SAME)
class EverySecondOne(SwitchSpIpi):
    """Every second object of it is lazy."""

    made = 0

    def __init__(self) -> None:
        type(self).made += 1
        self.lazy = type(self).made % 2

    def switch_out(self, cpu: int, thread: Thread) -> Steps:
        if not self.lazy:
            yield from super().switch_out(cpu, thread)


@policy(ASKED, ELSEWHERE, ON, BACK)
class Remembering(SwitchSpIpi):
    """What one hook keeps, another one needs."""

    def __init__(self) -> None:
        self.sizes: dict[int, int] = {}

    def create_thread(self, cpu: int, thread: Thread) -> Decision:
        self.sizes[thread.id] = thread.size
        return (yield from super().create_thread(cpu, thread))

    def exit_thread(self, cpu: int, thread: Thread) -> Steps:
        yield from more(thread, self.sizes[thread.id] > 0)
        yield from super().exit_thread(cpu, thread)


@policy(ASKED, ON, BACK)
class OnceEach(SwitchSpIpi):
    """What a hook does it does once for each thread: an object that does it again does not."""

    def __init__(self) -> None:
        self.gone: dict[int, bool] = {}

    def exit_thread(self, cpu: int, thread: Thread) -> Steps:
        yield from more(thread, not self.gone.setdefault(thread.id, False))
        self.gone[thread.id] = True
        yield from super().exit_thread(cpu, thread)


@policy(ASKED)
class Consuming(SwitchSpIpi):
    """What is asked for once is answered once."""

    asked: ClassVar[dict[int, int]] = {}

    def request(self, cpu: int, thread: Thread, size: int) -> Decision:
        yield from more(thread, True)
        self.asked[thread.id] = size
        return True

    def exit_kernel(self, cpu: int, thread: Thread) -> Steps:
        yield from more(thread, self.asked.pop(thread.id, 0))


@policy(ASKED)
class InFlight(SwitchSpIpi):
    """What a hook keeps between two steps, a hook on another CPU overwrites."""

    current = 0

    def switch_in(self, cpu: int, thread: Thread) -> Steps:
        self.current = thread.id
        yield from super().switch_in(cpu, thread)
        yield from more(thread, self.current == thread.id)


@policy(ASKED)
class Unfinished(SwitchSpIpi):
    """A hook that does not come to its end leaves something behind, for one that begins later."""

    begun: ClassVar[dict[str, bool]] = {}

    def switch_in(self, cpu: int, thread: Thread) -> Steps:
        behind = self.begun.get("switch_in")
        yield ReadPte(thread.top)
        self.begun["switch_in"] = True
        yield from super().switch_in(cpu, thread)
        self.begun["switch_in"] = False
        yield from more(thread, behind)


@policy(ASKED)
class Answering(SwitchSpIpi):
    """Only what it answers depends on how often it was asked."""

    turns = 0

    def request(self, cpu: int, thread: Thread, size: int) -> Decision:
        self.turns += 1
        yield from ()
        return self.turns % 2 == 0


@policy(ASKED, SAME)
class ByChance(SwitchSpIpi):
    def switch_in(self, cpu: int, thread: Thread) -> Steps:
        yield from more(thread, random.random() < 0.5)
        yield from super().switch_in(cpu, thread)


@policy(ASKED, SAME)
class ByTheClock(SwitchSpIpi):
    def switch_in(self, cpu: int, thread: Thread) -> Steps:
        yield from more(thread, int(time.time()) // 1_000_000 % 2)
        yield from super().switch_in(cpu, thread)


@policy(ASKED, SAME)
class ByAClockOfItsOwn(SwitchSpIpi):
    def switch_in(self, cpu: int, thread: Thread) -> Steps:
        yield from more(thread, int(monotonic()) % 2)
        yield from super().switch_in(cpu, thread)


@policy(ASKED, SAME)
class ByTheCalendar(SwitchSpIpi):
    def switch_in(self, cpu: int, thread: Thread) -> Steps:
        yield from more(thread, datetime.datetime.now().second % 2)
        yield from super().switch_in(cpu, thread)


@policy(ASKED, SAME)
class ByIdentity(SwitchSpIpi):
    def switch_in(self, cpu: int, thread: Thread) -> Steps:
        yield from more(thread, id(thread) >> 4 & 1)
        yield from super().switch_in(cpu, thread)


@policy(ELSEWHERE)
class ByOrderOfASet(SwitchSpIpi):
    def switch_in(self, cpu: int, thread: Thread) -> Steps:
        for name in {"one", "two", "three", "four", "five"}:  # what is broken
            yield from more(thread, name != "one")
            if name == "one":
                break
        yield from super().switch_in(cpu, thread)


@policy(ELSEWHERE)
class ByHash(SwitchSpIpi):
    def switch_in(self, cpu: int, thread: Thread) -> Steps:
        for _ in range(hash("kstack") % 64):
            yield from more(thread, True)
        yield from super().switch_in(cpu, thread)


ORDER: dict[int, int] = {}


@policy(ELSEWHERE)
class InOrderOfAppearance(SwitchSpIpi):
    """Whoever comes first is first for ever."""

    def switch_in(self, cpu: int, thread: Thread) -> Steps:
        yield from more(thread, ORDER.setdefault(thread.id, len(ORDER)) % 2)
        yield from super().switch_in(cpu, thread)


def hidden() -> type:
    """A policy that nobody can import."""

    class Hidden(SwitchSpIpi):
        pass

    return Hidden


policy(ELSEWHERE)(hidden())


@policy(SAME, ON, BACK)
class Wavering(SwitchSpIpi):
    """Asks for something else now and then, which the machine's state does not show."""

    turns = 0

    def switch_in(self, cpu: int, thread: Thread) -> Steps:
        type(self).turns += 1
        yield Load("left" if by_number(self.turns) else "right")
        yield from super().switch_in(cpu, thread)


class Cheat(SwitchSpIpi):
    """Does something behind the machine's back in every third hook."""

    turns = 0

    def switch_in(self, cpu: int, thread: Thread) -> Steps:
        self.turns += 1
        if self.turns % 3 == 0:
            frame: Any = sys._getframe()
            while not hasattr(frame.f_locals.get("self"), "executor"):
                frame = frame.f_back
            self.do(frame.f_locals["self"], cpu)
        yield from super().switch_in(cpu, thread)

    def do(self, runtime: Any, cpu: int) -> None:
        raise NotImplementedError


@policy(ON, BACK)
class Poking(Cheat):
    """Writes memory that no step has written: the steps are the same."""

    def do(self, runtime: Any, cpu: int) -> None:
        memory = runtime._machine.memory
        memory.write64(0x3FFF000, memory.read64(0x3FFF000) + self.turns)


@policy(SAME, ON)
class Accusing(Cheat):
    """Puts words into the oracle's mouth: steps and states are the same."""

    said = 0

    def do(self, runtime: Any, cpu: int) -> None:
        type(self).said += 1
        for hear in runtime.hooks.step.heard:
            if isinstance(hear.__self__, Oracle):
                hear.__self__.findings.append(Finding(Kind.LIVELOCK, cpu, "nowhere", 0, self.said, "it says so"))


@policy(REFUSED)
class Assuming(SwitchSpIpi):
    """There is always a page."""

    def switch_in(self, cpu: int, thread: Thread) -> Steps:
        for page in thread.pages:
            pte = yield ReadPte(page)
            if not pte.present:
                frame = yield TakePage()
                yield WritePte(page, Pte.of(frame))


@policy(REFUSED)
class Nagging(SwitchSpIpi):
    """Asks two thousand times more."""

    def switch_in(self, cpu: int, thread: Thread) -> Steps:
        for _ in range(2000):
            if (yield from map_pages(thread.pages)):
                return


@policy(REFUSED)
class Dropping(SwitchSpIpi):
    """What it has taken before it is refused is nobody's."""

    def switch_in(self, cpu: int, thread: Thread) -> Steps:
        missing = []
        for page in thread.pages:
            pte = yield ReadPte(page)
            if not pte.present:
                missing.append(page)
        frames = []
        for _ in missing:
            frame = yield TakePage()
            if frame is None:
                return
            frames.append(frame)
        for page, frame in zip(missing, frames, strict=True):
            yield WritePte(page, Pte.of(frame))


# --- devices

ANSWERS, ALIEN, STATE = (
    "the_same_accesses_give_the_same_answers",
    "another_process_gives_the_same_answers",
    "reset_is_one_state",
)
GOES_ON, PAIR, PLAIN = (
    "it_goes_on_from_a_snapshot",
    "two_that_were_restored_go_on_alone",
    "a_snapshot_is_a_plain_value_that_stays",
)
LOOK, WILD, TWO = (
    "taking_a_snapshot_changes_nothing",
    "no_access_raises_or_answers_out_of_range",
    "two_of_them_never_influence_each_other",
)


class Latch:
    """Four bytes: what a right device looks like."""

    def __init__(self, clock: Clock) -> None:
        self.label, self.state, self.clock = "latch", bytearray(4), clock

    def read(self, offset: int, size: int) -> int:
        return int.from_bytes(self.state[offset : offset + size], "little") if offset + size <= 4 else 0

    def write(self, offset: int, size: int, value: int) -> None:
        if offset + size <= 4:
            self.state[offset : offset + size] = value.to_bytes(size, "little")

    def snapshot(self) -> Any:
        return bytes(self.state)

    def restore(self, state: Any) -> None:
        self.state = bytearray(state)


def device(*checks: str, size: int = 4, **attributes: Any) -> Callable[[type], type]:
    """A device on which these checks must fail."""

    def register(broken: type) -> type:
        made = {"make": lambda self, clock: broken(clock), "size": size, **attributes}
        _kit(DeviceConformance, broken.__name__, checks, made)
        return broken

    return register


@device("it_has_a_label")
class Nameless(Latch):
    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.label = " "


@device("it_has_a_label")
class Numbered(Latch):
    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.label = 7  # type: ignore[assignment] # that is what is broken


@device(WILD)
class Fragile(Latch):
    """Raises beyond its range."""

    def read(self, offset: int, size: int) -> int:
        return self.state[offset] if size == 1 else super().read(offset, size)


@device(WILD)
class Narrow(Latch):
    """Knows no access of eight bytes."""

    def write(self, offset: int, size: int, value: int) -> None:
        super().write(offset, {1: 1, 2: 2, 4: 4}[size], value)


@device(WILD)
class Wide(Latch):
    """Gives more than was asked for."""

    def read(self, offset: int, size: int) -> int:
        return 0x1FF if size == 1 else super().read(offset, size)


@device(WILD)
class Negative(Latch):
    def read(self, offset: int, size: int) -> int:
        return -1 if size == 8 else super().read(offset, size)


@device(WILD)
class Spilling(Latch):
    """What was written in eight bytes is read in one."""

    kept = 0

    def write(self, offset: int, size: int, value: int) -> None:
        self.kept = value if size == 8 else 0

    def read(self, offset: int, size: int) -> int:
        return self.kept

    def snapshot(self) -> Any:
        return self.kept

    def restore(self, state: Any) -> None:
        self.kept = state


@device(WILD, size=4096, step=16)
class Aligned(Latch):
    """Raises between its registers."""

    def read(self, offset: int, size: int) -> int:
        return {0: 1}[offset % 8]


@device(TWO, STATE)
class Leaking(Latch):
    """All of them have one state."""

    kept = bytearray(4)

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.state = Leaking.kept

    def restore(self, state: Any) -> None:
        self.state[:] = state


@device(TWO, ANSWERS, ALIEN)
class Counting(Latch):
    """All of them count together, which no snapshot shows."""

    reads = 0

    def read(self, offset: int, size: int) -> int:
        Counting.reads += 1
        return Counting.reads & 0xFF


@device(TWO)
class Gossiping(Latch):
    """What is written to one shows in the state of all, and in no answer."""

    writes: ClassVar[list[int]] = []

    def write(self, offset: int, size: int, value: int) -> None:
        self.writes.append(1)

    def snapshot(self) -> Any:
        return len(self.writes)


@device(STATE)
class Stubborn(Latch):
    """Its reset leaves the last byte."""

    def reset(self) -> None:
        self.state[:3] = bytes(3)


@device(ANSWERS)
class Moody(Latch):
    def read(self, offset: int, size: int) -> int:
        return random.getrandbits(8 * size)


@device(ANSWERS)
class Hasty(Latch):
    """Its time is the host's."""

    def read(self, offset: int, size: int) -> int:
        return int(time.monotonic()) & 0xFF


@device(ANSWERS)
class Drifting(Latch):
    """Its state alone depends on the host's time."""

    def write(self, offset: int, size: int, value: int) -> None:
        self.state[3] = int(time.time()) // 1_000_000 & 0xFF

    def read(self, offset: int, size: int) -> int:
        return 0


@device(ALIEN)
class Shuffled(Latch):
    def read(self, offset: int, size: int) -> int:
        return len("".join(list({"a", "bc", "def", "ghij", "klmno"})[:2]))


@device(ALIEN)
class Labelled(Latch):
    """Its answers are the same everywhere, its state is not."""

    def snapshot(self) -> Any:
        return super().snapshot() + str(hash("latch")).encode()

    def restore(self, state: Any) -> None:
        super().restore(state[:4])


class Cut(Latch):
    """Nobody can import the kit that makes it."""


LostKit = type(
    "Lost", (DeviceConformance,), {"make": lambda self, clock: Cut(clock), "size": 4, "__module__": __name__}
)
BROKEN[f"DeviceConformance.test_{ALIEN}"].append(LostKit)


@device(GOES_ON)
class Forgetful(Latch):
    """A counter is not in its snapshot."""

    count = 0

    def read(self, offset: int, size: int) -> int:
        self.count += 1
        return self.count & 0xFF


@device(GOES_ON)
class Careless(Latch):
    """Its last byte is not restored."""

    def restore(self, state: Any) -> None:
        self.state[:3] = state[:3]


@device(GOES_ON)
class Diverging(Latch):
    """Goes to another state when it has been restored, and answers the same."""

    restored = 0

    def read(self, offset: int, size: int) -> int:
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        super().write(offset, size, value)
        self.state[0] = self.restored

    def restore(self, state: Any) -> None:
        super().restore(state)
        self.restored = 1


@device(GOES_ON)
class Deferring(Latch):
    """Is what it was from the next access on."""

    later: Any = None

    def restore(self, state: Any) -> None:
        self.later = state

    def read(self, offset: int, size: int) -> int:
        self.catch_up()
        return super().read(offset, size)

    def write(self, offset: int, size: int, value: int) -> None:
        self.catch_up()
        super().write(offset, size, value)

    def catch_up(self) -> None:
        if self.later is not None:
            super().restore(self.later)
            self.later = None


@device(PAIR)
class Together(Latch):
    """What is restored is the class's from then on."""

    shared: ClassVar[bytearray] = bytearray(4)

    def restore(self, state: Any) -> None:
        Together.shared[:] = state
        self.state = Together.shared


@device(LOOK)
class Shy(Latch):
    """Looks are noticed, and its answers show it."""

    def snapshot(self) -> Any:
        self.state[0] ^= 1
        return super().snapshot()


@device(LOOK)
class Peeping(Latch):
    """Looks are noticed, and its answers alone show it."""

    looks = 0

    def read(self, offset: int, size: int) -> int:
        return self.looks & 0xFF

    def snapshot(self) -> Any:
        self.looks += 1
        return b""


@device(LOOK)
class Blushing(Latch):
    """Looks are noticed, and its state alone shows it."""

    looks = 0

    def read(self, offset: int, size: int) -> int:
        return 0

    def snapshot(self) -> Any:
        self.looks += 1
        return self.looks


@device(PLAIN)
class Living(Latch):
    """Its snapshot holds what it goes on writing."""

    def snapshot(self) -> Any:
        return (self.state,)

    def restore(self, state: Any) -> None:
        self.state = bytearray(state[0])


@device(PLAIN)
class Listing(Latch):
    """Its snapshot is a list, which has no hash."""

    def snapshot(self) -> Any:
        return list(self.state)


class Ledger(tuple[int, ...]):
    """A tuple that shows something else."""

    of: Any

    def __repr__(self) -> str:
        return repr(self.of.state)


@device(PLAIN)
class Disguised(Latch):
    """Its snapshot is a tuple of ints that changes."""

    def snapshot(self) -> Any:
        found = Ledger(self.state)
        found.of = self
        return found

    def restore(self, state: Any) -> None:
        self.state = bytearray(state)


# --- schedules

NAME, CHOOSES, SEED = "it_has_a_name", "it_chooses_a_cpu_that_can_run_for_at_least_one_unit", "a_seed_is_a_schedule"
ABROAD, OTHERS = "a_seed_is_the_same_schedule_in_another_process", "it_leaves_other_schedules_alone"
REPLAY = "what_it_chose_can_be_replayed"


def scheduler(
    *checks: str, make: Callable[[type, int], Scheduler] = lambda broken, seed: broken(100), **attributes: Any
) -> Callable[[type], type]:
    """A schedule on which these checks must fail."""

    def register(broken: type) -> type:
        _kit(
            SchedulerConformance, broken.__name__, checks, {"make": lambda self, seed: make(broken, seed), **attributes}
        )
        return broken

    return register


@scheduler(NAME)
class Unnamed(RoundRobin):
    def __init__(self, quantum: int) -> None:
        super().__init__(quantum)
        self.name = ""


@scheduler(NAME)
class Numeral(RoundRobin):
    def __init__(self, quantum: int) -> None:
        super().__init__(quantum)
        self.name = 7  # type: ignore[assignment] # that is what is broken


@scheduler(CHOOSES, REPLAY)
class Anybody(RoundRobin):
    """Chooses one that sleeps."""

    def choose(self, view: View) -> Choice:
        return Choice(view.time % 4, 10)


@scheduler(CHOOSES, REPLAY)
class Lazy(RoundRobin):
    """Gives nothing."""

    def choose(self, view: View) -> Choice:
        return Choice(super().choose(view).cpu, view.time % 3)


@scheduler(CHOOSES)
class Fractional(RoundRobin):
    def choose(self, view: View) -> Choice:
        return Choice(super().choose(view).cpu, 10.5)  # type: ignore[arg-type] # that is what is broken


@scheduler(CHOOSES)
class ForFour(RoundRobin):
    """Knows four CPUs."""

    def choose(self, view: View) -> Choice:
        return Choice(view.runnable[0], (10, 20, 30, 40)[view.runnable[-1]])


@scheduler(SEED)
class Unseeded(RoundRobin):
    def choose(self, view: View) -> Choice:
        return Choice(random.choice(view.runnable), 10)


@scheduler(SEED)
class Timed(RoundRobin):
    def choose(self, view: View) -> Choice:
        return Choice(view.runnable[int(time.time()) // 1_000_000 % len(view.runnable)], 10)


@scheduler(OTHERS, SEED)
class Common(RoundRobin):
    """All of them count together."""

    turns: ClassVar[list[int]] = []

    def choose(self, view: View) -> Choice:
        self.turns.append(1)
        return Choice(view.runnable[len(self.turns) % len(view.runnable)], 10)


@scheduler(ABROAD)
class Scattered(RoundRobin):
    def choose(self, view: View) -> Choice:
        return Choice(view.runnable[hash(str(view.time)) % len(view.runnable)], 10)


@scheduler(ABROAD, make=lambda broken, seed: broken(seed))
class FirstCome(RandomSchedule):
    """What was drawn first is drawn for ever."""

    drawn: ClassVar[dict[int, int]] = {}

    def choose(self, view: View) -> Choice:
        cpu, quantum = super().choose(view)
        return Choice(cpu, self.drawn.setdefault(len(view.runnable), quantum))


class Stray(RoundRobin):
    """Nobody can import the kit that makes it."""


StrayKit = type("Strayed", (SchedulerConformance,), {"make": lambda self, seed: Stray(10), "__module__": __name__})
BROKEN[f"SchedulerConformance.test_{ABROAD}"].append(StrayKit)


@scheduler(REPLAY, limit=45_000)
class Starving(RoundRobin):
    """The first CPU alone, as long as it can."""

    def choose(self, view: View) -> Choice:
        return Choice(view.runnable[0], 10_000)


class Meddling(RoundRobin):
    """Does more than to choose, which no replay knows of."""

    def choose(self, view: View) -> Choice:
        frame: Any = sys._getframe()
        while not isinstance(frame.f_locals.get("self"), Session) and frame.f_back is not None:
            frame = frame.f_back
        if isinstance(frame.f_locals.get("self"), Session):
            self.meddle(frame.f_locals["self"].machine)
        return super().choose(view)

    def meddle(self, machine: Machine) -> None:
        raise NotImplementedError


@scheduler(REPLAY)
class Scribbling(Meddling):
    def meddle(self, machine: Machine) -> None:
        machine.memory.write64(0x3FFF000, 1)


@scheduler(REPLAY)
class Waking(Meddling):
    """Wakes whoever sleeps."""

    def meddle(self, machine: Machine) -> None:
        for cpu in machine.cpus:
            if machine.time < 100_000 and cpu.state is ActivityState.HALTED:
                cpu.nmi()


# --- faults

SENSE, ONCE, DOES = "it_makes_sense", "it_happens_exactly_once", "it_does_something"
UNREACHED, AGAIN = "one_that_is_not_reached_says_so_and_changes_nothing", "it_happens_at_the_same_time_again"
REPLAYS = "a_recording_with_it_replays_to_the_same_state"
LATE = Fault("flip-ram", Moment(100_000), address=0x300001, bit=3)


def fault(name: str, broken: Fault, *checks: str, **attributes: Any) -> None:
    """A fault on which these checks must fail."""
    _kit(FaultConformance, name, checks, {"fault": broken, **attributes})


def tampered(*checks: str, fault: Fault = LATE) -> Callable[[type[Start]], type[Start]]:
    """Runs in which a fault is not what it should be: on it these checks must fail."""

    def register(broken: type[Start]) -> type[Start]:
        def start(self: FaultConformance, *faults: Fault) -> Start:
            return broken(**vars(FaultConformance.start(self, *faults)))

        _kit(FaultConformance, broken.__name__, checks, {"fault": fault, "start": start})
        return broken

    return register


fault("Nonsense", Fault("drop-ipi", Moment(100_000)), SENSE)
fault("NotReached", Fault("nmi", At("laight_watch", nth=1000)), ONCE, DOES)
fault("TooLate", Fault("nmi", Moment(1 << 40)), ONCE, DOES)
fault("NoRam", Fault("flip-ram", Moment(100_000), address=1 << 40, bit=0), ONCE, DOES)
fault("Pointless", Fault("drop-invlpg", Flush(3, cpu=1)), DOES)  # nobody has it cached


def injector_of(session: Session) -> Injector:
    assert isinstance(session.injector, Injector)
    return session.injector


@tampered(ONCE)
class Forgotten(Start):
    """Nobody lets it happen."""

    def session(self, scheduler: Scheduler, recorded: bool = False, shared: bool = False) -> Session:
        made = super().session(scheduler, recorded, shared)
        made.injector = None
        return made


@tampered(ONCE)
class Premature(Start):
    """It says that it has happened before it has."""

    def session(self, scheduler: Scheduler, recorded: bool = False, shared: bool = False) -> Session:
        made = super().session(scheduler, recorded, shared)
        injector, fire = injector_of(made), injector_of(made)._fire

        def early(one: Any, cpu: int) -> None:
            said, injector.fired = injector.fired, [None]
            fire(one, cpu)
            injector.fired = said
            injector.fired[0] = made.machine.time + 1_000_000

        injector._fire = early  # type: ignore[method-assign]
        return made


@tampered(ONCE, fault=Fault("nmi", At("schedule")))
class Repeating(Start):
    """It happens again and again."""

    def session(self, scheduler: Scheduler, recorded: bool = False, shared: bool = False) -> Session:
        made = super().session(scheduler, recorded, shared)
        if made.injector is not None:
            injector, fire = injector_of(made), injector_of(made)._fire

            def fire_and_arm(one: Any, cpu: int) -> None:
                fire(one, cpu)
                one.seen = 0
                injector._at.append(one)

            injector._fire = fire_and_arm  # type: ignore[method-assign]
        return made


@tampered(UNREACHED)
class Eager(Start):
    """It does not wait."""

    def session(self, scheduler: Scheduler, recorded: bool = False, shared: bool = False) -> Session:
        made = super().session(scheduler, recorded, shared)
        if made.injector is not None:
            injector_of(made).fired[0] = made.machine.time
        return made


@tampered(UNREACHED)
class Touching(Start):
    """To wait for it changes something."""

    def session(self, scheduler: Scheduler, recorded: bool = False, shared: bool = False) -> Session:
        made = super().session(scheduler, recorded, shared)
        if made.injector is not None:
            made.machine.memory.write64(0x300008, 1)
        return made


@tampered(AGAIN)
class Wandering(Start):
    """It happens at another time in each run."""

    runs: ClassVar[list[int]] = []

    def session(self, scheduler: Scheduler, recorded: bool = False, shared: bool = False) -> Session:
        self.runs.append(1)
        later = replace(self.faults[0], when=Moment(100_000 + len(self.runs)))
        return Start.session(dataclasses.replace(self, faults=(later,)), scheduler, recorded, shared)


@tampered(AGAIN)
class Varying(Start):
    """It flips another bit in each run."""

    runs: ClassVar[list[int]] = []

    def session(self, scheduler: Scheduler, recorded: bool = False, shared: bool = False) -> Session:
        self.runs.append(1)
        other = replace(self.faults[0], bit=len(self.runs) % 7)
        return Start.session(dataclasses.replace(self, faults=(other,)), scheduler, recorded, shared)


class Misrecorded(Start):
    """Its recording is of something else."""

    def of(self, recording: Recording) -> Recording:
        raise NotImplementedError

    def recording_of(self, run: GuestRun) -> Recording:
        return self.of(super().recording_of(run))


@tampered(REPLAYS)
class Unrecorded(Misrecorded):
    def of(self, recording: Recording) -> Recording:
        return replace(recording, faults=[])


@tampered(REPLAYS)
class RecordedLater(Misrecorded):
    def of(self, recording: Recording) -> Recording:
        return replace(recording, faults=[{**recording.faults[0], "when": {"on": "time", "time": 101_000}}])


@tampered(REPLAYS)
class RecordedOtherwise(Misrecorded):
    def of(self, recording: Recording) -> Recording:
        return replace(recording, faults=[{**recording.faults[0], "bit": 60}])


@tampered(REPLAYS)
class RecordedInPart(Misrecorded):
    def of(self, recording: Recording) -> Recording:
        return replace(recording, choices=pack(list(recording.schedule())[:-5]))


@tampered(REPLAYS, fault=Fault("flip-register", Moment(100_000), register="rflags", bit=1))
class RecordedForNothing(Start):
    """What is recorded is left out when it is read."""

    def session(self, scheduler: Scheduler, recorded: bool = False, shared: bool = False) -> Session:
        return Start.session(dataclasses.replace(self, faults=(LATE,)), scheduler, recorded, shared)
