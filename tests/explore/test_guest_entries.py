"""Page-table entries that guest code stores to are explored, in every form of store; what cannot be followed is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from kstack.base.errors import ConfigError, ScenarioError
from kstack.explore.breadth_first import Bounds, Outcome, Problem, search
from kstack.explore.dpor import dpor
from kstack.hw.modes import Modes

ORDERS: Final = ("sc", "tso", "tso-walks-memory")
EVERY: Final = Bounds(every_move=True)

PAGES: Final = """
.bss
.p2align 13                            # so that one bit is between the frames of x and y
x:
    .zero 4096
y:
    .zero 4096
z:
    .zero 4096
"""
# rbx = the entry of x, rsi and rdi the entries that map x's and y's frame there, rdx what leads from one to the other
PREPARE: Final = """
    mov qword ptr [rip+y], 7
    lea rdi, [rip+x]
    call kernel_pte
    mov rbx, rax
    mov rsi, [rbx]
    lea rdi, [rip+y]
    lea rcx, [rip+x]
    sub rdi, rcx
    mov rdx, rdi
    add rdi, rsi
"""
READ: Final = """
gone:                                   # somebody has set Accessed: CPU 1 has nothing to read
    mov qword ptr [r15], 2
    jmp litmus_end
program_1:
.Lawait:
    mov rax, [r15]
    test rax, rax
    jz .Lawait
    cmp rax, 2
    je litmus_end
    {first}
    cmp qword ptr [rip+x], 7
    jne litmus_wrong
    jmp litmus_end
"""
STORES: Final = {
    "mov r64": "mov [rbx], rdi",
    "mov r32, of the half with the frame's low bits": "mov [rbx], edi",
    "mov r16": "mov [rbx], di",
    "mov r8": "shr rdi, 8\n mov [rbx+1], dil",
    "xchg": "xchg [rbx], rdi",
    "lock cmpxchg": "mov rax, rsi\n lock cmpxchg [rbx], rdi\n jnz gone",
    "cmpxchg": "mov rax, rsi\n cmpxchg [rbx], rdi\n jnz gone",
    "lock cmpxchg8b": "mov eax, esi\n mov rdx, rsi\n shr rdx, 32\n mov rcx, rdx\n mov r8, rbx\n mov ebx, edi\n"
    " lock cmpxchg8b qword ptr [r8]\n jnz gone",
    "lock add": "lock add [rbx], rdx",
    "add": "add [rbx], rdx",
    "lock xadd": "lock xadd [rbx], rdx",
    "xadd": "xadd [rbx], rdx",
    "lock xor": "xor rsi, rdi\n lock xor [rbx], rsi",
    "xor": "xor rsi, rdi\n xor [rbx], rsi",
    "lock btc": "lock btc qword ptr [rbx], 12",
    "btc": "btc qword ptr [rbx], 12",
    "movq": "movq xmm0, rdi\n movq [rbx], xmm0",
    "movdqu, with the neighbour's entry": "movdqu xmm0, [rbx]\n movq xmm1, rdi\n movsd xmm0, xmm1\n movdqu [rbx], xmm0",
    "movnti": "movnti [rbx], rdi\n sfence",
    "stosq": "mov rax, rdi\n mov rdi, rbx\n stosq",
    "rep stosq": "mov rax, rdi\n mov rdi, rbx\n mov ecx, 1\n rep stosq",
    "movsq": "mov [rsp-64], rdi\n lea rsi, [rsp-64]\n mov rdi, rbx\n movsq",
    "push": "mov r8, rsp\n cli\n lea rsp, [rbx+8]\n push rdi\n mov rsp, r8\n sti",
    "pop": "push rdi\n pop qword ptr [rbx]",
}
"""Ways to make x's entry map y's frame. What is left out stores more than an entry (XSAVE, FXSAVE, ENTER)."""


def scenario(folder: Path, programs: str, managed: tuple[str, ...] = ("x", "y"), count: int = 2) -> str:
    names = ", ".join(f"program_{cpu}" for cpu in range(count))
    (folder / "entries.s").write_text(
        f'.text\n{programs}\n.section .rodata\nscenario_name:\n    .asciz "entries"\n.p2align 3\nscenario_pool:\n'
        f"    .quad 48\nlitmus_stacks:\n    .quad 1\nlitmus_programs:\n    .quad {names}, 0\n{PAGES}"
    )
    toml = folder / "entries.toml"
    listed = ", ".join(f'"{name}"' for name in managed)
    toml.write_text(
        f'id = "entries"\ntitle = "entries"\nquestion = "?"\nsource = "a test"\ncpus = {count}\n'
        'sources = ["lib_litmus.s", "entries.s"]\nsuccess = ""\nevents = ["ready", "done", "wrong"]\n'
        f'concerns = ["wrong-data"]\nlitmus = true\nmanaged = [{listed}]\n[mutant]\npolicy = "switch-sp"\n'
    )
    return str(toml)


def explored(toml: str, bounds: Bounds | None = None, **modes: str) -> Outcome:
    return search(Problem(toml, "fixed-16k", Modes(**modes)), bounds or Bounds())


def remapped(store: str, first: str = "") -> str:
    """CPU 0 remaps x to y's frame and says so, CPU 1 reads x then."""
    body = "\n    ".join(store.split("\n"))
    return (
        f"program_0:\n{PREPARE}    {body}\n    mov qword ptr [r15], 1\n    jmp litmus_end\n{READ.format(first=first)}"
    )


