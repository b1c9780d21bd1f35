"""Single instructions by seed, from texts that Keystone assembles; nothing is ever made of given bytes."""

from __future__ import annotations

import random
import re
from functools import lru_cache
from typing import Final, NamedTuple

from tests.support.host_processor import AT, DATA, DATA_BYTES, State

_R64: Final = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{number}" for number in range(8, 16)))
_R32: Final = ("eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi", *(f"r{number}d" for number in range(8, 16)))
_R16: Final = ("ax", "cx", "dx", "bx", "sp", "bp", "si", "di", *(f"r{number}w" for number in range(8, 16)))
_R8: Final = (
    "al",
    "cl",
    "dl",
    "bl",
    "ah",
    "ch",
    "dh",
    "bh",
    "spl",
    "bpl",
    "sil",
    "dil",
    *(f"r{number}b" for number in range(8, 16)),
)
_REGISTERS: Final = {8: _R8, 16: _R16, 32: _R32, 64: _R64}
_HIGH: Final = re.compile(r"\b[abcd]h\b")
_NEEDS_REX: Final = re.compile(r"\b(r\d+[dwb]?|[sb]pl|[sd]il)\b|\bmov[sz]x r")
_SIZES: Final = {8: "byte", 16: "word", 32: "dword", 64: "qword", 80: "tbyte", 128: "xmmword"}
_WIDE: Final = (16, 32, 64)
_CONDITIONS: Final = ("o", "no", "b", "ae", "e", "ne", "be", "a", "s", "ns", "p", "np", "l", "ge", "le", "g")

