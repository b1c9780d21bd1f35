"""A CPU's registers, mapped: SDM volume 1 section 3.4, volume 3 section 2.

The mapped words are the only way to set descriptor caches and CPL; `sync` keeps the flags by which
QEMU translates (hflags) true to them.
"""

from __future__ import annotations

import ctypes
import struct
from typing import Final, NamedTuple

from kstack.hw.engine import layout
from kstack.hw.engine.layout import Library, u64
from kstack.x86.control import Cr0, Cr4, Efer
from kstack.x86.flags import CC_FLAGS, Flags
from kstack.x86.floating_point import FCW_POWER_UP, MXCSR_MASKS, MXCSR_POWER_UP
from kstack.x86.msrs import Msr
from kstack.x86.registers import Seg
from kstack.x86.segments import DPL_SHIFT, Segment, SegmentAttribute

# Plain integers for the hot paths: to look up a member of an enum costs more than what is done with it.
_DF, _IF, _FIXED = int(Flags.DF), int(Flags.IF), int(Flags.FIXED)
_TF, _NO_RF, _AC = int(Flags.TF), ~Flags.RF, int(Flags.AC)
_SEGMENTED = layout.HF_PE | layout.HF_CS64
_OTHER = ~(CC_FLAGS | _DF)
_VM = int(Flags.VM)
_LONG, _BIG = int(SegmentAttribute.L), int(SegmentAttribute.B)
_PE, _COPROCESSOR = int(Cr0.PE), Cr0.MP | Cr0.EM | Cr0.TS
_OSFXSR, _SMAP, _LMA = int(Cr4.OSFXSR), int(Cr4.SMAP), int(Efer.LMA)
_SEGMENT = struct.Struct("<I4xQII")  # QEMU's SegmentCache: selector, base, limit, flags


ENGINE_MSRS: Final = {
    Msr.STAR: layout.ENV_STAR,
    Msr.LSTAR: layout.ENV_LSTAR,
    Msr.CSTAR: layout.ENV_CSTAR,
    Msr.FMASK: layout.ENV_FMASK,
    Msr.KERNEL_GS_BASE: layout.ENV_KERNEL_GS_BASE,
    Msr.TSC_AUX: layout.ENV_TSC_AUX,
}
"""MSRs that QEMU itself reads, and where."""


class X87State(NamedTuple):
    """The x87's control and status.

    Attributes:
        top: number of the register that is ST0.
        status: the status word, without TOP.
        control: the control word.
        empty: a byte a register that is 1 where it is empty, the first in the lowest byte.
    """

    top: int
    status: int
    control: int
    empty: int


class RegisterState(NamedTuple):
    """QEMU's CPU state as bytes, and DR0 to DR7."""

    env: bytes
    dr: tuple[int, ...]