@pytest.mark.parametrize("order", [*ORDERS[:2], pytest.param(ORDERS[2], marks=pytest.mark.long)])
@pytest.mark.parametrize("store", STORES)
def test_a_remap_by_any_store_without_an_invalidation_is_found(store: str, order: str, tmp_path: Path) -> None:
    found = explored(scenario(tmp_path, remapped(STORES[store])), memory_order=order)
    assert found.verdict == "unsafe", store
    assert found.finding is not None and "through its cached translation" in found.finding.text


@pytest.mark.parametrize("order", [*ORDERS[:2], pytest.param(ORDERS[2], marks=pytest.mark.long)])
@pytest.mark.parametrize("store", STORES)
def test_with_an_invalidation_it_is_proved(store: str, order: str, tmp_path: Path) -> None:
    found = explored(scenario(tmp_path, remapped(STORES[store], "invlpg [rip+x]")), memory_order=order)
    assert (found.verdict, found.complete) == ("safe", True)
    assert found.exercised


def test_without_speculation_a_cpu_that_never_looked_has_nothing_stale(tmp_path: Path) -> None:
    toml = scenario(tmp_path, remapped("mov [rbx], rdi"))
    assert explored(toml, speculation="none").verdict == "safe"
    toml = scenario(tmp_path, remapped("mov [rbx], rdi").replace("program_1:", "program_1:\n    mov rax, [rip+x]"))
    assert explored(toml, speculation="none").verdict == "unsafe"


def test_where_fills_need_accessed_a_cpu_that_never_looked_has_what_another_one_has_accessed(tmp_path: Path) -> None:
    cold = remapped("mov [rbx], rdi")
    toml = scenario(tmp_path, cold)
    assert explored(toml, speculation="needs-accessed").verdict == "safe"
    toml = scenario(tmp_path, cold.replace("program_0:", "program_0:\n    mov rax, [rip+x]"))
    assert explored(toml, speculation="needs-accessed").verdict == "unsafe"
    assert explored(toml, speculation="none").verdict == "safe"


# --- the store waits in the buffer

STORED_LATE: Final = """
program_0:
    lea rdi, [rip+x]
    call kernel_pte
    mov rsi, [rax]
    {clear}
    {fence}
    cmp qword ptr [r15], 0
    je .Lfirst
    jmp litmus_end
.Lfirst:
    mov qword ptr [r15+8], 1
    jmp litmus_end
program_1:
    mov qword ptr [r15], 1
    mfence
    lea rdi, [rip+x]
    call kernel_pte
    test qword ptr [rax], 1
    jz litmus_end
    L_AWAIT 8, 1
    jmp litmus_wrong
"""


@pytest.mark.parametrize("bounds", [Bounds(), EVERY])
@pytest.mark.parametrize(
    ("order", "fence", "verdict"),
    [("sc", "", "safe"), ("tso", "", "unsafe"), ("tso-walks-memory", "", "unsafe"), ("tso", "mfence", "safe")],
)
def test_a_store_to_an_entry_takes_the_buffers_way(
    order: str, fence: str, verdict: str, bounds: Bounds, tmp_path: Path
) -> None:
    """Store buffering between an entry and a word: each CPU may miss the other's store, unless there are fences."""
    program = STORED_LATE.format(clear="mov qword ptr [rax], 0", fence=fence)
    program = program.replace(
        "    L_AWAIT 8, 1\n    jmp litmus_wrong",
        "    cmp qword ptr [r15+8], 1\n    je litmus_wrong\n    jmp litmus_end",
    )
    found = explored(scenario(tmp_path, program), bounds, memory_order=order)
    assert found.verdict == verdict


