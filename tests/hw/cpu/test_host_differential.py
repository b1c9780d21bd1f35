"""Single instructions in ring 3, on the host's own processor and on ours: registers, flags, memory, fault and its RIP."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from capstone import CS_ARCH_X86, CS_MODE_64, Cs
from capstone.x86_const import X86_INS_ENDING

from kstack.guest.asm import assemble
from kstack.x86.addresses import is_canonical
from tests.support.differential import Differential
from tests.support.host_processor import AT, NEVER_GIVEN, HostCannot, is_intel, never_given
from tests.support.random_instructions import Drawn, drawn

INSTRUCTIONS = 1_000
BATCH = 100
MORE = int(os.environ.get("KSTACK_INSTRUCTIONS", "100000"))


@pytest.fixture(scope="module")
def differential() -> Iterator[Differential]:
    try:
        made = Differential()
    except HostCannot as why:
        pytest.skip(f"no instructions can be run on this host: {why}")
    yield made
    made.close()


def _differences(differential: Differential, seeds: range) -> list[str]:
    found = []
    for seed in seeds:
        one, difference = differential.difference(seed)
        if difference:
            found.append(f"seed {seed}: {one.text} ({one.code.hex()}): {difference}")
    return found


@pytest.mark.parametrize("first", range(0, INSTRUCTIONS, BATCH))
def test_random_instructions_do_what_they_do_on_the_hosts_processor(differential: Differential, first: int) -> None:
    assert _differences(differential, range(first, first + BATCH)) == []


@pytest.mark.long
@pytest.mark.slow
def test_many_random_instructions_do_what_they_do_on_the_hosts_processor(differential: Differential) -> None:
    assert _differences(differential, range(INSTRUCTIONS, MORE)) == []


_SINGLE = (b"", *(bytes([byte]) for byte in b"\x66\x67\xf2\xf3\x2e\x3e\x26\x36\x64\x65"))
BRANCH_PREFIXES = tuple(
    dict.fromkeys((*_SINGLE, *(b"\x66" + one for one in _SINGLE), *(one + b"\x66" for one in _SINGLE)))
)
BRANCHES = {
    **{f"jcc_{opcode:02x}": bytes((opcode, 5)) for opcode in range(0x70, 0x80)},
    **{f"jcc_0f{opcode:02x}": bytes((0x0F, opcode, 5, 0, 0, 0)) for opcode in range(0x80, 0x90)},
    **{f"loop_{opcode:02x}": bytes((opcode, 5)) for opcode in range(0xE0, 0xE4)},
    "jmp_eb": b"\xeb\x05",
    "jmp_e9": b"\xe9\x05\0\0\0",
    "call": b"\xe8\x05\0\0\0",
    "ret": b"\xc3",
    "ret_c2": b"\xc2\x08\0",
    "jmp_ff": b"\xff\xe3",
    "jmp_m": b"\xff\x23",
    "call_ff": b"\xff\xd3",
    "call_m": b"\xff\x13",
}


@pytest.mark.skipif(not is_intel(), reason="AMD's processors truncate RIP behind 66, as the engine does")
@pytest.mark.parametrize("rex", [b"", b"\x48", b"\x41"])
def test_branches_behind_every_prefix_go_where_the_hosts_processor_goes(differential: Differential, rex: bytes) -> None:
    found = []
    for seed, (name, code) in enumerate(BRANCHES.items()):
        for number, prefixes in enumerate(BRANCH_PREFIXES):
            state = drawn(seed * 100 + number, differential.host.fresh_fpu).state
            one = Drawn(name, prefixes + rex + code, state)
            difference = differential.compared(one)
            if difference:
                found.append(f"{name} ({one.code.hex()}): {difference}")
    assert found == []


@pytest.mark.parametrize(
    "text",
    [
        "syscall",
        "sysenter",
        "int 0x80",
        "rdtsc",
        "rdrand rax",
        "rdseed eax",
        "cpuid",
        "xgetbv",
        "mov ds, ax",
        "pop fs",
        "popfq",
        "sgdt [rbx]",
        "sidt [rbx]",
        "str ax",
        "smsw ax",
        "hlt",
        "in al, dx",
        "out dx, al",
        "rep outsb",
        "insb",
    ],
)
def test_the_host_is_never_given_what_asks_its_kernel_or_tells_of_it(differential: Differential, text: str) -> None:
    code = assemble(text, AT)
    assert never_given(code)
    with pytest.raises(ValueError, match="not given to the host"):
        differential.host.run(code, drawn(1, differential.host.fresh_fpu).state)


def test_names_of_what_is_never_given_are_the_decoders() -> None:
    decoder = Cs(CS_ARCH_X86, CS_MODE_64)
    known = {decoder.insn_name(number) for number in range(1, X86_INS_ENDING)}
    assert sorted(set(NEVER_GIVEN) - known) == []
    assert not never_given(assemble("add rax, rbx", AT)) and not never_given(assemble("mov rax, [rbx]", AT))


def test_a_difference_is_seen(differential: Differential, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = differential._ours
    monkeypatch.setattr(ours, "run", lambda code, state: type(ours).run(ours, b"\x90" * len(code), state))
    assert len(_differences(differential, range(20))) > 10
    assert AT and is_canonical(AT)
