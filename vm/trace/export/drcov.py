"""DRcov version 2: which basic blocks ran, for Lighthouse, bncov, Cartographer and others.

DynamoRIO's tools/drcov; the table is as Lighthouse's parser reads it: a start of 4 bytes relative to its module, a
size of 2 and a module's number of 2. Modules are stretches of code without a gap of 256 MiB. The base of a module is
that of the built-in image which the code is from, or else the lowest page that ran: if the file's image base differs,
rebase it there. The module with the most blocks has the image's name, others have their address in theirs. A block is
in the table once, whoever ran it how often.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kstack.trace.export.blocks import batches
from kstack.trace.export.read import instructions
from kstack.trace.export.sources import image_of
from kstack.trace.store import Trace

GAP: Final = 1 << 28  # bytes
MAX_SIZE: Final = (1 << 16) - 1  # of a block
ENTRY: Final = np.dtype([("start", "<u4"), ("size", "<u2"), ("module", "<u2")])


class Module(NamedTuple):
    """A stretch of code: addresses of its first byte and after its last."""

    base: int
    end: int


def write(trace: Trace, path: Path) -> None:
    """Write the blocks of a trace."""
    blocks = unique(trace)
    found = modules(trace, blocks)
    bases = np.array([module.base for module in found], dtype=np.uint64)
    owner = np.searchsorted(bases, blocks[:, 0], "right") - 1
    table = np.zeros(len(blocks), ENTRY)
    table["start"] = blocks[:, 0] - bases[owner] if len(blocks) else 0
    table["size"], table["module"] = blocks[:, 1], owner
    name = Path(trace.meta.image).name.replace(",", "_")
    lines = ["DRCOV VERSION: 2", "DRCOV FLAVOR: kstack", f"Module Table: version 2, count {len(found)}"]
    lines.append("Columns: id, base, end, entry, path")
    main = int(np.bincount(owner.astype(np.int64)).argmax()) if len(blocks) else 0
    for number, module in enumerate(found):
        called = name if number == main else f"{name}@{module.base:x}"
        lines.append(f"{number:3}, {module.base:#018x}, {module.end:#018x}, {0:#018x}, {called}")
    lines.append(f"BB Table: {len(table)} bbs")
    with path.open("wb") as file:
        file.write("".join(f"{line}\n" for line in lines).encode())
        file.write(table.tobytes())


def unique(trace: Trace) -> NDArray[np.uint64]:
    """All blocks once: rows of address and size (bytes), by address; none is larger than MAX_SIZE."""
    found = np.zeros((0, 2), dtype=np.uint64)
    for columns in batches(instructions(trace), trace.meta.cpus):
        new = np.stack((columns[2], columns[3] - columns[2]), axis=1)
        found = np.unique(np.concatenate((found, new)), axis=0)
    large = found[:, 1] > MAX_SIZE
    if large.any():
        pieces = [
            (start + offset, min(size - offset, MAX_SIZE))
            for start, size in found[large].tolist()
            for offset in range(0, size, MAX_SIZE)
        ]
        found = np.unique(np.concatenate((found[~large], np.array(pieces, dtype=np.uint64))), axis=0)
    return found


def modules(trace: Trace, blocks: NDArray[np.uint64]) -> list[Module]:
    """Stretches of code, by address."""
    found: list[Module] = []
    for start, size in blocks.tolist():
        if found and start - found[-1].end < GAP:
            found[-1] = found[-1]._replace(end=max(found[-1].end, start + size))
        else:
            found.append(Module(start & ~0xFFF, start + size))
    image = image_of(trace)
    loaded = [] if image is None else [(one.start, one.end) for one in image.sections]
    for at, module in enumerate(found):
        own = [span for span in loaded if span[1] > module.base - GAP and span[0] < module.end + GAP]
        if own:
            low, high = min(span[0] for span in own), max(span[1] for span in own)
            found[at] = Module(min(module.base, low), max(module.end, high))
    return found