# --- reads and writes apart

COUNTED: Final = """
program_0:
    {add} qword ptr [r15], 1
    lock inc qword ptr [r15+8]
    L_AWAIT 8, 2
    cmp qword ptr [r15], 2
    jne litmus_wrong
    jmp litmus_end
program_1:
    {add} qword ptr [r15], 1
    lock inc qword ptr [r15+8]
    jmp litmus_end
"""


@pytest.mark.parametrize("order", [*ORDERS[:2], pytest.param(ORDERS[2], marks=pytest.mark.long)])
@pytest.mark.parametrize(("add", "verdict"), [("add", "unsafe"), ("lock add", "safe")])
def test_an_unlocked_read_modify_write_can_lose_an_update(add: str, verdict: str, order: str, tmp_path: Path) -> None:
    assert explored(scenario(tmp_path, COUNTED.format(add=add)), memory_order=order).verdict == verdict


@pytest.mark.parametrize(
    ("take", "verdict"),
    [
        ("mov [rbx], rdi", "unsafe"),  # a walker may have set Accessed between the load and the store
        ("mov rax, rsi\n    lock cmpxchg [rbx], rdi\n    jnz gone", "safe"),
    ],
)
def test_guest_code_that_takes_an_entry_with_accessed_clear_races_the_walker(
    take: str, verdict: str, tmp_path: Path
) -> None:
    """Lutomirski's plain store and Hansen's compare-and-exchange, in guest code on ordinary pages."""
    prepared = PREPARE + "    test esi, 0x20\n    jnz gone\n"
    program = (
        f"program_0:\n{prepared}    {take}\n    mov qword ptr [r15], 1\n    jmp litmus_end\n{READ.format(first='')}"
    )
    assert explored(scenario(tmp_path, program)).verdict == verdict
    assert explored(scenario(tmp_path, program), speculation="keeps-accessed-clear").verdict == "unsafe"


# --- rights

PROTECTED: Final = """
program_0:
    lea rdi, [rip+x]
    call kernel_pte
    btr qword ptr [rax], 1
    {between}
    bts qword ptr [rax], 1
    mov qword ptr [r15], 1
    jmp litmus_end
program_1:
    L_AWAIT 0, 1
    {first}
    mov qword ptr [rip+x], 9
    cmp qword ptr [rip+x], 9
    jne litmus_wrong
    jmp litmus_end
"""


@pytest.mark.parametrize(("first", "verdict"), [("", "unsafe"), ("invlpg [rip+x]", "safe")])
def test_rights_that_were_cached_can_refuse_what_the_tables_allow(first: str, verdict: str, tmp_path: Path) -> None:
    """SDM 4.10.4.3: a spurious page fault, which this guest does not take."""
    toml = scenario(tmp_path, PROTECTED.format(between="mov rcx, [rip+x]", first=first))
    found = explored(toml)
    assert found.verdict == verdict
    assert verdict == "safe" or (found.finding is not None and found.finding.kind.value == "unhandled-fault")


WRITE_PROTECT: Final = """
program_0:
    lea rdi, [rip+x]
    call kernel_pte
    lock btr qword ptr [rax], 1
    {invalidate}
    mov qword ptr [r15], 1
    mov rdx, [rip+x]
    L_AWAIT 8, 1
    cmp rdx, [rip+x]
    jne litmus_wrong
    jmp litmus_end
program_1:
    mov qword ptr [rip+x], 5
    L_AWAIT 0, 1
    mov qword ptr [rip+x], 6
    mov qword ptr [r15+8], 1
    jmp litmus_end
"""


def test_a_store_can_go_through_rights_that_were_taken_away(tmp_path: Path) -> None:
    """Dirty tracking without a flush: what CPU 1 has cached with D=1 and W=1 goes on to serve."""
    found = explored(scenario(tmp_path, WRITE_PROTECT.format(invalidate="invlpg [rip+x]")))
    assert found.verdict == "unsafe"
    assert found.finding is not None and found.finding.kind.value == "wrong-data"


