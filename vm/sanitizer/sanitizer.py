"""The sanitizer: which translations are stale, and which use of one is a finding.

A stale translation is normal; *using* one whose frame was freed or given to somebody else is a finding. The sanitizer hears a
machine's instruments, asks a `FrameSource` whose a frame is, and never acts. It knows no policy and no guest: what else can go
wrong is for its client to find, by `report`, with the history that `note` has kept.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from kstack.hw.mmu.moments import Drop, Fill, Use
from kstack.hw.mmu.walk import Translation
from kstack.load import Symbols
from kstack.machine import Machine
from kstack.sanitizer.findings import Finding, Kind
from kstack.sanitizer.frames import FrameSource, FrameState, label_of
from kstack.sanitizer.history import AnyOccurrence, Dropped, Filled, Used
from kstack.x86.access import Access
from kstack.x86.entries import NX, RW, US

MAX_FINDINGS = 1000
KEPT = 32  # occurrences remembered of each page and frame
_WORD = 8
_RIGHTS = RW | US | NX
Candidate = tuple[int, int]  # frame, rights


class SanitizerState(NamedTuple):
    """A `Sanitizer`'s whole state; nobody changes what is in it, and states share what has not changed between them."""

    findings: tuple[Finding, ...]
    exercised: int
    walks: int
    seen: dict[int, frozenset[Candidate]]
    last_use: tuple[object, ...]
    last_stale: str | None
    occurrences: dict[int, tuple[AnyOccurrence, ...]]
    events: tuple[AnyOccurrence, ...]


