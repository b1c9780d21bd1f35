"""What the engine's decoder accepts: every opcode of four maps, with prefixes and ModRM bytes, in code of 16, 32 and 64 bits.

Each encoding is executed alone by the engine, from the same state at CPL 0, and compared with what Capstone makes of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from kstack.base.errors import EngineError
from kstack.hw.cpu.checked import rule_of
from kstack.hw.cpu.decode import disassembler
from kstack.hw.cpu.encoding import encoding_of
from kstack.hw.engine import Stop, StopKind
from kstack.x86.control import Cr0, Cr4, Efer
from kstack.x86.registers import Gpr, Seg
from kstack.x86.segments import Segment
from tests.support.long_mode import LongModeGuest

MAPS: Final = {"": b"", "0f": b"\x0f", "0f38": b"\x0f\x38", "0f3a": b"\x0f\x3a"}
PREFIXES: Final = (b"", b"\x66", b"\xf2", b"\xf3", b"\xf0", b"\x48")
_NO_OPCODES: Final = frozenset(b"\x26\x2e\x36\x3e\x64\x65\x66\x67\xf0\xf2\xf3\x0f")
_CODE: Final = 0x200000
_STRIDE: Final = 16
_REST: Final = b"\x10\x20\x00\x00\x01\x00\x00\x00"
_UD: Final = 6
SOME: Final = (0x05, 0x0D, 0x15, 0x1D, 0x25, 0x2D, 0x35, 0x3D, 0xC1, 0xC9, 0xD1, 0xD9, 0xE1, 0xE9, 0xF1, 0xF9)
"""ModRM bytes: memory and a register, with each /digit."""


class Row(NamedTuple):
    """One encoding.

    Attributes:
        bits: of the code.
        prefix, map, opcode, modrm: the encoding.
        accepted: whether it is anything but #UD here.
        name: what Capstone calls it; empty if nothing.
        length: bytes that were executed, if it was and did not jump; else 0.
        size: bytes by Capstone.
    """

    bits: int
    prefix: bytes
    map: str
    opcode: int
    modrm: int
    accepted: bool
    name: str
    length: int
    size: int

    def __str__(self) -> str:
        code = (self.prefix + MAPS[self.map] + bytes((self.opcode, self.modrm))).hex(" ")
        return f"{code} in {self.bits}-bit code: {'accepted' if self.accepted else '#UD'}, Capstone: {self.name or 'nothing'}"


class Decoder:
    """The engine in code of a width.

    Args:
        bits: 16, 32 or 64.
    """

    def __init__(self, bits: int) -> None:
        self.bits = bits
        self._guest = LongModeGuest(cr4=int(Cr4.FSGSBASE | Cr4.OSXMMEXCPT))
        self._cpu = self._guest.machine.cpus[0]
        registers = self._cpu.registers
        if bits != 64:
            registers.cr[0], registers.cr[4], registers.efer = Cr0.PE | Cr0.ET, Cr4.OSFXSR | Cr4.OSXMMEXCPT, 0
            self._cpu.mmu.update()
            self._cpu.mmu.drop_all(True)
            self._cpu.engine.flush()
            size = 0x00C09300 if bits == 32 else 0x00809300
            registers.set_segment(Seg.CS, Segment(0x10, 0, 0xFFFFFFFF, size | 0x800))
            for which in (Seg.SS, Seg.DS, Seg.ES, Seg.FS, Seg.GS):
                registers.set_segment(which, Segment(0x18, 0, 0xFFFFFFFF, size))
        else:
            registers.efer |= Efer.SCE
        for number in range(16):
            registers.gpr[number] = 0x8000 if bits == 16 else 0x180000
        registers.gpr[Gpr.RSP] = 0x9000 if bits == 16 else 0x190000
        registers.rflags = 2
        self._saved = registers.save()
        self._at = _CODE

    def rows(self, modrms: Iterable[int]) -> Iterator[Row]:
        """Every encoding with these ModRM bytes."""
        chosen = tuple(modrms)
        for name, escape in MAPS.items():
            for prefix in PREFIXES if self.bits == 64 else PREFIXES[:-1]:
                for opcode in range(256):
                    if not self._is_prefix(name, opcode):
                        yield from (self._row(prefix, name, escape, opcode, modrm) for modrm in chosen)

    def _is_prefix(self, name: str, opcode: int) -> bool:
        if name == "":
            return opcode in _NO_OPCODES or (self.bits == 64 and opcode >> 4 == 4)
        return name == "0f" and opcode in (0x38, 0x3A)

    def _row(self, prefix: bytes, name: str, escape: bytes, opcode: int, modrm: int) -> Row:
        code = prefix + escape + bytes((opcode, modrm)) + _REST
        accepted, length = self._executed(code)
        found = next(disassembler(self.bits).disasm(code, 0, 1), None)
        known, size = ("", 0) if found is None else (found.mnemonic, found.size)
        return Row(self.bits, prefix, name, opcode, modrm, accepted, known, length, size)

    def _executed(self, code: bytes) -> tuple[bool, int]:
        self._at += _STRIDE
        if self._at >= _CODE + 0x180000:
            self._at = _CODE
            self._cpu.engine.drop_code(0, 4 << 20)
        registers = self._cpu.registers
        self._guest.memory.write(self._at, code)
        registers.load(self._saved)
        registers.rip = self._at
        self._cpu.mmu.fault = None
        try:
            stop = self._cpu.engine.run(1)
        except EngineError:
            return True, 0  # the guest's state has become something that cannot go on
        return not self._is_undefined(stop, code), registers.rip - self._at if stop.kind is StopKind.BUDGET else 0

    def _is_undefined(self, stop: Stop, code: bytes) -> bool:
        if stop.kind is StopKind.CHECKED:
            found = encoding_of(code, self.bits)
            rule = None if found is None else rule_of(found)
            return rule is not None and rule.act is None
        return stop.kind is StopKind.INVALID or (
            stop.kind is StopKind.EXCEPTION and stop.code == _UD and not stop.is_int
        )


# --- where the two may differ

BRANCHES: Final = ("j", "call", "ret", "loop", "rep", "lret", "iret", "bnd j", "bnd call", "bnd ret", "lcall", "ljmp")
ALIASES: Final = {
    ("", 0xDC): "FCOM and FCOMP again: processors execute these, the manual does not have them",
    ("", 0xDD): "FXCH again",
    ("", 0xDE): "FCOMP again",
    ("", 0xDF): "FXCH and FSTP again",
    ("", 0xF6): "/1 is TEST, as /0",
    ("", 0xF7): "/1 is TEST, as /0",
    ("0f", 0x0D): "a hint, whatever its /digit",
    ("0f", 0x18): "a hint, and no operation with a register",
    ("0f", 0x1A): "no operation without MPX",
    ("0f", 0x1B): "no operation without MPX",
    ("0f", 0x1C): "no operation",
    ("0f", 0x1D): "no operation",
    ("0f", 0x1E): "no operation",
    ("0f", 0xAE): "fences, whatever their r/m",
    ("0f", 0x01): "SWAPGS and kin, whatever their prefixes",
    ("0f", 0xC7): "CMPXCHG8B, whatever its prefixes",
    ("0f", 0xBC): "BSF, whose F2 is ignored",
    ("0f", 0xBD): "BSR, whose F2 is ignored",
}
"""Accepted here and unknown to Capstone, by map and opcode: why that is right."""
NOT_ANNOUNCED: Final = frozenset(
    (
        "vmcall vmlaunch vmresume vmxoff vmmcall vmrun vmload vmsave vmread vmwrite vmptrld vmptrst vmclear vmxon vmfunc getsec rsm"
    ).split()
    + "stgi clgi skinit invlpga invept invvpid monitor mwait monitorx mwaitx xgetbv xsetbv xsave xsaveopt xsavec xsaves".split()
    + "xrstor xrstors xend xtest xabort xbegin rdrand rdseed encls enclu clzero rdpkru wrpkru sysenter sysexit int1 femms".split()
    + "sha1nexte sha1msg1 sha1msg2 sha256rnds2 sha256msg1 sha256msg2 sha1rnds4 adcx adox movdiri movdir64b wrssd wrssq wrussd".split()
    + "wrussq rdsspd rdsspq saveprevssp setssbsy clrssbsy incsspd incsspq rstorssp endbr32 endbr64 clwb clflushopt cldemote".split()
    + "umonitor umwait tpause ptwrite rdpid tzcnt lzcnt extrq insertq movntss movntsd pcommit ud0 ud1 ud2 ud2b bndmk bndcl".split()
    + "bndcu bndcn bndmov bndldx bndstx lwpins lwpval llwpcb slwpcb blcfill blsfill sysret sysretq salc enqcmd enqcmds".split()
    + "xsave64 xsaveopt64 xsavec64 xsaves64 xrstor64 xrstors64 sysexitq gf2p8mulb gf2p8affineqb gf2p8affineinvqb wbnoinvd serialize".split()
)
"""Names that Capstone knows and CPUID does not announce, or that are #UD by definition."""

