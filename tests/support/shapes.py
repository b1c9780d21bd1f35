"""Shapes of transistency: litmus tests of page-table walks, from the literature, in their x86 form.

Each has an outcome of interest, and in which modes it is allowed: by the paper where that says so of x86, else by the
manual. `allowed` is a letter a mode: three groups for the memory orders sc, tso and tso-walks-memory, in each the
speculations none, needs-accessed, sets-accessed and keeps-accessed-clear; `x` is allowed, `.` is not.

`docs/litmus.md` shows this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from kstack.kernels.kstack.pages import FinalValues, Litmus

NEVER: Final = ".... .... ...."
ALWAYS: Final = "xxxx xxxx xxxx"
CACHED: Final = ".xxx .xxx .xxx"
"""Through a translation that was filled before, which nobody asked for."""
COLD: Final = "..xx ..xx ..xx"
"""The same, where nobody has set Accessed but that fill, if it does."""
BUFFERED: Final = ".... xxxx xxxx"
"""By a store that its CPU has made and that nobody else sees yet."""
WALKS_MEMORY: Final = ".... .... xxxx"
"""By a walk that does not see its own CPU's store."""
CACHED_OR_WALKS_MEMORY: Final = ".xxx .xxx xxxx"
SILENT: Final = "...x ...x ...x"
"""By a translation that was cached without Accessed being set."""
MARKED: Final = "..x. ..x. ..x."
"""By Accessed, which a fill has set that nobody asked for."""

COAT: Final = "TransForm"
ARM: Final = "Simner"
ISLA: Final = "Simner, web:"
DIY: Final = "diy:"
SDM: Final = "SDM"
SOURCES: Final = {
    "TransForm": "Hossain, Trippel, Martonosi: *TransForm*, ISCA 2020. At hand were its files (github.com/naorinh/TransForm, "
    "`util/tso_transistency_perturbed_minimality_check.als` with the axioms of x86t_elt and the tests of prior work, COATCheck by "
    "Lustig, Sethi, Martonosi and Bhattacharjee, ASPLOS 2016, and `util/tests.txt` with what these say), not the papers' texts. "
    "Names are those of the tests.",
    "Simner": "Simner, Armstrong, Pichon-Pharabod, Pulte, Grisenthwaite, Sewell: *Relaxed virtual memory in Armv8-A*, ESOP 2022. At "
    "hand were its tests for hardware (github.com/rems-project/system-litmus-harness, `litmus/litmus_tests/pgtable`), and for *web* the "
    "pages of tests at cl.cam.ac.uk/~pes20/RelaxedVM-Arm/tests, which say what is forbidden in Armv8-A.",
    "diy": "Tests for herd7 at diy.inria.fr/vmsa.",
    "SDM": "Intel SDM, volume 3A (325384), by section.",
    "rmap.c": "Linux, `mm/rmap.c`, `try_to_unmap_one`: the architecture must guarantee that a write through a cached entry with Dirty clear "
    "traps if the entry is gone.",
    "Romanescu": "Romanescu, Lebeck, Sorin: *Specifying and dynamically verifying address translation-aware memory consistency*, ASPLOS "
    "2010; the abstract alone.",
    "Amit": "Amit: *Optimizing the TLB shootdown algorithm with page access tracking*, USENIX ATC 2017; the abstract alone.",
    "Black": "Black, Rashid, Golub, Hill: *Translation lookaside buffer consistency: a software approach*, ASPLOS 1989; the abstract alone.",
    "LATR": "Kumar et al.: *LATR: lazy translation coherence*, ASPLOS 2018; the abstract alone.",
    "DiDi": "Villavieja et al.: *DiDi: mitigating the performance impact of TLB shootdowns*, PACT 2011; the abstract alone.",
}
"""By the first word of a shape's source: what it is, and what of it was at hand."""