# --- frames, not linear addresses

ALIASED: Final = """
program_0:
    lea rbx, [rip+z]
    and ebx, 0x7fffffff
    movabs rcx, 0xffff888000000000
    add rbx, rcx
    mov qword ptr [rbx], 1
    mov rax, [rbx+8]
    cmp rax, {first}
    je litmus_wrong
    jmp litmus_end
program_1:
    mov qword ptr [rip+z+8], 1
    mov rax, [rip+z]
    cmp rax, {second}
    je litmus_wrong
    jmp litmus_end
"""


@pytest.mark.parametrize(("first", "second"), [(0, 5), (1, 5), (5, 0), (5, 1)])
def test_two_names_of_one_frame_are_shared(first: int, second: int, tmp_path: Path) -> None:
    """CPU 0 knows it by the direct map, CPU 1 by the image: each sees the other's store, or not."""
    assert explored(scenario(tmp_path, ALIASED.format(first=first, second=second))).verdict == "unsafe"


# --- what invalidates

FLUSHES: Final = {
    "invlpg [rip+x]": "safe",
    "mov rax, cr3\n    mov cr3, rax": "unsafe",  # spares global pages
    "mov rax, cr4\n    mov rcx, rax\n    and rax, -129\n    mov cr4, rax\n    mov cr4, rcx": "safe",
}


@pytest.mark.parametrize("flush", FLUSHES)
def test_a_flush_drops_what_it_must(flush: str, tmp_path: Path) -> None:
    found = explored(scenario(tmp_path, remapped("mov [rbx], rdi", flush)))
    assert found.verdict == FLUSHES[flush]


@pytest.mark.parametrize(("bit", "verdict"), [(8, "safe"), (9, "unsafe")])
def test_a_load_of_cr3_drops_what_is_not_global(bit: int, verdict: str, tmp_path: Path) -> None:
    """Both entries of x lose G (bit 8), and CPU 1 drops what it had before; or they lose a bit that means nothing."""
    local = (
        f"btr rdi, {bit}\n btr rsi, {bit}\n mov [rbx], rsi\n mov qword ptr [r15+16], 1\n L_AWAIT 8, 1\n mov [rbx], rdi"
    )
    drops = "program_1:\n    L_AWAIT 16, 1\n    invlpg [rip+x]\n    mov qword ptr [r15+8], 1\n.Lawait"
    program = remapped(local, "mov rax, cr3\n    mov cr3, rax").replace("program_1:\n.Lawait", drops)
    assert explored(scenario(tmp_path, program)).verdict == verdict


# --- refused