REFUSED: Final = {
    ("", 0x8E): "MOV to CS",
    ("0f", 0x20): "a control register that is none",
    ("0f", 0x21): "a debug register that is none",
    ("0f", 0x22): "a control register that is none",
    ("0f", 0x23): "a debug register that is none",
    ("0f", 0xAE): "FXSAVE and kin with a prefix that makes them others",
    ("0f38", 0x82): "INVPCID, which is carried out outside of the engine",
}
"""Known to Capstone and not to the engine, by map and opcode: why that is right."""
WRONG_IN_16_BITS: Final = frozenset((0x12, 0x16, 0x52, 0x53, 0x77, 0xC3))
"""Opcodes of 0F that Capstone takes for those without 66, in 16-bit code."""


def unexplained(row: Row) -> str:
    """What is wrong with a row; empty if nothing is."""
    place = row.map, row.opcode
    name = row.name.removeprefix("lock ").split()[-1] if row.name else ""
    confused = row.bits == 16 and row.prefix == b"\x66"  # Capstone knows little of SSE there
    if row.accepted and not row.name:
        return "" if place in ALIASES or confused else "the engine takes it for something"
    if not row.accepted and row.name:
        explained = place in REFUSED or name in NOT_ANNOUNCED or name.startswith("v") or row.prefix == b"\xf0"
        return "" if explained or (confused and row.opcode in WRONG_IN_16_BITS) else "the engine refuses it"
    jumps = row.name.startswith(BRANCHES) or row.name.startswith("sysret")
    if row.length and row.name and row.length != row.size and not jumps:
        return f"{row.length} bytes were executed, of {row.size}"
    return ""
