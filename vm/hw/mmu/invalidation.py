"""INVPCID, and what loads of control registers do to translation: SDM volume 3, 4.10.4.1.

Not modelled: that any of them may invalidate more than the manual asks for.
"""

from __future__ import annotations

from kstack.hw.mmu.mmu import Mmu
from kstack.hw.mmu.moments import Cause
from kstack.hw.rules import Rule
from kstack.x86.control import Cr0, Cr3, Cr4
from kstack.x86.invalidation import Invpcid


def invpcid(mmu: Mmu, kind: int, pcid: int, address: int) -> None:
    """INVPCID types 0 to 3 (SDM 4.10.4.1)."""
    rules = mmu.rules
    if kind == Invpcid.ADDRESS and Rule.INVPCID_ADDRESS in rules:
        mmu.drop_own(address, pcid, Cause.INVPCID)
    elif kind == Invpcid.CONTEXT and Rule.INVPCID_CONTEXT in rules:
        mmu.drop_pcid(pcid, Cause.INVPCID)
    elif kind == Invpcid.ALL_GLOBAL and Rule.INVPCID_ALL_GLOBAL in rules:
        mmu.drop_all(True, Cause.INVPCID)
    elif kind == Invpcid.ALL and Rule.INVPCID_ALL in rules:
        mmu.drop_all(False, Cause.INVPCID)


def load_cr3(mmu: Mmu, value: int) -> None:
    """MOV to CR3 (SDM 4.10.4.1); reserved bits have been checked."""
    registers, rules = mmu.engine.registers, mmu.rules
    with_pcid = bool(registers.cr[4] & Cr4.PCIDE)
    keep = with_pcid and bool(value & Cr3.NO_FLUSH)
    registers.cr[3] = value & ~Cr3.NO_FLUSH
    old = mmu.pcid
    other_tables = mmu.update()
    if keep:
        if Rule.CR3_NOFLUSH not in rules:
            mmu.drop_pcid(mmu.pcid, Cause.CR3)
    elif with_pcid:
        if Rule.CR3_FLUSH_PCID in rules:
            mmu.drop_pcid(mmu.pcid, Cause.CR3)
    elif Rule.CR3_FLUSH in rules:
        mmu.drop_all(False, Cause.CR3)
    watched = bool(mmu.hooks.use) and other_tables  # what is kept may have become stale
    if old != mmu.pcid or watched:
        mmu.softmmu.flush()


def load_cr0(mmu: Mmu, value: int) -> None:
    """The translation half of MOV to CR0."""
    registers = mmu.engine.registers
    changed = registers.cr[0] ^ value
    registers.cr[0] = value
    registers.sync()
    mmu.update()
    if changed & (Cr0.PG | Cr0.WP | Cr0.PE):
        mmu.softmmu.flush()
        mmu.engine.flush()
    if changed & Cr0.PG and not value & Cr0.PG and Rule.CR0_PG_FLUSH in mmu.rules:
        mmu.drop_all(True, Cause.CONTROL)


def load_cr4(mmu: Mmu, value: int) -> None:
    """The translation half of MOV to CR4."""
    registers, rules = mmu.engine.registers, mmu.rules
    old = registers.cr[4]
    changed, cleared, turned_on = old ^ value, old & ~value, value & ~old
    registers.cr[4] = value
    registers.sync()
    mmu.update()
    if (changed & Cr4.PGE and Rule.CR4_PGE_FLUSH in rules) or (cleared & Cr4.PCIDE and Rule.CR4_PCIDE_FLUSH in rules):
        mmu.drop_all(True, Cause.CONTROL)
    elif turned_on & Cr4.SMEP and Rule.CR4_SMEP_FLUSH in rules:
        mmu.drop_pcid(mmu.pcid, Cause.CONTROL)
    if changed & (Cr4.SMEP | Cr4.SMAP | Cr4.PGE | Cr4.PCIDE):
        mmu.softmmu.flush()
