"""Where things lie inside Unicorn 2.1.4, and the proof at start that they really lie there.

Everything that depends on the insides of one Unicorn build is in this package; every offset is in
this file. `check` holds each group of offsets against the public interface with sentinels before
an engine is used, and refuses with a clear error otherwise (another wheel, another platform).
"""

from __future__ import annotations

import ctypes
from typing import Final

import unicorn
from unicorn import Uc
from unicorn import x86_const as x86

from kstack.base.errors import EngineError
from kstack.x86.msrs import Msr

UNICORN_VERSION: Final = "2.1.4"

# --- struct uc_struct (include/uc_priv.h)
UC_CPU: Final = 440
UC_TCG_CTX: Final = 0x300
UC_STOP_REQUEST: Final = 0x56D
UC_INVALID_ADDR: Final = 1416
UC_SKIP_SYNC_PC: Final = 0x3A32

# --- CPUState (hw/core/cpu.h)
CPU_EXIT_REQUEST: Final = 21
CPU_CFLAGS_NEXT_TB: Final = 24
CPU_INTERRUPT_REQUEST: Final = 28
CPU_ENV: Final = 296
CPU_ICOUNT_DECR: Final = 304
CPU_EXCEPTION_INDEX: Final = 33184
CPU_CC: Final = 33200
CC_TLB_FILL: Final = 72

# --- TCGContext and TranslationBlock
TCG_CODE_GEN_PROLOGUE: Final = 0x90
TCG_CODE_GEN_BUFFER: Final = 0xA8  # which begins with the prologue
TCG_FLUSH_COUNT: Final = 0x98D0
TCG_NB_TEMPS: Final = 48  # behind the pool's five pointers, the labels and the globals
TB_PC: Final = 0
TB_CS_BASE: Final = 8
TB_FLAGS: Final = 16
TB_FLAG_RF: Final = 1 << 16
TB_SIZE: Final = 20
TB_ICOUNT: Final = 22
TB_CFLAGS: Final = 24
TB_TC_PTR: Final = 32
TB_TC_SIZE: Final = 40
CF_COUNT_MASK: Final = 0x7FFF

# --- DisasContextBase and TranslatorOps (exec/translator.h), struct hook (uc_priv.h)
DB_PC_NEXT: Final = 16
DB_NUM_INSNS: Final = 28
DB_MAX_INSNS: Final = 32
TRANSLATE_INSN: Final = 32
TRANSLATOR_BYTES: Final = 1 << 21  # within which the functions of the translator for x86 lie
HOOK_BEGIN: Final = 24
HOOK_END: Final = 32
HOOK_CALLBACK: Final = 40
HOOK_USER_DATA: Final = 48

# --- CPUX86State (target/i386/cpu.h)
ENV_REGS: Final = 0  # rax rcx rdx rbx rsp rbp rsi rdi r8..r15
ENV_RIP: Final = 128
ENV_EFLAGS: Final = 136
ENV_CC_DST: Final = 144
ENV_CC_SRC: Final = 152
ENV_CC_SRC2: Final = 160
ENV_CC_OP: Final = 168
ENV_DF: Final = 172
ENV_HFLAGS: Final = 176
ENV_HFLAGS2: Final = 180
ENV_SEGS: Final = 184  # ES CS SS DS FS GS, 24 bytes each
ENV_LDT: Final = 328
ENV_TR: Final = 352
ENV_GDT: Final = 376
ENV_IDT: Final = 400
ENV_CR: Final = 424
ENV_ZERO: Final = 504  # bounds of MPX, which CPUID does not announce: eight bytes that stay zero
ENV_EFER: Final = 592
ENV_FPU: Final = 604  # fpstt, fpus, fpuc, fptags[8], fpregs[8] of 16 bytes
ENV_FPUC: Final = 610
ENV_FPTAGS: Final = 612
ENV_FPREGS: Final = 624
ENV_FPU_END: Final = 752
ENV_MXCSR: Final = 816
ENV_XMM: Final = 824  # 32 registers of 64 bytes; SSE uses the low 16 of the first 16
ENV_XMM_BYTES: Final = 64
ENV_STAR: Final = 4824
ENV_LSTAR: Final = 4840
ENV_CSTAR: Final = 4848
ENV_FMASK: Final = 4856
ENV_KERNEL_GS_BASE: Final = 4864
ENV_TSC_AUX: Final = 4896
ENV_ERROR_CODE: Final = 5384
ENV_EXCEPTION_IS_INT: Final = 5388
ENV_DR: Final = 5400
ENV_OLD_EXCEPTION: Final = 5496
ENV_VMCB: Final = 5504
ENV_INTERCEPT: Final = 5520
ENV_INTERCEPT_CR_READ: Final = 5528
ENV_INTERCEPT_CR_WRITE: Final = 5530
ENV_INTERCEPT_DR_READ: Final = 5532
ENV_INTERCEPT_DR_WRITE: Final = 5534
ENV_FEATURES: Final = 5632
FEATURE_WORDS: Final = 12
FEATURE_7_EBX: Final = 2  # index of the feature word, 64 bits each
ENV_SAVED: Final = 5504  # bytes from the start that a snapshot of a CPU copies

