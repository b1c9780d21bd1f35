"""The coverage page counts what ran, by line and by function, and is as safe as the other reports."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from kstack.guest.images import build_image
from kstack.kernels.kstack.guests import KstackGuests
from kstack.trace.export import coverage, export, sources
from kstack.trace.export.lines import Chapter
from kstack.trace.store import Trace
from tests.support.html_page import Page
from tests.support.traces import rows

HOSTILE = "<script>alert(1)</script>"


def ran(trace: Trace) -> Counter[tuple[int, int]]:
    """How often each address ran on each CPU."""
    return Counter((row["rip"], row["cpu"]) for row in rows(trace, "instructions"))


def chapter(found: coverage.Coverage, name: str) -> Chapter:
    (one,) = [one for one in found.chapters if one.name == name]
    return one


def test_a_line_has_the_number_of_times_that_its_instruction_ran(laight: Trace) -> None:
    found, image = coverage.coverage(laight), build_image("laight")
    counts = ran(laight)
    lines = Counter((place.file, place.line) for _, place in image.lines)
    checked = 0
    for (rip, cpu), count in counts.items():
        place = image.place_at(rip)
        if place is None or lines[place.file, place.line] > 1 or (rip, place) not in image.lines:
            continue
        line = chapter(found, Path(place.file).name).lines[place.line - 1]
        assert line.hits is not None
        assert line.hits[cpu] == count, f"{place}: {line.text}"
        checked += 1
    assert checked > 300


def test_what_never_ran_is_shown_so_and_what_is_no_code_has_no_number(laight: Trace) -> None:
    text = chapter(coverage.coverage(laight), "boot.s")
    states = {line.state for line in text.lines}
    assert states == {"never", ""}, "the trace begins after boot"
    lock = chapter(coverage.coverage(laight), "lock.s")
    assert {line.state for line in lock.lines} == {"ran", "never", ""}
    for line in (line for one in coverage.coverage(laight).chapters for line in one.lines):
        if not line.text.strip() or line.text.strip().startswith("#"):
            assert line.hits is None, line


def test_ring_3_code_counts_for_the_lines_that_it_was_mapped_from(laight: Trace) -> None:
    found = coverage.coverage(laight)
    user = [(rip, cpu) for rip, cpu in ran(laight) if rip < 1 << 47]
    assert user
    assert "code without sources" not in [one.name for one in found.chapters]
    calls = [line for line in chapter(found, "laight.s").lines if re.match(r"\s*syscall\b", line.text)]
    entered = sum(count for (rip, _), count in ran(laight).items() if rip == build_image("laight")["syscall_entry"])
    assert sum(sum(line.hits or []) for line in calls) == entered


def test_an_instruction_that_is_spelled_in_bytes_counts_once_for_each_of_its_lines(laight: Trace) -> None:
    lines = chapter(coverage.coverage(laight), "syscall.s").lines
    number = next(number for number, line in enumerate(lines) if "# mov rsp, gs:[CPU_KSTACK]" in line.text)
    entry = build_image("laight")["syscall_entry"]
    expected = [ran(laight)[entry, cpu] for cpu in range(2)]
    assert sum(expected) >= 3
    assert lines[number].hits == expected
    assert lines[number + 1].text.strip().startswith(".long")
    assert lines[number + 1].hits == expected


def test_functions_add_up_to_all_instructions(laight: Trace, double_fault: Trace, fred: Trace) -> None:
    for trace in (laight, double_fault, fred):
        found = coverage.coverage(trace)
        for cpu in range(trace.meta.cpus):
            own = [row for row in rows(trace, "instructions") if row["cpu"] == cpu]
            assert found.instructions[cpu] == len(own)
            assert sum(one.instructions[cpu] for one in found.functions) == len(own)


def test_a_function_is_entered_as_often_as_its_first_instruction_ran(laight: Trace) -> None:
    image, counts = build_image("laight"), ran(laight)
    found = {one.name: one for one in coverage.coverage(laight).functions}
    for name in ("context_switch", "enter_kernel", "spin_lock", "panic"):
        assert found[name].entered == [counts[image[name], cpu] for cpu in (0, 1)]
        assert 0 <= found[name].ran <= found[name].known
    assert sum(found["context_switch"].entered) >= 3
    assert found["panic"].ran == 0 < found["panic"].known
    assert found["enter_kernel"].chapter == "trap.s", "though its first statement is a macro's"


def test_without_sources_there_is_a_disassembly_of_all_that_ran(laight: Trace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coverage, "image_of", lambda trace: None)
    (text,) = coverage.coverage(laight).chapters
    counts = ran(laight)
    listed = {int(line.label, 16): line for line in text.lines if line.hits is not None}
    assert set(listed) == {rip for rip, _ in counts}
    for rip, line in listed.items():
        assert line.hits == [counts[rip, cpu] for cpu in range(2)]
    assert any(line.text == "context_switch:" for line in text.lines)
    assert any(line.text.strip() == "iretq" for line in text.lines)


def test_sources_that_are_not_what_ran_are_not_shown(laight: Trace, monkeypatch: pytest.MonkeyPatch) -> None:
    listing = KstackGuests.listing
    assert sources.image_of(laight) is not None
    monkeypatch.setattr(KstackGuests, "listing", lambda guests, name: listing(guests, "deep"))
    assert sources.image_of(laight) is None
    assert sources.image_of(laight._replace(meta=_renamed(laight, "/home/me/vmlinux"))) is None


def _renamed(trace: Trace, image: str) -> Any:
    from msgspec import structs

    return structs.replace(trace.meta, image=image)


def test_every_link_of_the_page_leads_somewhere_and_nothing_is_loaded(laight: Trace, tmp_path: Path) -> None:
    export(laight, "coverage", tmp_path / "out.html")
    page = Page((tmp_path / "out.html").read_text())
    there = [found["id"] for _, found in page.elements if "id" in found]
    assert len(there) == len(set(there))
    links = {found["href"] for tag, found in page.elements if tag == "a"}
    assert len(links) > 50
    assert {link.removeprefix("#") for link in links} <= set(there)
    (policy,) = [found["content"] for _, found in page.elements if found.get("http-equiv")]
    assert policy.startswith("default-src 'none'")
    assert "script" not in policy
    for tag, found in page.elements:
        assert tag not in ("script", "link", "iframe", "img", "object", "embed", "base")
        assert not [name for name in found if name == "src" or name.startswith("on")]


def test_text_of_guests_is_text(laight: Trace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Hostile(coverage.Code):
        def symbol(self, rip: int) -> str:
            return HOSTILE

    monkeypatch.setattr(coverage, "Code", Hostile)
    monkeypatch.setattr(coverage, "image_of", lambda trace: None)
    export(laight._replace(meta=_renamed(laight, HOSTILE)), "coverage", tmp_path / "out.html")
    text = (tmp_path / "out.html").read_text()
    assert "<script" not in text
    page = Page(text)
    assert HOSTILE in "".join(page.words)
