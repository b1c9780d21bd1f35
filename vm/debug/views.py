"""What the machine is made of, as lines of text: page walks, TLBs, local APICs, frames, pools, hooks.

Read-only: nothing here changes the machine.
"""

from __future__ import annotations

from typing import Final

from kstack.hw.apic.apic import ApicMode, LocalApic
from kstack.hw.apic.registers import BANK_STEP, Reg
from kstack.hw.cpu.cpu import Cpu
from kstack.hw.cpu.decode import disassemble
from kstack.hw.mmu.tlb import STRUCTURE_SHIFTS, Tlb
from kstack.hw.mmu.walk import TableEntry, Translation, reserved_bits, walk
from kstack.load import Symbols
from kstack.machine import Machine
from kstack.run.session import Session
from kstack.stacks.host.call import HookCall
from kstack.x86.addresses import is_canonical
from kstack.x86.entries import BIT_NAMES, FRAME_MASK, LEVELS, PS, P
from kstack.x86.msrs import X2APIC_FIRST_MSR
from kstack.x86.registers import Gpr
from kstack.x86.vectors import VECTORS

MAX_LISTED: Final = 512  # lines of one listing
LISTED_CODE: Final = 8  # instructions
_MASK64: Final = (1 << 64) - 1


def _listed(lines: list[str]) -> list[str]:
    """The lines, cut where there are too many."""
    more = len(lines) - MAX_LISTED
    return lines if more <= 0 else [*lines[:MAX_LISTED], f"... and {more} more"]


def walk_lines(cpu: Cpu, address: int) -> list[str]:
    """Each level's entry for linear `address`, and what the CPU has cached for it."""
    if not cpu.paging_enabled():
        return [f"CPU {cpu.index}: paging is off, {address:#x} is physical"]
    if not is_canonical(address):
        return [f"{address:#x} is not canonical"]
    mmu = cpu.mmu
    lines = [f"CPU {cpu.index}, CR3 {cpu.registers.cr[3]:#x}, {address:#x}:"]
    root = TableEntry(cpu.registers.cr[3] & FRAME_MASK, 0)
    for where, shift in walk(mmu.memory, root, 39, address, None, mmu.control).path:
        entry = mmu.memory.read64(where)
        lines.append(f"  {LEVELS[shift]:<5} at {where:#x}: {entry:#018x} {_flags(cpu, entry, shift)}")
    current = mmu.peek(address)
    lines.append(f"  tables: {'not mapped' if current is None else _translation(current)}")
    for name, tlb in (("data", mmu.data), ("code", mmu.code)):
        cached = tlb.lookup(address, mmu.pcid)
        lines.append(f"  {name} TLB: {'nothing' if cached is None else _translation(cached) + _stale(cached, current)}")
    cached_table = mmu.structures.lookup(address, mmu.pcid)
    if cached_table is not None:
        shift, entry_of = cached_table
        lines.append(f"  structure cache: {LEVELS[shift]} -> table {entry_of.table:#x}")
    return lines


def _flags(cpu: Cpu, entry: int, shift: int) -> str:
    if not entry & P:
        return "not present"
    words = [name for bit, name in BIT_NAMES.items() if entry & bit and not (bit == PS and shift == 12)]
    words += ["reserved bits set"] if reserved_bits(entry, shift, cpu.mmu.control) else []
    return f"-> frame {entry & FRAME_MASK:#x} {' '.join(words)}"


def _translation(found: Translation) -> str:
    rights = f"{'user' if found.user else 'kernel'} r{'w' if found.writable else '-'}{'-' if found.no_execute else 'x'}"
    dirty = " D" if found.dirty else ""
    return f"frame {found.frame:#x} {rights}{dirty}{' global' if found.is_global else ''} ({1 << found.shift - 10} KiB)"


def _stale(cached: Translation, current: Translation | None) -> str:
    return "" if cached.same_target(current) else ", STALE"


def code_lines(cpu: Cpu, symbols: Symbols, address: int) -> list[str]:
    """Some instructions from linear `address` on, as the CPU would execute them in its present mode."""
    lines: list[str] = []
    for _ in range(LISTED_CODE):
        code = cpu.linear.code(address)
        if not code:
            lines.append(f"{address:#x}: not mapped")
            break
        length, text = disassemble(code, address, cpu.registers.bits)
        lines.append(f"{address:#x}  {symbols.name(address):<28} {text}")
        address = address + length & _MASK64
    return [f"CPU {cpu.index}, {cpu.registers.bits}-bit code:", *lines]


def tlb_lines(cpu: Cpu) -> list[str]:
    """All that a CPU has cached."""
    mmu = cpu.mmu
    lines = [f"CPU {cpu.index}, PCID {mmu.pcid}:"]
    for name, tlb in (("data", mmu.data), ("code", mmu.code)):
        lines += [f"  {name} {line}" for line in _tlb(cpu, tlb)]
    for pcid, caches in sorted(mmu.structures.own.items()):
        for shift in STRUCTURE_SHIFTS:
            count = sum(key[0] == shift for key in caches)
            if count:
                lines.append(f"  structure caches, PCID {pcid}: {count} {LEVELS[shift]}")
    return _listed(lines)


