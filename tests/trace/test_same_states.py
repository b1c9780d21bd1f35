"""Nothing is different in a machine that is traced, or whose slices are cut elsewhere: hostile guests tell.

Those that do tell are seeds with what docs/rules.md says is not modelled: flags that are undefined, blocks that reach into the next
page, instructions that store into themselves.
"""

from __future__ import annotations

import random
from typing import Final

import pytest

from kstack.machine import Machine, MachineConfig
from kstack.x86.registers import Gpr
from tests.fuzz import hostile_runs
from tests.support.hostile_guests import RAM
from tests.support.long_mode import LongModeGuest
from tests.support.traces import follow

FOUND: Final = (1041, 1590, 1681, 1537, 1563, 1668)
"""Seeds by which something was found that was different, and is not any more."""
TELL: Final = (1019, 1055)


def machine_of(seed: int) -> Machine:
    machine = Machine(MachineConfig(1 + seed % 2, RAM))
    hostile_runs.start(machine, random.Random(seed), hypercalls=False)
    return machine


def end(machine: Machine, seed: int, at_once: int = 1 << 20) -> str:
    """The state after twenty slices, run in pieces of so many units at most."""
    rng = random.Random(seed)
    for number in range(20):
        left, cpu = rng.randrange(1, 60), number % (1 + seed % 2)
        while left > 0:
            elapsed = machine.run(cpu, min(left, at_once)).elapsed
            left -= elapsed or left
    return machine.state_hash()


@pytest.mark.parametrize("seed", [*FOUND, *range(1000, 1018)])
def test_a_hostile_guest_ends_as_it_does(seed: int) -> None:
    plain, traced = end(machine_of(seed), seed), machine_of(seed)
    follow(traced)
    assert end(traced, seed) == plain, "traced"
    for at_once in (1, 3, 17):
        assert end(machine_of(seed), seed, at_once) == plain, f"{at_once} units at once"


@pytest.mark.parametrize("seed", TELL)
def test_what_is_not_modelled_shows(seed: int) -> None:
    """If it does not any more, docs/rules.md is to say so."""
    assert end(machine_of(seed), seed, 1) != end(machine_of(seed), seed)


# --- flags, each way back to an instruction


def flags(text: str, traced: bool, units: tuple[int, ...] = (100,), **registers: int) -> tuple[int, int]:
    """RAX and RFLAGS at the end of a program, run in these slices."""
    own = LongModeGuest()
    own.start(own.kernel_code(text), **registers)
    if traced:
        follow(own.machine)
    for number in units:
        own.machine.run(0, number)
    return own.gpr(Gpr.RAX), own.machine.cpus[0].registers.rflags


@pytest.mark.parametrize(
    ("text", "units"),
    [
        (
            "sub rsp, 64\nsgdt [rsp]\nadd bl, bh\nlgdt [rsp]\npushfq\npop rax\nhlt",
            (100,),
        ),  # RIP is made right for an access
        ("add bl, bh\nlgdt [rsp - 64]\nhlt", (2,)),
        ("add bl, bh\nmov cl, [rdx]\nhlt", (1, 100)),  # the first of a block faults
        ("add bl, bh\nadd [rdx], cl\nhlt", (1, 1, 100)),
        ("add bl, bh\nadd byte ptr [rip + next], 0\nnext: nop\npushfq\npop rax\nhlt", (100,)),  # stores into its block
        ("add bl, bh\nmov byte ptr [rip + next], 0x90\nnext: nop\npushfq\npop rax\nhlt", (100,)),
        ("add bl, bh\nlock add byte ptr [rip + next], 0\nnext: nop\npushfq\npop rax\nhlt", (100,)),
        ("add bl, bh\nmov ecx, 3\nlea rdi, [rsp - 64]\nstd\nrep stosb\ncld\npushfq\npop rax\nhlt", (100,)),
        ("add bl, bh\nud2", (100,)),
        ("add bl, bh\nint3", (100,)),
        ("add bl, bh\nin al, dx\npushfq\npop rax\nhlt", (100,)),
    ],
)
@pytest.mark.parametrize("operands", [(0, 0), (0x80, 0x80), (0xFF, 1), (0x0F, 1), (0x7F, 1), (1, 2)])
def test_flags_are_as_they_are(text: str, units: tuple[int, ...], operands: tuple[int, int]) -> None:
    registers = {"rbx": operands[0] | operands[1] << 8, "rdx": 1 << 39, "rcx": 1}
    assert flags(text, True, units, **registers) == flags(text, False, units, **registers)
