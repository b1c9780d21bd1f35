"""The architecture's rules by name, so that each can be switched off alone.

A rule that can be switched off can be tested: its test must pass with the rule and fail without it
(docs/rules.md maps every rule to its test). Guests always run with `ALL`; only tests take rules away.

Sections are those of the Intel SDM, volume 3A (325384), unless another source is named.

The rules together have a version, which recordings and all else that is saved to be repeated name.
"""

from __future__ import annotations

import enum
from typing import Final

RULES_VERSION: Final = 5
"""Of the machine's behaviour. One more with every change after which some run comes to another state than before, be it
of a rule here, of the CPU, a device, the scheduler's boundaries, the boot or a policy's steps; so that nothing that was
saved before is taken for the same machine's. `tests/quality/test_rules_version.py` finds out where it was forgotten.
"""


class Rule(enum.Enum):
    """One row of the architecture, with the section that says it."""

    __hash__ = object.__hash__  # members are unique: no need to hash names on the hottest paths

    # Translation caches
    CACHE_NEEDS_ACCESSED = "4.10.2.3 an entry is cached only with P=1, no reserved bit, and A=1 set before"
    SPECULATIVE_FILL = "4.10.2.3 prefetches may cache a translation, and set A for it"
    CACHED_ENTRY_SURVIVES = "4.10.2.2 a cached entry may be used after the paging structures changed"
    COMBINED_RIGHTS = "4.10.2.2 an entry carries R/W and U/S ANDed and XD ORed over the levels, D and G"
    STRUCTURE_CACHES = "4.10.3.1 PML4E, PDPTE and PDE caches, per PCID, filled even where no leaf exists"
    STRUCTURE_CACHES_NOT_GLOBAL = "4.10.3.1 paging-structure-cache entries are never global"
    NOT_PRESENT_SURVIVES = "4.10.4.4 after P 1 to 0 a cached entry may serve until it is invalidated, for any time"
    GLOBAL_SERVES_ANY_PCID = "4.10.2.4 a global entry serves every PCID"
    PCID_TAGS = "4.10.1 an entry that is not global serves its own PCID only"
    INVLPG_PAGE = "4.10.4.1 INVLPG drops the page for the current PCID"
    INVLPG_GLOBAL = "4.10.4.1 INVLPG drops global entries of the page, whatever their PCID"
    INVLPG_STRUCTURE_CACHES = "4.10.4.1 INVLPG drops all structure-cache entries of the current PCID"
    INVPCID_ADDRESS = "4.10.4.1 INVPCID type 0 drops one page of one PCID, globals excepted"
    INVPCID_CONTEXT = "4.10.4.1 INVPCID type 1 drops one PCID, globals excepted"
    INVPCID_ALL_GLOBAL = "4.10.4.1 INVPCID type 2 drops everything, globals too"
    INVPCID_ALL = "4.10.4.1 INVPCID type 3 drops everything but globals"
    CR3_FLUSH = "4.10.4.1 MOV CR3 without PCIDs drops every non-global entry"
    CR3_FLUSH_PCID = "4.10.4.1 MOV CR3 with PCIDs and bit 63 clear drops that PCID's non-global entries"
    CR3_NOFLUSH = "4.10.4.1 MOV CR3 with PCIDs and bit 63 set drops nothing"
    CR4_PGE_FLUSH = "4.10.4.1 MOV CR4 that changes PGE drops everything"
    CR4_PCIDE_FLUSH = "4.10.4.1 MOV CR4 that clears PCIDE drops everything"
    CR4_SMEP_FLUSH = "4.10.4.1 MOV CR4 that sets SMEP drops the current PCID's entries"
    CR0_PG_FLUSH = "4.10.4.1 MOV CR0 that clears PG drops everything"
    FAULT_DROPS_PAGE = "4.10.4.1 a #PF drops the page's entries and the structure-cache entries used"
    NOT_PRESENT_NOT_CACHED = "4.10.4.3 P 0 to 1 needs no invalidation: a not-present entry is never cached"
    SPURIOUS_FAULT = "4.10.4.3 rights raised without invalidation: the cached ones may fault, once"
    D_SET_THROUGH_CACHE = "4.8 a write through a cached entry with D=0 sets D in memory first"
    DIRTY_REWALK = "4.8 such a write walks again (mode dirty-rewalk=yes)"
    LOCKED_AD_UPDATE = "4.8, 8.1.2.1 the walker sets A and D by a locked read-modify-write"
    ACCESSED_NOT_SET_AGAIN = "4.10.4.3 A cleared without invalidation: a cached entry does not set it again"
    DIRTY_NOT_SET_AGAIN = "4.10.4.3 D cleared without invalidation: an entry cached as dirty does not set it again"
    TLB_PER_CPU = "4.10.5 each CPU has caches of its own; none invalidates another's"
    BROADCAST_INVLPGB = "AMD APM INVLPGB invalidates on every CPU, by TLBSYNC at the latest"
    INVLPGB_GLOBAL_FLAG = "AMD APM INVLPGB drops global entries only with its include-global flag"
    TLBSYNC_WAITS = "AMD APM INVLPGB is weakly ordered: complete only at TLBSYNC"

    # Events
    PF_ERROR_CODE = "4.7, 6.15 #PF error code: P, W/R, U/S, RSVD, I/D"
    PF_CR2 = "6.15 #PF loads CR2 with the address, a nested one too"
    IST_SWITCH = "6.14.5 a gate with an IST index switches to that stack unconditionally"
    IST_REWINDS = "6.14.5 re-entry through the same IST starts at its top again"
    FRAME_ALIGNED = "6.14.2 RSP is aligned down to 16 before the frame is pushed"
    FRAME_WORDS = "6.14.2 the frame is five words, six with an error code"
    NO_SWITCH_AT_EQUAL_CPL = "6.14 without IST the frame goes where RSP points at equal CPL"
    DOUBLE_FAULT_CONTRIBUTORY = "table 6-5 contributory + contributory = #DF"
    DOUBLE_FAULT_PAGE_FAULT = "table 6-5 #PF + contributory or #PF = #DF"
    SERIAL_FAULTS = "table 6-5 benign + any, contributory + #PF: handled serially"
    TRIPLE_FAULT = "table 6-5 a contributory fault or #PF while delivering #DF = shutdown"
    DF_ERROR_ZERO = "6.15 #DF pushes error code 0"
    DF_STATE_UNDEFINED = "6.15 #DF is an abort: the saved CS:RIP is undefined (mode df-restart=undefined)"
    INTERRUPT_LOST = "6.10, 6.15 an interrupt whose delivery faults may be lost (mode interrupted-delivery)"
    NMI_BLOCKED = "6.7.1 NMI is blocked until IRET"
    NMI_UNBLOCKED_BY_FAULTING_IRET = "6.7.1 ... even if that IRET faults"
    STI_SHADOW = "6.8.3 interrupts wait one instruction after an STI that sets IF"
    MOV_SS_SHADOW = "6.8.3 interrupts wait one instruction after MOV SS and POP SS"
    SHADOW_NOT_FOR_FAULTS = "6.8.3 faults are not held off by the shadow"

    # Local APIC
    ICR_LOW_SENDS = "10.6 writing the ICR's low half sends"
    TWO_PER_VECTOR = "10.8.4 IRR and ISR hold two of a vector at most; more collapse"
    PRIORITY = "10.8.3 a vector is delivered only above PPR"
    EOI_HIGHEST = "10.8.5 EOI clears the highest ISR bit"
    X2APIC_ICR = "10.12.9 the x2APIC ICR is one 64-bit MSR without delivery status"
    SELF_IPI = "10.12.11 SELF IPI is in IRR when its WRMSR completes"


ALL: frozenset[Rule] = frozenset(Rule)