class Registers:
    """The architectural registers of one engine.

    Args:
        env: host address of QEMU's CPUX86State.
        library: the exported functions.
    """

    def __init__(self, env: int, library: Library) -> None:
        self._env = env
        self._compute_flags = library["cpu_cc_compute_all_x86_64"]
        self.gpr = (ctypes.c_uint64 * 16).from_address(env + layout.ENV_REGS)
        self._segments = (ctypes.c_char * (layout.SEG_BYTES * len(Seg))).from_address(env + layout.ENV_SEGS)
        self._code_flags = ctypes.c_uint32.from_address(
            env + layout.ENV_SEGS + layout.SEG_BYTES * Seg.CS + layout.SEG_FLAGS
        )
        self._stack_flags = ctypes.c_uint32.from_address(
            env + layout.ENV_SEGS + layout.SEG_BYTES * Seg.SS + layout.SEG_FLAGS
        )
        self._rip = u64(env + layout.ENV_RIP)
        self._eflags = u64(env + layout.ENV_EFLAGS)
        self._cc_src = u64(env + layout.ENV_CC_SRC)
        self._cc_op = ctypes.c_uint32.from_address(env + layout.ENV_CC_OP)
        self._df = ctypes.c_int32.from_address(env + layout.ENV_DF)
        self._mxcsr = ctypes.c_uint32.from_address(env + layout.ENV_MXCSR)
        self._hflags = ctypes.c_uint32.from_address(env + layout.ENV_HFLAGS)
        self.cr = (ctypes.c_uint64 * 9).from_address(env + layout.ENV_CR)
        self.dr = (ctypes.c_uint64 * 8)()
        self._efer = u64(env + layout.ENV_EFER)

    @property
    def rip(self) -> int:
        """The instruction pointer (an offset in CS, also in real mode)."""
        return self._rip.value

    @rip.setter
    def rip(self, value: int) -> None:
        self._rip.value = value

    @property
    def rflags(self) -> int:
        """RFLAGS with the lazily computed condition codes folded in."""
        flags: int = self._compute_flags(self._env, self._cc_op.value)
        return (self._eflags.value & _OTHER) | (flags & CC_FLAGS) | (_DF if self._df.value < 0 else 0) | _FIXED

    @rflags.setter
    def rflags(self, value: int) -> None:
        # QEMU folds its lazy flags into eflags at the end of a run and takes all of them from there
        # at the start of the next (x86_cpu_exec_enter); cc_op and df are what `rflags` reads.
        value = int(value)
        self._cc_src.value = value & CC_FLAGS
        self._cc_op.value = layout.CC_OP_EFLAGS
        self._df.value = -1 if value & _DF else 1
        self._eflags.value = value | _FIXED
        self.sync()

    def clear_resume(self) -> None:
        """Clear RFLAGS.RF, which an IRET has set.

        Only breakpoints need it, and the CPU has looked at it by then. QEMU keeps it up to the end of a block and
        not for one instruction, so that PUSHF and frames would show where blocks end.
        """
        self._eflags.value &= _NO_RF

    @property
    def resume_flag(self) -> bool:
        """RFLAGS.RF, cheaply."""
        return bool(self._eflags.value & ~_NO_RF)

    @property
    def interrupt_flag(self) -> bool:
        """RFLAGS.IF, cheaply."""
        return bool(self._eflags.value & _IF)

    @property
    def trap_flag(self) -> bool:
        """RFLAGS.TF, cheaply."""
        return bool(self._eflags.value & _TF)

    @property
    def system_flags(self) -> int:
        """RFLAGS without the condition codes and DF, cheaply."""
        return self._eflags.value

    @property
    def mxcsr(self) -> int:
        """Control and status of SSE (volume 1, 10.2.3)."""
        return self._mxcsr.value

    @property
    def is_plain(self) -> bool:
        """64-bit code (or no protection at all) with every exception of SSE masked and AC clear, cheaply."""
        return (
            self._hflags.value & _SEGMENTED != layout.HF_PE
            and self._mxcsr.value & MXCSR_MASKS == MXCSR_MASKS
            and not self._eflags.value & _AC
        )

    @property
    def cpl(self) -> int:
        """Current privilege level."""
        return self._hflags.value & layout.HF_CPL

    @property
    def shadow(self) -> bool:
        """An interrupt shadow (after STI or MOV SS) covers the next instruction."""
        return bool(self._hflags.value & layout.HF_INHIBIT_IRQ)

    @shadow.setter
    def shadow(self, value: bool) -> None:
        self._hflags.value = self._hflags.value & ~layout.HF_INHIBIT_IRQ | (layout.HF_INHIBIT_IRQ if value else 0)

    @property
    def efer(self) -> int:
        """IA32_EFER (SDM vol. 3, 2.2.1)."""
        return self._efer.value

    @efer.setter
    def efer(self, value: int) -> None:
        self._efer.value = value
        self.sync()

    @property
    def long_mode(self) -> bool:
        """EFER.LMA: IA-32e mode is active."""
        return bool(self._efer.value & _LMA)

    @property
    def bits(self) -> int:
        """Width of the code that runs now: 16, 32 or 64."""
        hflags = self._hflags.value
        if hflags & layout.HF_CS64:
            return 64
        return 32 if hflags & layout.HF_CS32 else 16

    @property
    def stack_bits(self) -> int:
        """Width of the stack pointer: 16, 32 or 64."""
        hflags = self._hflags.value
        if hflags & layout.HF_CS64:
            return 64
        return 32 if hflags & layout.HF_SS32 else 16

    def segment(self, which: Seg) -> Segment:
        """A segment register with its hidden part."""
        return Segment._make(_SEGMENT.unpack_from(self._segments, layout.SEG_BYTES * which))

    def set_segment(self, which: Seg, segment: Segment) -> None:
        """Load a segment register, hidden part and all; CS and SS change mode and CPL."""
        _SEGMENT.pack_into(self._segments, layout.SEG_BYTES * which, *segment)
        if which is Seg.CS or which is Seg.SS:
            self.sync()

    def enter(self, code: Segment, stack: Segment, rflags: int) -> None:
        """Load CS, SS and RFLAGS at once."""
        _SEGMENT.pack_into(self._segments, layout.SEG_BYTES * Seg.CS, *code)
        _SEGMENT.pack_into(self._segments, layout.SEG_BYTES * Seg.SS, *stack)
        self.rflags = rflags

    def set_base(self, which: Seg, base: int) -> None:
        """Change the base of a segment alone (FS and GS by MSR)."""
        u64(self._env + layout.ENV_SEGS + layout.SEG_BYTES * which + layout.SEG_BASE).value = base

    def sync(self) -> None:
        """Make hflags say what CR0, CR4, EFER, CS and SS say (QEMU's x86_update_hflags).

        IOPL, TF, RF, VM and AC have places in hflags too, which stay empty: QEMU takes them from RFLAGS for each block
        (cpu_get_tb_cpu_state), and what stood there would outlive its cause.
        """
        self._hflags.value = self.derived_hflags() | self._hflags.value & (layout.HF_INHIBIT_IRQ | layout.HF_GUEST)

    @property
    def hflags(self) -> int:
        """What QEMU translates by, besides RFLAGS."""
        return self._hflags.value

    def derived_hflags(self) -> int:
        """The bits of hflags that follow from the registers."""
        code, stack = self._code_flags.value, self._stack_flags.value
        cr0, cr4, eflags = self.cr[0], self.cr[4], self._eflags.value
        flags = stack >> DPL_SHIFT & layout.HF_CPL
        flags |= (layout.HF_PE if cr0 & _PE else 0) | (cr0 & _COPROCESSOR) << layout.HF_MP_SHIFT
        if cr4 & _OSFXSR:
            flags |= layout.HF_OSFXSR
        if cr4 & _SMAP:
            flags |= layout.HF_SMAP
        lma = self._efer.value & _LMA
        if lma:
            flags |= layout.HF_LMA
        if lma and code & _LONG:
            flags |= layout.HF_CS32 | layout.HF_SS32 | layout.HF_CS64
        else:
            flags |= layout.HF_CS32 if code & _BIG else 0
            flags |= layout.HF_SS32 if stack & _BIG else 0
            if not cr0 & _PE or eflags & _VM or not code & _BIG:
                flags |= layout.HF_ADDSEG
            elif any(self.segment(which).base for which in (Seg.DS, Seg.ES, Seg.SS)):
                flags |= layout.HF_ADDSEG
        return flags

    def xmm(self, number: int) -> bytes:
        """An XMM register: 16 bytes."""
        return ctypes.string_at(self._env + layout.ENV_XMM + layout.ENV_XMM_BYTES * number, 16)

    def set_xmm(self, number: int, value: bytes) -> None:
        """Write an XMM register."""
        ctypes.memmove(self._env + layout.ENV_XMM + layout.ENV_XMM_BYTES * number, value, 16)

    def mm(self, number: int) -> bytes:
        """An MMX register: 8 bytes."""
        return ctypes.string_at(self._env + layout.ENV_FPREGS + 16 * number, 8)

    def set_mm(self, number: int, value: bytes) -> None:
        """Write an MMX register."""
        ctypes.memmove(self._env + layout.ENV_FPREGS + 16 * number, value, 8)

    def power_up_fpu(self) -> None:
        """x87 and SSE as power-up leaves them (volume 3, table 9-1); INIT changes neither."""
        ctypes.c_uint16.from_address(self._env + layout.ENV_FPUC).value = FCW_POWER_UP
        self._mxcsr.value = MXCSR_POWER_UP

    def enter_mmx(self, valid: bool = True) -> None:
        """TOP becomes 0, and all tags valid, as every MMX instruction but EMMS leaves them (volume 3, 12.2.1)."""
        ctypes.c_uint32.from_address(self._env + layout.ENV_FPU).value = 0
        if valid:
            ctypes.memset(self._env + layout.ENV_FPTAGS, 0, 8)

    def msr(self, which: Msr) -> int:
        """One of `ENGINE_MSRS`."""
        return u64(self._env + ENGINE_MSRS[which]).value

    def set_msr(self, which: Msr, value: int) -> None:
        """Write one of `ENGINE_MSRS`."""
        u64(self._env + ENGINE_MSRS[which]).value = value

    def x87(self) -> X87State:
        """Control and status of the x87."""
        word = u64(self._env + layout.ENV_FPU).value
        return X87State(word & 7, word >> 32 & 0xFFFF, word >> 48, u64(self._env + layout.ENV_FPTAGS).value)

    def x87_register(self, number: int) -> int:
        """A register of the x87, 80 bits, by its own number (and not from TOP)."""
        at = self._env + layout.ENV_FPREGS + 16 * number
        return u64(at).value | (u64(at + 8).value & 0xFFFF) << 64

    # --- snapshot and hash

    def save(self) -> RegisterState:
        """The whole register state, restorable in any engine of this Unicorn version."""
        self.rflags = self.rflags  # fold the lazy flags, so that equal states are equal bytes
        return RegisterState(ctypes.string_at(self._env, layout.ENV_SAVED), tuple(self.dr))

    def load(self, state: RegisterState) -> None:
        """Become what `save` returned."""
        raw, dr = state
        ctypes.memmove(self._env, raw, len(raw))
        for index, value in enumerate(dr):
            self.dr[index] = value

    def canonical(self) -> bytes:
        """The architectural state as bytes that are equal where the states are equal."""
        return self.canonical_of(self.save())

    @staticmethod
    def canonical_of(state: RegisterState) -> bytes:
        """The same of what `save` returned."""
        raw, dr = state
        parts = [
            raw[: layout.ENV_CC_DST],
            raw[layout.ENV_CC_SRC : layout.ENV_CC_SRC + 8],
            raw[layout.ENV_DF : layout.ENV_CR + 72],
        ]
        parts.append(raw[layout.ENV_EFER : layout.ENV_EFER + 8])
        parts.append(raw[layout.ENV_FPU : layout.ENV_FPU + 16])
        parts.extend(raw[at : at + 10] for at in range(layout.ENV_FPREGS, layout.ENV_FPU_END, 16))  # 80 bits each
        parts.append(raw[layout.ENV_MXCSR : layout.ENV_MXCSR + 4])
        for index in range(16):
            at = layout.ENV_XMM + layout.ENV_XMM_BYTES * index
            parts.append(raw[at : at + 16])
        parts.append(raw[layout.ENV_STAR : layout.ENV_STAR + 8])
        parts.append(raw[layout.ENV_LSTAR : layout.ENV_KERNEL_GS_BASE + 8])
        parts.append(b"".join(value.to_bytes(8, "little") for value in dr))
        return b"".join(parts)
