"""The machine: CPUs, memory, devices and virtual time, and nothing that knows what runs on it.

One host thread steps one CPU at a time; what happens is a function of memory, configuration and the
sequence of slices asked for. Virtual time is one unit an executed instruction or delivered event,
on whichever CPU; when every CPU sleeps it jumps to the next timer.

    physical address          what
    0x0000_0000               RAM, up to 3 GiB
    0xfee0_0000               each CPU's local APIC (where IA32_APIC_BASE says)
    elsewhere                 nobody answers: reads give all ones

    port                      device
    0x20, 0xa0                8259 pair           0x70    CMOS
    0x40-0x43, 0x61           8254, speaker       0xf4    debug exit
    0x3f8                     16550               0x510   fw_cfg (CPU count)
"""

from __future__ import annotations

import enum
import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Final, NamedTuple, Protocol

from kstack.base.errors import ConfigError
from kstack.hw.apic.apic import DeliveryMode, LocalApic
from kstack.hw.cpu.cpu import Cpu
from kstack.hw.cpu.declared import Declared
from kstack.hw.cpu.hooks import CpuHooks
from kstack.hw.cpu.instructions import PortWaiting
from kstack.hw.cpu.state import ActivityState, CpuState, Slice, SliceEnd
from kstack.hw.devices.cmos import CMOS_PORT, CMOS_PORTS, Cmos
from kstack.hw.devices.debug_exit import DEBUG_EXIT_PORT, DEBUG_EXIT_PORTS, DebugExit
from kstack.hw.devices.fw_cfg import FWCFG_PORT, FWCFG_PORTS, FwCfg
from kstack.hw.devices.pic import PIC_PORTS, PicPair
from kstack.hw.devices.pit import Pit, SpeakerPort
from kstack.hw.devices.ports import PortBus
from kstack.hw.devices.serial import COM1_PORT, UART_PORTS, Uart
from kstack.hw.instruments import Hook, Hooks, Instruments, Slot
from kstack.hw.memory import MemorySnapshot, PhysicalMemory
from kstack.hw.mmu.broadcast import Broadcast, Request
from kstack.hw.mmu.moments import MmuHooks
from kstack.hw.mmu.tracking import FrameTracker
from kstack.hw.modes import Modes
from kstack.hw.rules import ALL, Rule

MAX_CPUS: Final = 64
NO_DEADLINE: Final = 1 << 40
_SIZE: Final = re.compile(r"([0-9]{1,18})([KMG]?)")
_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def size(text: str) -> int:
    """Bytes of a size like 64M.

    Raises:
        ConfigError: it is none.
    """
    match = _SIZE.fullmatch(text.upper().removesuffix("IB").removesuffix("B"))
    if match is None:
        raise ConfigError(f"size {text!r}: write a number of bytes, or like 64M, 1G")
    return int(match[1]) * _UNITS[match[2]]


@dataclass(frozen=True)
class MachineConfig:
    """What a machine is made of.

    Attributes:
        cpus: 1 to 64.
        ram: bytes, a multiple of 4096, 1 MiB to 3 GiB.
        modes: architecture modes.
        rules: rules obeyed; tests take rules away.

    Raises:
        ConfigError: a value out of range.
    """

    cpus: int = 1
    ram: int = 64 << 20
    modes: Modes = field(default_factory=Modes)
    rules: frozenset[Rule] = ALL

    def __post_init__(self) -> None:
        if not 1 <= self.cpus <= MAX_CPUS:
            raise ConfigError(f"--cpus {self.cpus}: give 1 to {MAX_CPUS}")
        if self.modes.memory_order != "sc":
            raise ConfigError(
                f"mode memory-order={self.modes.memory_order}: runs are sequentially consistent; "
                "stores are buffered only in kstack explore and compare --explore"
            )


FOR_EVER: Final = 1 << 62
"""A virtual time that no machine reaches."""


class Ipi(NamedTuple):
    """An interprocessor interrupt on its way."""

    source: int
    target: int
    mode: DeliveryMode
    vector: int


class PortClaim(Protocol):
    """Who answers a port that belongs to no device: a hypercall."""

    def read(self, cpu: int, size: int) -> int:
        """IN on `cpu`."""
        ...

    def write(self, cpu: int, size: int, value: int) -> bool:
        """OUT on `cpu`; False leaves the instruction uncompleted, and it is executed again."""
        ...


class MachineHooks(Hooks):
    """What a machine tells beside its CPUs.

    Attributes:
        ipi: an IPI has left its sender.
    """

    def __init__(self) -> None:
        self.ipi: Hook[[Ipi]] = Hook()


