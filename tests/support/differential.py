"""What may differ between the host's processor and ours after one instruction, and what may not.

Not compared: what the manual leaves undefined (volume 1, appendix A, and each instruction's page), what only approximates
(RCP, RSQRT), the x87's pointers to its last instruction, and what belongs to the system around a program (its segments, whether
it may read the clock).
"""

from __future__ import annotations

from typing import Final

from kstack.x86.flags import Flags
from kstack.x86.registers import Gpr
from tests.support.host_processor import AT, Ended, HostProcessor, State, is_intel, never_given
from tests.support.random_instructions import Drawn, drawn
from tests.support.ring3 import EmulatedRing3

ALL_FLAGS: Final = int(Flags.CF | Flags.PF | Flags.AF | Flags.ZF | Flags.SF | Flags.OF | Flags.DF)
_UNDEFINED: Final = {
    **dict.fromkeys(("mul", "imul"), Flags.SF | Flags.ZF | Flags.AF | Flags.PF),
    **dict.fromkeys(("div", "idiv"), Flags.CF | Flags.OF | Flags.SF | Flags.ZF | Flags.AF | Flags.PF),
    **dict.fromkeys(("and", "or", "xor", "test"), Flags.AF),
    **dict.fromkeys(("shl", "shr", "sar"), Flags.AF | Flags.OF | Flags.CF),
    **dict.fromkeys(("rol", "ror", "rcl", "rcr"), Flags.OF),
    **dict.fromkeys(("bt", "bts", "btr", "btc"), Flags.OF | Flags.SF | Flags.AF | Flags.PF),
    **dict.fromkeys(("bsf", "bsr"), Flags.CF | Flags.OF | Flags.SF | Flags.AF | Flags.PF),
}
SKIPPED: Final = {
    "pushfq": "the host is single-stepped, with TF set",
    "maskmovdqu": "which bytes of no weight it looks at is every processor's own",
    "rcpss": "an approximation, every processor's own",
    "rcpps": "an approximation, every processor's own",
    "rsqrtss": "an approximation, every processor's own",
    "rsqrtps": "an approximation, every processor's own",
}
"""Instructions that are not compared, and why; `never_given` has more."""
DECLARED: Final = {
    "fbstp": "the sign of what is rounded to zero",
}
"""Instructions of which docs/rules.md says that they differ."""
MMX: Final = frozenset(
    (
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
        "emms",
    )
)
"""Those that write MMX registers: Unicorn leaves their upper 16 bits as they were."""
ITERATIONS: Final = 80


class Differential:
    """The host's processor beside ours.

    Raises:
        HostCannot: this host cannot run instructions for us.
    """

    def __init__(self) -> None:
        self.host = HostProcessor()
        self._ours = EmulatedRing3()
        self._is_intel = is_intel()

    def close(self) -> None:
        """End the host's process."""
        self.host.close()

    def difference(self, seed: int) -> tuple[Drawn, str]:
        """Run an instruction by seed on both; what differs that may not, "" if nothing does."""
        one = drawn(seed, self.host.fresh_fpu)
        if _name(one.text) in SKIPPED or never_given(one.code):
            return one, ""
        return one, self.compared(one)

    def compared(self, one: Drawn) -> str:
        """The same of an instruction that is given."""
        host, ours = (self._whole(run, one) for run in (self.host.run, self._ours.run))
        if not self._is_intel and _is_amds_own(one, host, ours):
            return ""
        return _compared(one, host, ours)

    def _whole(self, run, one: Drawn) -> Ended:  # type: ignore[no-untyped-def] # either's
        """A repeated instruction stops behind each iteration, on either."""
        ended = run(one.code, one.state)
        for _ in range(ITERATIONS):
            if ended.fault or ended.rip != AT or not one.text.startswith("rep"):
                break
            ended = run(one.code, ended.state)
        return ended


def undefined_flags(name: str) -> int:
    """Flags that an instruction may leave anyhow."""
    return ALL_FLAGS if name in ("shld", "shrd") else int(_UNDEFINED.get(name, 0))


