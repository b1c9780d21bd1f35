"""Lines of sources or of disassembly with how often they ran, and functions with what they add up to."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from kstack.kernels.guests import Listing, Statement
from kstack.trace.export.read import Code

Counts = list[int]  # by CPU
NEAR: Final = 4  # statements, as many as a macro has that only a function's first lines use


class CoverageLine(NamedTuple):
    """A line to show.

    Attributes:
        label: its number, or an address.
        text: as written.
        hits: by CPU; None where there is nothing to run.
        anchors: functions that begin here.
    """

    label: str
    text: str
    hits: Counts | None
    anchors: tuple[str, ...] = ()

    @property
    def state(self) -> str:
        """`ran`, `never`, or nothing."""
        return "" if self.hits is None else "ran" if any(self.hits) else "never"


class Chapter(NamedTuple):
    """A file of sources, or all code without."""

    name: str
    lines: list[CoverageLine]

    def number(self, *states: str) -> int:
        """How many lines are in one of these states."""
        return sum(line.state in states for line in self.lines)


class FunctionCoverage(NamedTuple):
    """A function.

    Attributes:
        name: its symbol.
        chapter: where it is.
        entered: how often its first instruction ran, by CPU.
        ran, known: statements that ran, of all that are known.
        instructions: executed in it, by CPU.
    """

    name: str
    chapter: str
    entered: Counts
    ran: int
    known: int
    instructions: Counts


def _sum(one: Counts, other: Counts) -> Counts:
    return [a + b for a, b in zip(one, other, strict=True)]


# --- of sources


def of_sources(
    image: Listing, code: Code, hits: Mapping[int, Counts], cpus: int
) -> tuple[list[Chapter], list[FunctionCoverage]]:
    """Lines and functions of an image whose sources are known.

    Args:
        image: as assembled.
        code: of the trace.
        hits: how often the instruction at an address of the image ran, by CPU.
        cpus: of the machine.
    """
    texts = {file: Path(file).read_text(encoding="utf-8").splitlines() for file in _files(image)}
    spans = [(one.start, one.end) for one in image.sections if one.is_code]
    lines = _statements(image, texts, spans)
    starts = [at for at, _ in lines]
    statements = _ran(starts, spans, code, hits, cpus)
    by_line: dict[tuple[str, int], Counts] = {}
    is_code: list[bool] = []
    for (_, place), counts in zip(lines, statements, strict=True):
        line = place.file, place.line
        is_code.append(any(counts) or not _is_data(texts[place.file][place.line - 1]))
        if is_code[-1]:
            by_line[line] = _sum(by_line.get(line, [0] * len(counts)), counts)
    places: dict[tuple[str, int], tuple[str, ...]] = {}
    named: list[FunctionCoverage] = []
    for at, function in _functions(image, starts, statements, is_code, hits).items():
        place = _written(lines[bisect_left(starts, at) :])
        named.append(function._replace(chapter=Path(place.file).name))
        where = place.file, place.line
        places[where] = (*places.get(where, ()), function.name)
    chapters = [_chapter(file, text, by_line, places) for file, text in texts.items()]
    return [chapter for chapter in chapters if chapter.number("ran", "never")], busiest(named)


def _statements(
    image: Listing, texts: Mapping[str, list[str]], spans: list[tuple[int, int]]
) -> list[tuple[int, Statement]]:
    """Addresses and places of statements that emitted bytes where code may be; a directive's list of bytes is one."""
    found: list[tuple[int, Statement]] = []
    for at, place in image.statements:
        if place.file in texts and any(low <= at < high for low, high in spans):
            again = found and found[-1][1] == place
            if not (again and _is_data(texts[place.file][place.line - 1])):
                found.append((at, place))
    return found