class End(enum.Enum):
    """Why the machine as a whole cannot go on."""

    EXIT = "the guest wrote the debug-exit port"
    SHUTDOWN = "a CPU shut down"
    ASLEEP = "every CPU sleeps and no timer is set"


class MachineSnapshot(NamedTuple):
    """Everything, immutable; frames that did not change are shared between snapshots."""

    memory: MemorySnapshot
    cpus: tuple[CpuState, ...]
    devices: tuple[object, ...]
    time: int
    ipis: tuple[Ipi, ...]
    broadcast: tuple[Request, ...]


class Machine:
    """A multi-core x86-64 machine.

    Args:
        config: what it is made of.
        output: called with the bytes the guest sends to its serial port.
    """

    def __init__(self, config: MachineConfig, output: Callable[[bytes], None] = lambda data: None) -> None:
        self.config = config
        self.modes = config.modes
        self.rules = config.rules
        self.cpu_count = config.cpus
        self.time = 0
        self.work = 0
        """What the guest has made the host do, in units of about one entry into Python from the engine.

        One each: a stop of an engine (but for the end of a slice, which is the schedule's), a timer that may end its run, a
        delivered event, an instruction that is carried out here, a page walk, an access to what is not RAM. And one for 4
        instructions of a block, at most 32, that a stop or a store into the block leaves unexecuted: they have been
        translated for nothing. None of that depends on the host.
        """
        self.work_limit = FOR_EVER  # in which a slice ends with SliceEnd.WORK
        self.port_accesses = 0  # of devices
        self._running: Cpu | None = None
        self.told: dict[Declared, int] = {}  # what has been set up and is not modelled, and when
        self.strict = False  # a CPU that sets such a thing up stops
        self.instruments = Instruments()
        self.mmu_hooks, self.cpu_hooks, self._hooks = MmuHooks(), CpuHooks(), MachineHooks()
        for hooks in (self.mmu_hooks, self.cpu_hooks, self._hooks):
            self.instruments.offer(hooks)
        self.memory = PhysicalMemory(config.ram)
        self.tracker = FrameTracker(self.memory.read64)
        self.memory.on_store = self.tracker.store
        self.memory.on_settle = self.tracker.flush
        self.broadcast = Broadcast([], config.rules)
        self._build_devices(output)
        self.apics = [
            LocalApic(index, self, self.now, config.rules, boot_cpu=index == 0) for index in range(config.cpus)
        ]
        self.cpus = [Cpu(index, self, apic) for index, apic in enumerate(self.apics)]
        self.broadcast.attach([cpu.mmu for cpu in self.cpus])
        for cpu in self.cpus[1:]:
            cpu.state = ActivityState.WAIT_FOR_SIPI
        self.ipis: list[Ipi] = []
        self.hold_ipis = False
        self.decides_send: Slot[[Ipi], Iterable[Ipi]] = Slot()  # what arrives for an IPI that is sent
        self.stalls: dict[int, int] = {}  # CPU -> virtual time before which it does nothing
        self._claims: dict[int, PortClaim] = {}

    def _build_devices(self, output: Callable[[bytes], None]) -> None:
        self.pics = PicPair()
        self.uart = Uart(output)
        self.pit = Pit(self.now, lambda: self.pics.pulse_irq(0))
        self.exit_port = DebugExit()
        self.ports = PortBus()
        for first, count, device in (
            (0x20, PIC_PORTS, self.pics.master),
            (0xA0, PIC_PORTS, self.pics.slave),
            (0x40, 4, self.pit),
            (0x61, 1, SpeakerPort(self.pit)),
            (CMOS_PORT, CMOS_PORTS, Cmos(self.memory.size)),
            (COM1_PORT, UART_PORTS, self.uart),
            (DEBUG_EXIT_PORT, DEBUG_EXIT_PORTS, self.exit_port),
            (FWCFG_PORT, FWCFG_PORTS, FwCfg(self.cpu_count)),
        ):
            self.ports.map(first, count, device)

    # --- time

    def now(self) -> int:
        """Virtual time, exact also in the middle of a slice."""
        return self.time + (self._running.in_flight() if self._running is not None else 0)

    def elapse(self, units: int) -> None:
        """Virtual time has passed on the running CPU."""
        self.time += units

    def next_deadline(self) -> int | None:
        """Virtual time of the next timer, None if none is set."""
        return self._deadline()

    def interruptible(self, cpu: int) -> bool:
        """Whether an NMI or interrupt is waiting that `cpu` would take."""
        return self.cpus[cpu].would_wake()

    def _deadline(self) -> int | None:
        first = self.pit.next_deadline()
        if first is not None and not self._pic_can_interrupt():
            first = None
        for apic in self.apics:
            deadline = apic.next_deadline()
            if deadline is not None and (first is None or deadline < first):
                first = deadline
        for until in self.stalls.values():
            if self.time < until < FOR_EVER and (first is None or until < first):
                first = until
        return first

    def _pic_can_interrupt(self) -> bool:
        return self.apics[0].passes_pic

    def _fire_timers(self) -> None:
        for apic in self.apics:
            apic.advance(self.time)
        self.pit.advance(self.time)

    def slice_limit(self) -> int:
        """Units until the next timer, at least 1; timers that are due have fired."""
        self._fire_timers()
        deadline = self._deadline()
        return NO_DEADLINE if deadline is None else max(1, deadline - self.time)

    def warp(self, due: int | None = None) -> bool:
        """Let time jump to the next timer (every CPU sleeps); whether there was one.

        Args:
            due: virtual time of something else that comes, or None.
        """
        deadline = self._deadline()
        if deadline is None or (due is not None and due < deadline):
            deadline = due
        if deadline is None:
            return False
        self.time = max(self.time, deadline)
        self._fire_timers()
        return True

    # --- interrupts

    def send(self, source: int, destinations: tuple[int, ...], mode: DeliveryMode, vector: int) -> None:
        """ApicBus: an IPI leaves `source`; it arrives at once unless IPIs are held."""
        for target in destinations:
            ipi = Ipi(source, target, mode, vector)
            self._hooks.ipi(ipi)
            for one in (ipi,) if (decide := self.decides_send.held) is None else decide(ipi):
                if self.hold_ipis:
                    self.ipis.append(one)
                else:
                    self.arrive(one)

    def deliver_ipi(self, index: int) -> Ipi:
        """Let the held IPI number `index` arrive."""
        ipi = self.ipis.pop(index)
        self.arrive(ipi)
        return ipi

    def arrive(self, ipi: Ipi) -> None:
        """An IPI arrives at its target."""
        cpu = self.cpus[ipi.target]
        if ipi.mode is DeliveryMode.NMI:
            cpu.nmi()
        elif ipi.mode is DeliveryMode.INIT:
            if cpu is self._running:
                cpu.init_behind()
            else:
                cpu.init()
        elif ipi.mode is DeliveryMode.STARTUP:
            cpu.sipi(ipi.vector)
        else:
            self.apics[ipi.target].accept(ipi.vector)

    def tell(self, cpu: int, declared: Declared) -> None:
        """A CPU has something set up that is not modelled: kept, and its end if the machine is strict."""
        if declared not in self.told:
            self.told[declared] = self.time
            if self.strict:
                self.cpus[cpu].not_modelled(f"strict: {declared.value}")

    def has_external(self, cpu: int) -> bool:
        """Whether a vector is deliverable to `cpu`, by its APIC or the 8259s."""
        if self.apics[cpu].pending() is not None:
            return True
        return cpu == 0 and self.apics[0].passes_pic and self.pics.pending() is not None

    def external_vector(self, cpu: int) -> int | None:
        """Acknowledge the vector that is deliverable to `cpu`."""
        if self.apics[cpu].pending() is not None:
            return self.apics[cpu].acknowledge()
        if cpu == 0 and self.apics[0].passes_pic and self.pics.pending() is not None:
            return self.pics.acknowledge()
        return None

    def withdraw(self, cpu: int, vector: int) -> None:
        """Undo `external_vector`: the vector could not be delivered and waits again."""
        if not self.apics[cpu].withdraw(vector):
            self.pics.withdraw(vector)

    # --- ports

    def claim_port(self, port: int, claim: PortClaim) -> None:
        """Give a port to a hypercall interface.

        Raises:
            ConfigError: it is claimed already.
        """
        if port in self._claims:
            raise ConfigError(f"port {port:#x} is claimed twice")
        self._claims[port] = claim

    def claims(self, port: int, claim: PortClaim) -> bool:
        """Whether a port was given to this interface, and not to another one since."""
        return self._claims.get(port) is claim

    def release_port(self, port: int) -> None:
        """Take a claimed port back."""
        self._claims.pop(port, None)

    def port_read(self, cpu: int, port: int, size: int) -> int:
        """IN on `cpu`."""
        claim = self._claims.get(port)
        if claim is not None:
            return claim.read(cpu, size)
        value = self.ports.read(port, size)
        self._after_port(port)
        return value

    def port_write(self, cpu: int, port: int, size: int, value: int) -> None:
        """OUT on `cpu`."""
        claim = self._claims.get(port)
        if claim is not None:
            if not claim.write(cpu, size, value):
                raise PortWaiting
            return
        self.ports.write(port, size, value)
        self._after_port(port)

    def _after_port(self, port: int) -> None:
        self.port_accesses += 1
        if COM1_PORT <= port < COM1_PORT + UART_PORTS:
            (self.pics.raise_irq if self.uart.irq else self.pics.lower_irq)(4)
        elif self.exit_port.code is not None and self._running is not None:
            self._running.yielded = True

    # --- running

    def run(self, cpu: int, budget: int) -> Slice:
        """One slice of one CPU.

        Args:
            cpu: its number.
            budget: units of virtual time, at least 1.
        """
        self._running = running = self.cpus[cpu]
        try:
            return running.run(budget)
        finally:
            self._running = None

    def runnable(self) -> list[int]:
        """CPUs for which a slice would do anything."""
        self._fire_timers()
        able = [cpu.index for cpu in self.cpus if cpu.can_run()]
        return [cpu for cpu in able if self.stalls.get(cpu, 0) <= self.time] if self.stalls else able

    def end(self) -> End | None:
        """Why the machine cannot go on, or None. Time may have to warp first (`warp`)."""
        if self.exit_port.code is not None:
            return End.EXIT
        for cpu in self.cpus:
            if cpu.state is ActivityState.SHUTDOWN:
                return End.SHUTDOWN
        return None

    # --- snapshot and hash

    def snapshot(
        self, known: Sequence[CpuState | None] = (), devices: tuple[object, ...] | None = None
    ) -> MachineSnapshot:
        """The complete state.

        Args:
            known: for each CPU its part of an earlier snapshot if it has not changed since, else None.
            devices: the devices' part of an earlier snapshot if no port has been touched since.
        """
        return MachineSnapshot(
            self.memory.snapshot(),
            tuple(part or cpu.snapshot() for cpu, part in zip_longest(self.cpus, known)),
            devices or tuple(device.snapshot() for device in self.ports.devices),
            self.time,
            tuple(self.ipis),
            self.broadcast.snapshot(),
        )

    def restore(
        self,
        snapshot: MachineSnapshot,
        known: Sequence[CpuState | None] = (),
        differ_in: Iterable[int] | None = None,
        devices: tuple[object, ...] | None = None,
    ) -> None:
        """Become what `snapshot` returned, in this machine or in another of the same configuration.

        Args:
            snapshot: what to become.
            known: as for `snapshot`; a CPU that is already what it shall become is left alone.
            differ_in: all frames (numbers) in which RAM can differ from the last snapshot taken or restored.
            devices: as for `snapshot`.
        """
        self.tracker.replaced(self.memory.restore(snapshot.memory, differ_in), not known)
        self.time = snapshot.time
        for cpu, state, part in zip_longest(self.cpus, snapshot.cpus, known):
            if part is not state:
                cpu.restore(state)
        if devices is not snapshot.devices:
            for device, state in zip(self.ports.devices, snapshot.devices, strict=True):
                device.restore(state)
        self.ipis = list(snapshot.ipis)
        self.decides_send.release()
        self.stalls.clear()
        self.broadcast.restore(snapshot.broadcast)

    def state_hash(self) -> str:
        """A hash of the whole machine, time and counters included (hex)."""
        whole = hashlib.blake2b(self.memory.digest(), digest_size=16)
        for cpu in self.cpus:
            whole.update(cpu.registers.canonical())
            rest = (cpu.snapshot()[1:-1], cpu.index)  # without registers, and without what only reports show
            whole.update(repr(_plain(rest)).encode())
        devices = tuple(device.snapshot() for device in self.ports.devices)
        whole.update(repr(_plain((devices, self.time, self.ipis, self.broadcast.snapshot()))).encode())
        return whole.hexdigest()


def _plain(value: object) -> object:
    """Nested tuples of plain values, whose repr is equal where the states are equal."""
    if isinstance(value, (tuple, list)):
        return tuple(_plain(item) for item in value)
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, bytearray):
        return bytes(value)
    return value


__all__ = ["End", "Ipi", "Machine", "MachineConfig", "MachineSnapshot", "PortClaim", "Slice", "SliceEnd"]
