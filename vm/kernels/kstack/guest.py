"""kstack's own guest kernel as a `Kernel`: it calls by `out`, and flushes by mailboxes.

Each execution of the guest's OUT carries out one micro-step of the hook in flight; the instruction completes when the hook
does. So steps interleave with other CPUs' instructions as the schedule chooses, and interrupts are taken between them by the
ordinary rules.
"""

from __future__ import annotations

from typing import Final

from kstack.hw.devices.debug_exit import DEBUG_EXIT_PORT
from kstack.hw.devices.serial import COM1_PORT
from kstack.kernels.kernel import Facts, Host, KernelState, Programs, Touch
from kstack.kernels.kstack import hypercall
from kstack.kernels.kstack.hypercall import Function
from kstack.machine import Machine
from kstack.sanitizer.frames import FrameSource
from kstack.stacks.hooks import HookKind
from kstack.stacks.host.call import GuestMisuse
from kstack.x86.addresses import PAGE
from kstack.x86.registers import Gpr

_MAX_POOL: Final = 1 << 30
_MASK64: Final = (1 << 64) - 1
_OUT: Final = bytes([0xE7, hypercall.PORT])  # out imm8, eax
HOOKS: Final = {
    Function.CREATE_THREAD: HookKind.CREATE_THREAD,
    Function.ENTER_KERNEL: HookKind.ENTER_KERNEL,
    Function.EXIT_KERNEL: HookKind.EXIT_KERNEL,
    Function.SWITCH_OUT: HookKind.SWITCH_OUT,
    Function.SWITCH_IN: HookKind.SWITCH_IN,
    Function.STACK_FAULT: HookKind.STACK_FAULT,
    Function.REQUEST: HookKind.REQUEST,
    Function.MEMORY_PRESSURE: HookKind.MEMORY_PRESSURE,
    Function.EXIT_THREAD: HookKind.EXIT_THREAD,
    Function.SHARE: HookKind.SHARE,
    Function.TICK: HookKind.TICK,
}

_LINE_STATUS: Final = COM1_PORT + 5
FACTS: Final = Facts(
    shootdown_vector=hypercall.SHOOTDOWN_VECTOR,
    timer_vector=0x20,
    ports=frozenset({hypercall.PORT, DEBUG_EXIT_PORT, COM1_PORT, _LINE_STATUS}),
    begins="booted",
    windows={
        "entry": (
            "syscall_entry",
            "syscall_dispatch",
            "enter_kernel",
            "exit_kernel",
            "hypercall",
            "fred_entry",
            "fred_event",
        ),
        "switch": ("schedule", "context_switch", "finish_switch", "thread_begin", "stack_request"),
        "fault": ("trap_14", "trap_8", "trap_common", "trap_return", "paranoid", "stack_fault", "fred_page_fault"),
    },
    wakes_at="wake_store",
    programs=Programs(
        ready="ready", done="done", wrong="wrong", first_thread=1000, spoiled=frozenset({Gpr.RAX, Gpr.RDI, Gpr.RSP})
    ),
)
"""As guest/kernel/defs.s has it, and guest/scenarios/lib_litmus.s the programs."""


