"""What goes wrong with a CPU, its memory or its TLB at a moment between two instructions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from vm.fault.records import Fault
from vm.hw.decode import decode
from vm.hw.engine import Flags, Gpr
from vm.hw.events import PF, exception
from vm.hw.paging import is_canonical
from vm.machine import FOR_EVER
from vm.session import Session

MACHINE_CHECK: Final = 18
GARBAGE: Final = b"\xa5" * 4096
_MASK64: Final = (1 << 64) - 1
_KEPT: Final = int(Flags.FIXED)


def act(session: Session, fault: Fault, cpu: int) -> bool:
    """Carry out a fault that has a CPU and a moment alone; whether there was anything to do it to.

    Args:
        session: whose machine.
        fault: of a kind in DEEDS.
        cpu: whom it hits.
    """
    return DEEDS[fault.what](session, fault, cpu) is not False


def _evict(session: Session, fault: Fault, cpu: int) -> None:
    session.machine.cpus[cpu].mmu.evict(fault.address or 0)


def _fill(session: Session, fault: Fault, cpu: int) -> None:
    session.machine.cpus[cpu].mmu.prefetch(fault.address or 0)


def _flip_pte(session: Session, fault: Fault, cpu: int) -> bool:
    address = fault.address or 0
    leaf = session.machine.cpus[cpu].mmu.leaf_address(address) if is_canonical(address) else None
    if leaf is None:
        return False
    _flip(session, leaf, fault.bit or 0)
    return True


def _flip_ram(session: Session, fault: Fault, cpu: int) -> bool:
    address = (fault.address or 0) & ~7
    if not session.machine.memory.is_ram(address):
        return False
    _flip(session, address, fault.bit or 0)
    return True


def _flip(session: Session, address: int, bit: int) -> None:
    memory = session.machine.memory
    memory.write64(address, memory.read64(address) ^ 1 << bit)


def _flip_register(session: Session, fault: Fault, cpu: int) -> None:
    registers, bit = session.machine.cpus[cpu].registers, 1 << (fault.bit or 0)
    if fault.register == "rip":
        registers.rip = registers.rip ^ bit
    elif fault.register == "rflags":
        registers.rflags = (registers.rflags ^ bit) & 0x3F7FD7 | _KEPT
    else:
        which = Gpr[(fault.register or "").upper()]
        registers.gpr[which] = registers.gpr[which] ^ bit


def _drain(session: Session, fault: Fault, cpu: int) -> None:
    pools = session.runtime.pools
    while pools is not None and any(pools.take(each) is not None for each in range(session.machine.cpu_count)):
        pass


def _spurious(session: Session, fault: Fault, cpu: int) -> None:
    session.machine.cpus[cpu].deliver(exception(PF, 0, fault.address))


def _nmi(session: Session, fault: Fault, cpu: int) -> None:
    session.machine.cpus[cpu].nmi()


def _machine_check(session: Session, fault: Fault, cpu: int) -> None:
    session.machine.cpus[cpu].deliver(exception(MACHINE_CHECK))


def _timer(session: Session, fault: Fault, cpu: int) -> None:
    session.machine.apics[cpu].accept(fault.vector or 0)


def _stall(session: Session, fault: Fault, cpu: int) -> None:
    session.machine.stalls[cpu] = session.machine.now() + (fault.units or FOR_EVER)


def _hang(session: Session, fault: Fault, cpu: int) -> None:
    session.machine.stalls[cpu] = FOR_EVER


def _offline(session: Session, fault: Fault, cpu: int) -> None:
    session.machine.stalls[cpu] = FOR_EVER
    session.runtime.gone(cpu)


def _skip(session: Session, fault: Fault, cpu: int) -> bool:
    processor = session.machine.cpus[cpu]
    instruction = decode(processor.linear.code(processor.registers.rip), processor.registers.bits)
    if instruction is None:
        return False
    processor.registers.rip = processor.registers.rip + instruction.length & _MASK64
    return True


# What each returns: False where there was nothing to do it to.
DEEDS: Final[dict[str, Callable[[Session, Fault, int], bool | None]]] = {
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
