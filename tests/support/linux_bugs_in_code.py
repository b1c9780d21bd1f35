"""Two bugs in Linux's memory management that need what a policy's pages do not have: tables that go away, and PCIDs.

Each is a few instructions a CPU on a bare machine, with its fix; every interleaving of them is tried, with caches that
keep what they may keep. Where a CPU comes to a PAUSE it waits until the invalidation it has asked for is done.
"""

from __future__ import annotations

from typing import Final

from kstack.hw.cpu.state import ActivityState
from kstack.x86.control import Cr4
from kstack.x86.registers import Gpr
from tests.support.long_mode import AREA, PLAIN, LongModeGuest

OLD, SECRET = 0x01D, 0x5EC
"""What the page holds, and what the next owner of the memory keeps there."""
NEXT: Final = AREA + 4096
REQUEST, NUMBER, DESCRIPTOR = (0x200000 + 64 * word for word in range(3))
"""1 the reader is to invalidate, 2 it has; the address space's PCID; what INVPCID takes."""
PAUSE: Final = b"\xf3\x90"


class Race:
    """Programs, a CPU each, from the moment at which the last CPU, the reader, has read the page.

    Args:
        fixed: as Linux has it today.
    """

    cr4 = 0

    def __init__(self, fixed: bool) -> None:
        programs = self.programs(fixed)
        self.reader = len(programs) - 1
        self.guest = guest = LongModeGuest(cpus=len(programs), cr4=self.cr4)
        self.frame, self.secret = guest.frame(OLD), guest.frame(SECRET)
        self.leaf = guest.map(AREA, self.frame)
        guest.map(NEXT, self.frame)
        self.directory = guest.entry(AREA, 21)
        guest.memory.write64(NUMBER, 1)
        if self.cr4 & Cr4.PCIDE:
            guest.run("mov rax, cr3\nor rax, 1\nmov cr3, rax", self.reader)
        assert guest.load(AREA, self.reader) == OLD
        places = {"area": AREA, "next": NEXT, "request": REQUEST, "number": NUMBER, "descriptor": DESCRIPTOR}
        places |= {"leaf": self.leaf, "directory": self.directory, "frame": self.frame}
        places["entry"] = self.secret | PLAIN
        words = {name: hex(place) for name, place in places.items()}
        for cpu, program in enumerate(programs):
            guest.start(guest.kernel_code(program.format(**words) + "\nhlt"), cpu, rbx=0)

    def programs(self, fixed: bool) -> list[str]:
        """A program a CPU."""
        raise NotImplementedError

    def outcomes(self) -> set[int | None]:
        """What the reader's last load gives, over all interleavings of instructions; None where it faults."""
        machine, seen = self.guest.machine, {self.guest.machine.state_hash()}
        work, found = [machine.snapshot()], set()
        while work:
            state = work.pop()
            machine.restore(state)
            if machine.cpus[self.reader].state is ActivityState.HALTED:
                found.add(None if self.guest.vector(self.reader) else self.guest.gpr(Gpr.RBX, self.reader))
                continue
            for cpu in range(machine.cpu_count):
                machine.restore(state)
                if self._runs(cpu):
                    machine.run(cpu, 1)
                    if (key := machine.state_hash()) not in seen:
                        seen.add(key)
                        work.append(machine.snapshot())
        return found

    def _runs(self, cpu: int) -> bool:
        processor, memory = self.guest.machine.cpus[cpu], self.guest.memory
        waits = memory.read(processor.registers.rip, len(PAUSE)) == PAUSE and memory.read64(REQUEST) != 2
        return processor.state is ActivityState.RUNNING and not waits


class TablesFreedEarly(Race):
    """A page-table page is freed, and its next owner writes to it, before all have dropped what they know of it.

    Munmap of a whole table (Torvalds, 2018); the paging-structure caches (SDM 4.10.3) still lead to it.
    """

    def programs(self, fixed: bool) -> list[str]:
        """CPU 0 unmaps; CPU 1 heeds a request and goes on to another page of the same table."""
        flush = "mov dword ptr [rdi], 1\npause\n"
        reuse = "mov [rdx+8], rcx\n"
        unmap = (
            "mov rsi, {directory}\nmov rdi, {request}\nmov rcx, {entry}\n"
            "mov rdx, [rsi]\nand rdx, -0x1000\nmov qword ptr [rsi], 0\n"
        )
        read = (
            "mov rdi, {request}\nmov rsi, {next}\ncmp dword ptr [rdi], 1\njne goes_on\n"
            "mov rax, cr3\nmov cr3, rax\nmov dword ptr [rdi], 2\ngoes_on:\nmov rbx, [rsi]"
        )
        return [unmap + (flush + reuse if fixed else reuse + flush), read]


class AsidRollOver(Race):
    """An unmap invalidates by the number that the address space has now; a CPU still runs with that from before.

    Found by Deacon for arm64's ASIDs; here with x86's PCIDs (SDM 4.10.1).
    """

    cr4 = Cr4.PCIDE

    def programs(self, fixed: bool) -> list[str]:
        """CPU 0 unmaps; CPU 1 deals out numbers anew, where fixed not to who is running; CPU 2 heeds and reads."""
        unmap = (
            "mov rsi, {leaf}\nmov rdi, {request}\nmov rdx, {frame}\nmov ecx, 0x5ec\n"
            "mov qword ptr [rsi], 0\nmov dword ptr [rdi], 1\npause\nmov [rdx], rcx"
        )
        roll_over = "mov rdi, {number}\n" + ("nop" if fixed else "mov qword ptr [rdi], 2")
        read = (
            "mov rdi, {request}\nmov rsi, {area}\nmov r8, {number}\nmov r9, {descriptor}\nmov [r9+8], rsi\nxor eax, eax\n"
            "cmp dword ptr [rdi], 1\njne goes_on\n"
            "mov rcx, [r8]\nmov [r9], rcx\ninvpcid rax, [r9]\nmov dword ptr [rdi], 2\ngoes_on:\nmov rbx, [rsi]"
        )
        return [unmap, roll_over, read]


BUGS: Final = (TablesFreedEarly, AsidRollOver)