class KstackKernel:
    """The kernel of guest/kernel on one machine.

    Args:
        machine: whose guest it is; the hypercall port is claimed.
    """

    facts: Facts = FACTS

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._mailboxes = (0, 0)  # linear address of CPU 0's, and bytes from each to the next
        self._host: Host | None = None
        machine.release_port(hypercall.PORT)
        machine.claim_port(hypercall.PORT, self)

    def serve(self, host: Host) -> None:
        """Tell this host what the guest does."""
        self._host = host

    # --- PortClaim

    def read(self, cpu: int, size: int) -> int:
        """IN: whether a policy is attached."""
        host = self._host
        return hypercall.DETACHED if host is None or host.policy is None else hypercall.ATTACHED

    def write(self, cpu: int, size: int, value: int) -> bool:
        """OUT: begin a hypercall, or carry out the next micro-step of the one in flight."""
        host, processor = self._host, self._machine.cpus[cpu]
        assert host is not None
        registers = processor.registers
        key = registers.rip, registers.gpr[Gpr.RSP]
        arguments = tuple(registers.gpr[r] for r in (Gpr.RDI, Gpr.RSI, Gpr.RDX, Gpr.RCX))
        try:
            call = host.in_flight(cpu, key)
            if call is None:
                return self._begin(host, cpu, value, arguments, key)
            if (call.hook, call.arguments) != (_HOOK_OF.get(value), arguments):
                raise GuestMisuse(f"made where {call.hook.name} is still in flight")
            return host.go_on(cpu, call)
        except GuestMisuse as misuse:
            processor.not_modelled(f"hypercall {value}: {misuse}")
            return True

    def _begin(self, host: Host, cpu: int, number: int, arguments: tuple[int, ...], key: tuple[int, int]) -> bool:
        try:
            function = Function(number)
        except ValueError:
            raise GuestMisuse("there is no such function") from None
        if function is Function.EVENT:
            self._machine.cpus[cpu].yielded = True
            host.mark(cpu, self._event_name(cpu, arguments[0]))
            return True
        if host.policy is None:
            return True
        if function is Function.CPU_UP:
            host.comes_online(arguments[0])
            return True
        if function is Function.BOOT:
            self._boot(host, cpu, arguments)
            return True
        return host.begin(cpu, HOOKS[function], arguments, key)

    def _event_name(self, cpu: int, address: int) -> str:
        raw = self._machine.cpus[cpu].linear.code(address, hypercall.MAX_EVENT_NAME)
        return raw.split(b"\0")[0].decode("ascii", "replace")

    def _boot(self, host: Host, cpu: int, arguments: tuple[int, ...]) -> None:
        if host.is_booted:
            raise GuestMisuse("BOOT, for the second time")
        start, size, mailboxes, packed = arguments
        if start % PAGE or size % PAGE or size > _MAX_POOL or start + size > self._machine.memory.size:
            raise GuestMisuse(f"page pool of {size:#x} bytes at {start:#x} is not in RAM")
        self._mailboxes = mailboxes, packed & 0xFFFFFFFF
        modes = self._machine.modes
        answer = hypercall.boot_answer(modes.stack_fault_delivery, modes.kernel_pages)
        self._machine.cpus[cpu].registers.gpr[Gpr.RAX] = answer
        self._machine.cpus[cpu].yielded = True
        host.boot(list(range(start, start + size, PAGE)))

    # --- Kernel

    @property
    def frames(self) -> FrameSource | None:
        """The policy's, which the oracle follows."""
        return None

    @property
    def is_attached(self) -> bool:
        """Whether the hypercall port is still this one's."""
        return self._machine.claims(hypercall.PORT, self)

    def asks(self, cpu: int) -> HookKind | None:
        """The hook of the OUT at which a CPU stands."""
        processor = self._machine.cpus[cpu]
        registers = processor.registers
        if processor.linear.code(registers.rip, 2) != _OUT:
            return None
        return _HOOK_OF.get(registers.gpr[Gpr.RAX] & 0xFFFFFFFF)

    def _mailbox(self, owner: int, word: int) -> int | None:
        """Physical address of a word in a CPU's mailbox; None where it is not mapped."""
        start, stride = self._mailboxes
        return self._machine.cpus[owner].mmu.resolve(start + owner * stride + word)

    def _word(self, owner: int, word: int, touch: Touch) -> int:
        """The same, to be accessed now."""
        address = self._mailbox(owner, word)
        if address is None:
            raise GuestMisuse(f"the shootdown mailbox of CPU {owner} is not mapped")
        touch(address)
        return address

    def post_flush(self, cpu: int, target: int, start: int, pages: int, touch: Touch) -> None:
        """Write the range, then count the request: on x86 stores are seen in their order."""
        memory = self._machine.memory
        memory.write64(self._word(target, hypercall.MAILBOX_START, touch), start)
        memory.write64(self._word(target, hypercall.MAILBOX_PAGES, touch), pages)
        request = self._word(target, hypercall.MAILBOX_REQUEST, touch)
        memory.write64(request, memory.read64(request) + 1 & _MASK64)

    def has_flushed(self, cpu: int, target: int, touch: Touch) -> bool:
        """Compare the number acknowledged last with that of the last request."""
        memory = self._machine.memory
        request = memory.read64(self._word(target, hypercall.MAILBOX_REQUEST, touch))
        return memory.read64(self._word(target, hypercall.MAILBOX_ACK, touch)) >= request

    def posting_words(self, target: int) -> list[int]:
        """Range and request."""
        return self._mapped(target, hypercall.MAILBOX_START, hypercall.MAILBOX_PAGES, hypercall.MAILBOX_REQUEST)

    def waiting_words(self, target: int) -> list[int]:
        """Request and acknowledgement."""
        return self._mapped(target, hypercall.MAILBOX_REQUEST, hypercall.MAILBOX_ACK)

    def _mapped(self, target: int, *words: int) -> list[int]:
        return [address for word in words if (address := self._mailbox(target, word)) is not None]

    def snapshot(self) -> KernelState:
        """Where the mailboxes are."""
        return self._mailboxes

    def restore(self, state: KernelState) -> None:
        """Become what `snapshot` returned."""
        start, stride = state
        self._mailboxes = start, stride


_HOOK_OF: Final = {int(function): hook for function, hook in HOOKS.items()}
