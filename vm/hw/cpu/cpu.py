"""One CPU that runs.

`run` executes a slice: it takes pending events at instruction boundaries, lets the engine run, and
carries out what the engine stopped for. Every instruction and every delivered event is one unit of
virtual time, so that no guest can spin without time passing.

Not modelled: an instruction that is cut in the middle by anything but a fault or between its iterations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from kstack.hw.cpu.checked import rule_of
from kstack.hw.cpu.core import CpuCore
from kstack.hw.cpu.corrections import CarriedOut, Native, keep_bases
from kstack.hw.cpu.declared import set_up
from kstack.hw.cpu.decode import STACK_INSTRUCTIONS, Instruction, decode, effective_address
from kstack.hw.cpu.encoding import encoding_of, taken_as
from kstack.hw.cpu.events import Event, EventKind, exception
from kstack.hw.cpu.hooks import Before
from kstack.hw.cpu.instructions import Completion, handler_of
from kstack.hw.cpu.linear import GuestFault, NotCanonical
from kstack.hw.cpu.processor import Processor
from kstack.hw.cpu.state import ActivityState, Slice, SliceEnd
from kstack.hw.engine import (
    Intercept,
    Stop,
    StopKind,
)
from kstack.hw.rules import Rule
from kstack.x86.addresses import is_canonical
from kstack.x86.debug_registers import DR6_BS
from kstack.x86.flags import Flags
from kstack.x86.registers import Gpr, Seg
from kstack.x86.vectors import BP, DB, GP, OF, PF, SS, UD

_MASK64: Final = (1 << 64) - 1
_EXIT_IRET: Final = 0x74
_SINGLE_BYTE: Final = {DB: b"\xf1", BP: b"\xcc", OF: b"\xce"}  # INT1, INT3, INTO


class Cpu(CpuCore):
    """One CPU of a machine; arguments as of `CpuCore`."""

    # --- running

    def run(self, budget: int) -> Slice:
        """Execute at most `budget` units of virtual time (instructions and delivered events).

        Args:
            budget: units, at least 1.
        """
        done = 0
        self.yielded = False
        board = self._board
        while done < budget:
            if board.work >= board.work_limit:
                return Slice(SliceEnd.WORK, done)
            if self._init_comes:
                self._init_comes = False
                self.init()
                if self.index == 0:
                    self.not_modelled("INIT of the boot CPU, which begins at FFFFFFF0H, where there is no firmware")
            limit, left = board.slice_limit(), budget - done
            if limit < left:
                board.work += 1  # a timer's
            else:
                limit = left
            if self.state is not ActivityState.RUNNING and not self._wakes():
                end = SliceEnd.SHUTDOWN if self.state is ActivityState.SHUTDOWN else SliceEnd.HALTED
                return Slice(end, done)
            external = board.has_external(self.index)
            if (external or self.nmi_pending) and self._take_pending(external):
                spent = 1
            else:
                spent = self._engine(limit, external)
            done += spent
            if self.yielded:
                return Slice(SliceEnd.YIELDED, done)
        if self.state is ActivityState.SHUTDOWN:
            return Slice(SliceEnd.SHUTDOWN, done)
        return Slice(SliceEnd.BUDGET, done)

    def _engine(self, limit: int, wants_window: bool) -> int:
        if self.mmu.softmmu.stored_code:
            self._apply_stored_code()
        if self._stopped_at is not None and self._stops_again():
            return self._emulate()
        if self.translator is not None and not self.translator.granted and not self.registers.interrupt_flag:
            wants_window = True  # that interrupts can be taken now is something others can tell
        self.engine.set_interrupt_window(wants_window)
        if self._nmi_waits():
            limit = 1
        self.in_engine, self._location, walks = True, 0, self.mmu.walks
        try:
            stop = self.engine.run(limit)
        finally:
            self.in_engine = False
        board, registers, instructions = self._board, self.registers, stop.instructions
        board.work += self.engine.take_work() + self.mmu.walks - walks
        registers.clear_resume()
        if instructions:
            self._resumed = None
        if self._hooks.run.heard:
            self._hooks.run(self.index, board.now(), stop)
        self._spend(instructions)
        if not registers.is_plain:
            self._tell_set_up()
        rip = registers.rip
        self.recent.append(rip if registers.bits == 64 else self.linear_rip())
        if stop.kind is StopKind.BUDGET:
            if is_canonical(rip):
                return instructions
            self._back_to_branch()  # here, and not in the next slice, which knows of no branch
            self.deliver(exception(GP))
            return instructions + 1
        return instructions + self._handle(stop)

    def _stops_again(self) -> bool:
        """Whether the engine would stop at the next instruction at once, as it did before: it need not be asked."""
        at, self._stopped_at = self._stopped_at, None
        if at != self.linear_rip() or not self.mmu.still_fetches(at):
            return False
        self.recent.append(at)
        return True

    def _stop_here_again(self) -> None:
        """The instruction at RIP was not completed; the engine would hand it out again."""
        registers = self.registers
        if not registers.shadow and not registers.trap_flag:
            self._stopped_at = self.linear_rip()

    def _apply_stored_code(self) -> None:
        self._stopped_at = None
        for address, size in sorted(self.mmu.softmmu.stored_code):
            self.engine.drop_code(address, size)
        self.mmu.softmmu.stored_code.clear()

    # --- what the engine stopped for

    def _handle(self, stop: Stop) -> int:
        """Do what the stop asks for; units of virtual time spent beyond the stop's own."""
        kind = stop.kind
        if self.unsupported is not None:
            return 0  # a strict machine: this CPU has come to its end before the stop
        if (
            kind is StopKind.INTERRUPT_WINDOW
            and self.translator is not None
            and self.translator.stops_instruction("window")
        ):
            self.yielded = True
        if kind in (StopKind.BUDGET, StopKind.INTERRUPT_WINDOW):
            return 0
        if kind is StopKind.HALT:
            if self.registers.trap_flag:  # the trap wakes it at once
                return self._debug_trap(DR6_BS)
            self.state = ActivityState.HALTED
            return 0
        if kind is StopKind.REFUSED:
            if self._watched:
                self._watched = False
                return self._run_watched()
            fault = self.mmu.take_fault()
            if fault is None and self.translator is not None and self.translator.is_stopped:
                self.yielded = True
                return 0
            assert fault is not None
            if Rule.SHADOW_NOT_FOR_FAULTS not in self._board.rules and self.registers.shadow:
                return self._hold_off_fault()
            vector = fault.vector
            if vector == GP and fault.address == self.linear_rip():
                self._back_to_branch()
            elif vector == GP and self._is_on_stack(fault.address):
                vector = SS
            self.deliver(exception(vector, fault.error, fault.address if vector == PF else None))
            return 1
        if kind is StopKind.EXCEPTION:
            return self._engine_exception(stop)
        if kind is StopKind.INTERCEPT and stop.code == _EXIT_IRET:
            return self._iret()
        return self._checked() if kind is StopKind.CHECKED else self._emulate()

    def _is_on_stack(self, address: int) -> bool:
        """Whether the instruction at RIP reaches linear `address` by the stack segment (volume 1, 3.7.5)."""
        instruction = self._instruction()
        if instruction is None:
            return False
        if instruction.memory is not None:
            operand = effective_address(instruction, self.registers)
            is_operand = address - operand & _MASK64 < max(instruction.memory.width, 1)
            if is_operand or instruction.name not in STACK_INSTRUCTIONS:
                return instruction.memory.segment is Seg.SS
        return instruction.name in STACK_INSTRUCTIONS

    def _back_to_branch(self) -> None:
        """RIP is not canonical: a near JMP, CALL or RET should have faulted before it had any effect (volume 2).

        The engine finds out at the target. A CALL's return address has been stored below RSP, and stays there.
        """
        at = self.engine.last_instruction()
        if at is None:
            return
        registers, instruction = self.registers, decode(self.linear.code(at), self.registers.bits)
        if registers.bits != 64 or instruction is None or instruction.name not in ("jmp", "call", "ret"):
            return
        if instruction.name == "call":
            registers.gpr[Gpr.RSP] = registers.gpr[Gpr.RSP] + 8 & _MASK64
        elif instruction.name == "ret":
            registers.gpr[Gpr.RSP] = registers.gpr[Gpr.RSP] - 8 - sum(instruction.immediates) & _MASK64
        registers.rip = at

    def _run_watched(self) -> int:
        """Execute an instruction that a breakpoint on data watches."""
        stop, hits = self._run_alone()
        return self._behind(stop, hits)

    def _run_alone(self) -> tuple[Stop, int]:
        """Execute the instruction at RIP, whatever its check says, and whatever watches what it accesses.

        Returns: how it ended, and bits of DR6 for the breakpoints on data that it has hit.
        """
        self._watching, self.hits = True, 0
        try:
            stop = self._run_checked()
        finally:
            self._watching = False
        hits, self.hits = self.hits, 0
        return stop, hits if stop.instructions else 0

    def _behind(self, stop: Stop, hits: int) -> int:
        """What comes behind an instruction that ran alone: its stop, and the trap of what it hit, behind the next one after MOV SS."""
        spent = stop.instructions + self._handle(stop)
        if not hits:
            return spent
        if self.registers.shadow and self.state is ActivityState.RUNNING and not self._after_sti():
            after = self._run_checked()
            spent += after.instructions + self._handle(after)
        return spent + self._debug_trap(hits)

    def _debug_trap(self, bits: int) -> int:
        """The trap behind an instruction, for what DR6 says."""
        self.registers.dr[6] |= bits
        self.deliver(exception(DB, None, bits))
        return 1

    def _hold_off_fault(self) -> int:
        """What only a broken model does: the shadow swallows a fault, and the instruction with it."""
        instruction = decode(self.linear.code(self.registers.rip), self.registers.bits)
        assert instruction is not None
        self.registers.shadow = False
        self._advance(instruction)
        self._spend(1)
        return 1

    def _engine_exception(self, stop: Stop) -> int:
        registers = self.registers
        if stop.is_int:
            base = registers.segment(Seg.CS).base if registers.bits != 64 else 0
            single = self.linear.code(base + registers.rip - 1 & _MASK64, 1) == _SINGLE_BYTE.get(stop.code)
            start = registers.rip - (1 if single else 2) & _MASK64
            self.deliver(Event(stop.code, EventKind.SOFTWARE, start=start))
            return 1
        if stop.code == DB:
            return self._debug_trap(DR6_BS)
        self.deliver(exception(stop.code, stop.error))
        return 1

    def _iret(self) -> int:
        """IRET ends NMI blocking, even if it faults (6.7.1); with FRED it cannot change ring."""
        faults_keep = self.nmi_blocked and Rule.NMI_UNBLOCKED_BY_FAULTING_IRET not in self._board.rules
        self.nmi_blocked = False
        if self.fred.enabled:
            instruction = self._instruction()
            assert instruction is not None
            try:
                self.fred.check_iret(instruction)
            except GuestFault as fault:
                self._block_nmi(faults_keep)
                self.deliver(exception(fault.vector, fault.error, fault.address))
                return 1
        self.engine.intercept(Intercept.IRET, False)
        after = keep_bases(self.registers)
        stop, hits = self._run_alone()
        self._block_nmi(faults_keep and stop.instructions == 0)
        if stop.instructions:
            after()
            self.returned()
        return self._behind(stop, hits)

    def _run_checked(self) -> Stop:
        """Execute the instruction at RIP in the engine, whatever its check says."""
        stop = self.engine.run_checked()
        self._resumed = self.linear_rip() if self.engine.resumes() else None
        self.registers.clear_resume()
        if self._hooks.run.heard:
            self._hooks.run(self.index, self._board.now(), stop)
        self._spend(stop.instructions)
        if not self.registers.is_plain:
            self._tell_set_up()
        return stop

    def _tell_set_up(self) -> None:
        """Tell the board of what the guest has set up and is not modelled; it may be the end of this CPU."""
        for declared in set_up(self.registers):
            self._board.tell(self.index, declared)

    def _let_run(self, native: Native) -> int:
        """An instruction whose check has left the engine is to run there after all."""
        stop, hits = self._run_alone()
        if native.restore is not None:
            native.restore()
        if stop.instructions and native.after is not None:
            native.after()
        return self._behind(stop, hits)

    def _instruction(self) -> Instruction | None:
        """The instruction at RIP."""
        return decode(self.linear.code(self.linear_rip()), self.registers.bits)

    def _checked(self) -> int:
        """An instruction that its check has held back."""
        bits, resumed = self.breakpoints.code.get(self.linear_rip(), 0), self._resumed == self.linear_rip()
        self._resumed = None
        if bits and not resumed and not (self.registers.shadow and not self._after_sti()):
            self.registers.dr[6] |= bits
            self.registers.rflags |= Flags.RF  # in the frame, so that the instruction can be gone on with
            self.deliver(exception(DB, None, bits))
            return 1
        if self._beyond_code(self.linear_rip()):
            self.deliver(exception(GP))
            return 1
        code = taken_as(self.linear.code(self.linear_rip()), self.registers.bits)
        instruction, found = decode(code, self.registers.bits), encoding_of(code, self.registers.bits)
        rule = None if found is None else rule_of(found)
        if rule is not None and rule.act is None:
            self.deliver(exception(UD))
            return 1
        if rule is None or rule.act is None or found is None or instruction is None:
            return self._let_run(Native())  # its code has changed since, or the engine knows what to say of it
        try:
            native = rule.act(self, instruction, found)
        except CarriedOut as carried:
            return self._emulate(carried.handler)
        except GuestFault as fault:
            return self._faults(fault)
        if self.unsupported is not None:
            return 0
        return self._let_run(native)

    def _faults(self, fault: GuestFault) -> int:
        """The instruction at RIP faults as it is carried out here."""
        on_stack = isinstance(fault, NotCanonical) and self._is_on_stack(fault.linear)
        self.deliver(exception(SS if on_stack else fault.vector, fault.error, fault.address))
        return 1

    def _emulate(self, handler: Callable[[Processor, Instruction], Completion] | None = None) -> int:
        """Carry out the instruction at RIP, by its own handler if none is given."""
        registers = self.registers
        self._board.work += 1
        instruction = self._instruction()
        if handler is None and instruction is not None:
            handler = handler_of(instruction)
        if instruction is None or handler is None:
            self.deliver(exception(UD))
            return 1
        if self.translator is not None and self.translator.stops_instruction(instruction.name):
            self.yielded = True
            self._stop_here_again()
            return 0
        self.hits = 0
        before = self._before(instruction) if self._hooks.emulation.heard else None
        try:
            result = handler(self, instruction)
        except GuestFault as fault:
            return self._faults(fault)
        if result is Completion.DELIVERED:
            return 1
        if result is Completion.WAITING:
            self.yielded = True
            self._stop_here_again()
            self._spend(1)
            return 1
        if before is not None:
            self._hooks.emulation(self.index, self._board.now(), instruction, before)
        stepping = registers.trap_flag
        registers.shadow = result is Completion.SHADOWED
        if result is Completion.DONE:
            self._advance(instruction)
        self._spend(1)
        if instruction.name == "syscall":
            stepping = registers.trap_flag  # what FMASK has left of it counts
        bits = self.hits
        if stepping and (result not in (Completion.JUMPED, Completion.SHADOWED) or instruction.name == "syscall"):
            bits |= DR6_BS
        return 1 + (self._debug_trap(bits) if bits else 0)

    def _before(self, instruction: Instruction) -> Before:
        registers = self.registers
        code = self.linear.code(self.linear_rip(), instruction.length)
        return Before(self.linear_rip(), registers.gpr[Gpr.RSP], registers.cpl, code, registers.bits)

    def _advance(self, instruction: Instruction) -> None:
        registers = self.registers
        mask = {16: 0xFFFFFFFF, 32: 0xFFFFFFFF, 64: _MASK64}[registers.bits]
        registers.rip = registers.rip + instruction.length & mask
