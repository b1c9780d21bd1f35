"""The memory that is probed: a few pages of this process, each mapped several times, and what the kernel says of them.

    0x100000 + page:
      0  never mapped, as all between: no access to a page comes near another by accident
      1  `before`   the page below the target: where a hardware prefetcher comes from
      2  `target`   of the page CODE: the entry that is asked about
      4  `witness`  of the same page: what nobody uses, so that Referenced there is a flag of the page
      6, 8          the same two of the page FRESH
     10  `sealed`   CODE once more, for reading alone: stores and fetches fault
     12, 14         `alias` of the two: by it lines are flushed and reloaded
     16  `decoy`    what is attacked where nothing shall be
     18  `cold`     a word of it is decided late

All of it lies low, so that smaps, which is in the order of addresses, need not be read further.

Linux alone.  Not asked: pages of 2 MiB or 1 GiB (each page has a file of its own, which is 4 KiB long).
"""

from __future__ import annotations

import ctypes
import mmap
import os
from contextlib import suppress
from typing import Final, NamedTuple

from kstack.probe.recipe import CODE, FRESH, Bits

CLEAR_REFS, SMAPS = "/proc/self/clear_refs", "/proc/self/smaps"
PAGE: Final = 4096
BASE: Final = 0x100000
PAGES: Final = 20
FLUSHING: Final = 64
"""Pages whose rights change: more than 33, and Linux flushes the whole TLB (tlb_single_page_flush_ceiling)."""
RET: Final = 0xC3

READ, READ_WRITE = mmap.PROT_READ, mmap.PROT_READ | mmap.PROT_WRITE
EXECUTE, ALL = READ | mmap.PROT_EXEC, READ_WRITE | mmap.PROT_EXEC
PROT_NONE: Final = 0
MAP_FIXED: Final = 0x10
MAP_FIXED_NOREPLACE: Final = 0x100000
MFD_EXEC: Final = 0x10  # Linux 6.3; before, every memfd is
FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE = 1, 2
CLEAR_MAPPED: Final = b"3"  # Referenced of all that maps a file, as our pages do

libc: Final = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long)


def done(result: int, what: str) -> int:
    """The result of a call of the C library.

    Raises:
        OSError: it was -1, with `what` as the file's name.
    """
    if result in (-1, None):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result


def map_pages(address: int | None, count: int, rights: int, file: int = -1, flags: int = 0) -> int:
    """Map pages of a file, or of none; the address.

    Raises:
        OSError: the kernel refuses it.
    """
    kind = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS if file < 0 else mmap.MAP_SHARED
    found = libc.mmap(address, count * PAGE, rights, kind | flags, file, 0)
    return done(-1 if found == ctypes.c_void_p(-1).value else found, "mmap")


def protect(address: int, count: int, rights: int) -> None:
    """Change the rights of pages.

    Raises:
        OSError: the kernel refuses it.
    """
    done(libc.mprotect(address, count * PAGE, rights), "mprotect")


class ProbedPage(NamedTuple):
    """A page, by the addresses at which it is mapped.

    Attributes:
        target: the entry that is asked about.
        witness: an entry that nobody uses.
        alias: by which its lines are flushed and reloaded.
        file: that it is.
    """

    target: int
    witness: int
    alias: int
    file: int


def _file() -> int:
    """A page that several addresses can share.

    Raises:
        OSError: the kernel refuses it.
    """
    try:
        found = os.memfd_create("kstack-probe", os.MFD_CLOEXEC | MFD_EXEC)
    except OSError:  # an older kernel does not know the flag; what else is wrong is wrong without it too
        found = os.memfd_create("kstack-probe", os.MFD_CLOEXEC)
    os.ftruncate(found, PAGE)
    return found