@dataclass
class Sanitizer:
    """Watches one machine.

    Args:
        machine: the machine.
        symbols: the guest's.
        source: whose frames are.
    """

    machine: Machine
    symbols: Symbols
    source: FrameSource
    findings: list[Finding] = field(default_factory=list)
    exercised: int = 0
    walks: int = 0  # page walks that cached a translation of a page that somebody owns
    seen: dict[int, set[Candidate]] = field(default_factory=dict)  # by page (linear number): all it was ever mapped to
    last_use: tuple[object, ...] = ()
    last_stale: str | None = None  # the last stale use, whether it is a finding or not, until somebody clears it
    occurrences: dict[int, deque[AnyOccurrence]] = field(default_factory=dict)  # by page or frame address
    events: deque[AnyOccurrence] = field(default_factory=lambda: deque(maxlen=KEPT))  # of no page

    saved: SanitizerState | None = field(default=None, init=False, repr=False, compare=False)  # or loaded, last

    # --- the whole

    def save(self) -> SanitizerState:
        """The whole state."""
        before = self.saved
        occurrences, seen = (before.occurrences, before.seen) if before is not None else ({}, {})
        self.saved = SanitizerState(
            tuple(self.findings),
            self.exercised,
            self.walks,
            {page: _grown(candidates, seen.get(page)) for page, candidates in self.seen.items()},
            self.last_use,
            self.last_stale,
            {address: _gone_on(known, occurrences.get(address)) for address, known in self.occurrences.items()},
            tuple(self.events),
        )
        return self.saved

    def load(self, state: SanitizerState) -> None:
        """Become what `save` returned."""
        self.findings, self.exercised, self.walks = list(state.findings), state.exercised, state.walks
        self.seen = {page: set(candidates) for page, candidates in state.seen.items()}
        self.last_use, self.last_stale = state.last_use, state.last_stale
        self.occurrences = {address: deque(known, maxlen=KEPT) for address, known in state.occurrences.items()}
        self.events = deque(state.events, maxlen=KEPT)
        self.saved = state

    # --- reporting

    def report(self, kind: Kind, cpu: int, address: int, text: str, frame: int | None = None) -> None:
        """Find something."""
        if len(self.findings) >= MAX_FINDINGS:
            return
        life = self.source.life(frame) if frame is not None else None
        self.findings.append(
            Finding(
                kind,
                cpu,
                self.symbols.name(self.machine.cpus[cpu].rip()),
                address,
                self.machine.now(),
                text,
                frame,
                label_of(life.previous) if life else None,
                (label_of(life.owner) or life.state.value) if life else None,
                life.freed_by if life else None,
                self._history(address, frame),
            )
        )

    def note(self, occurrence: AnyOccurrence, *addresses: int) -> None:
        """Remember what happened to these pages and frames."""
        for address in addresses:
            self.occurrences.setdefault(address, deque(maxlen=KEPT)).append(occurrence)

    def _history(self, address: int, frame: int | None) -> tuple[AnyOccurrence, ...]:
        """What happened to a page and a frame, and the guest's events between, in order."""
        page = address & ~0xFFF
        own = [*self.occurrences.get(page, ()), *(self.occurrences.get(frame, ()) if frame is not None else ())]
        if not own:
            return ()
        first = min(one.time for one in own)
        merged = dict.fromkeys([*own, *(event for event in self.events if event.time >= first)])
        return tuple(sorted(merged, key=lambda one: one.time))[-KEPT:]

    def place(self, address: int) -> str:
        """A linear address in words: whose page it lies in, or what the guest calls it."""
        return f"{label_of(self.source.owner_at(address)) or self.symbols.name(address)} at {address:#x}"

    # --- translations

    def may_map(self, page: int, frame: int, rights: int) -> None:
        """An entry of a page (linear number) has been stored: the adversary may have cached it."""
        self.seen.setdefault(page, set()).add((frame, rights & _RIGHTS))

    def on_fill(self, moment: Fill) -> None:
        """Count accesses that could have gone two ways had nothing ever been invalidated.

        The adversary is the same in every reading: any CPU may have cached whatever a page was ever mapped to, whether
        Accessed was set or not. A candidate that no access has asked for is only noted.
        """
        cpu, address, translation, speculative = moment
        owner = self.source.owner_at(address)
        if owner is None:
            return
        if not speculative:
            self.walks += 1
            candidates = self.seen.setdefault(address >> 12, set())
            candidates.add((translation.frame, translation.rights))
            self.exercised += len(candidates) > 1
        page = address & ~0xFFF
        self.note(Filled(self.machine.now(), cpu, page, owner.label, translation.frame, speculative), page)

    def on_drop(self, moment: Drop) -> None:
        """A cached translation of a page that somebody owns has gone."""
        owner = self.source.owner_at(moment.address)
        if owner is not None:
            page = moment.address
            dropped = Dropped(self.machine.now(), moment.cpu, page, owner.label, moment.frame, moment.cause.value)
            self.note(dropped, page)

    def on_use(self, moment: Use) -> None:
        """Judge an access through a translation that the tables no longer give."""
        cpu, address, access, translation, current = moment
        owner = self.source.owner_at(address)
        frame = translation.frame
        life = self.source.life(frame)
        store, where = access is Access.STORE, self.place(address)
        verb = "wrote" if store else "read"
        now = f"the tables have {current.frame:#x}" if current is not None else "the tables have none"
        self.last_stale = f"CPU {cpu} {verb} {where} through its cached translation to frame {frame:#x}; {now}"
        if owner is not None:
            self.exercised += 1
        if life is None or (life.state is FrameState.MAPPED and life.owner == owner):
            return
        if life.state in (FrameState.UNMAPPED, FrameState.TAKEN) and life.previous is None:
            return
        if life.state is FrameState.UNMAPPED and current is None:
            return  # cleared, not freed yet: this access may still go either way (SDM 4.10.4.4)
        once = (cpu, self.machine.cpus[cpu].rip(), address >> 12, access, self.machine.now())
        if once == self.last_use:
            return  # the same access, seen in two parts
        self.last_use = once
        if life.state is FrameState.MAPPED:
            kind, now = Kind.STALE_TRANSLATION, f"now {label_of(life.owner)}"
        elif life.state is FrameState.UNMAPPED:  # the address may not be reused either (SDM 4.10.5)
            has = f"unmapped, and the page has frame {current.frame:#x}" if current else ""
            kind, now = Kind.STALE_TRANSLATION, has
        else:
            kind, now = Kind.USE_AFTER_FREE, life.state.value
        text = f"CPU {cpu} {verb} {where} through its cached translation to frame {frame:#x}, which is {now}"
        page = address & ~0xFFF
        self.note(Used(self.machine.now(), cpu, page, f"{label_of(owner)}", frame, store), page)
        self.report(kind, cpu, address, text, frame)
        self._compare(cpu, address, access, translation, current)

    def _compare(
        self, cpu: int, address: int, access: Access, translation: Translation, current: Translation | None
    ) -> None:
        """A lost store, or a load that gets other data than the tables would give."""
        if current is None:
            return
        offset = address & 0xFFF & ~(_WORD - 1)
        memory = self.machine.memory
        stale, right = memory.read64(translation.frame + offset), memory.read64(current.frame + offset)
        if access is Access.STORE:
            text = f"CPU {cpu}'s store to {address:#x} goes to frame {translation.frame:#x}, and {current.frame:#x} misses it"
        elif stale != right:
            text = f"CPU {cpu} gets {stale:#x} from frame {translation.frame:#x}; the tables give {right:#x}"
        else:
            return
        self.report(Kind.WRONG_DATA, cpu, address, text, translation.frame)


def _grown(candidates: set[Candidate], before: frozenset[Candidate] | None) -> frozenset[Candidate]:
    """A set that only grows as it is, and the same object as before where it has not grown."""
    return before if before is not None and len(before) == len(candidates) else frozenset(candidates)


def _gone_on(known: deque[AnyOccurrence], before: tuple[AnyOccurrence, ...] | None) -> tuple[AnyOccurrence, ...]:
    """Occurrences, of which each is an object of its own, and the same tuple as before where none has come."""
    return before if before and before[-1] is known[-1] else tuple(known)