# Operands: r register, m memory, e either, i immediate; a digit group is the size, w is 16, 32 or 64, v is any of four.
_INTEGER: Final = (
    *(
        (name, "ev rv")
        for name in ("add", "adc", "sub", "sbb", "and", "or", "xor", "cmp", "test", "mov", "xchg", "xadd", "cmpxchg")
    ),
    *((name, "rv ev") for name in ("add", "adc", "sub", "sbb", "and", "or", "xor", "cmp", "mov")),
    *((name, "ev i8") for name in ("add", "adc", "sub", "sbb", "and", "or", "xor", "cmp", "test", "mov")),
    *((name, "ev") for name in ("inc", "dec", "neg", "not", "mul", "imul", "div", "idiv")),
    *((name, "ev i8") for name in ("shl", "shr", "sar", "rol", "ror", "rcl", "rcr")),
    *((name, "ev cl") for name in ("shl", "shr", "sar", "rol", "ror", "rcl", "rcr")),
    *((name, "ew rw i8") for name in ("shld", "shrd")),
    *((name, "ew rw cl") for name in ("shld", "shrd")),
    *((name, "ew rw") for name in ("bt", "bts", "btr", "btc")),
    *((name, "ew i8") for name in ("bt", "bts", "btr", "btc")),
    *((name, "rw ew") for name in ("bsf", "bsr", "popcnt", "imul", *(f"cmov{condition}" for condition in _CONDITIONS))),
    ("imul", "rw ew i8"),
    *((f"set{condition}", "e8") for condition in _CONDITIONS),
    *((name, "r64 e8") for name in ("movzx", "movsx")),
    *((name, "r32 e16") for name in ("movzx", "movsx")),
    *((name, "rw e8") for name in ("movzx", "movsx")),
    ("movsxd", "r64 e32"),
    ("lea", "rw m64"),
    ("bswap", "r32"),
    ("bswap", "r64"),
    *((name, "rw mw") for name in ("movbe",)),
    *((name, "mw rw") for name in ("movbe", "movnti")),
    ("crc32", "r32 e8"),
    ("crc32", "r64 e64"),
    ("cmpxchg8b", "m64"),
    ("cmpxchg16b", "m128"),
    *(
        (name, "")
        for name in ("cbw", "cwde", "cdqe", "cwd", "cdq", "cqo", "sahf", "lahf", "clc", "stc", "cmc", "cld", "std")
    ),
    *(
        (name, "")
        for name in ("nop", "leave", "pushfq", "popfq", "ret", "xlatb", "ud2", "mfence", "lfence", "sfence", "pause")
    ),
    *((name, "r64") for name in ("push", "pop")),
    *((name, "m64") for name in ("push", "pop")),
    *((name, "r16") for name in ("push", "pop")),
    *((name, "e64") for name in ("call", "jmp")),
    *((name, "i8") for name in ("push", "ret")),
    ("enter", "i8 n"),
    *(
        (prefix + name, "")
        for prefix in ("", "rep ")
        for name in ("movsb", "movsw", "movsq", "stosb", "stosw", "stosd", "stosq")
    ),
    *((prefix + name, "") for prefix in ("", "rep ") for name in ("lodsb", "lodsw", "lodsd", "lodsq")),
    *(
        (prefix + name, "")
        for prefix in ("", "repe ", "repne ")
        for name in ("scasb", "scasw", "scasd", "scasq", "cmpsb", "cmpsw", "cmpsq")
    ),
    *((f"lock {name}", "mv rv") for name in ("add", "adc", "sub", "sbb", "and", "or", "xor", "xadd", "cmpxchg")),
    *((f"lock {name}", "mv") for name in ("inc", "dec", "neg", "not")),
    *((f"lock {name}", "mw rw") for name in ("bts", "btr", "btc")),
    *((f"lock {name}", "rw ew") for name in ("mov", "bsf")),
    *((f"lock {name}", "rv rv") for name in ("add", "xadd")),
    ("lock cmpxchg8b", "m64"),
    *(
        (name, "")
        for name in ("hlt", "cli", "sti", "clts", "invd", "wbinvd", "rdmsr", "wrmsr", "swapgs", "monitor", "mwait")
    ),
    *(
        (name, "")
        for name in (
            "sysenter",
            "syscall",
            "int 0x80",
            "int 0x20",
            "int3",
            "in al, dx",
            "out dx, al",
            "iretq",
            "sysret",
        )
    ),
    *((name, "") for name in ("in eax, 0x20", "insb", "outsb", "rep insb", "rep outsd", "xgetbv", "vmcall", "invlpga")),
    *((name, "m64") for name in ("lgdt", "lidt", "invlpg", "clflush", "prefetcht0", "prefetchnta", "prefetchw")),
    *((name, "e16") for name in ("lldt", "ltr", "lmsw", "verr", "verw")),
    *((name, "r64 e16") for name in ("lar", "lsl")),
    *((f"mov {segment},", "e16") for segment in ("ds", "es", "fs", "gs", "ss")),
    *((f"mov {register},", "r64") for register in ("cr0", "cr3", "cr4", "dr0", "dr7")),
    *((f"mov r8, {register}", "") for register in ("cr0", "cr2", "cr3", "cr8", "dr6")),
)
_PACKED: Final = (
    (
        "addps addpd subps subpd mulps mulpd andps andpd andnps andnpd orps orpd xorps xorpd minps minpd maxps maxpd divps divpd sqrtps"
    )
    + (
        " sqrtpd unpcklps unpckhps unpcklpd unpckhpd movaps movapd movups movupd movdqa movdqu movshdup movsldup lddqu movntdqa"
    )
    + (
        " paddb paddw paddd paddq psubb psubw psubd psubq paddsb paddsw paddusb paddusw psubsb psubsw psubusb psubusw pand pandn por"
    )
    + (
        " pxor pcmpeqb pcmpeqw pcmpeqd pcmpgtb pcmpgtw pcmpgtd pmullw pmulhw pmulhuw pmuludq pmaddwd pavgb pavgw psadbw pminub"
    )
    + (
        " pminsw pmaxub pmaxsw packsswb packssdw packuswb punpcklbw punpcklwd punpckldq punpcklqdq punpckhbw punpckhwd punpckhdq"
    )
    + (" punpckhqdq psllw pslld psllq psrlw psrld psrlq psraw psrad addsubps addsubpd haddps haddpd hsubps hsubpd")
    + (" pshufb phaddw phaddd phaddsw phsubw phsubd phsubsw pmaddubsw pmulhrsw psignb psignw psignd pabsb pabsw pabsd")
    + (
        " pcmpeqq pcmpgtq pmuldq pmulld pminsb pminsd pminuw pminud pmaxsb pmaxsd pmaxuw pmaxud packusdw phminposuw ptest"
    )
    + (" cvtdq2ps cvtps2dq cvttps2dq cvtpd2dq cvttpd2dq cvtpd2ps aesenc aesenclast aesdec aesdeclast aesimc")
).split()
_SCALAR_32: Final = "addss subss mulss divss minss maxss sqrtss ucomiss comiss cvtss2sd movss rcpss rsqrtss".split()
_SCALAR_64: Final = (
    "addsd subsd mulsd divsd minsd maxsd sqrtsd ucomisd comisd cvtsd2ss movsd movq movddup cvtdq2pd cvttsd2si cvtps2pd pmovsxbw pmovzxbw"
).split()
_VECTOR: Final = (
    *((name, "x e128") for name in _PACKED),
    *((name, "x e32x") for name in _SCALAR_32),
    *((name, "x e64x") for name in _SCALAR_64 if name != "cvttsd2si"),
    *(
        (name, "m128 x")
        for name in ("movaps", "movapd", "movups", "movupd", "movdqa", "movdqu", "movntps", "movntpd", "movntdq")
    ),
    *((name, "m64 x") for name in ("movlps", "movhps", "movlpd", "movhpd", "movsd", "movq")),
    *((name, "x m64") for name in ("movlps", "movhps", "movlpd", "movhpd")),
    ("movss", "m32 x"),
    *(
        (name, "x e128 i8")
        for name in (
            "shufps",
            "shufpd",
            "pshufd",
            "pshufhw",
            "pshuflw",
            "palignr",
            "cmpps",
            "cmppd",
            "roundps",
            "roundpd",
        )
    ),
    *(
        (name, "x e128 i8")
        for name in ("blendps", "blendpd", "pblendw", "dpps", "dppd", "mpsadbw", "pclmulqdq", "aeskeygenassist")
    ),
    *((name, "x e128 i8") for name in ("pcmpestri", "pcmpestrm", "pcmpistri", "pcmpistrm")),
    *(
        (name, "x i8")
        for name in ("psllw", "pslld", "psllq", "psrlw", "psrld", "psrlq", "psraw", "psrad", "pslldq", "psrldq")
    ),
    *((name, "r64 e64x") for name in ("cvttsd2si", "cvtsd2si")),
    *((name, "x e64") for name in ("cvtsi2sd", "cvtsi2ss", "movq")),
    *((name, "x e32") for name in ("cvtsi2sd", "cvtsi2ss", "movd")),
    *((name, "e32 x") for name in ("movd",)),
    *((name, "r32 x") for name in ("movmskps", "movmskpd", "pmovmskb")),
    *((name, "e32 x i8") for name in ("pextrd", "extractps")),
    *((name, "e8x x i8") for name in ("pextrb",)),
    *((name, "x e32 i8") for name in ("pinsrd",)),
    ("pinsrw", "x r32 i8"),
    *(
        (name, "q e64q")
        for name in (
            "paddb",
            "psubw",
            "pand",
            "pxor",
            "pmullw",
            "pcmpeqb",
            "movq",
            "packsswb",
            "pmaddwd",
            "punpcklbw",
            "pshufb",
        )
    ),
    *((name, "m32") for name in ("ldmxcsr", "stmxcsr")),
    *((name, "m128") for name in ("fxsave", "fxsave64", "fxrstor", "fxrstor64")),
    ("emms", ""),
    ("maskmovdqu", "x x"),
)
_X87: Final = (
    *(
        (name, "m32")
        for name in ("fld", "fst", "fstp", "fadd", "fmul", "fsub", "fdiv", "fcom", "fild", "fist", "fistp", "fiadd")
    ),
    *(
        (name, "m64")
        for name in ("fld", "fst", "fstp", "fadd", "fmul", "fsubr", "fdivr", "fcomp", "fild", "fistp", "fisttp")
    ),
    *((name, "m80") for name in ("fld", "fstp", "fbld", "fbstp")),
    *((name, "m16") for name in ("fnstcw", "fldcw", "fnstsw", "fild", "fistp")),
    *((name, "m64") for name in ("fnstenv", "fldenv", "fnsave", "frstor")),
    *(
        (name, "")
        for name in (
            "fld1",
            "fldz",
            "fldpi",
            "fabs",
            "fchs",
            "fnop",
            "fninit",
            "fnclex",
            "ftst",
            "fxam",
            "fwait",
            "fnstsw ax",
        )
    ),
    *(
        (name, "")
        for name in ("faddp", "fmulp", "fxch", "fucom", "fucomp", "fucompp", "fincstp", "fdecstp", "frndint", "fscale")
    ),
)
_FORMS: Final = {"integer": _INTEGER, "vector": _VECTOR, "x87": _X87}