SEG_SELECTOR: Final = 0
SEG_BASE: Final = 8
SEG_LIMIT: Final = 16
SEG_FLAGS: Final = 20
SEG_BYTES: Final = 24

CC_OP_EFLAGS: Final = 1

# --- hflags (target/i386/cpu.h)
HF_CPL: Final = 3
HF_INHIBIT_IRQ: Final = 1 << 3
HF_CS32: Final = 1 << 4
HF_SS32: Final = 1 << 5
HF_ADDSEG: Final = 1 << 6
HF_PE: Final = 1 << 7
HF_MP_SHIFT: Final = 8  # by which MP, EM and TS are higher than in CR0
HF_LMA: Final = 1 << 14
HF_CS64: Final = 1 << 15
HF_GUEST: Final = 1 << 21
HF_OSFXSR: Final = 1 << 22
HF_SMAP: Final = 1 << 23

# --- functions that the Linux wheel exports by name: (name, result, arguments)
_P = ctypes.c_void_p
_U64 = ctypes.c_uint64
_INT = ctypes.c_int
EXPORTS: Final = {
    "tlb_set_page_x86_64": (None, (_P, _U64, _U64, _INT, _INT, _U64)),
    "tlb_flush_page_x86_64": (None, (_P, _U64)),
    "tlb_flush_x86_64": (None, (_P,)),
    "tb_invalidate_phys_range_x86_64": (None, (_P, _U64, _U64)),
    "cpu_restore_state_x86_64": (ctypes.c_bool, (_P, _U64, ctypes.c_bool)),
    "cpu_cc_compute_all_x86_64": (ctypes.c_uint32, (_P, _INT)),
    "tcg_tb_lookup_x86_64": (_P, (_P, _P)),
    "unicorn_fill_tlb_x86_64": (None, ()),
    "cpu_exit": (None, (_P,)),
    "cpu_loop_exit_noexc_x86_64": (None, (_P,)),
    "helper_check_exit_request_x86_64": (None, (_P, ctypes.c_uint32)),
    "gen_intermediate_code_x86_64": (None, ()),
    "cpu_ldub_code_x86_64": (ctypes.c_uint32, (_P, _U64)),
    "uc_emu_start": (_INT, (_P, _U64, _U64, _U64, ctypes.c_size_t)),
}


