"""Model-specific registers: SDM volume 4.

Unknown MSRs raise #GP(0) on read and write, as on hardware. Those that QEMU's own instructions read
(STAR, LSTAR, FS and GS base, ...) live in the engine's state; the rest here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from kstack.hw.apic.apic import LocalApic
from kstack.hw.cpu.linear import GuestFault
from kstack.hw.engine import ENGINE_MSRS, Registers
from kstack.x86.addresses import is_canonical
from kstack.x86.control import Cr0, Efer
from kstack.x86.fred import CONFIG_RESERVED, FRAME_ALIGNED
from kstack.x86.msrs import X2APIC_FIRST_MSR, X2APIC_LAST_MSR, Msr
from kstack.x86.registers import Seg
from kstack.x86.vectors import GP

_FRED_STACKS: Final = (Msr.FRED_RSP0, Msr.FRED_RSP1, Msr.FRED_RSP2, Msr.FRED_RSP3)
_FRED_SHADOW_STACKS: Final = (Msr.FRED_SSP1, Msr.FRED_SSP2, Msr.FRED_SSP3)  # stored only
_PLAIN_START: Final = {
    Msr.SYSENTER_CS: 0,
    Msr.SYSENTER_ESP: 0,
    Msr.SYSENTER_EIP: 0,
    Msr.MISC_ENABLE: 1,
    Msr.PAT: 0x0007040600070406,
    Msr.MTRR_DEF_TYPE: 0xC06,
    Msr.BIOS_SIGN_ID: 0,
    **dict.fromkeys((*_FRED_STACKS, *_FRED_SHADOW_STACKS, Msr.FRED_STKLVLS, Msr.FRED_CONFIG), 0),
}
_RESERVED: Final[dict[int, int]] = {
    **dict.fromkeys(_FRED_STACKS, ~FRAME_ALIGNED),
    **dict.fromkeys(_FRED_SHADOW_STACKS, 0x7),
    Msr.FRED_CONFIG: CONFIG_RESERVED,
    **dict.fromkeys((Msr.FMASK, Msr.TSC_AUX), 0xFFFFFFFF_00000000),
}
"""Bits that must be written as zero, else #GP(0)."""
_MEMORY_TYPES: Final = frozenset((0, 1, 4, 5, 6, 7))  # of PAT (volume 3, 12.12.2)
_CONSTANT: Final = {Msr.PLATFORM_ID: 0, Msr.MTRR_CAP: 0, Msr.MCG_CAP: 0}
_CANONICAL: Final = frozenset(
    (Msr.LSTAR, Msr.CSTAR, Msr.FS_BASE, Msr.GS_BASE, Msr.KERNEL_GS_BASE, Msr.SYSENTER_ESP, Msr.SYSENTER_EIP)
).union(_FRED_STACKS, _FRED_SHADOW_STACKS, (Msr.FRED_CONFIG,))
_EFER_WRITABLE: Final = Efer.SCE | Efer.LME | Efer.NXE


class MsrState(NamedTuple):
    """MSRs that the engine does not keep, by number, and what the TSC is ahead of time."""

    plain: tuple[tuple[int, int], ...]
    tsc_offset: int


class Msrs:
    """The MSRs of one CPU.

    Args:
        registers: the engine's.
        apic: the CPU's local APIC.
        clock: virtual time, in instructions.
        update: called after EFER changed.
    """

    def __init__(
        self, registers: Registers, apic: LocalApic, clock: Callable[[], int], update: Callable[[], object]
    ) -> None:
        self._registers = registers
        self._apic = apic
        self._clock = clock
        self._update = update
        self._plain: dict[int, int] = {int(msr): value for msr, value in _PLAIN_START.items()}
        self.tsc_offset = 0

    def read(self, index: int) -> int:
        """RDMSR.

        Raises:
            GuestFault: #GP(0), there is no such MSR.
        """
        if index in self._plain:
            return self._plain[index]
        if index in _CONSTANT:
            return _CONSTANT[Msr(index)]
        if index in ENGINE_MSRS:
            return self._registers.msr(Msr(index))
        if index == Msr.TSC:
            return self.tsc()
        if index == Msr.APIC_BASE:
            return self._apic.base_msr
        if index == Msr.EFER:
            return self._registers.efer
        if index in (Msr.FS_BASE, Msr.GS_BASE):
            return self._registers.segment(Seg.FS if index == Msr.FS_BASE else Seg.GS).base
        value = self._apic.read_msr(index) if X2APIC_FIRST_MSR <= index <= X2APIC_LAST_MSR else None
        if value is None:
            raise GuestFault(GP)
        return value

    def write(self, index: int, value: int) -> None:
        """WRMSR.

        Raises:
            GuestFault: #GP(0), no such MSR or a value it refuses.
        """
        if (index in _CANONICAL and not is_canonical(value)) or value & _RESERVED.get(index, 0):
            raise GuestFault(GP)
        if index == Msr.PAT and not all(kind in _MEMORY_TYPES for kind in value.to_bytes(8, "little")):
            raise GuestFault(GP)
        if index in self._plain:
            self._plain[index] = value
        elif index in ENGINE_MSRS:
            self._registers.set_msr(Msr(index), value)
        elif index == Msr.TSC:
            self.tsc_offset = value - self._clock() & (1 << 64) - 1
        elif index == Msr.APIC_BASE:
            if not self._apic.set_base_msr(value):
                raise GuestFault(GP)
        elif index == Msr.EFER:
            self._write_efer(value)
        elif index in (Msr.FS_BASE, Msr.GS_BASE):
            self._registers.set_base(Seg.FS if index == Msr.FS_BASE else Seg.GS, value)
        elif not (X2APIC_FIRST_MSR <= index <= X2APIC_LAST_MSR and self._apic.write_msr(index, value)):
            raise GuestFault(GP)

    def _write_efer(self, value: int) -> None:
        registers = self._registers
        old = registers.efer
        changes_lme = (old ^ value) & Efer.LME
        if value & ~(_EFER_WRITABLE | Efer.LMA) or (changes_lme and registers.cr[0] & Cr0.PG):
            raise GuestFault(GP)
        registers.efer = value & ~Efer.LMA | old & Efer.LMA
        self._update()

    def tsc(self) -> int:
        """The time-stamp counter: virtual time, one count an instruction."""
        return self._clock() + self.tsc_offset & (1 << 64) - 1

    def snapshot(self) -> MsrState:
        """What is not in the engine's state, immutable."""
        return MsrState(tuple(sorted(self._plain.items())), self.tsc_offset)

    def restore(self, state: MsrState) -> None:
        """Become what `snapshot` returned."""
        self._plain, self.tsc_offset = dict(state.plain), state.tsc_offset
