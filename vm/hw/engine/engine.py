"""One x86-64 CPU's instructions, executed by Unicorn: the only room that knows Unicorn.

The engine executes and stops; it decides nothing. Everything that needs a decision stops it with
RIP at the instruction and no effect done: page faults, exceptions, port I/O, SYSCALL, CPUID,
MSRs, control and debug registers, INVLPG, invalid opcodes. Instructions are counted exactly.

Unicorn takes ERETS and ERETU for CLAC: while they exist CLAC and STAC are made invalid, too.

Not modelled by Unicorn, and so not by kstack: #AC, #XM, SMM, SVM and VMX for the guest, AVX and
later, the flags other than ZF that CMPXCHG8B and CMPXCHG16B leave alone, self-modifying code seen by a *running* block of another CPU before its next slice.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, Final

from unicorn import (
    UC_ARCH_X86,
    UC_HOOK_BLOCK,
    UC_HOOK_CODE,
    UC_HOOK_INSN,
    UC_HOOK_TLB_FILL,
    UC_MODE_64,
    UC_PROT_ALL,
    Uc,
)
from unicorn import unicorn_const as const
from unicorn import x86_const as x86

from kstack.base.errors import EngineError
from kstack.hw.engine import layout
from kstack.hw.engine.blocks import TCG_BUFFER_BYTES, Blocks
from kstack.hw.engine.checks import MAGIC, NOWHERE, TABLES, Checks
from kstack.hw.engine.interface import (
    CR_READS,
    CR_WRITES,
    EXIT_INTR,
    GOES_BACK,
    STANDARD_INTERCEPTS,
    VMEXIT,
    Host,
    Intercept,
    MmuIndex,
    Stop,
    StopKind,
)
from kstack.hw.engine.registers import Registers
from kstack.hw.engine.shown import Shown
from kstack.hw.engine.stubs import FILL, HEAD, LOOK, TABLE_ENTRIES, TRANSLATED, VOID, CodePage, Control
from kstack.hw.engine.tracing import Recorder
from kstack.x86.access import Access
from kstack.x86.cpuid import Leaf7Ebx
from kstack.x86.registers import Gpr
from kstack.x86.vectors import DB

PRIVATE_BASE = 0xFF_FFF0_0000  # VMCB and MSR bitmap: physical pages no guest address reaches
_CHECKED: Final = 2  # of Control.trapped
_TRANSLATED_A_UNIT: Final = 4  # instructions that are translated in the time of a unit of work
_MOST_TRANSLATED: Final = 32  # units: how long a block becomes can depend on where the host has put things
ERR_OK, ERR_EXCEPTION, ERR_INSN_INVALID = 0, const.UC_ERR_EXCEPTION, const.UC_ERR_INSN_INVALID
_ACCESSES: Final = tuple(Access)  # by their values, which is cheaper than asking the class
_MMU_INDICES: Final = tuple(MmuIndex)
Features = ctypes.Array[ctypes.c_uint64]
"""The feature words by which the translator tells what a CPU has, mapped (QEMU's FeatureWord)."""


class Engine:
    """One vCPU's executing half.

    Args:
        ram_address: host address of the guest's RAM, shared by all CPUs, mapped at physical 0.
        ram_bytes: its size, a multiple of 4096, at most 3 GiB.
        host: who answers fills and MMIO, and gives checks.
        tables: of which instructions it is asked for one (checks.py), `checks.TABLES` bytes.

    Raises:
        EngineError: this is not the Unicorn whose insides kstack knows.
    """

    def __init__(self, ram_address: int, ram_bytes: int, host: Host, tables: bytes = bytes(TABLES)) -> None:
        self._host = host
        self._library = layout.Library()
        self._uc = uc = Uc(UC_ARCH_X86, UC_MODE_64)
        uc.ctl_set_tcg_buffer_size(TCG_BUFFER_BYTES)
        uc.ctl_set_cpu_model(x86.UC_CPU_X86_ICELAKE_SERVER)
        uc.ctl_set_tlb_mode(const.UC_TLB_VIRTUAL)
        layout.check(uc, self._library)
        self._handle = uc._uch.value
        self._cpu = layout.u64(self._handle + layout.UC_CPU).value
        self.env = layout.u64(self._cpu + layout.CPU_ENV).value
        self.registers = Registers(self.env, self._library)
        self.features: Features = (ctypes.c_uint64 * layout.FEATURE_WORDS).from_address(self.env + layout.ENV_FEATURES)
        self.error: BaseException | None = None
        self._ram, self._ram_bytes = ram_address, ram_bytes
        self._map_memory(ram_address, ram_bytes)
        self._map_words()
        self._tables = (ctypes.c_uint8 * TABLES).from_buffer_copy(tables)
        self._install_stubs()
        self._set_intercepts()
        self._start = self._library["uc_emu_start"]
        self._set_page = self._library["tlb_set_page_x86_64"]
        self._refused_location: int | None = None
        self._refused_fetch = self._refused_ahead = False
        self._budget = 0
        self.work = 0  # of the host, for `take_work`
        self._traps_clac = False
        self.access_size = 0  # bytes, of the access that `Host.fill` is asked about
        self.recorder: Recorder | None = None
        self._on_translation: Callable[[int, int], None] | None = None

    # --- construction

    def _map_memory(self, ram_address: int, ram_bytes: int) -> None:
        uc = self._uc
        uc.mem_map_ptr(0, ram_bytes, UC_PROT_ALL, ram_address)
        self._private = (ctypes.c_uint8 * 0x6000)()
        start = (ctypes.addressof(self._private) + 0xFFF) & ~0xFFF
        uc.mem_map_ptr(PRIVATE_BASE, 0x4000, UC_PROT_ALL, start)
        layout.u64(start + 0x48).value = PRIVATE_BASE + 0x1000
        ctypes.memset(start + 0x1000, 0xFF, 0x2000)
        uc.mmio_map(ram_bytes, PRIVATE_BASE - ram_bytes, self._mmio_read, ram_bytes, self._mmio_write, ram_bytes)

    def _mmio_read(self, _uc: Uc, offset: int, size: int, base: int) -> int:
        try:
            return self._host.mmio_read(base + offset, size)
        except BaseException as error:  # noqa: BLE001 - a callback cannot raise: kept, raised after the run
            return self._fail(error)

    def _mmio_write(self, _uc: Uc, offset: int, size: int, value: int, base: int) -> None:
        try:
            self._host.mmio_write(base + offset, size, value)
        except BaseException as error:  # noqa: BLE001 - as above
            self._fail(error)

    def _fail(self, error: BaseException) -> int:
        self.error = self.error or error
        self.ask_to_stop()
        return 0

    def _map_words(self) -> None:
        cpu, env = self._cpu, self.env
        self._interrupt_request = ctypes.c_uint32.from_address(cpu + layout.CPU_INTERRUPT_REQUEST)
        self._cflags_next = ctypes.c_uint32.from_address(cpu + layout.CPU_CFLAGS_NEXT_TB)
        self._exception_index = ctypes.c_int32.from_address(cpu + layout.CPU_EXCEPTION_INDEX)
        self._error_code = ctypes.c_uint32.from_address(env + layout.ENV_ERROR_CODE)
        self._is_int = ctypes.c_int32.from_address(env + layout.ENV_EXCEPTION_IS_INT)
        self._old_exception = ctypes.c_int32.from_address(env + layout.ENV_OLD_EXCEPTION)
        self._intercept = layout.u64(env + layout.ENV_INTERCEPT)
        self._rip = layout.u64(env + layout.ENV_RIP)
        self._cc_op = ctypes.c_uint32.from_address(env + layout.ENV_CC_OP)
        self._hflags = ctypes.c_uint32.from_address(env + layout.ENV_HFLAGS)
        self._cs_base = layout.u64(env + layout.ENV_SEGS + layout.SEG_BYTES + layout.SEG_BASE)
        self._windows = [layout.u64(env - 2192 + 32 + 696 * index + 16) for index in range(3)]

    def _install_stubs(self) -> None:
        library, uc = self._library, self._uc
        self.control = control = Control()
        self._shown = Shown(control, self._ram)
        self._table = (ctypes.c_uint64 * (2 * TABLE_ENTRIES))()
        tcg = layout.u64(self._handle + layout.UC_TCG_CTX).value
        self._blocks = Blocks(library, tcg, self._handle, control)
        self._keep: list[Any] = [
            FILL(self._fill),
            VOID(self._rewind),
            VOID(self._void_table),
            HEAD(self._give_head),
            TRANSLATED(self._translated),
            LOOK(self._look),
            VOID(self._shown.unhide),
        ]
        fill, control.rewind, control.void, control.give_head, self._told, control.look, control.unhide = (
            ctypes.cast(f, ctypes.c_void_p).value or 0 for f in self._keep
        )
        control.table, control.tcg_ctx, control.cpu = ctypes.addressof(self._table), tcg, self._cpu
        control.eflags = self.env + layout.ENV_EFLAGS
        control.icount_decr = layout.u64(self._cpu + layout.CPU_ICOUNT_DECR).value
        control.lookup, control.cpu_exit = library.address("tcg_tb_lookup_x86_64"), library.address("cpu_exit")
        control.flush_count = tcg + layout.TCG_FLUSH_COUNT
        control.leave = library.address("cpu_loop_exit_noexc_x86_64")
        control.uc, control.check_exit = self._handle, library.address("helper_check_exit_request_x86_64")
        control.tables, control.ldub_code = ctypes.addressof(self._tables), library.address("cpu_ldub_code_x86_64")
        control.restore_state, control.granted = library.address("cpu_restore_state_x86_64"), NOWHERE
        self._code, self._checks = code, _ = CodePage(), Checks(control)
        original = library.address("unicorn_fill_tlb_x86_64")
        slot = layout.u64(layout.u64(self._cpu + layout.CPU_CC).value + layout.CC_TLB_FILL)
        data = ctypes.addressof(control)
        slot.value = code.fill(fill, original, MAGIC, data)
        block, control.again = code.block()
        self._hooks = [
            library.hook(self._handle, UC_HOOK_TLB_FILL, code.refuse(), 0),
            library.hook(self._handle, UC_HOOK_BLOCK, block, data),
            library.hook(self._handle, UC_HOOK_INSN, code.trap("rcx"), data, x86.UC_X86_INS_IN),
            library.hook(self._handle, UC_HOOK_INSN, code.trap("r8"), data, x86.UC_X86_INS_OUT),
            library.hook(self._handle, UC_HOOK_INSN, code.trap("rsi"), data, x86.UC_X86_INS_SYSCALL),
        ]
        refuse = self._hooks[0]
        control.code_hook = library.hook(self._handle, UC_HOOK_CODE, refuse, 0, bounds=(NOWHERE, NOWHERE))
        uc.ctl_exits_enabled(True)

    def _set_intercepts(self) -> None:
        env = self.env
        layout.u64(env + layout.ENV_VMCB).value = PRIVATE_BASE
        self._intercept.value = int(STANDARD_INTERCEPTS)
        for offset, mask in (
            (layout.ENV_INTERCEPT_CR_READ, CR_READS),
            (layout.ENV_INTERCEPT_CR_WRITE, CR_WRITES),
            (layout.ENV_INTERCEPT_DR_READ, 0xFF),
            (layout.ENV_INTERCEPT_DR_WRITE, 0xFF),
        ):
            ctypes.c_uint16.from_address(env + offset).value = mask
        self._hflags.value |= layout.HF_GUEST

    # --- running

    def run(self, budget: int) -> Stop:
        """Execute at most `budget` instructions.

        Args:
            budget: instructions, at least 1.

        Returns: why it stopped and how many instructions were retired; with BUDGET they can be fewer.
        """
        if self.recorder is not None and self.recorder.full:
            self.recorder.clear()
        stop = self._run(budget)
        if stop.kind is not StopKind.BUDGET:
            self.work += 1
        if stop.kind is not StopKind.REFUSED or not self._refused_ahead or budget == 1:
            return stop
        self._host.untried()
        alone = self._run(1)
        return alone._replace(instructions=stop.instructions + alone.instructions)

    def _run(self, budget: int) -> Stop:
        control = self.control
        if self.recorder is not None:
            self.recorder.begin()
        self._refused_ahead = False
        self._budget = budget
        control.remaining, control.stop, control.stopped, control.trapped = budget, 0, 0, 0
        control.paid_block = control.requested = control.withheld = 0
        control.checked = control.string = NOWHERE
        control.resumed = 0
        self._old_exception.value = -1
        self._is_int.value = 0
        if budget <= 32:
            self._cflags_next.value, control.requested = budget, 1
        else:
            self._cflags_next.value = 0xFFFFFFFF
        for window in self._windows:
            window.value = 1 << 62
        result = self._start(self._handle, self._rip.value, 0, 0, 0)
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        ahead = self._refused_location == 0  # nothing had begun that was refused
        stop = self._classify(result, budget - control.remaining - control.withheld)
        control.granted = NOWHERE
        hooked = self.recorder is not None or control.checked != NOWHERE
        if hooked and stop.kind in GOES_BACK and not ahead and self._hooked():
            self._repair_flags()
            self.registers.rflags = self.registers.rflags  # QEMU has folded the wrong ones already
        if control.string != NOWHERE:
            self._leave_string()
        return stop

    def _leave_string(self) -> None:
        """If a repeated CMPS or SCAS was cut, its flags become those of before its first iteration (volume 2, REP).

        With nothing left to count QEMU comes back to it once more, and those of the last iteration stay.
        """
        control = self.control
        if control.string != self._linear() or control.string_left != control.remaining + control.withheld:
            return
        if not self.registers.gpr[Gpr.RCX] & control.string_mask:
            return
        env, flags = self.env, control.string_flags
        for offset, value in zip((layout.ENV_CC_DST, layout.ENV_CC_SRC, layout.ENV_CC_SRC2), flags, strict=False):
            layout.u64(env + offset).value = value
        self._cc_op.value = flags[3]
        self.registers.rflags = self.registers.rflags

    def run_checked(self) -> Stop:
        """Execute the instruction at RIP, whatever its check says."""
        self.control.granted = self._linear()
        return self.run(1)

    def _linear(self) -> int:
        return (self._cs_base.value + self._rip.value) & 0xFFFFFFFFFFFFFFFF

    def _hooked(self) -> bool:
        """Whether the instruction at RIP, to which QEMU has gone back, began with a code hook."""
        return self.recorder is not None or self.control.checked == self._linear()

    def _classify(self, result: int, paid: int) -> Stop:
        control = self.control
        if control.trapped:
            kind = StopKind.CHECKED if control.trapped == _CHECKED else StopKind.TRAPPED
            return Stop(kind, paid - self._thrown_away())
        if result == ERR_OK:
            kind = StopKind.BUDGET if control.stopped else StopKind.HALT
            return Stop(kind, paid)
        if result == ERR_INSN_INVALID:
            return Stop(StopKind.INVALID, paid - self._thrown_away())
        if result != ERR_EXCEPTION:
            raise EngineError(f"unicorn stopped with its error {result} at RIP {self._rip.value:#x}")
        if self._refused_location is not None:
            location, self._refused_location = self._refused_location, None
            if self._refused_fetch and not control.remaining and not control.withheld:
                self._host.untried()
                return Stop(StopKind.BUDGET, paid)  # what cannot be fetched comes after the budget
            return Stop(StopKind.REFUSED, paid - (self._thrown_away() if location else 0))
        code = self._exception_index.value
        if code == EXIT_INTR:
            return Stop(StopKind.INTERRUPT_WINDOW, paid)
        if code >= VMEXIT:
            return Stop(StopKind.INTERCEPT, paid - self._thrown_away(), code - VMEXIT, self._error_code.value)
        rest = 0 if code == DB else self._thrown_away()
        return Stop(StopKind.EXCEPTION, paid - rest, code, self._error_code.value, bool(self._is_int.value))

    def record(self, registers: bool = False, on_translation: Callable[[int, int], None] | None = None) -> Recorder:
        """Record each instruction and access from now on (tracing.py); translated code is dropped.

        Args:
            registers: record them where blocks begin, too.
            on_translation: told of each translation before it runs for the first time, at least once: linear address
                and size of its code (bytes).
        """
        self._on_translation = on_translation
        self.control.translated = 0 if on_translation is None else self._told
        if self.recorder is None:
            self.recorder = Recorder(self._library, self._handle, self.env, self.control, registers)
            self.drop_code(0, self._ram_bytes)
        return self.recorder

    def ask_to_stop(self) -> None:
        """Stop before the next block (from a callback: an MMIO access that ends the slice)."""
        control = self.control
        control.stop = 1
        control.withheld += control.remaining
        control.remaining = 0

    def executed(self, location: int = 0) -> int:
        """Instructions retired so far in a run, from inside a callback at `location`."""
        paid: int = self._budget - self.control.remaining - self.control.withheld
        if not location:
            return paid
        self.locate(location)
        return paid - self._blocks.unexecuted(self._linear())

    def locate(self, location: int) -> int:
        """RIP of the access that a callback reports by its host return address."""
        if location:
            self._library["cpu_restore_state_x86_64"](self._cpu, location, False)
            if self._hooked():
                self._repair_flags()
        return self._rip.value

    def last_block(self) -> int | None:
        """Linear address of the block that ran last in the present or last run; None if none did."""
        starts = self._blocks.paid()
        return starts[0] if starts else None

    def resumes(self) -> bool:
        """Whether RF is set for the instruction at RIP, by the return that ended the last run."""
        return bool(self.control.resumed & 1) or self.registers.resume_flag

    def last_instruction(self) -> int | None:
        """Linear address of the last instruction of that block."""
        starts = self._blocks.paid()
        return starts[-1] if starts else None

    def _repair_flags(self) -> None:
        """QEMU has gone back to an instruction that had begun, before which its code hook computed the flags."""
        starts = self._blocks.paid()
        if self._linear() in starts or (self.control.paid_block and not starts):
            self._cc_op.value = layout.CC_OP_EFLAGS

    def _thrown_away(self) -> int:
        """How many instructions of the block paid for last lie at or after RIP, and work: they may have been translated for this once."""
        rest = self._blocks.unexecuted(self._linear())
        self.work += min(rest // _TRANSLATED_A_UNIT, _MOST_TRANSLATED)
        return rest

    def take_work(self) -> int:
        """Units of the host's work (`Machine.work`) since this was asked last."""
        work, self.work = self.work, 0
        return work

    # --- callbacks

    def _fill(self, _cs: int, address: int, size: int, access: int, mmu: int, probe: int, location: int) -> bool:
        self.access_size = size
        try:
            if self._host.fill(address, _ACCESSES[access], _MMU_INDICES[mmu], bool(probe), location):
                return True
        except BaseException as error:  # noqa: BLE001 - a callback cannot raise: kept, raised after the run
            self._fail(error)
        if not probe:
            self._refused_location = location
            # The translator reads a block's code over the end of a page before any of it has run: then
            # only the first instruction is to run, alone.
            self._refused_fetch = access == Access.FETCH
            self._refused_ahead = self._refused_fetch and address >> 12 != self._linear() >> 12
        return False

    def _rewind(self) -> None:
        """A store changed its own block: QEMU runs the storing instruction again, alone."""
        control = self.control
        control.remaining += self._thrown_away()
        if self._hooked():
            self._repair_flags()
        if self.recorder is not None:
            self.recorder.take_back()
        control.paid_block = 0

    def _look(self, address: int) -> int:
        try:
            look = self._host.look(address)
        except BaseException as error:  # noqa: BLE001 - as above
            return self._fail(error)
        if look is None:
            return 0
        if look.shown:
            self._shown.show(look)
        return 0 if look.check is None else self._checks.form(look.check)

    def look_at_all(self, wanted: bool) -> None:
        """Ask the host about every instruction, and not only about those of the tables; drops all translated code."""
        if bool(self.control.ask_all) != wanted:
            self.control.ask_all = int(wanted)
            self.drop_code(0, self._ram_bytes)

    def _void_table(self) -> None:
        ctypes.memset(self._table, 0, ctypes.sizeof(self._table))
        self._blocks.forget()

    def _give_head(self, address: int) -> int:
        try:
            return self._blocks.give_head(address)
        except BaseException as error:  # noqa: BLE001 - as above
            return self._fail(error)

    def _translated(self, block: int) -> None:
        assert self._on_translation is not None
        try:
            size = ctypes.c_uint16.from_address(block + layout.TB_SIZE).value
            self._on_translation(layout.u64(block + layout.TB_PC).value, size)
        except BaseException as error:  # noqa: BLE001 - as above
            self._fail(error)

    # --- the softmmu

    def enter(self, page: int, frame: int, protection: int, mmu: int, size: int = 4096) -> None:
        """Enter a translation into the softmmu.

        Args:
            page: linear address, 4 KiB aligned.
            frame: physical address, 4 KiB aligned.
            protection: 1 read, 2 write, 4 execute; | 0x40 lets every write come back.
            mmu: the mmu index of the access.
            size: 4096, or 1 to let every single access come back.
        """
        if frame >= PRIVATE_BASE:
            frame = PRIVATE_BASE - 4096  # nobody answers at either, and the engine's own pages stay out of reach
        self._set_page(self._cpu, page, frame, protection, mmu, size)

    def flush_page(self, page: int) -> None:
        """Drop one 4 KiB page from the softmmu."""
        self._library["tlb_flush_page_x86_64"](self._cpu, page)

    def flush(self) -> None:
        """Drop everything from the softmmu."""
        self._library["tlb_flush_x86_64"](self._cpu)

    def drop_code(self, address: int, size: int) -> None:
        """Drop the translated blocks of a physical range (somebody else stored there)."""
        self._library["tb_invalidate_phys_range_x86_64"](self._handle, address, address + size)

    # --- interrupts

    def set_interrupt_window(self, wanted: bool) -> None:
        """Stop with INTERRUPT_WINDOW as soon as IF=1 outside an interrupt shadow."""
        self._interrupt_request.value = 2 if wanted else 0

    def trap_clac(self, on: bool) -> None:
        """Stop with INVALID at CLAC and STAC, and so at ERETS and ERETU, which Unicorn takes for CLAC.

        All translated code is dropped where this changes anything.
        """
        if on != self._traps_clac:
            self._traps_clac = on
            features = layout.u64(self.env + layout.ENV_FEATURES + 8 * layout.FEATURE_7_EBX)
            features.value = features.value & ~Leaf7Ebx.SMAP | (0 if on else Leaf7Ebx.SMAP)
            self.drop_code(0, self._ram_bytes)

    def intercept(self, what: Intercept, on: bool) -> None:
        """Switch one intercept on or off."""
        self._intercept.value = self._intercept.value | what if on else self._intercept.value & ~what
