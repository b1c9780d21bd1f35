"""What the kernel says of entries, as it is read; and that the pages are what trials need."""

from __future__ import annotations

import pytest

from kstack.probe.memory import said
from kstack.probe.recipe import Bits
from tests.support.command import python

DIRTY = Bits.DIRTY | Bits.PAGE_DIRTY
HEAD = """
import ctypes
from kstack.probe.memory import ProbedMemory
memory = ProbedMemory()
page = memory.pages[{page!r}]
def use(address): return ctypes.c_char.from_address(address).value
def put(address): ctypes.memset(address, 1, 1)
def look(): return int(memory.look(page.target, page.witness))
"""
RECORD = """{head:08x}-{end:08x} rwxs 00000000 00:01 13    /memfd:kstack-probe (deleted)
Size:                  4 kB
Shared_Clean:          {clean} kB
Shared_Dirty:          {dirty} kB
Private_Clean:         0 kB
Private_Dirty:         0 kB
Referenced:            {referenced} kB
Anonymous:             0 kB
VmFlags: rd wr ex sh mr mw me ms
"""


def record(address: int, referenced: int = 0, dirty: int = 0) -> bytes:
    text = RECORD.format(head=address, end=address + 4096, clean=4 - dirty, dirty=dirty, referenced=referenced)
    return text.encode()


def test_a_record_says_whether_its_page_is_referenced_and_dirty() -> None:
    text = record(0x100000) + record(0x102000, referenced=4) + record(0x104000, dirty=4) + record(0x106000, 4, 4)
    found = [said(text, address) for address in (0x100000, 0x102000, 0x104000, 0x106000)]
    assert found == [(False, False), (True, False), (False, True), (True, True)]


def test_a_record_does_not_borrow_what_the_next_one_says() -> None:
    text = record(0x100000).replace(b"Referenced:", b"Anonymous_:") + record(0x102000, 4)
    with pytest.raises(OSError, match="smaps has no Referenced:"):
        said(text, 0x100000)


def test_an_address_is_not_taken_for_the_end_of_another_mapping() -> None:
    assert said(record(0x101000) + record(0x102000, 4), 0x102000) == (True, False)


def looked(page: str, program: str) -> list[Bits]:
    """What the kernel says of a page, as often as a program asks; the pages are in a process of their own."""
    done = python("-c", HEAD.format(page=page) + program)
    assert done.returncode == 0, done.stderr
    return [Bits(int(word)) for word in done.stdout.split()]


@pytest.mark.usefixtures("can_probe")
def test_the_kernel_tells_an_entry_that_is_used_from_one_that_is_not() -> None:
    ready = "use(page.target); use(page.witness); memory.clear(); memory.flush(); print(look())\n"
    before, after, flagged = looked("code", f"{ready}use(page.target); print(look()); use(page.witness); print(look())")
    assert [bits & ~DIRTY for bits in (before, after, flagged)] == [
        Bits(0),
        Bits.ACCESSED,
        Bits.ACCESSED | Bits.PAGE_ACCESSED,
    ]


@pytest.mark.usefixtures("can_probe")
def test_a_page_that_is_made_anew_is_clean_and_a_store_makes_its_entry_dirty() -> None:
    renew = "memory.renew(page); use(page.target); use(page.witness); print(look())"
    used, renewed, stored = looked(
        "fresh",
        f"put(page.alias); use(page.target); use(page.witness); print(look()); {renew}; put(page.target); print(look())",
    )
    assert used & DIRTY == DIRTY, "it is a flag of the page: the store went by another entry"
    assert renewed & DIRTY == Bits(0) and stored & DIRTY == Bits.DIRTY
