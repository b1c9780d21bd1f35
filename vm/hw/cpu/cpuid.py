"""CPUID: SDM volume 2. Says only what is implemented.

The engine's model is Ice Lake Server with what is not implemented masked out: XSAVE and AVX, RDRAND
and RDSEED (for determinism), MONITOR, protection keys, 5-level paging, SGX, VMX.
"""

from __future__ import annotations

from typing import Final

from kstack.hw.engine import Features
from kstack.x86.addresses import LINEAR_BITS, PHYSICAL_BITS
from kstack.x86.cpuid import (
    ExtendedEcx,
    ExtendedEdx,
    Leaf1Ecx,
    Leaf1Edx,
    Leaf7Ebx,
    Leaf71Eax,
    PowerEdx,
    SizesEbx,
    TopologyLevel,
    address_sizes,
    leaf_1_ebx,
    topology_ecx,
)

VENDOR: Final = b"GenuineIntel"
BRAND: Final = b"kstack emulated x86-64".ljust(48, b"\0")
SIGNATURE: Final = 0x606A6  # family 6, model 106
MAX_LEAF: Final = 0x16
MAX_EXTENDED: Final = 0x80000008

# Indices of QEMU's feature words (FeatureWord in target/i386/cpu.h), 64 bits each.
FEAT_1_EDX, FEAT_1_ECX, FEAT_7_EBX, FEAT_7_ECX, FEAT_7_EDX = range(5)
FEAT_8000_0001_EDX, FEAT_8000_0001_ECX = 6, 7

MASK_1_EDX: Final = (
    Leaf1Edx.SEP
    | Leaf1Edx.MCE
    | Leaf1Edx.MCA
    | Leaf1Edx.MTRR
    | Leaf1Edx.PSN
    | Leaf1Edx.DS
    | Leaf1Edx.ACPI
    | Leaf1Edx.SS
    | Leaf1Edx.HTT
)
"""SYSENTER does nothing."""
MASK_1_ECX: Final = (
    Leaf1Ecx.MONITOR
    | Leaf1Ecx.TSC_DEADLINE
    | Leaf1Ecx.XSAVE
    | Leaf1Ecx.OSXSAVE
    | Leaf1Ecx.AVX
    | Leaf1Ecx.F16C
    | Leaf1Ecx.RDRAND
    | Leaf1Ecx.FMA
)
SET_1_ECX: Final = Leaf1Ecx.PCID | Leaf1Ecx.X2APIC | Leaf1Ecx.HYPERVISOR
KEEP_7_EBX: Final = Leaf7Ebx.FSGSBASE | Leaf7Ebx.SMEP | Leaf7Ebx.ERMS | Leaf7Ebx.SMAP
SET_7_EBX: Final = int(Leaf7Ebx.INVPCID)
KEEP_81_EDX: Final = ExtendedEdx.SYSCALL | ExtendedEdx.NX | ExtendedEdx.PAGE_1GB | ExtendedEdx.RDTSCP | ExtendedEdx.LM
INVLPGB_MAX: Final = 31
"""Further pages one INVLPGB may name (AMD APM: EDX of leaf 8000_0008)."""


def mask_engine(words: Features) -> None:
    """Switch off in the translator of one engine what CPUID does not announce.

    Args:
        words: its feature words, mapped.
    """
    words[FEAT_1_EDX] &= ~MASK_1_EDX
    words[FEAT_1_ECX] &= ~MASK_1_ECX
    words[FEAT_7_EBX] &= KEEP_7_EBX
    words[FEAT_7_ECX] = 0
    words[FEAT_7_EDX] = 0
    words[FEAT_8000_0001_EDX] |= ExtendedEdx.PAGE_1GB


class Cpuid:
    """The CPUID leaves of one CPU.

    Args:
        words: the engine's feature words, which are announced.
        apic_id: initial APIC id.
        cpus: number of CPUs in the machine.
    """

    def __init__(self, words: Features, apic_id: int, cpus: int) -> None:
        self._words = [word & 0xFFFFFFFF for word in words]
        self._apic_id = apic_id
        self._cpus = cpus

    def leaf(self, eax: int, ecx: int, apic_enabled: bool) -> tuple[int, int, int, int]:
        """EAX, EBX, ECX, EDX of leaf `eax`, subleaf `ecx`; unknown leaves are zero."""
        words = self._words
        if eax == 0:
            return MAX_LEAF, *_text(VENDOR, (0, 8, 4))  # type: ignore[return-value] # three words
        if eax == 1:
            edx = words[FEAT_1_EDX] | Leaf1Edx.APIC if apic_enabled else words[FEAT_1_EDX] & ~Leaf1Edx.APIC
            ebx = leaf_1_ebx(self._apic_id, processors=1, clflush=8)
            return SIGNATURE, ebx, words[FEAT_1_ECX] | SET_1_ECX, edx
        if eax == 7 and ecx == 0:
            return 1, words[FEAT_7_EBX] & KEEP_7_EBX | SET_7_EBX, 0, 0
        if eax == 7 and ecx == 1:
            return int(Leaf71Eax.FRED), 0, 0, 0
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
            return 0, 1, topology_ecx(ecx, TopologyLevel.SMT), self._apic_id
        if ecx == 1:
            return (
                max(1, (self._cpus - 1).bit_length()),
                self._cpus,
                topology_ecx(ecx, TopologyLevel.CORE),
                self._apic_id,
            )
        return 0, 0, ecx, self._apic_id

    def _extended(self, eax: int) -> tuple[int, int, int, int]:
        words = self._words
        if eax == 0x80000000:
            return MAX_EXTENDED, 0, 0, 0
        if eax == 0x80000001:
            return 0, 0, words[FEAT_8000_0001_ECX] & ExtendedEcx.LAHF_LM, words[FEAT_8000_0001_EDX] & KEEP_81_EDX
        if 0x80000002 <= eax <= 0x80000004:
            start = (eax - 0x80000002) * 16
            return _text(BRAND, (start, start + 4, start + 8, start + 12))  # type: ignore[return-value] # four words
        if eax == 0x80000007:
            return 0, 0, 0, int(PowerEdx.INVARIANT_TSC)
        if eax == 0x80000008:
            return address_sizes(LINEAR_BITS, PHYSICAL_BITS), int(SizesEbx.INVLPGB), 0, INVLPGB_MAX
        return 0, 0, 0, 0


def _text(text: bytes, offsets: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int.from_bytes(text[at : at + 4], "little") for at in offsets)