def _ran(
    starts: list[int], spans: list[tuple[int, int]], code: Code, hits: Mapping[int, Counts], cpus: int
) -> list[Counts]:
    """How often each statement ran; an instruction may be spelled as several."""
    found: list[Counts] = [[0] * cpus for _ in starts]
    for rip, counts in hits.items():
        end = rip + max(len(code.at(rip, 0)), 1)
        own = next((span for span in spans if span[0] <= rip < span[1]), None)
        for number in range(max(bisect_right(starts, rip) - 1, 0), bisect_left(starts, end)) if own else ():
            if own is not None and own[0] <= starts[number] < own[1]:
                found[number] = [max(pair) for pair in zip(found[number], counts, strict=True)]
    return found


def busiest(functions: Iterable[FunctionCoverage]) -> list[FunctionCoverage]:
    """Those with the most instructions first."""
    return sorted(functions, key=lambda one: -sum(one.instructions))


def _written(lines: list[tuple[int, Statement]]) -> Statement:
    """Where a function is written: its first statement that is of no macro, if one is near."""
    near = [place for _, place in lines[:NEAR]]
    return next((place for place in near if not place.macro), near[0])


def _files(image: Listing) -> list[str]:
    return list(dict.fromkeys(place.file for _, place in image.statements if Path(place.file).is_file()))


def _is_data(text: str) -> bool:
    """Whether a line of source is a directive: it may be code in bytes, but then it ran or nobody knows."""
    statement = text.split(":", 1)[-1] if ":" in text.split("#")[0].split('"')[0] else text
    return statement.strip().startswith(".")


def _chapter(
    file: str,
    text: list[str],
    by_line: Mapping[tuple[str, int], Counts],
    places: Mapping[tuple[str, int], tuple[str, ...]],
) -> Chapter:
    rows = [
        CoverageLine(f"{number}", line, by_line.get((file, number)), places.get((file, number), ()))
        for number, line in enumerate(text, 1)
    ]
    return Chapter(Path(file).name, rows)


def _functions(
    image: Listing, starts: list[int], statements: list[Counts], is_code: list[bool], hits: Mapping[int, Counts]
) -> dict[int, FunctionCoverage]:
    """Functions by address: from each label to the next that is not local."""
    labels = image.labels
    begins = sorted(labels)
    rips = sorted(hits)
    found: dict[int, FunctionCoverage] = {}
    for begin, end in zip(begins, [*begins[1:], 1 << 64], strict=True):
        own = [
            counts
            for counts, code in zip(
                *(part[slice(*_range(starts, begin, end))] for part in (statements, is_code)), strict=True
            )
            if code
        ]
        if not own:
            continue
        executed = [0] * len(own[0])
        for rip in rips[slice(*_range(rips, begin, end))]:
            executed = _sum(executed, hits[rip])
        entered = hits.get(begin, [0] * len(own[0]))
        found[begin] = FunctionCoverage(labels[begin], "", entered, sum(map(any, own)), len(own), executed)
    return found


def _range(ordered: list[int], low: int, high: int) -> tuple[int, int]:
    return bisect_left(ordered, low), bisect_left(ordered, high)


# --- of code


def of_code(code: Code, hits: Mapping[int, Counts]) -> tuple[Chapter, list[FunctionCoverage]]:
    """A disassembly by symbol of all that ran.

    Args:
        code: of the trace.
        hits: how often the instruction at an address ran, by address.
    """
    name = "code without sources"
    lines: list[CoverageLine] = []
    functions: dict[str, FunctionCoverage] = {}
    for rip, counts in hits.items():
        symbol = code.symbol(rip).split("+")[0]
        if symbol not in functions:
            anchor = symbol if not symbol.startswith("0x") else ""
            symbol = symbol if anchor else "(no symbol)"
            if symbol not in functions:
                lines.append(CoverageLine("", f"{symbol}:", None, (symbol,)))
                functions[symbol] = FunctionCoverage(symbol, name, counts, 0, 0, [0] * len(counts))
        told = " ".join(code.text(rip, 0)).strip()
        lines.append(CoverageLine(f"{rip:x}", f"    {told}", counts))
        before = functions[symbol]
        functions[symbol] = before._replace(
            ran=before.ran + 1, known=before.known + 1, instructions=_sum(before.instructions, counts)
        )
    return Chapter(name, lines), busiest(functions.values())