class Drawn(NamedTuple):
    """An instruction with what it begins with."""

    text: str
    code: bytes
    state: State


@lru_cache(maxsize=200_000)
def assembled(text: str) -> bytes | None:
    """The bytes of one instruction at AT, None if Keystone has none for it."""
    from keystone import KsError

    if _HIGH.search(text) and _NEEDS_REX.search(text):
        return None  # Keystone ends the process
    try:
        code, _ = _assembler().asm(text, AT)
    except KsError:
        return None
    return bytes(code) if code else None


@lru_cache(maxsize=1)
def _assembler():  # type: ignore[no-untyped-def] # Keystone has no types
    from keystone import KS_ARCH_X86, KS_MODE_64, Ks

    return Ks(KS_ARCH_X86, KS_MODE_64)


def drawn(seed: int, fresh: bytes, kinds: tuple[str, ...] = ("integer", "vector", "x87")) -> Drawn:
    """An instruction by seed.

    Args:
        seed: decides all of it.
        fresh: an FXSAVE image to begin from.
        kinds: of instructions.
    """
    random_ = random.Random(seed)
    while True:
        name, operands = random_.choice(_FORMS[random_.choice(kinds)])
        text = f"{name} {', '.join(_operands(random_, operands))}".replace(",,", ",").strip()
        text = text.replace(",, ", ", ") if "," in name else text
        code = assembled(text)
        if code is not None and len(code) <= 15:
            return Drawn(text, code, _state(random_, fresh))


