"""CPUID: SDM volume 2. Says only what is implemented.

The engine's model is Ice Lake Server with what is not implemented masked out: XSAVE and AVX, RDRAND
and RDSEED (for determinism), MONITOR, protection keys, 5-level paging, SGX, VMX.
"""

from __future__ import annotations

import ctypes
from typing import Final

from kstack.hw.engine import layout
from kstack.hw.mmu.walk import PHYSICAL_BITS

VENDOR: Final = b"GenuineIntel"
BRAND: Final = b"kstack emulated x86-64".ljust(48, b"\0")
SIGNATURE: Final = 0x606A6  # family 6, model 106
MAX_LEAF: Final = 0x16
MAX_EXTENDED: Final = 0x80000008

# Indices of QEMU's feature words (FeatureWord in target/i386/cpu.h), 64 bits each.
FEAT_1_EDX, FEAT_1_ECX, FEAT_7_EBX, FEAT_7_ECX, FEAT_7_EDX = range(5)
FEAT_8000_0001_EDX, FEAT_8000_0001_ECX = 6, 7

MASK_1_EDX: Final = 1 << 11 | 1 << 7 | 1 << 14 | 1 << 12 | 1 << 18 | 1 << 21 | 1 << 22 | 1 << 27 | 1 << 28
"""SEP (SYSENTER does nothing), MCE, MCA, MTRR, PSN, DS, ACPI, SS, HTT."""
MASK_1_ECX: Final = 1 << 3 | 1 << 24 | 1 << 26 | 1 << 27 | 1 << 28 | 1 << 29 | 1 << 30 | 1 << 12
"""MONITOR, TSC deadline, XSAVE, OSXSAVE, AVX, F16C, RDRAND, FMA."""
SET_1_ECX: Final = 1 << 17 | 1 << 21 | 1 << 31
"""PCID, x2APIC, hypervisor present."""
KEEP_7_EBX: Final = 1 << 0 | 1 << 7 | 1 << 9 | 1 << 20
"""FSGSBASE, SMEP, ERMS, SMAP."""
SET_7_EBX: Final = 1 << 10
"""INVPCID."""
FRED: Final = 1 << 17
"""EAX of leaf 7, subleaf 1."""
KEEP_81_EDX: Final = 1 << 11 | 1 << 20 | 1 << 26 | 1 << 27 | 1 << 29
"""SYSCALL, NX, 1 GiB pages, RDTSCP, long mode."""
INVLPGB: Final = 1 << 3
INVLPGB_MAX: Final = 31
"""Further pages one INVLPGB may name (AMD APM: EDX of leaf 8000_0008)."""


def mask_engine(env: int) -> None:
    """Switch off in the translator of one engine what CPUID does not announce.

    Args:
        env: host address of QEMU's CPUX86State.
    """
    words = (ctypes.c_uint64 * 12).from_address(env + layout.ENV_FEATURES)
    words[FEAT_1_EDX] &= ~MASK_1_EDX
    words[FEAT_1_ECX] &= ~MASK_1_ECX
    words[FEAT_7_EBX] &= KEEP_7_EBX
    words[FEAT_7_ECX] = 0
    words[FEAT_7_EDX] = 0
    words[FEAT_8000_0001_EDX] |= 1 << 26


class Cpuid:
    """The CPUID leaves of one CPU.

    Args:
        env: host address of the engine's CPUX86State, whose feature words are announced.
        apic_id: initial APIC id.
        cpus: number of CPUs in the machine.
    """

    def __init__(self, env: int, apic_id: int, cpus: int) -> None:
        words = (ctypes.c_uint64 * 12).from_address(env + layout.ENV_FEATURES)
        self._words = [word & 0xFFFFFFFF for word in words]
        self._apic_id = apic_id
        self._cpus = cpus

    def leaf(self, eax: int, ecx: int, apic_enabled: bool) -> tuple[int, int, int, int]:
        """EAX, EBX, ECX, EDX of leaf `eax`, subleaf `ecx`; unknown leaves are zero."""
        words = self._words
        if eax == 0:
            return MAX_LEAF, *_text(VENDOR, (0, 8, 4))  # type: ignore[return-value] # three words
        if eax == 1:
            edx = words[FEAT_1_EDX] | 1 << 9 if apic_enabled else words[FEAT_1_EDX] & ~(1 << 9)
            return SIGNATURE, self._apic_id << 24 | 1 << 16 | 8 << 8, words[FEAT_1_ECX] | SET_1_ECX, edx
        if eax == 7 and ecx == 0:
            return 1, words[FEAT_7_EBX] & KEEP_7_EBX | SET_7_EBX, 0, 0
        if eax == 7 and ecx == 1:
            return FRED, 0, 0, 0
        if eax == 0xB:
            return self._topology(ecx)
        if eax == 0x15:
            return 1, 1, 1_000_000_000, 0
        if eax == 0x16:
            return 1000, 1000, 100, 0
        if eax == 0x40000000:
            return 0x40000000, *_text(b"KstackKstack", (0, 4, 8))  # type: ignore[return-value] # three words
        if 0x80000000 <= eax <= MAX_EXTENDED:
            return self._extended(eax)
        return 0, 0, 0, 0

    def _topology(self, ecx: int) -> tuple[int, int, int, int]:
        if ecx == 0:
            return 0, 1, 1 << 8, self._apic_id
        if ecx == 1:
            return max(1, (self._cpus - 1).bit_length()), self._cpus, 2 << 8 | 1, self._apic_id
        return 0, 0, ecx, self._apic_id

    def _extended(self, eax: int) -> tuple[int, int, int, int]:
        words = self._words
        if eax == 0x80000000:
            return MAX_EXTENDED, 0, 0, 0
        if eax == 0x80000001:
            return 0, 0, words[FEAT_8000_0001_ECX] & 1, words[FEAT_8000_0001_EDX] & KEEP_81_EDX
        if 0x80000002 <= eax <= 0x80000004:
            start = (eax - 0x80000002) * 16
            return _text(BRAND, (start, start + 4, start + 8, start + 12))  # type: ignore[return-value] # four words
        if eax == 0x80000007:
            return 0, 0, 0, 1 << 8  # invariant TSC
        if eax == 0x80000008:
            return 48 << 8 | PHYSICAL_BITS, INVLPGB, 0, INVLPGB_MAX
        return 0, 0, 0, 0


def _text(text: bytes, offsets: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int.from_bytes(text[at : at + 4], "little") for at in offsets)
