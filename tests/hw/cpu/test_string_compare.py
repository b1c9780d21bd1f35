"""PCMPxSTRx, held to the tables of the manual as they are printed (SDM volume 2, 4.1), and how they fault."""

from __future__ import annotations

import random

import pytest

from kstack.hw.cpu.string_compare import compare
from kstack.x86.flags import Flags
from kstack.x86.registers import Gpr
from kstack.x86.vectors import GP, NM, PF, UD
from tests.support.long_mode import AREA, PLAIN, LongModeGuest


def _by_the_tables(
    control: int, first: bytes, second: bytes, lengths: tuple[int, int] | None
) -> tuple[int, bytes, int]:
    """BoolRes as a matrix with its overrides, IntRes1, IntRes2, outputs: step by step, as 4.1.3 to 4.1.6 have them."""
    size, count = (2, 8) if control & 1 else (1, 16)
    signed = bool(control & 2)
    one, two = (
        [int.from_bytes(s[size * n : size * (n + 1)], "little", signed=signed) for n in range(count)]
        for s in (first, second)
    )
    if lengths is None:
        valid = [[all(s[: n + 1]) for n in range(count)] for s in (one, two)]
    else:
        valid = [[n < min(abs(length), count) for n in range(count)] for length in lengths]
    how = control >> 2 & 3
    matrix = [[False] * count for _ in range(count)]  # [of the first][of the second]
    for i in range(count):
        for j in range(count):
            bit = one[i] == two[j] if how != 1 else (two[j] >= one[i] if i % 2 == 0 else two[j] <= one[i])
            if not (valid[0][i] and valid[1][j]):
                both = not valid[0][i] and not valid[1][j]
                bit = {0: False, 1: False, 2: both, 3: not valid[0][i]}[how]
            matrix[i][j] = bit
    if how == 0:
        bits = [any(matrix[i][j] for i in range(count)) for j in range(count)]
    elif how == 1:
        bits = [any(matrix[i][j] and matrix[i + 1][j] for i in range(0, count, 2)) for j in range(count)]
    elif how == 2:
        bits = [matrix[j][j] for j in range(count)]
    else:
        bits = [all(matrix[i][i + j] for i in range(count - j)) for j in range(count)]
    if control >> 4 & 3 == 1:
        bits = [not bit for bit in bits]
    elif control >> 4 & 3 == 3:
        bits = [not bit if valid[1][j] else bit for j, bit in enumerate(bits)]
    ones = [j for j in range(count) if bits[j]]
    index = count if not ones else max(ones) if control & 0x40 else min(ones)
    mask = sum(1 << j for j in ones).to_bytes(16, "little")
    if control & 0x40:
        mask = b"".join(bytes([255 * bit]) * size for bit in bits)
    flags = Flags.CF * bool(ones) | Flags.OF * bits[0]
    flags |= Flags.SF * (not all(valid[0])) | Flags.ZF * (not all(valid[1]))
    return index, mask, int(flags)


@pytest.mark.parametrize("control", range(128))
def test_each_control_byte_does_what_the_tables_say(control: int) -> None:
    random_ = random.Random(control)
    for _ in range(60):
        first, second = (bytes(random_.choice((0, 1, 2, 3, 0x80, 0xFF)) for _ in range(16)) for _ in range(2))
        if random_.random() < 0.3:
            second = (first[:4] * 4)[random_.randrange(4) :].ljust(16, b"\1")
        choices = (0, 1, 2, 3, 5, 8, 9, 15, 16, 17, -1, -7, -16, -17, 1 << 31, -(1 << 31))
        for lengths in (None, (random_.choice(choices), random_.choice(choices))):
            found = compare(control, first, second, *(lengths or (None, None)))
            assert tuple(found) == _by_the_tables(control, first, second, lengths)


def _guest(**more: int) -> LongModeGuest:
    guest = LongModeGuest(**more)
    guest.map(AREA, guest.frame(), PLAIN)
    return guest


@pytest.mark.parametrize("base", ["rax", "rdx"])
def test_lengths_are_addresses_as_well(base: str) -> None:
    guest = _guest()
    address = {base: AREA + 0x123}
    guest.run(f"pcmpeqd xmm1, xmm1\npcmpestri xmm1, xmmword ptr [{base}], 0x18", **address)
    assert guest.vector() is None
    assert guest.gpr(Gpr.RCX) == 0
    assert guest.gpr(Gpr.RAX if base == "rax" else Gpr.RDX) == AREA + 0x123


def test_rex_w_takes_lengths_of_64_bits() -> None:
    guest = _guest()
    narrow, wide = ".byte 0x66, 0x0f, 0x3a, 0x61, 0xc1, 0", ".byte 0x66, 0x48, 0x0f, 0x3a, 0x61, 0xc1, 0"
    for text, flags in ((narrow, Flags.ZF | Flags.SF), (wide, 0)):
        guest.run(f"{text}\npushfq\npop rbx", rax=1 << 32, rdx=1 << 32)
        assert guest.gpr(Gpr.RBX) & (Flags.ZF | Flags.SF) == flags


def test_the_mask_goes_to_xmm0_and_the_upper_half_of_rcx_is_cleared() -> None:
    guest = _guest()
    guest.run("pxor xmm2, xmm2\npcmpeqd xmm3, xmm3\npcmpistrm xmm3, xmm2, 0x18\nmovq rbx, xmm0")
    assert guest.gpr(Gpr.RBX) == 0xFFFF
    guest.run("pxor xmm2, xmm2\npcmpistri xmm2, xmm2, 0", rcx=(1 << 64) - 1)
    assert guest.gpr(Gpr.RCX) == 16


@pytest.mark.parametrize(
    ("cr0", "cr4", "address", "vector"),
    [(0, 0, AREA + 0xFF8, PF), (0, 0, 1 << 63, GP), (8, 0, AREA, NM), (4, 0, AREA, UD)],
)
def test_faults_come_in_their_order(cr0: int, cr4: int, address: int, vector: int) -> None:
    guest = _guest(cr0=cr0, cr4=cr4)
    guest.run("pcmpistri xmm2, xmmword ptr [rbx], 0", rbx=address, rcx=77)
    assert guest.vector() == vector
    assert guest.gpr(Gpr.RCX) == 77
