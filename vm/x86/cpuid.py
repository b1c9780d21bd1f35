"""Feature bits of CPUID, those that are spoken of here: SDM volume 2, CPUID; AMD APM volume 3, appendix E."""

from __future__ import annotations

import enum


class Leaf1Edx(enum.IntEnum):
    """EDX of leaf 1 (table 3-11)."""

    MCE = 1 << 7
    APIC = 1 << 9
    SEP = 1 << 11
    MTRR = 1 << 12
    MCA = 1 << 14
    PSN = 1 << 18
    DS = 1 << 21
    ACPI = 1 << 22
    SS = 1 << 27
    HTT = 1 << 28


class Leaf1Ecx(enum.IntEnum):
    """ECX of leaf 1 (table 3-10)."""

    MONITOR = 1 << 3
    FMA = 1 << 12
    PCID = 1 << 17
    X2APIC = 1 << 21
    TSC_DEADLINE = 1 << 24
    XSAVE = 1 << 26
    OSXSAVE = 1 << 27
    AVX = 1 << 28
    F16C = 1 << 29
    RDRAND = 1 << 30
    HYPERVISOR = 1 << 31  # reserved for hypervisors to say that they are there


class Leaf7Ebx(enum.IntEnum):
    """EBX of leaf 7, subleaf 0."""

    FSGSBASE = 1 << 0
    SMEP = 1 << 7
    ERMS = 1 << 9
    INVPCID = 1 << 10
    SMAP = 1 << 20


class Leaf71Eax(enum.IntEnum):
    """EAX of leaf 7, subleaf 1."""

    FRED = 1 << 17


class ExtendedEdx(enum.IntEnum):
    """EDX of leaf 8000_0001."""

    SYSCALL = 1 << 11
    NX = 1 << 20
    PAGE_1GB = 1 << 26
    RDTSCP = 1 << 27
    LM = 1 << 29


class ExtendedEcx(enum.IntEnum):
    """ECX of leaf 8000_0001."""

    LAHF_LM = 1 << 0


class PowerEdx(enum.IntEnum):
    """EDX of leaf 8000_0007."""

    INVARIANT_TSC = 1 << 8


class SizesEbx(enum.IntEnum):
    """EBX of leaf 8000_0008, which is AMD's."""

    INVLPGB = 1 << 3


class TopologyLevel(enum.IntEnum):
    """ECX of leaf 0BH, bits 15:8."""

    SMT = 1
    CORE = 2


def leaf_1_ebx(apic_id: int, processors: int, clflush: int) -> int:
    """EBX of leaf 1.

    Args:
        apic_id: the initial one.
        processors: logical ones in the package.
        clflush: what CLFLUSH flushes, in units of 8 bytes.
    """
    return apic_id << 24 | processors << 16 | clflush << 8


def topology_ecx(subleaf: int, level: TopologyLevel) -> int:
    """ECX of leaf 0BH."""
    return level << 8 | subleaf


def address_sizes(linear: int, physical: int) -> int:
    """EAX of leaf 8000_0008, from the bits of addresses."""
    return linear << 8 | physical