def _tlb(cpu: Cpu, tlb: Tlb) -> list[str]:
    lines = []
    for pcid, entry in tlb.entries():
        address = entry.page << entry.shift & (1 << 64) - 1
        stale = _stale(entry, cpu.mmu.peek(address)) if pcid in (-1, cpu.mmu.pcid) else ""
        lines.append(f"{address:#018x} {'' if pcid < 0 else f'PCID {pcid} '}{_translation(entry)}{stale}")
    return lines or ["TLB: empty"]


def apic_lines(apic: LocalApic) -> list[str]:
    """Mode, priorities, what waits and what is in service."""
    lines = [f"APIC {apic.apic_id}: {apic.mode.value}, IA32_APIC_BASE {apic.base_msr:#x}"]
    if apic.mode is ApicMode.DISABLED:
        return lines
    lines.append(
        f"  TPR {apic.tpr:#x}, PPR {apic.ppr:#x}, {'' if apic.software_enabled else 'not '}enabled by software"
    )
    for name, bank in (("IRR", Reg.IRR), ("ISR", Reg.ISR), ("TMR", Reg.TMR)):
        bits = [_apic_register(apic, bank + BANK_STEP * (vector // 32)) >> vector % 32 & 1 for vector in range(VECTORS)]
        vectors = " ".join(f"{vector:#x}" for vector in range(VECTORS) if bits[vector])
        lines.append(f"  {name}: {vectors or 'none'}")
    deadline = apic.next_deadline()
    lines.append(f"  timer: {'off' if deadline is None else f'fires at time {deadline}'}")
    return lines


def _apic_register(apic: LocalApic, register: int) -> int:
    if apic.mode is ApicMode.X2APIC:
        return apic.read_msr(X2APIC_FIRST_MSR + (register >> 4)) or 0
    return apic.read(register, 4)


def frame_lines(session: Session) -> list[str]:
    """The policy's frames that are not in a pool: owner and state."""
    oracle = session.oracle
    if oracle is None:
        return ["no policy is attached, so there are no frames of a policy's"]
    lines, pooled = [], 0
    for frame, life in sorted(oracle.frames.items()):
        if life.owner is None and life.previous is None and life.freed_by is None and life.state.name == "POOL":
            pooled += 1
            continue
        owner = "" if life.owner is None else f", thread {life.owner.thread} page {life.owner.index}"
        before = "" if life.previous is None else f"; before: thread {life.previous.thread} page {life.previous.index}"
        freed = "" if life.freed_by is None else f"; freed by {life.freed_by}"
        lines.append(f"{frame:#x}: {life.state.value}{owner}{before}{freed}")
    return [*_listed(lines), f"{pooled} frames have never been used"]


def pool_lines(session: Session) -> list[str]:
    """Each pool's frames, next to be given out last (lifo)."""
    pools = session.runtime.pools
    if pools is None:
        return ["the guest has given no pool of stack pages"]
    lines = [f"CPU {cpu}: {_frames(pool)}" for cpu, pool in enumerate(pools.per_cpu)]
    return [*lines, f"shared: {_frames(pools.shared)}", f"page allocator: {len(pools.reserve)} frames"]


def _frames(pool: list[int]) -> str:
    return f"{len(pool)} frames {' '.join(f'{frame:#x}' for frame in pool)}".rstrip()


def policy_lines(session: Session) -> list[str]:
    """Which policy, and its hooks in flight."""
    policy = session.runtime.policy
    if policy is None:
        return ["no policy is attached"]
    lines = [f"{policy.id}: {policy.title}"]
    for cpu, calls in enumerate(session.runtime.calls):
        waits = ", waits" if session.runtime.is_blocked(cpu) else ""
        lines += [
            f"CPU {cpu}: {hook_name(call)}, {len(call.answers)} steps done, next {call.step}{waits}" for call in calls
        ]
    return lines if len(lines) > 1 else [*lines, "no hook is in flight"]


def hook_name(call: HookCall) -> str:
    """A hook in a few words."""
    return f"{call.hook.value} of thread {call.thread}" if call.thread else call.hook.value


def whereabouts(session: Session, number: int) -> str:
    """A CPU in one line: its state, where it is, the guest thread whose stack it is on, its hook."""
    machine: Machine = session.machine
    cpu = machine.cpus[number]
    words = f"CPU {number}: {cpu.state.value}, ring {cpu.registers.cpl} at {session.symbols.name(cpu.linear_rip())}"
    runtime = session.runtime
    thread = runtime.executor.areas.find(runtime.threads, cpu.registers.gpr[Gpr.RSP] - 8)
    if thread is not None:
        words += f", on the stack of thread {thread.id}"
    calls = runtime.calls[number]
    if calls:
        words += f", in hook {hook_name(calls[-1])}"
    return words