class ProbedMemory:
    """All that is mapped for trials.

    Raises:
        OSError: the kernel refuses it.
    """

    def __init__(self) -> None:
        self.base = self._reserve()
        self.pages = {CODE: self._page(2, 4, 12, ALL), FRESH: self._page(6, 8, 14, READ_WRITE)}
        self.before = self._at(1, READ_WRITE, _file())
        self.sealed = self._at(10, READ, self.pages[CODE].file)
        self.decoy = self._at(16, ALL, _file())
        self.cold = self._at(18, READ_WRITE)
        self._flushing = map_pages(None, FLUSHING, READ_WRITE)
        for address, count in ((self.pages[CODE].alias, 1), (self.decoy, 1), (self._flushing, FLUSHING)):
            ctypes.memset(address, RET, count * PAGE)
        self._clear = os.open(CLEAR_REFS, os.O_WRONLY)
        self._smaps = os.open(SMAPS, os.O_RDONLY)

    def _reserve(self) -> int:
        """Room for all of it; not low where that is taken."""
        with suppress(OSError):
            return map_pages(BASE, PAGES, PROT_NONE, flags=MAP_FIXED_NOREPLACE)
        return map_pages(None, PAGES, PROT_NONE)

    def _at(self, place: int, rights: int, file: int = -1) -> int:
        return map_pages(self.base + place * PAGE, 1, rights, file, MAP_FIXED)

    def _page(self, target: int, witness: int, alias: int, rights: int) -> ProbedPage:
        file = _file()
        addresses = self._at(target, rights, file), self._at(witness, READ, file), self._at(alias, READ_WRITE, file)
        return ProbedPage(*addresses, file)

    def flush(self) -> None:
        """Drop all of this CPU's translations of this process: rights of many pages shrink, and the kernel must."""
        protect(self._flushing, FLUSHING, PROT_NONE)
        protect(self._flushing, FLUSHING, READ_WRITE)

    def clear(self) -> None:
        """Clear Accessed in all entries of our pages, and the flag of each page, with no flush."""
        os.write(self._clear, CLEAR_MAPPED)

    def renew(self, page: ProbedPage) -> None:
        """Give a page a new frame; its entries are gone.

        Raises:
            OSError: the kernel refuses it.
        """
        done(libc.fallocate(page.file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, PAGE), "fallocate")

    def look(self, target: int, witness: int) -> Bits:
        """What the kernel says of two entries of a page.

        Raises:
            OSError: it says nothing of them.
        """
        found = self._records(max(target, witness))
        accessed, dirty = said(found, target)
        page_accessed, page_dirty = said(found, witness)
        return Bits(
            accessed * Bits.ACCESSED
            | dirty * Bits.DIRTY
            | page_accessed * Bits.PAGE_ACCESSED
            | page_dirty * Bits.PAGE_DIRTY
        )

    def _records(self, last: int) -> bytes:
        """What smaps has up to and with the mapping at `last`."""
        os.lseek(self._smaps, 0, os.SEEK_SET)
        found = b""
        while found.find(b"VmFlags:", max(0, found.find(_head(last)))) < 0 or _head(last) not in found:
            more = os.read(self._smaps, 1 << 16)
            if not more:
                raise OSError(0, f"/proc/self/smaps does not have {last:#x}, or not what it is asked for")
            found += more
        return found


def _head(address: int) -> bytes:
    """How a mapping begins in smaps."""
    return b"%08x-" % address


def said(records: bytes, address: int) -> tuple[bool, bool]:
    """Whether a mapping is referenced and whether it is dirty."""
    begin = records.index(_head(address))
    record = records[begin : records.index(b"VmFlags:", begin)]
    return _kib(record, b"Referenced:") > 0, _kib(record, b"Shared_Dirty:") + _kib(record, b"Private_Dirty:") > 0


def _kib(record: bytes, name: bytes) -> int:
    """A number of a record (KiB).

    Raises:
        OSError: it is not there.
    """
    at = record.find(name)
    if at < 0:
        raise OSError(0, f"/proc/self/smaps has no {name.decode()}")
    return int(record[at + len(name) : at + 64].split(maxsplit=1)[0])