class Shape(NamedTuple):
    """One test.

    Attributes:
        programs: one a CPU.
        init: values and entries that are not the usual ones.
        condition: the outcome of interest: `name=value` joined by `&`, and these by `|`.
        allowed: in which modes it can be, as above.
        source: where the shape is from.
        why: what the shape is about, and where our reading is not the source's.
        global_pages: entries have G set.
    """

    programs: tuple[str, ...]
    init: Mapping[str, int | str]
    condition: str
    allowed: str
    source: str
    why: str
    global_pages: bool = False

    @property
    def litmus(self) -> Litmus:
        """The test."""
        return Litmus.of(self.programs, self.init, self.global_pages)

    def matches(self, outcome: FinalValues) -> bool:
        """Whether an outcome is the one of interest."""
        values = {name: str(value) for name, value in outcome}
        return any(all(values[name] == value for name, value in terms) for terms in self.terms)

    @property
    def terms(self) -> list[list[tuple[str, str]]]:
        """The condition: names and values that hold together, for each alternative."""
        return [
            [(name.strip(), value.strip()) for name, _, value in (term.rpartition("=") for term in one.split("&"))]
            for one in self.condition.split("|")
        ]


# fmt: off
SHAPES: Final[dict[str, Shape]] = {
    # --- one CPU: what its own stores to entries, and INVLPG, come to
    "ptwalk2": Shape(
        ("pte x=y; invlpg x; r x",), {"y": 1}, "0:r x=0", NEVER,
        f"{COAT}: ptwalk2", "INVLPG waits for the store, and drops what was cached",
    ),
    "ptwalktest": Shape(
        ("pte x=y; invlpg x; x=1; r x",), {}, "0:r x=0 | y=0", NEVER,
        f"{COAT}: ptwalktest", "a write and a read behind INVLPG both go by the new entry",
    ),
    "mrf1": Shape(
        ("pte x=y; r x",), {"y": 1}, "0:r x=0", CACHED_OR_WALKS_MEMORY,
        f"{COAT}: mrf1", "listed there as forbidden; without INVLPG the old translation may be in use (SDM 4.10.2.3)",
    ),
    "CoWinvT": Shape(
        ("pte x=0; r x",), {"x": 1}, "0:r x=1", CACHED_OR_WALKS_MEMORY,
        f"{ARM}: CoWinvT", "after P 1 to 0 an access may or may not fault (SDM 4.10.4.4)",
    ),
    "CoWinvT1": Shape(
        ("pte x=0; invlpg x; r x",), {"x": 1}, "0:r x=1", NEVER,
        f"{ARM}: CoWinvT1+dsb-tlbi-dsb", "the same with INVLPG",
    ),
    "CoWT.inv": Shape(
        ("pte x=y; r x",), {"pte x": "0"}, "0:r x=fault", WALKS_MEMORY,
        f"{ARM}: CoWT.inv", "what is not present is not cached (SDM 4.10.4.3); the walk must see the CPU's own store",
    ),
    "CoTW": Shape(
        ("r x; pte x=y",), {"y": 1}, "0:r x=1", NEVER,
        f"{ARM}: CoTW", "no walk sees a store that comes later",
    ),
    "INVLPG first": Shape(
        ("r x; invlpg x; pte x=y; r x",), {"y": 1}, "0:r x #2=0", CACHED_OR_WALKS_MEMORY,
        f"{SDM} 4.10.4.2", "invalidating before the store is no use: the old entry can be cached again",
    ),
    "CR3": Shape(
        ("r x; pte x=y; cr3; r x",), {"y": 1}, "0:r x #2=0", NEVER,
        f"{SDM} 4.10.4.1", "loading CR3 drops what is not global",
    ),
    "CR3, global": Shape(
        ("r x; pte x=y; cr3; r x",), {"y": 1}, "0:r x #2=0", ALWAYS,
        f"{SDM} 4.10.4.1", "and keeps what is", True,
    ),
    "MRF": Shape(
        ("x=1; pte x=y; invlpg x; r x",), {}, "0:r x=1", NEVER,
        "Romanescu: map functions",
        "a store before the remap does not follow it to the new frame",
    ),
    # --- accessed and dirty flags
    "dirtybittest": Shape(
        ("x=1; r x; r pte x",), {"pte x": "x-AD"}, "0:r pte x=x-D | 0:r pte x=x-AD", NEVER,
        f"{COAT}: dirtybittest", "a write sets D (SDM 4.8)",
    ),
    "dirtybit2": Shape(
        ("pte x=y-AD; invlpg x; x=1; r x",), {}, "pte x=y-D | pte x=y-AD | 0:r x=0", NEVER,
        f"{COAT}: dirtybit2", "in the new entry, after INVLPG",
    ),
    "dirtybit3": Shape(
        ("pte x=y-AD; invlpg x; r x; x=1",), {}, "pte x=y-D | pte x=y-AD", NEVER,
        f"{COAT}: dirtybit3", "also where a read has cached the entry with D clear",
    ),
    "D cleared": Shape(
        ("x=1; lock pte x-D; x=2",), {}, "pte x=x-D", ALWAYS,
        f"{SDM} 4.10.4.3", "D 1 to 0 without an invalidation: the next write need not set it",
    ),
    "D cleared+INVLPG": Shape(
        ("x=1; lock pte x-D; invlpg x; x=2",), {}, "pte x=x-D", NEVER,
        f"{SDM} 4.10.4.3", "with one it does",
    ),
    "A cleared": Shape(
        ("r x; lock pte x-A; r x",), {}, "pte x=x-A", ALWAYS,
        f"{SDM} 4.10.4.3", "A 1 to 0 without an invalidation: the next access need not set it",
    ),
    "A cleared+INVLPG": Shape(
        ("r x; lock pte x-A; invlpg x; r x",), {}, "pte x=x-A", NEVER,
        f"{SDM} 4.10.4.3", "with one it does",
    ),
    "D before data": Shape(
        ("x=1", "r y; r pte x"), {"pte x": "x-D", "pte y": "x"}, "1:r y=1 & 1:r pte x=x-D", NEVER,
        f"{SDM} 4.8", "who sees the data sees D",
    ),
    "data after D": Shape(
        ("x=1", "r pte x; r y"), {"pte x": "x-D", "pte y": "x"}, "1:r pte x=x & 1:r y=0", BUFFERED,
        f"{SDM} 4.8", "who sees D need not see the data: the store may be in the buffer still",
    ),
    "SB+D": Shape(
        ("x=1; r y", "y=1; fence; r pte x"), {"pte x": "x-D"}, "0:r y=0 & 1:r pte x=x-D", NEVER,
        f"{COAT}: intelbug (a write with its D update, and a read elsewhere)",
        "D is set when the store is executed, and the load comes later; x86t_elt's axioms leave the two unordered",
    ),
    "D lost": Shape(
        ("pte x-A", "x=1"), {"pte x": "x-D"}, "1:x=1=ok & x=1 & pte x=x-D | 1:x=1=ok & x=1 & pte x=x-AD", ALWAYS,
        f"{SDM} 8.1.2.1", "the walker's update is locked, a plain change of the entry is not: it overwrites D",
    ),
    "D kept": Shape(
        ("lock pte x-A", "x=1"), {"pte x": "x-D"}, "1:x=1=ok & x=1 & pte x=x-D | 1:x=1=ok & x=1 & pte x=x-AD", NEVER,
        f"{SDM} 8.1.2.1", "a locked change keeps it",
    ),
    "unmap, plain": Shape(
        ("r pte x; pte x=0", "x=1"), {"pte x": "x-D"}, "0:r pte x=x-D & 1:x=1=ok & x=1", ALWAYS,
        "rmap.c", "a page that was found clean has been written before it was unmapped",
    ),
    "unmap, exchange": Shape(
        ("pte x<>0", "x=1"), {"pte x": "x-D"}, "0:pte x<>0=x-D & 1:x=1=ok & x=1", NEVER,
        "rmap.c",
        "a write through what is cached with D clear walks again, and faults: the architecture must guarantee it",
    ),
    "unmap, compare": Shape(
        ("pte x=0 if x-D", "x=1"), {"pte x": "x-D"}, "0:pte x=0 if x-D=x-D & 1:x=1=ok & x=1", NEVER,
        "rmap.c", "the same by compare and exchange",
    ),
    "exchange": Shape(
        ("x<>3", "pte x=y"), {"x": 4, "pte x": "x-D"}, "0:x<>3=4 & y=3", NEVER,
        f"{SDM} 8.1.1, 4.8", "a locked operation loads and stores by one translation, which has D set",
    ),
    "unused, exchange": Shape(
        ("pte x=y-A; pte x<>0; y=2", "r x"), {"pte x": "0"}, "0:pte x<>0=y-A & 1:r x=2", SILENT,
        "Amit: no shootdown for what was never accessed",
        "A clear proves that nobody has cached the entry, if nobody may without setting it",
    ),
    "unused, plain": Shape(
        ("pte x=y-A; r pte x; pte x=0; y=2", "r x"), {"pte x": "0"}, "0:r pte x=y-A & 1:r x=2", COLD,
        "Amit", "looked at and then cleared by a plain store: a walker may come between, where it may cache the entry at all",
    ),
    "A before load": Shape(
        ("r x", "r pte x; y=1"), {"pte x": "x-A", "pte y": "x"}, "1:r pte x=x & 0:r x=1", MARKED,
        f"{SDM} 4.10.2.3", "A set by a fill that no access had asked for yet; a walk and its access are one step here",
    ),
    # --- a translation against a message
    "CoTR": Shape(
        ("pte x=y", "r x; r pte x"), {"y": 1}, "1:r x=1 & 1:r pte x=x", NEVER,
        f"{ARM}: CoTR", "an entry that a walk has seen is there for a load too",
    ),
    "CoTR.inv": Shape(
        ("pte x=y", "r x; r pte x"), {"y": 1, "pte x": "0"}, "1:r x=1 & 1:r pte x=0", NEVER,
        f"{ARM}: CoTR.inv", "the same from an entry that was not present",
    ),
    "CoRT": Shape(
        ("pte x=y", "r pte x; r x"), {"y": 1}, "1:r pte x=y & 1:r x=0", CACHED,
        f"{ARM}: CoRT", "an entry that a load has seen need not be the one that is cached",
    ),
    "CoRT.inv": Shape(
        ("pte x=y", "r pte x; r x"), {"y": 1, "pte x": "0"}, "1:r pte x=y & 1:r x=fault", NEVER,
        f"{ARM}: CoRT, from an entry that was not present", "but what is not present is not cached",
    ),
    "CoTT": Shape(
        ("pte x=y", "r x; r x"), {"y": 1}, "1:r x=1 & 1:r x #2=0", NEVER,
        f"{COAT}: ptwalk3; {ARM}: CoTT",
        "walks of one entry do not go back, by x86t_elt's sc_per_loc; here since a TLB has one entry a page at the most",
    ),
    "MP.RT": Shape(
        ("pte x=y; z=1", "r z; r x"), {"y": 1}, "1:r z=1 & 1:r x=0", CACHED,
        f"{ARM}: MP.RT+dmbs", "a message does not invalidate",
    ),
    "MP.RT+INVLPG": Shape(
        ("pte x=y; z=1", "r z; invlpg x; r x"), {"y": 1}, "1:r z=1 & 1:r x=0", NEVER,
        f"{COAT}: invlpgtest", "its reader must",
    ),
    "MP.RT.inv": Shape(
        ("pte x=y; z=1", "r z; r x"), {"y": 1, "pte x": "0"}, "1:r z=1 & 1:r x=fault", NEVER,
        f"{ARM}: MP.RT.inv+dmb+po", "allowed in Armv8-A without a barrier on the reader's side; x86 keeps loads in order",
    ),
    "MP.TR": Shape(
        ("x=1; pte y=u", "r y; r x"), {"u": 1, "pte y": "0"}, "1:r y=1 & 1:r x=0", NEVER,
        f"{ARM}: ISA2.TRR, with two CPUs", "an entry as the message",
    ),
    "MP.TT": Shape(
        ("pte x=z; pte y=z", "r y; r x"), {"z": 1}, "1:r y=1 & 1:r x=0", CACHED,
        f"{ARM}: MP.TT+dmb+tpo", "two entries, two walks",
    ),
    "MP.TT.inv": Shape(
        ("pte x=z; pte y=z", "r y; r x"), {"z": 1, "pte x": "0", "pte y": "0"}, "1:r y=1 & 1:r x=fault", NEVER,
        f"{ARM}: MP.TT.inv+dmb+tpo", "the same from entries that were not present",
    ),
    "SB.TT": Shape(
        ("pte x=0; r y", "pte y=0; r x"), {"x": 1, "y": 1}, "0:r y=1 & 1:r x=1", ".xxx xxxx xxxx",
        f"{COAT}: sb, with stores to entries", "a walk may pass its CPU's older stores to other entries",
    ),
    "SB.TR": Shape(
        ("r x; pte x=y; r x", "z=1; fence; r pte x"), {"y": 1, "pte z": "x"}, "0:r x #2=0 & 1:r pte x=x", BUFFERED,
        f"{COAT}: sb, with a store to an entry and a cached translation",
        "a load that needs no walk passes its CPU's store to the entry: they are two addresses (SDM 8.2.3.4)",
    ),
    "SB.TR, forwarded": Shape(
        ("pte x=y; r x", "y=1; fence; r pte x"), {"x": 2}, "0:r x=0 & 1:r pte x=x", NEVER,
        f"{COAT}: sb, with a store to an entry and a walk",
        "a walk of its CPU's own entry waits until the entry is visible; that it may take it from the store buffer is not promised",
    ),
    "SB.TT.inv": Shape(
        ("pte x=u; r y", "pte y=u; r x"), {"pte x": "0", "pte y": "0"}, "0:r y=fault & 1:r x=fault", BUFFERED,
        f"{COAT}: sb, with stores to entries", "and so may the walk that faults",
    ),
    "WRC.TRT.inv": Shape(
        ("pte x=z", "r x; y=1", "r y; r x"), {"z": 1, "pte x": "0"}, "1:r x=1 & 2:r y=1 & 2:r x=fault", NEVER,
        f"{ISLA} WRC.TRTf.inv+dsb+dsb-isb", "walks read one memory: forbidden there as here",
    ),
    "ISA2.TRR": Shape(
        ("x=1; pte y=v", "r y; z=1", "r z; r x"), {"v": 1, "pte y": "0"}, "1:r y=1 & 2:r z=1 & 2:r x=0", NEVER,
        f"{ARM}: ISA2.TRR+dmb+po+dmb", "a walk in the middle of a chain",
    ),
    # --- synonyms: two pages, one frame
    "CoWR.alias": Shape(
        ("x=1; r y",), {"pte y": "x"}, "0:r y=0", NEVER,
        f"{ARM}: aliasing/CoWR.alias", "a load finds its CPU's store by physical address",
    ),
    "CoRR.alias": Shape(
        ("x=1", "r y; r x"), {"pte y": "x"}, "1:r y=1 & 1:r x=0", NEVER,
        "Romanescu: synonyms", "two pages of a frame are one location",
    ),
    "SB.alias": Shape(
        ("x=1; r y", "v=1; r u"), {"pte u": "x", "pte v": "y"}, "0:r y=0 & 1:r u=0", BUFFERED,
        f"{ARM}: aliasing/SB.alias, without its barriers", "SB through synonyms is SB",
    ),
    "SB.alias+fences": Shape(
        ("x=1; fence; r y", "v=1; fence; r u"), {"pte u": "x", "pte v": "y"}, "0:r y=0 & 1:r u=0", NEVER,
        f"{ARM}: aliasing/SB.alias+dmbs", "and with barriers it is not",
    ),
    "MP.alias": Shape(
        ("x=1; y=1", "r v; r u"), {"pte u": "x", "pte v": "y"}, "1:r v=1 & 1:r u=0", NEVER,
        f"{COAT}: mp; {ARM}: aliasing/MP.alias+dmbs", "MP through synonyms is MP",
    ),
    "sb_synonym": Shape(
        ("pte x=y; invlpg x; y=1; r x", "invlpg x; x=2; r y"), {}, "0:r x=0", NEVER,
        f"{COAT}: sb_synonym", "a synonym that is made on the way: its CPU sees its own store through it",
    ),
    "n5_synonym": Shape(
        ("pte x=y; invlpg x; y=1; r x", "invlpg x; x=2; r y"), {}, "0:r x=2 & 1:r y=1", NEVER,
        f"{COAT}: n5_synonym", "and two CPUs agree on the order of their stores",
    ),
    # --- shootdowns
    "ipi4": Shape(
        ("pte x=y; invlpg x; z=1; r z", "invlpg x; r z; x=1; z=2"), {}, "0:r z=2 & 1:r z=1 & x=1", CACHED,
        f"{COAT}: ipi4, ipi8 (the interrupt and its answer are z)",
        "forbidden there, where the INVLPG is the one that the remap asks for; here it may come before there was anything to drop",
    ),
    "ipi5": Shape(
        ("pte x=y; invlpg x; z=1; r z", "r z; x=1; z=2; invlpg x"), {}, "0:r z=2 & 1:r z=1 & x=1", CACHED,
        f"{COAT}: ipi5", "answered before it has invalidated; permitted there as well",
    ),
    "ipi4, in order": Shape(
        ("pte x=y; invlpg x; z=1; r z", "r z; invlpg x; x=1; z=2"), {}, "0:r z=2 & 1:r z=1 & x=1", NEVER,
        f"{COAT}: ipi4, ipi8, with the INVLPG behind the request", "invalidated between the request and the answer",
    ),
    "shootdown": Shape(
        ("pte x=y; invlpg x; shoot x; z=1", "r z; x=1"), {}, "1:r z=1 & x=1", NEVER,
        "Black; SDM 4.10.5", "with interrupts, and awaited",
    ),
    "sent, not awaited": Shape(
        ("pte x=y; invlpg x; send x; z=1", "r z; x=1"), {}, "1:r z=1 & x=1", CACHED,
        f"{SDM} 4.10.5", "without waiting for the answer",
    ),
    "no shootdown": Shape(
        ("pte x=y; invlpg x; z=1", "r x; r z; x=1"), {}, "1:r z=1 & x=1", ALWAYS,
        f"{SDM} 4.10.5", "INVLPG is for its own CPU alone",
    ),
    "RBS": Shape(
        ("pte x=0; shoot x; y=2", "r x"), {"pte y": "x"}, "1:r x=2", NEVER,
        f"{ISLA} RBS+dsb-tlbiis-dsb", "after a shootdown nobody reads the frame by the old page: forbidden there as here",
    ),
    "RBS, not awaited": Shape(
        ("pte x=0; send x; y=2", "r x"), {"pte y": "x"}, "1:r x=2", CACHED,
        f"{ISLA} RBS+dsb-tlbiis-dsb, without its second DSB", "the frame is used again too early",
    ),
    "BBM": Shape(
        ("pte x=0; shoot x; pte x=z; y=1", "r y; r x"), {"z": 1},
        "1:r y=1 & 1:r x=0 | 1:r y=1 & 1:r x=fault", NEVER,
        f"{ARM}: MP.BBM1+dsb-tlbiis-dsb-dsb+dsb-isb", "break before make: neither the old translation nor a fault",
    ),
    "BBM, not awaited": Shape(
        ("pte x=0; send x; pte x=z; y=1", "r x; r y; r x"), {"z": 1}, "1:r y=1 & 1:r x #2=0", ALWAYS,
        f"{ARM}: MP.BBM1+po-tlbiis-po-po+po", "the new entry is made before the old one is gone",
    ),
    "coRR-pte16": Shape(
        ("pte x=x-P; shoot x; pte x=y", "r x; r pte x"), {"y": 1}, "1:r x=1 & 1:r pte x=x-P | 1:r x=1 & 1:r pte x=x", NEVER,
        f"{DIY} coRR-pte16", "a remap with a break: the entry does not go back",
    ),
    "reuse": Shape(
        ("pte x=0; pte x=y; z=1", "r z; r x"), {"y": 1}, "1:r z=1 & 1:r x=0", CACHED,
        f"{SDM} 4.10.4.3, footnote", "P 0 to 1 needs an invalidation if the last 1 to 0 has had none",
    ),
    "late write": Shape(
        ("pte x<>0; r y; r y", "r x; x=1"), {"pte y": "x"}, "0:r y=0 & 0:r y #2=1", ALWAYS,
        f"{SDM} 4.10.4.4", "a write after the entry was cleared",
    ),
    "late write, shot down": Shape(
        ("pte x<>0; shoot x; r y; r y", "r x; x=1"), {"pte y": "x"}, "0:r y=0 & 0:r y #2=1", NEVER,
        f"{SDM} 4.10.5", "and none after the shootdown: an interrupt is taken when all stores are visible",
    ),
    "protect": Shape(
        ("lock pte x-W; r y; r y", "r x; x=1"), {"pte y": "x"}, "0:r y=0 & 0:r y #2=1", ALWAYS,
        "DiDi: changes of rights; SDM 4.10.4.2",
        "a write after the page was protected",
    ),
    "protect, shot down": Shape(
        ("lock pte x-W; shoot x; r y; r y", "r x; x=1"), {"pte y": "x"}, "0:r y=0 & 0:r y #2=1", NEVER,
        "DiDi; SDM 4.10.4.2", "and none after the shootdown",
    ),
    "spurious fault": Shape(
        ("lock pte x+W; z=1", "r z; x=1"), {"pte x": "x-W"}, "1:r z=1 & 1:x=1=fault", CACHED,
        f"{SDM} 4.10.4.3", "W 0 to 1 without an invalidation: a write may fault by what is cached",
    ),
    "spurious fault, twice": Shape(
        ("lock pte x+W; z=1", "r z; x=1; x=2"), {"pte x": "x-W"}, "1:r z=1 & 1:x=1=fault & 1:x=2=fault", NEVER,
        f"{SDM} 4.10.4.3", "but only once: the fault drops it",
    ),
    "LATR": Shape(
        ("pte x=0; u=1; r z; y=2", "r u; invlpg x; z=1; r x"), {"pte y": "x"}, "1:r u=1 & 0:r z=1 & 1:r x=2", NEVER,
        "LATR: lazy shootdown",
        "a CPU sweeps when it comes to it, and the frame is used again after that",
    ),
    "LATR, too early": Shape(
        ("pte x=0; u=1; r z; y=2", "invlpg x; z=1; r u; r x"), {"pte y": "x"}, "0:r z=1 & 1:r x=2", CACHED,
        "LATR", "it has swept before there was anything to sweep",
    ),
    "two at once": Shape(
        ("pte x=u; shoot x; r y", "pte y=u; shoot y; r x"), {"u": 1}, "0:r y=0 & 1:r x=0", NEVER,
        "Black: both answer while they wait", "two CPUs shoot each other down, and each answers",
    ),
}
# fmt: on

_WORDS: Final = {"....": "no", "xxxx": "yes", ".xxx": "cached", "..xx": "cold", "...x": "silent", "..x.": "marked"}


def table() -> str:
    """All shapes as Markdown, with their sources; for docs/litmus.md."""
    lines = [
        "| shape | programs | outcome | sc | tso | walks-memory | source | what it is about |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, shape in SHAPES.items():
        init = ", ".join(f"{key}={value}" for key, value in shape.init.items()) + (
            ", global" if shape.global_pages else ""
        )
        programs = "<br>".join(f"`{program}`" for program in shape.programs) + (
            f"<br>with `{init.strip(', ')}`" if init else ""
        )
        condition = " or ".join(f"`{one.strip()}`" for one in shape.condition.split("|"))
        words = " | ".join(_WORDS[group] for group in shape.allowed.split())
        lines.append(f"| {name} | {programs} | {condition} | {words} | {shape.source} | {shape.why} |")
    return "\n".join([*lines, "", *(f"- **{name}**: {text}" for name, text in SOURCES.items())])
