"""What goes wrong with a CPU, its memory or its TLB at a moment between two instructions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from kstack.fault.records import Fault
from kstack.hw.cpu.decode import decode
from kstack.hw.cpu.events import exception
from kstack.hw.cpu.state import ActivityState
from kstack.hw.mmu.speculation import evict, prefetch
from kstack.machine import FOR_EVER
from kstack.run.session import Session
from kstack.x86.addresses import is_canonical
from kstack.x86.flags import WRITABLE_FLAGS, Flags
from kstack.x86.registers import Gpr
from kstack.x86.vectors import MC, PF

GARBAGE: Final = b"\xa5" * 4096
_MASK64: Final = (1 << 64) - 1
_MASK32: Final = (1 << 32) - 1
_KEPT: Final = int(Flags.FIXED)


def act(session: Session, fault: Fault, cpu: int) -> bool:
    """Carry out a fault that has a CPU and a moment alone; whether there was anything to do it to.

    Args:
        session: whose machine.
        fault: of a kind in DEEDS.
        cpu: whom it hits.
    """
    return DEEDS[fault.what](session, fault, cpu)


def _evict(session: Session, fault: Fault, cpu: int) -> bool:
    mmu, address = session.machine.cpus[cpu].mmu, fault.address or 0
    cached = mmu.data.lookup(address, mmu.pcid) is not None
    evict(mmu, address)
    return cached


def _fill(session: Session, fault: Fault, cpu: int) -> bool:
    return prefetch(session.machine.cpus[cpu].mmu, fault.address or 0)


def _flip_pte(session: Session, fault: Fault, cpu: int) -> bool:
    address, memory = fault.address or 0, session.machine.memory
    leaf = session.machine.cpus[cpu].mmu.leaf_address(address) if is_canonical(address) else None
    if leaf is None or not memory.is_ram(leaf):
        return False
    memory.write64(leaf, memory.read64(leaf) ^ 1 << (fault.bit or 0))
    return True


def _flip_ram(session: Session, fault: Fault, cpu: int) -> bool:
    memory, bit = session.machine.memory, fault.bit or 0
    byte = (fault.address or 0) + bit // 8
    if not memory.is_ram(byte):
        return False
    memory.write(byte, bytes([memory.read(byte, 1)[0] ^ 1 << bit % 8]))
    return True


def _flip_register(session: Session, fault: Fault, cpu: int) -> bool:
    registers, bit = session.machine.cpus[cpu].registers, 1 << (fault.bit or 0)
    if fault.register == "rip":
        registers.rip = registers.rip ^ bit
    elif fault.register == "rflags":
        registers.rflags = (registers.rflags ^ bit) & WRITABLE_FLAGS | _KEPT
    else:
        which = Gpr[(fault.register or "").upper()]
        registers.gpr[which] = registers.gpr[which] ^ bit
    return True


def _drain(session: Session, fault: Fault, cpu: int) -> bool:
    pools, taken = session.runtime.pools, 0
    for each in range(session.machine.cpu_count) if pools is not None else ():
        while pools is not None and pools.take(each) is not None:
            taken += 1
    return taken > 0


def _spurious(session: Session, fault: Fault, cpu: int) -> bool:
    processor = session.machine.cpus[cpu]
    if processor.state is not ActivityState.RUNNING:
        return False  # it accesses nothing
    processor.deliver(exception(PF, 0, fault.address))
    return True


def _nmi(session: Session, fault: Fault, cpu: int) -> bool:
    session.machine.cpus[cpu].nmi()
    return True


def _machine_check(session: Session, fault: Fault, cpu: int) -> bool:
    processor = session.machine.cpus[cpu]
    if processor.state not in (ActivityState.RUNNING, ActivityState.HALTED):
        return False  # it waits for a start-up IPI, or for nothing
    processor.state = ActivityState.RUNNING  # it ends HLT (SDM volume 2, HLT)
    processor.deliver(exception(MC))
    return True


def _timer(session: Session, fault: Fault, cpu: int) -> bool:
    apic = session.machine.apics[cpu]
    apic.accept(fault.vector or 0)
    return apic.software_enabled  # else it is dropped


def _stall(session: Session, fault: Fault, cpu: int) -> bool:
    return _stand_still(session, cpu, session.machine.now() + (fault.units or 0))


def _hang(session: Session, fault: Fault, cpu: int) -> bool:
    return _stand_still(session, cpu, FOR_EVER)


def _offline(session: Session, fault: Fault, cpu: int) -> bool:
    known = cpu in session.runtime.online
    session.runtime.gone(cpu)
    return _stand_still(session, cpu, FOR_EVER) or known


def _stand_still(session: Session, cpu: int, until: int) -> bool:
    """Let a CPU do nothing up to a virtual time; whether it would have done something."""
    stalls = session.machine.stalls
    longer = until > stalls.get(cpu, 0)
    if longer:
        stalls[cpu] = until
    return longer


def _skip(session: Session, fault: Fault, cpu: int) -> bool:
    processor = session.machine.cpus[cpu]
    registers = processor.registers
    instruction = decode(processor.linear.code(processor.linear_rip()), registers.bits)
    if instruction is None:
        return False
    registers.rip = registers.rip + instruction.length & (_MASK64 if registers.bits == 64 else _MASK32)
    return True


# What each returns: False where there was nothing to do it to.
DEEDS: Final[dict[str, Callable[[Session, Fault, int], bool]]] = {
    "evict-tlb": _evict,
    "fill-tlb": _fill,
    "flip-pte": _flip_pte,
    "flip-ram": _flip_ram,
    "flip-register": _flip_register,
    "drain-pool": _drain,
    "spurious-fault": _spurious,
    "nmi": _nmi,
    "machine-check": _machine_check,
    "timer": _timer,
    "stall": _stall,
    "hang": _hang,
    "offline": _offline,
    "skip": _skip,
}