REFUSED: Final = {
    "an entry above the leaves": (
        """program_0:
    movabs rax, 0xffff888000005000
    mov rcx, [rax]
    xor rcx, 4
    mov [rax], rcx
    jmp litmus_end
""",
        "above the leaves",
    ),
    "Accessed in an entry above the leaves": (
        """program_0:
    movabs rax, 0xffff888000005000
    and qword ptr [rax], -33
    jmp litmus_end
""",
        "above the leaves",
    ),
    "the entry of a page that is not managed": (
        """program_0:
    lea rdi, [rip+z]
    call kernel_pte
    btc qword ptr [rax], 1
    jmp litmus_end
""",
        r"entry of z .*not managed: name it",
    ),
    "code in a managed page": (
        "program_0:\n    lea rax, [rip+x]\n    mov byte ptr [rax], 0xc3\n    call rax\n    jmp litmus_end\n",
        "executes from the managed page",
    ),
    "an event frame on a managed page": (
        "program_0:\n    lea rcx, [rip+x+0x800]\n    cli\n    mov rsp, rcx\n    ud2\n",
        "by itself",
    ),
    "several managed pages in one instruction": (
        f"program_0:\n    mov qword ptr [rip+x], 1\n{PREPARE}    mov [rbx], rdi\n    lea rsi, [rip+y]\n    lea rdi, [rip+x]\n    movsq\n    jmp litmus_end\n",
        "several managed pages",
    ),
    "a device": ("program_0:\n    mov edx, 0x3ff\n    mov al, 1\n    out dx, al\n    jmp litmus_end\n", "port 0x3ff"),
    "a device that is read": ("program_0:\n    in al, 0x21\n    jmp litmus_end\n", "port 0x21"),
    "a string from a device": (
        "program_0:\n    mov edx, 0x70\n    lea rdi, [rip+z]\n    insb\n    jmp litmus_end\n",
        "port 0x70",
    ),
    "the clock": ("program_0:\n    rdtsc\n    jmp litmus_end\n", "reads the clock"),
    "a timer": (
        """program_0:
    movabs rax, APIC_BASE
    mov dword ptr [rax+APIC_LVT_TIMER], 0x30
    mov dword ptr [rax+APIC_TIMER_INIT], 1000
    jmp litmus_end
""",
        "starts its timer",
    ),
    "an NMI": (
        "program_0:\n    mov edi, 1\n    mov esi, ICR_NMI\n    call send_ipi\n    jmp litmus_end\n",
        "sends NMI",
    ),
    "INIT": (
        "program_0:\n    mov edi, 1\n    mov esi, 0x4500\n    call send_ipi\n    jmp litmus_end\n",
        "sends INIT",
    ),
    "another table in CR3": (
        """program_0:
    movabs rdi, 0xffff888000002000
    movabs rsi, 0xffff888000001000
    mov ecx, 512
    rep movsq
    mov eax, 0x2000
    mov cr3, rax
    jmp litmus_end
""",
        "CR3|above the leaves",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_explored_is_refused_by_name(what: str, tmp_path: Path) -> None:
    program, message = REFUSED[what]
    with pytest.raises(ScenarioError, match=message):
        explored(scenario(tmp_path, program + "program_1:\n    jmp litmus_end\n"))


@pytest.mark.parametrize(
    ("managed", "message"),
    [
        ("nowhere", "no symbol nowhere"),
        ("x y", "write a symbol or an address"),
        ("x:0", "give 1 to"),
        ("0xffff888000400000", "no entry of 4 KiB"),
        ("0x1000000000", "no entry of 4 KiB"),
    ],
)
def test_a_page_that_cannot_be_managed_is_refused_by_name(managed: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=message):
        explored(scenario(tmp_path, "program_0:\n    jmp litmus_end\n", (managed,), 1))


@pytest.mark.parametrize(("mode", "value"), [("dirty_rewalk", "no"), ("tlb", "capacity 4")])
def test_a_mode_that_cannot_be_explored_is_refused_by_name(mode: str, value: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be explored"):
        explored(scenario(tmp_path, "program_0:\n    jmp litmus_end\n", count=1), **{mode: value})


def test_pages_are_named_by_symbol_offset_address_and_number(tmp_path: Path) -> None:
    program = remapped("mov [rbx], rdi", "invlpg [rip+x]")
    for managed in (("x:2",), ("x", "x+0x1000"), ("x", "z+0x1000", "y")):
        assert explored(scenario(tmp_path, program, managed)).verdict == "safe"


# --- the engines agree, and say what they have done in one piece


@pytest.mark.parametrize(("store", "first"), [("add", ""), ("lock cmpxchg", "invlpg [rip+x]"), ("movsq", "")])
def test_the_engines_agree(store: str, first: str, tmp_path: Path) -> None:
    toml = scenario(tmp_path, remapped(STORES[store], first))
    by_executions = dpor(Problem(toml, "fixed-16k", Modes()))
    assert by_executions.verdict == explored(toml, EVERY).verdict == explored(toml).verdict


def test_what_was_done_in_one_piece_is_said(tmp_path: Path) -> None:
    moved = "program_0:\n    mov rdi, r15\n    lea rsi, [r15+64]\n    movsq\n    jmp litmus_end\n"
    other = "program_1:\n    mov qword ptr [r15], 1\n    jmp litmus_end\n"
    assert explored(scenario(tmp_path, moved + other)).stronger == ("program_0+0x7",)
    assert explored(scenario(tmp_path, other.replace("1:", "0:") + other)).stronger == ()


def test_a_proof_in_which_nothing_could_go_two_ways_says_that_it_asks_nothing(tmp_path: Path) -> None:
    other = "program_{}:\n    mov qword ptr [r15], 1\n    jmp litmus_end\n"
    assert explored(scenario(tmp_path, other.format(0) + other.format(1))).asks_nothing
    assert not explored(scenario(tmp_path, remapped("mov [rbx], rdi", "invlpg [rip+x]"))).asks_nothing
