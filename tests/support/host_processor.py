"""One instruction on the host's own processor, in ring 3, in a process with nothing else in it.

The process is an ELF file of a few dozen bytes, made here: it allows itself read, write, exit and sigreturn alone (seccomp,
strict) and stops. From then on it is stepped by ptrace, which carries no system call out (PTRACE_SYSEMU_SINGLESTEP).

    linear          what
    0xA000_0000     one page of code, in the middle of which an instruction is put
    0xB000_0000     two pages of data, with nothing mapped before and behind

Some instructions are never given to it (`never_given`): those by which a program asks the kernel for something or learns of the
host, and what could change how the process runs. Linux says of a fault what signal it became; vector and error code are told from that as far as they can be.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import signal
import struct
import tempfile
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple

from kstack.guest.asm import assemble

CODE: Final = 0xA000_0000
DATA: Final = 0xB000_0000
DATA_BYTES: Final = 2 * 4096
AT: Final = CODE + 0x800
"""Where the instruction is put."""

_GETREGS, _SETREGS, _GETFPREGS, _SETFPREGS, _GETSIGINFO = 12, 13, 14, 15, 0x4202
_TRACEME, _KILL, _SYSEMU_SINGLESTEP, _SETOPTIONS = 0, 8, 32, 0x4200
_TRACESYSGOOD, _EXITKILL = 1, 0x100000
_REGS: Final = ("r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi", "rdi")
_USER_REGS: Final = struct.Struct("<27Q")  # struct user_regs_struct
_GPR_ORDER: Final = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{number}" for number in range(8, 16)))
_AT_RIP, _AT_CS, _AT_FLAGS, _AT_RSP, _AT_SS, _AT_ORIG_RAX = 16, 17, 18, 19, 20, 15
_SI_KERNEL, _TRAP_BRKPT, _TRAP_TRACE = 0x80, 1, 2


class State(NamedTuple):
    """What an instruction begins with, or has left.

    Attributes:
        gpr: RAX to R15, in the encoding's order.
        flags: RFLAGS.
        fpu: 512 bytes as FXSAVE has them.
        data: the two pages.
    """

    gpr: tuple[int, ...]
    flags: int
    fpu: bytes
    data: bytes


class Ended(NamedTuple):
    """How an instruction ended.

    Attributes:
        fault: "" if it was completed, else "#UD", "#GP", "#PF", "#SS", "#AC", "#DE", "#MF", "#XM", "#BP", "#DB", "#OF", or
            "syscall".
        address: of a page fault; else 0.
        rip: linear.
        state: as it was left.
    """

    fault: str
    address: int
    rip: int
    state: State


_SYSTEM: Final = "it would ask the host's kernel for something"
_MACHINE: Final = "it tells of the host, or of the time"
_PRIVATE: Final = "it is the system's"
NEVER_GIVEN: Final = {
    **dict.fromkeys(
        ("syscall", "sysenter", "sysexit", "sysexitq", "sysret", "sysretq", "int", "int1", "into"), _SYSTEM
    ),
    **dict.fromkeys(("vmcall", "vmmcall", "vmfunc"), _SYSTEM),
    **dict.fromkeys(("rdtsc", "rdtscp", "rdpmc", "rdrand", "rdseed", "rdpid", "cpuid", "xgetbv"), _MACHINE),
    **dict.fromkeys(("sgdt", "sidt", "sldt", "str", "smsw", "lar", "lsl", "verr", "verw"), _MACHINE),
    **dict.fromkeys(("hlt", "in", "out", "insb", "insw", "insd", "outsb", "outsw", "outsd"), _PRIVATE),
    **dict.fromkeys(("wrfsbase", "wrgsbase", "lfs", "lgs", "lss", "iret", "iretd", "iretq", "retf", "retfq"), _PRIVATE),
    **dict.fromkeys(("popf", "popfd", "popfq"), "it could set AC, and the host's kernel would run with it"),
}
"""Instructions that the host's processor is never given, by Capstone's names, and why."""
_SEGMENTS: Final = re.compile(r"(mov|pop) ([c-gs]s)\b")


@lru_cache(maxsize=1 << 16)
def never_given(code: bytes) -> str:
    """Why an instruction must not be given to the host's processor; "" if it may be."""
    found = next(_decoder().disasm(code, AT), None)
    if found is None:
        return ""
    if _SEGMENTS.match(f"{found.mnemonic} {found.op_str}"):
        return _PRIVATE
    return NEVER_GIVEN.get(found.mnemonic.split()[-1], "")


@lru_cache(maxsize=1)
def _decoder():  # type: ignore[no-untyped-def] # Capstone has no types
    from capstone import CS_ARCH_X86, CS_MODE_64, Cs

    return Cs(CS_ARCH_X86, CS_MODE_64)


def is_intel() -> bool:
    """Whether the host's processor is one of Intel's, whose manual is the one that holds here."""
    return "GenuineIntel" in Path("/proc/cpuinfo").read_text()


class HostCannot(Exception):
    """This host cannot run instructions for us: why."""


def _source() -> str:
    """Become nothing but the pages: no new privileges, seccomp strict, stop for the tracer."""
    return """
        mov edi, 38
        mov esi, 1
        xor edx, edx
        xor r10d, r10d
        xor r8d, r8d
        mov eax, 157
        syscall
        mov edi, 22
        mov esi, 1
        mov eax, 157
        syscall
        int3
    """


