"""What is written into a running machine from outside, by a debugger: registers and memory, each at its place.

A place is how many slices have been chosen, and the virtual time: the change is made as soon as both are reached, in the
middle of a slice as well. A run that has been written to is repeated by its choices and these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from kstack.base.errors import ConfigError, RecordingError
from kstack.hw.cpu.cpu import Cpu
from kstack.hw.cpu.instructions import write_cr0, write_cr3, write_cr4
from kstack.hw.cpu.linear import GuestFault
from kstack.machine import Machine
from kstack.run.session import Session
from kstack.x86.addresses import is_canonical
from kstack.x86.control import CR8_SHIFT
from kstack.x86.flags import WRITABLE_FLAGS, Flags
from kstack.x86.msrs import Msr
from kstack.x86.registers import Gpr, Seg
from kstack.x86.vectors import GP

MOST: Final = 1 << 20  # bytes of one change


class RegisterChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="register", tag_field="what"):
    """A register gets a value, by the rules by which the guest itself would set it.

    Attributes:
        cpu: whose.
        register: one of REGISTERS.
        value: of at most 64 bits.
    """

    cpu: int
    register: str
    value: int

    def __str__(self) -> str:
        return f"{self.register} = {self.value:#x} on CPU {self.cpu}"

    def check(self, machine: Machine) -> None:
        """Whether there is such a register.

        Raises:
            ConfigError: there is not.
        """
        if self.register not in REGISTERS:
            raise ConfigError(f"{self.register} is no register that can be written")
        if not (0 <= self.cpu < machine.cpu_count and 0 <= self.value < 1 << 64):
            raise ConfigError(f"{self.register} of CPU {self.cpu} cannot be {self.value:#x}")

    def apply(self, machine: Machine) -> None:
        """Make the change.

        Raises:
            ConfigError: the CPU would not take the value.
        """
        try:
            REGISTERS[self.register](machine.cpus[self.cpu], self.value)
        except GuestFault as fault:
            raise ConfigError(f"{self.register} cannot be {self.value:#x}: exception {fault.vector}") from fault


class MemoryChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="memory", tag_field="what"):
    """Bytes at a physical address; code caches and softmmus hear of it as of any store.

    Attributes:
        address: physical (bytes).
        data: hexadecimal.
    """

    address: int
    data: str

    def __str__(self) -> str:
        return f"{len(self.data) // 2} bytes at {self.address:#x} (physical)"

    def check(self, machine: Machine) -> None:
        """Whether these are bytes, and memory for them.

        Raises:
            ConfigError: they are not, or there is none.
        """
        size = len(self.data) // 2
        try:
            whole = len(bytes.fromhex(self.data)) == size
        except ValueError:
            whole = False
        if not whole or not 0 < size <= MOST:
            raise ConfigError(f"what is written at {self.address:#x} is not 1 to {MOST} bytes in hexadecimal")
        if not 0 <= self.address <= machine.memory.size - size:
            raise ConfigError(f"there is no RAM at {self.address:#x} for {size} bytes")

    def apply(self, machine: Machine) -> None:
        """Make the change."""
        machine.memory.write(self.address, bytes.fromhex(self.data))


Change = RegisterChange | MemoryChange


class Write(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A change and its place.

    Attributes:
        slices: chosen before, the one that is running among them.
        time: virtual time (units since reset).
        change: what is written.
    """

    slices: int
    time: int
    change: Change


class Writes:
    """Makes changes in a session while it runs.

    Args:
        session: that has not run yet; its writer from now on.
        writes: in the order of their places.

    Attributes:
        made: how many have been made.

    Raises:
        ConfigError: one makes no sense on this machine.
    """

    def __init__(self, session: Session, writes: Iterable[Write] = ()) -> None:
        self.writes = list(writes)
        self.made = 0
        self._session, self._machine = session, session.machine
        before = 0, 0
        for write in self.writes:
            write.change.check(self._machine)
            place = write.slices, write.time
            if place[0] < before[0] or place[1] < before[1]:
                raise ConfigError(
                    f"{write.change}: slice {place[0]}, time {place[1]} is before slice {before[0]}, time {before[1]}"
                )
            before = place
        session.writer = self

    def write(self, change: Change) -> None:
        """Make a change here and now; what would have come later is forgotten.

        Raises:
            ConfigError: it cannot be made; nothing has changed.
        """
        change.check(self._machine)
        change.apply(self._machine)
        self._session.stirred()
        place = len(self._session.choices), self._machine.time
        self.writes[self.made :] = [Write(*place, change)]
        self.made += 1

    def due(self) -> bool:
        """Make all changes whose place this is; whether there were any.

        Raises:
            RecordingError: the CPU does not take a value that it took when this was recorded.
        """
        made = self.made
        while self.made < len(self.writes):
            write = self.writes[self.made]
            if write.slices > len(self._session.choices) or write.time > self._machine.time:
                break
            self.made += 1
            self._session.stirred()
            try:
                write.change.apply(self._machine)
            except ConfigError as error:
                raise RecordingError(f"replay diverges at time {self._machine.time}: {error}") from error
            self._session.hooks.write(write.change)
        return self.made > made

    def save(self) -> int:
        """How far it is."""
        return self.made

    def load(self, state: int) -> None:
        """Be as far as at `save`; what is due then has to be asked for."""
        self.made = state

    @property
    def left(self) -> int:
        """How many have not been made."""
        return len(self.writes) - self.made

    def until(self, units: int) -> int:
        """At most so many units: those until the next change."""
        if self.made < len(self.writes) and self.writes[self.made].time > self._machine.time:
            return min(units, self.writes[self.made].time - self._machine.time)
        return units


# --- registers: GDB manual, G.5.4; control registers by the rules of MOV CRn and WRMSR (SDM 2.5)


def _gpr(which: Gpr) -> Callable[[Cpu, int], None]:
    def write(cpu: Cpu, value: int) -> None:
        cpu.registers.gpr[which] = value

    return write


def _rip(cpu: Cpu, value: int) -> None:
    cpu.registers.rip = value


def _flags(cpu: Cpu, value: int) -> None:
    cpu.registers.rflags = value & WRITABLE_FLAGS & ~Flags.VM


def _base(which: Seg) -> Callable[[Cpu, int], None]:
    def write(cpu: Cpu, value: int) -> None:
        if not is_canonical(value):
            raise GuestFault(GP)
        cpu.registers.set_segment(which, cpu.registers.segment(which)._replace(base=value))
        cpu.registers.sync()

    return write


def _cr2(cpu: Cpu, value: int) -> None:
    cpu.registers.cr[2] = value


def _cr8(cpu: Cpu, value: int) -> None:
    if value >> 4:
        raise GuestFault(GP)
    cpu.apic.tpr = value << CR8_SHIFT


REGISTERS: Final[dict[str, Callable[[Cpu, int], None]]] = {
    **{which.name.lower(): _gpr(which) for which in Gpr},
    "rip": _rip,
    "eflags": _flags,
    "fs_base": _base(Seg.FS),
    "gs_base": _base(Seg.GS),
    "cr0": write_cr0,
    "cr2": _cr2,
    "cr3": write_cr3,
    "cr4": write_cr4,
    "cr8": _cr8,
    "efer": lambda cpu, value: cpu.msrs.write(Msr.EFER, value),
}
"""Those that can be written, by GDB's names."""
