"""One instruction on an emulated CPU in ring 3: the counterpart of `host_processor`."""

from __future__ import annotations

from typing import Final

from kstack.hw.cpu.events import Event, EventKind
from kstack.hw.cpu.state import ActivityState
from kstack.x86.addresses import is_canonical
from kstack.x86.control import Cr0, Cr4, Efer
from kstack.x86.registers import Gpr
from tests.support.host_processor import AT, CODE, DATA, DATA_BYTES, Ended, State
from tests.support.long_mode import HANDLERS, STACK, USER, USER_CODE, LongModeGuest

_NAMES: Final = {
    0: "#DE",
    1: "#DB",
    3: "#BP",
    4: "#OF",
    5: "#BR",
    6: "#UD",
    7: "#NM",
    8: "#DF",
    11: "#NP",
    12: "#SS",
} | {13: "#GP", 14: "#PF", 16: "#MF", 17: "#AC", 19: "#XM"}
_HAS_ERROR: Final = (8, 10, 11, 12, 13, 14, 17)
_SYSTEM_CALLS: Final = (0x80,)


class EmulatedRing3:
    """A CPU of ours as Linux leaves it to a program: long mode, ring 3, code and data at the host's addresses."""

    def __init__(self) -> None:
        self.guest = LongModeGuest(cr4=int(Cr4.OSXMMEXCPT | Cr4.FSGSBASE), cr0=int(Cr0.MP | Cr0.NE))
        self.guest.machine.cpus[0].registers.efer |= Efer.SCE
        self.guest.memory.write64(self.guest.entry(USER_CODE), 0)  # nothing but the pages below
        self._frame = self.guest.frame()
        self._data = [self.guest.frame() for _ in range(DATA_BYTES // 4096)]
        self.guest.map(CODE, self._frame, USER)
        for number, frame in enumerate(self._data):
            self.guest.map(DATA + 4096 * number, frame, USER)
        self._area = self.guest.frame()
        self._load = self.guest.kernel_code("fxrstor64 [rbx]\nhlt")
        self._save = self.guest.kernel_code("fxsave64 [rbx]\nhlt")
        self.guest.gate(0x80, dpl=3)
        for vector in (3, 4):
            self.guest.gate(vector, HANDLERS + 16 * vector, dpl=3)
            self.guest.memory.write64(0x2000 + 16 * vector, self.guest.memory.read64(0x2000 + 16 * vector) | 3 << 45)

    def run(self, code: bytes, state: State) -> Ended:
        """Execute the instruction that `code` is, at AT; as `HostProcessor.run`."""
        guest, memory = self.guest, self.guest.memory
        cpu = guest.machine.cpus[0]
        memory.write(self._frame + AT - CODE, code + b"\xcc" * 16)
        cpu.engine.drop_code(self._frame, 4096)
        for number, frame in enumerate(self._data):
            memory.write(frame, state.data[4096 * number : 4096 * (number + 1)])
        memory.write(self._area, state.fpu)
        self._kernel(self._load)
        guest.privilege(0, 3)
        guest.start(AT)
        for number, value in enumerate(state.gpr):
            cpu.registers.gpr[number] = value
        cpu.registers.rflags = state.flags
        guest.step()
        if not guest.begun and not is_canonical(cpu.registers.rip):
            guest.step()  # a branch to nowhere is found out at its target
        fault, address, rip = "", 0, cpu.registers.rip
        flags, rsp = cpu.registers.rflags, cpu.registers.gpr[Gpr.RSP]
        if guest.begun:
            event = guest.begun[-1]
            fault, address = self._name(event), event.address or 0
            frame = guest.pushed(6)[1 if event.vector in _HAS_ERROR and event.kind is EventKind.EXCEPTION else 0 :]
            rip, flags, rsp = frame[0], frame[2] & ~(1 << 16), frame[3]
        elif not cpu.registers.cpl:
            fault, rip = "syscall", cpu.registers.gpr[Gpr.RCX]
        gpr = list(cpu.registers.gpr)
        gpr[Gpr.RSP] = rsp
        data = b"".join(memory.read(frame, 4096) for frame in self._data)
        self._kernel(self._save)
        return Ended(fault, address, rip, State(tuple(gpr), flags, memory.read(self._area, 512), data))

    def _kernel(self, code: int) -> None:
        self.guest.privilege(0, 0)
        self.guest.start(code, rbx=self._area, rsp=STACK)
        self.guest.machine.cpus[0].registers.rflags = 2
        self.guest.machine.run(0, 1)
        self.guest.machine.cpus[0].state = ActivityState.RUNNING
        self.guest.begun.clear()

    def _name(self, event: Event) -> str:
        if event.vector in _SYSTEM_CALLS and event.kind is EventKind.SOFTWARE:
            return "syscall"
        return _NAMES.get(event.vector, f"vector {event.vector}")