def _operands(random_: random.Random, forms: str) -> list[str]:
    width = random_.choice((8, 16, 32, 64))
    wide = width if width > 8 else random_.choice(_WIDE)
    return [_operand(random_, form, wide if "w" in forms else width) for form in forms.split()]


def _operand(random_: random.Random, form: str, width: int) -> str:
    if form == "x":
        return f"xmm{random_.randrange(16)}"
    if form == "q":
        return f"mm{random_.randrange(8)}"
    if form == "cl":
        return "cl"
    if form == "n":
        return str(random_.choice((0, 0, 1, 2, 5, 31)))
    if form.startswith("i"):
        return str(random_.choice((0, 1, 2, 3, 7, 8, 15, 16, 31, 33, 63, 64, 100, 127)))
    kind, rest = form[0], form[1:]
    file, rest = (rest[-1], rest[:-1]) if rest[-1:] in ("x", "q") else ("", rest)
    size = width if rest in ("w", "v") else int(rest)
    if kind == "m" or (kind == "e" and random_.random() < 0.5):
        return f"{_SIZES[size]} ptr {_memory(random_)}"
    if file == "x" or size == 128:
        return f"xmm{random_.randrange(16)}"
    if file == "q":
        return f"mm{random_.randrange(8)}"
    return random_.choice(_REGISTERS[size])


def _memory(random_: random.Random) -> str:
    segment = random_.choice(("", "", "", "", "", "fs:", "gs:", "ss:", "ds:"))
    base = random_.choice(_R64)
    if random_.random() < 0.3:
        index = random_.choice([name for name in _R64 if name != "rsp"])
        return f"{segment}[{base} + {index}*{random_.choice((1, 2, 4, 8))} + {random_.choice((0, 8, 64, -64))}]"
    if random_.random() < 0.15:
        return f"{segment}[{random_.choice(_R32)} + {random_.choice((0, 16))}]"
    return f"{segment}[{base} + {random_.choice((0, 0, 0, 1, 8, 15, -16, 128))}]"


def _state(random_: random.Random, fresh: bytes) -> State:
    def number() -> int:
        kind = random_.random()
        if kind < 0.55:
            return DATA + random_.choice((16 * random_.randrange(DATA_BYTES // 16), random_.randrange(DATA_BYTES)))
        if kind < 0.65:
            return DATA + random_.choice(
                (4080, 4088, 4090, 4095, 4096, DATA_BYTES - 16, DATA_BYTES - 8, DATA_BYTES - 3)
            )
        if kind < 0.75:
            return random_.choice((0, 1, 2, 0x7F, 0x80, 0x7FFFFFFF, 0x80000000, (1 << 63) - 1, 1 << 63, (1 << 64) - 1))
        if kind < 0.85:
            return random_.randrange(16)
        return random_.getrandbits(64)

    gpr = tuple(number() for _ in range(16))
    if random_.random() < 0.8:
        gpr = (*gpr[:4], DATA + 64 + 8 * random_.randrange(900), *gpr[5:])
    if random_.random() < 0.7:
        gpr = (gpr[0], random_.randrange(40), *gpr[2:])  # RCX counts
    flags = 0x202 | random_.getrandbits(12) & 0x8D5 | (0x400 if random_.random() < 0.2 else 0)
    fpu = bytearray(fresh)
    if True:  # stack faults of the x87 are not modelled
        top = random_.randrange(8)  # TOP, and the four registers from there on in use
        fpu[2:4] = (0x800 * top).to_bytes(2, "little")
        fpu[4] = sum(1 << (top + number) % 8 for number in range(4))
        for register in range(8):
            fpu[32 + 16 * register : 42 + 16 * register] = _extended(random_)
    for register in range(16):
        fpu[160 + 16 * register : 176 + 16 * register] = _vector(random_)
    return State(gpr, flags, bytes(fpu), random_.randbytes(DATA_BYTES))


def _extended(random_: random.Random) -> bytes:
    """A normal number of 80 bits."""
    mantissa = 1 << 63 | random_.choice((0, 1 << 62, random_.getrandbits(63)))
    exponent = 0x3FFF + random_.choice((0, 1, -1, 5, 30, -20))
    return mantissa.to_bytes(8, "little") + (exponent | random_.getrandbits(1) << 15).to_bytes(2, "little")


def _vector(random_: random.Random) -> bytes:
    import struct

    kind = random_.random()
    if kind < 0.3:
        return struct.pack("<4f", *(random_.choice((0.0, 1.0, -1.5, 3.25, 1e10, -1e-3)) for _ in range(4)))
    if kind < 0.6:
        return struct.pack("<2d", *(random_.choice((0.0, 1.0, -2.5, 1e300, 7.0, 1e9)) for _ in range(2)))
    return random_.randbytes(16)