class Library:
    """Unicorn's shared library with the exported internals that the engine calls.

    Raises:
        EngineError: another version of Unicorn, or one that does not export its internals.
    """

    def __init__(self) -> None:
        if unicorn.__version__ != UNICORN_VERSION:
            raise EngineError(
                f"unicorn {unicorn.__version__} is installed, but kstack knows the insides of "
                f"{UNICORN_VERSION} only; install it with: pip install unicorn=={UNICORN_VERSION}"
            )
        from unicorn.unicorn_py3.unicorn import uclib

        self._raw = ctypes.CDLL(uclib._name)
        self._functions: dict[str, ctypes._NamedFuncPointer] = {}
        for name, (result, arguments) in EXPORTS.items():
            try:
                function = self._raw[name]
            except (AttributeError, OSError) as missing:
                raise EngineError(
                    f"this build of unicorn does not export {name}: kstack needs the Linux x86-64 "
                    f"wheel of unicorn {UNICORN_VERSION} from PyPI"
                ) from missing
            function.restype = result
            function.argtypes = arguments
            self._functions[name] = function

    def __getitem__(self, name: str) -> ctypes._NamedFuncPointer:
        return self._functions[name]

    def hook(
        self,
        handle: int,
        kind: int,
        callback: int,
        data: int,
        instruction: int = 0,
        bounds: tuple[int, int] = (1, 0),
    ) -> int:
        """Register machine code at `callback` as a hook of the engine at `handle`.

        Args:
            handle: host address of its uc_struct.
            kind: Unicorn's number.
            callback: host address.
            data: handed to it.
            instruction: of a hook of instructions.
            bounds: first and last address; everywhere, if the last is below the first.

        Returns:
            Host address of its `struct hook`.

        Raises:
            EngineError: Unicorn refuses the hook.
        """
        hook = ctypes.c_size_t()
        arguments = [_P(handle), ctypes.byref(hook), _INT(kind), _P(callback), _P(data), *map(_U64, bounds)]
        if instruction:
            arguments.append(_INT(instruction))
        status = self._raw.uc_hook_add(*arguments)
        if status:
            raise EngineError(f"unicorn refuses a hook of kind {kind:#x} (error {status})")
        return hook.value

    def address(self, name: str) -> int:
        """The host address of an exported function."""
        value = ctypes.cast(self._functions[name], ctypes.c_void_p).value
        assert value is not None
        return value


def u64(address: int) -> ctypes.c_uint64:
    """The 64-bit host word at `address`, mapped."""
    return ctypes.c_uint64.from_address(address)


def check(uc: Uc, library: Library) -> None:
    """Hold the offsets against the public interface.

    Raises:
        EngineError: naming the first offset that does not hold.
    """
    cpu = u64(uc._uch.value + UC_CPU).value
    env = u64(cpu + CPU_ENV).value
    sentinels = (
        (x86.UC_X86_REG_RAX, 0x1122334455667788, ENV_REGS),
        (x86.UC_X86_REG_R15, 0x99AABBCCDDEEFF01, ENV_REGS + 15 * 8),
        (x86.UC_X86_REG_CR2, 0x123456789ABCDEF0, ENV_CR + 16),
        (x86.UC_X86_REG_DR3, 0x13579BDF02468ACE, ENV_DR + 24),
    )
    for register, value, offset in sentinels:
        old = uc.reg_read(register)
        uc.reg_write(register, value)
        if u64(env + offset).value != value:
            raise EngineError(f"unicorn's CPU state is not where {UNICORN_VERSION} has it (offset {offset})")
        uc.reg_write(register, old)
    for msr, offset in ((Msr.LSTAR, ENV_LSTAR), (Msr.KERNEL_GS_BASE, ENV_KERNEL_GS_BASE), (Msr.FMASK, ENV_FMASK)):
        uc.msr_write(msr, 0x0123456789ABCDEF)
        if u64(env + offset).value != 0x0123456789ABCDEF:
            raise EngineError(f"unicorn's MSR {msr:#x} is not where {UNICORN_VERSION} has it (offset {offset})")
        uc.msr_write(msr, 0)
    fill = u64(u64(cpu + CPU_CC).value + CC_TLB_FILL).value
    if fill != library.address("unicorn_fill_tlb_x86_64"):
        raise EngineError(f"unicorn's TLB fill is not where {UNICORN_VERSION} has it")
    compared = b"\x80\xbf" + UC_SKIP_SYNC_PC.to_bytes(4, "little") + b"\0"  # cmp byte ptr [rdi + ...], 0
    if compared not in ctypes.string_at(library.address("helper_check_exit_request_x86_64"), 64):
        raise EngineError(f"unicorn's skip_sync_pc_on_exit is not where {UNICORN_VERSION} has it")
    tcg = u64(uc._uch.value + UC_TCG_CTX).value
    if (
        not u64(tcg + TCG_CODE_GEN_BUFFER).value
        or u64(tcg + TCG_CODE_GEN_BUFFER).value != u64(tcg + TCG_CODE_GEN_PROLOGUE).value
    ):
        raise EngineError(f"unicorn's translation buffer is not where {UNICORN_VERSION} has it")
    if ctypes.c_uint32.from_address(cpu + CPU_CFLAGS_NEXT_TB).value != 0xFFFFFFFF:
        raise EngineError(f"unicorn's cflags_next_tb is not where {UNICORN_VERSION} has it")