def _name(text: str) -> str:
    return text.removeprefix("lock ").split()[0]


def _shifts_beyond(one: Drawn) -> bool:
    """Whether SHLD or SHRD shifts a word of memory by more than its 16 bits."""
    name, _, operands = one.text.partition(" ")
    if name not in ("shld", "shrd") or not operands.startswith("word ptr"):
        return False
    count = operands.rpartition(",")[2].strip()
    return (one.state.gpr[Gpr.RCX] if count == "cl" else int(count)) & 31 > 16


def _is_amds_own(one: Drawn, host: Ended, ours: Ended) -> bool:
    """What AMD's processors do otherwise: flags of a repeated instruction that is cut, order of CMPS's operands, steps of ENTER."""
    name = one.text.split()[-1] if one.text.startswith("rep") else one.text.split()[0]
    if name.startswith("cmps") and host.fault and ours.fault:
        return True
    if name == "enter":
        return bool(host.fault and ours.fault)
    return one.text.startswith(("repe", "repne")) and host.rip == ours.rip == AT


def _compared(one: Drawn, host: Ended, ours: Ended) -> str:
    name = _name(one.text)
    if name in DECLARED or (name.startswith("fx") and host.fault and ours.fault):
        return ""  # which of its faults FXSAVE raises first, and for which byte, differs among processors
    if host.fault != ours.fault:
        return f"fault: {host.fault or 'none'} on the host, {ours.fault or 'none'} here"
    if host.fault == "#PF" and host.address >> 12 != ours.address >> 12:
        return f"#PF: {host.address:#x} on the host, {ours.address:#x} here"
    if host.rip != ours.rip:
        return f"RIP: {host.rip:#x} on the host, {ours.rip:#x} here"
    if host.fault == "syscall":
        return ""  # Linux has begun to carry it out
    for number, (theirs, mine) in enumerate(zip(host.state.gpr, ours.state.gpr, strict=True)):
        if theirs != mine and not (name in ("shld", "shrd") and (theirs ^ mine) < 1 << 16):  # undefined beyond 16 bits
            return f"register {number}: {theirs:#x} on the host, {mine:#x} here"
    mask = ALL_FLAGS & ~undefined_flags(name)
    if (host.state.flags ^ ours.state.flags) & mask:
        return f"flags: {host.state.flags & mask:#x} on the host, {ours.state.flags & mask:#x} here"
    if _shifts_beyond(one):
        return ""  # undefined, in memory too
    if host.state.data != ours.state.data and not name.startswith("fx") and not (name == "call" and host.fault):
        at = next(at for at in range(len(host.state.data)) if host.state.data[at] != ours.state.data[at])
        return f"memory: byte {at:#x} is {host.state.data[at]:#x} on the host, {ours.state.data[at]:#x} here"
    if name in ("fbld", "fld"):
        return ""  # digits that are none, signalling NaNs
    return _fpu_compared(name, host.state, ours.state, bool(host.fault))


def _fpu_compared(name: str, host: State, ours: State, faulted: bool) -> str:
    """The registers, and of the status what is not an exception's flag; a fault of MMX leaves TOP changed."""
    for first, last, what in _PLACES[: 2 if faulted else None]:
        for at in range(first, last):
            mask = _MASKS.get(at, 0xFF)
            if (host.fpu[at] ^ ours.fpu[at]) & mask and not (what == "ST" and at % 16 > 7 and name in MMX):
                return f"{what}: byte {at - first} is {host.fpu[at]:#x} on the host, {ours.fpu[at]:#x} here"
    return ""


_PLACES: Final = ((160, 416, "XMM"), (24, 28, "MXCSR"), (0, 2, "FCW"), (2, 4, "FSW"), (4, 5, "FTW"), (32, 160, "ST"))
_MASKS: Final = {0: 0x3F, 1: 0x1F, 2: 0, 3: 0x78, 24: 0xC0}