def _elf(code: bytes) -> bytes:
    """An executable with the page of code, which may be written to, and the pages of data."""
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01" + bytes(9), 2, 62, 1, CODE, 64, 0, 0, 64, 56, 2, 0, 0, 0
    )
    load = struct.pack("<IIQQQQQQ", 1, 7, 4096, CODE, CODE, 4096, 4096, 4096)
    data = struct.pack("<IIQQQQQQ", 1, 6, 8192, DATA, DATA, 0, DATA_BYTES, 4096)
    return (header + load + data).ljust(4096, b"\0") + code.ljust(4096, b"\0")


class HostProcessor:
    """A process in which single instructions are executed.

    Raises:
        HostCannot: another architecture, or a host that does not allow it.
    """

    def __init__(self) -> None:
        if platform.machine() != "x86_64" or platform.system() != "Linux":
            raise HostCannot("the host is no x86-64 Linux")
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.ptrace.restype = ctypes.c_long
        self._libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "nothing"
            file.write_bytes(_elf(assemble(_source(), CODE)))
            file.chmod(0o700)
            self.pid = os.fork()
            if not self.pid:
                self._become(file)
            self._wait()
        self._ptrace(_SETOPTIONS, 0, _TRACESYSGOOD | _EXITKILL)
        self._memory = os.open(f"/proc/{self.pid}/mem", os.O_RDWR)
        self._regs = ctypes.create_string_buffer(_USER_REGS.size)
        self._fpu = ctypes.create_string_buffer(512)
        self._cont_to_int3()
        self._ptrace(_GETREGS, 0, ctypes.addressof(self._regs))
        self._first = list(_USER_REGS.unpack(self._regs.raw))
        self._ptrace(_GETFPREGS, 0, ctypes.addressof(self._fpu))
        self.fresh_fpu = self._fpu.raw

    def _become(self, file: Path) -> None:
        try:
            self._libc.ptrace(_TRACEME, 0, None, None)
            os.execv(file, ["nothing"])
        finally:
            os._exit(127)

    def _ptrace(self, request: int, address: int, data: int) -> None:
        if self._libc.ptrace(request, self.pid, address, data) < 0:
            raise HostCannot(f"ptrace request {request} fails: {os.strerror(ctypes.get_errno())}")

    def _wait(self) -> int:
        _, status = os.waitpid(self.pid, 0)
        if not os.WIFSTOPPED(status):
            raise HostCannot(f"its process has ended with status {status:#x}")
        return os.WSTOPSIG(status)

    def _cont_to_int3(self) -> None:
        self._ptrace(7, 0, 0)  # PTRACE_CONT
        if self._wait() != signal.SIGTRAP:
            raise HostCannot("its process cannot confine itself (seccomp)")

    def run(self, code: bytes, state: State) -> Ended:
        """Execute the instruction that `code` is, at AT.

        Args:
            code: its bytes.
            state: to begin with.

        Raises:
            ValueError: it is one that is never given to a host.
        """
        if never_given(code):
            raise ValueError(f"{code.hex()} is not given to the host's processor: {never_given(code)}")
        os.pwrite(self._memory, code + b"\xcc" * 16, AT)
        os.pwrite(self._memory, state.data, DATA)
        words = list(self._first)
        for name, value in zip(_GPR_ORDER, state.gpr, strict=True):
            words[_AT_RSP if name == "rsp" else _REGS.index(name)] = value
        words[_AT_RIP], words[_AT_FLAGS], words[_AT_ORIG_RAX] = AT, state.flags, (1 << 64) - 1
        ctypes.memmove(self._regs, _USER_REGS.pack(*words), _USER_REGS.size)
        ctypes.memmove(self._fpu, state.fpu, 512)
        self._ptrace(_SETFPREGS, 0, ctypes.addressof(self._fpu))
        self._ptrace(_SETREGS, 0, ctypes.addressof(self._regs))
        self._ptrace(_SYSEMU_SINGLESTEP, 0, 0)
        caught = self._wait()
        self._ptrace(_GETREGS, 0, ctypes.addressof(self._regs))
        self._ptrace(_GETFPREGS, 0, ctypes.addressof(self._fpu))
        words = list(_USER_REGS.unpack(self._regs.raw))
        gpr = tuple(words[_AT_RSP if name == "rsp" else _REGS.index(name)] for name in _GPR_ORDER)
        left = State(gpr, words[_AT_FLAGS], self._fpu.raw, os.pread(self._memory, DATA_BYTES, DATA))
        fault, address = self._fault(caught)
        return Ended(fault, address, words[_AT_RIP], left)

    def _fault(self, caught: int) -> tuple[str, int]:
        if caught == signal.SIGTRAP | 0x80:
            return "syscall", 0
        information = (ctypes.c_uint32 * 32)()
        self._ptrace(_GETSIGINFO, 0, ctypes.addressof(information))
        code = ctypes.c_int32(information[2]).value
        address = information[4] | information[5] << 32
        if caught == signal.SIGTRAP:
            return ("#BP", 0) if code == _SI_KERNEL else ("", 0) if code == _TRAP_TRACE else ("#DB", 0)
        if caught == signal.SIGSEGV:
            return ("#GP", 0) if code == _SI_KERNEL else ("#PF", address)
        if caught == signal.SIGBUS:
            return ("#SS", 0) if code == _SI_KERNEL else ("#AC", 0)
        if caught == signal.SIGFPE:
            return ("#DE", 0) if code == 1 else ("#XM", 0)  # FPE_INTDIV
        return {signal.SIGILL: "#UD"}.get(signal.Signals(caught), signal.Signals(caught).name), 0

    def close(self) -> None:
        """End the process."""
        os.close(self._memory)
        self._libc.ptrace(_KILL, self.pid, None, None)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    def __enter__(self) -> HostProcessor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
