"""The HTML report: what is in it, that it loads nothing, that text stays text, whole or not at all."""

from __future__ import annotations

import json
import os
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from kstack.base import html as page_module
from kstack.base.errors import ConfigError
from kstack.report.fleet import find_fleet
from kstack.report.html import render, write_report
from kstack.report.plots import _PLOT, label_points
from kstack.report.witness import lanes
from kstack.sanitizer.findings import Finding, Kind
from kstack.sanitizer.history import Cleared, Filled, Freed, Invalidated, IpiSent, IpiTaken, Mapped, Marked, Used
from tests.cli.test_commands import document
from tests.support.command import kstack
from tests.support.judgements import comparison, judged, used

HOSTILE = "<script>window.hacked=1</script><img src=x onerror=window.hacked=1>\"'`{{7*7}}</title></script>"
PAGE = (0x5000, "thread 3 page 1", 0x1000)
VOID = {"meta", "br", "img", "link"}


class Page(HTMLParser):
    """Elements of a page, and its text outside of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.scripts: dict[str, str] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Remember it."""
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Remember it."""
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        """It must be the one that is open."""
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        """Text."""
        if self.open and self.open[-1] == "script":
            self.scripts[self.elements[-1][1].get("id", "")] = data
        elif not self.open or self.open[-1] != "style":
            self.words.append(data)

    def all(self, tag: str, **attributes: str) -> list[dict[str, str]]:
        """Elements of a tag with these attributes (`kind` is class)."""
        attributes = {"class" if name == "kind" else name: value for name, value in attributes.items()}
        return [found for name, found in self.elements if name == tag and attributes.items() <= found.items()]

    @property
    def text(self) -> str:
        """All words."""
        return " ".join(" ".join(self.words).split())


def finding(text: str = "CPU 1 read what is gone") -> Finding:
    """A stale use with an IPI in its history."""
    history = (
        Mapped(1, 0, *PAGE),
        Filled(2, 1, *PAGE),
        Cleared(3, 0, *PAGE),
        Invalidated(4, 0, *PAGE[:2]),
        IpiSent(5, 0, 1),
        IpiTaken(6, 1, 0xF0),
        Freed(7, 0, 0x1000),
        Marked(8, 1, text),
        Used(9, 1, *PAGE, store=False),
    )
    return Finding(Kind.STALE_TRANSLATION, 1, "watch+0x4", 0x1B30, 9, text, 0x1000, "a", "b", "c", history)


def two_by_two(policy: str = "entry-exit", text: str = "CPU 1 read what is gone") -> Page:
    """A report on two policies and two scenarios."""
    found = comparison(
        judged("fixed-16k", "laight", used()),
        judged(policy, "laight", used(), safe=False, reason="found in 3 of 7", finding=finding(text)),
        judged("fixed-16k", "deep", used()),
        judged(policy, "deep", used(), safe=None, reason="not exercised in 7"),
    )
    return Page(render(found, find_fleet("intel")))


def test_the_matrix_has_a_word_in_each_cell_and_a_link_to_what_it_opens() -> None:
    page = two_by_two()
    cells = [cell for kind in ("safe", "unsafe", "undecided") for cell in page.all("td", kind=kind)]
    assert [cell["class"] for cell in cells] == ["safe", "safe", "unsafe", "undecided"]
    opened = {panel["id"] for panel in page.all("section", kind="panel")}
    links = {link["href"].removeprefix("#") for link in page.all("a") if link["href"].startswith("#pair-")}
    assert links == opened
    assert len(opened) == 4
    for word in ("safe", "unsafe", "?", "undecided"):
        assert word in page.words or word in page.text


def test_every_link_inside_the_page_leads_somewhere() -> None:
    page = two_by_two()
    there = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    assert {link["href"].removeprefix("#") for link in page.all("a")} <= there


def test_all_that_was_promised_is_in_it() -> None:
    page = two_by_two()
    figures = json.loads(page.scripts["figures"])
    assert {"scatter", "units", "depths", "pool-0"} <= set(figures)
    for part in ("Cost model", "Modes and versions", "mode tlb", "adversarial", "unicorn", "python", "kstack"):
        assert part in page.text
    for part in ("Hansen 2017", "sensitivity", "ranking", "CPUs kept busy", "74.5 %", "pairs that swap"):
        assert part.lower() in page.text.lower()


def test_the_witness_has_lanes_with_entries_tlb_and_an_arrow_for_the_ipi() -> None:
    page = two_by_two()
    kinds = {mark["class"].removeprefix("mark ") for mark in page.all("g")}
    assert {"map", "clear", "fill", "drop", "ipi", "free", "guest", "wrong"} <= kinds
    assert len(page.all("line", kind="ipi-line")) == 1
    assert len(page.all("rect", kind="cpu")) == 2


def test_a_translation_is_drawn_for_as_long_as_it_is_cached() -> None:
    drawn = lanes(finding())
    row = {mark.time: mark.y for mark in drawn.marks}
    cached = [bar for bar in drawn.bars if bar.kind == "tlb"]
    assert [(bar.top, bar.bottom) for bar in cached] == [(row[2], row[9])], "CPU 1's, until the wrong use"
    assert [(bar.top, bar.bottom) for bar in drawn.bars if bar.kind == "pte"] == [(row[1], row[3])]


def test_an_arrow_goes_from_where_an_ipi_was_sent_to_where_it_was_taken() -> None:
    (arrow,) = lanes(finding()).arrows
    row = {mark.time: mark.y for mark in lanes(finding()).marks}
    assert (arrow.y1, arrow.y2, arrow.delivered) == (row[5], row[6], True)
    assert arrow.x1 < arrow.x2


def test_an_ipi_whose_arrival_is_not_known_is_drawn_as_such() -> None:
    found = finding()
    history = tuple(moment for moment in found.history if not isinstance(moment, IpiTaken))
    (arrow,) = lanes(Finding(found.kind, 1, "s", 0, 9, "t", history=history)).arrows
    assert not arrow.delivered


def test_text_of_policies_and_guests_is_text() -> None:
    usual, page = two_by_two(), two_by_two(HOSTILE, HOSTILE)
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in usual.elements], "no element came in with the text"
    assert not [name for _, found in page.elements for name in found if name.startswith("on")]
    assert HOSTILE in " ".join(page.words)
    for figure in json.loads(page.scripts["figures"]).values():
        assert "<script" not in json.dumps(figure)
        assert "<img" not in json.dumps(figure)


def test_only_the_pages_own_scripts_may_run() -> None:
    page = two_by_two(HOSTILE, HOSTILE)
    (policy,) = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv")]
    assert "default-src 'none'" in policy
    nonce = re.search(r"'nonce-([0-9a-f]{32})'", policy)
    assert nonce is not None
    assert {script["nonce"] for script in page.all("script")} == {nonce[1]}


def test_nothing_is_loaded_from_anywhere() -> None:
    page = two_by_two()
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "img", "object", "embed", "base"), tag
        for name in ("src", "srcset", "href", "xlink:href", "action", "data"):
            assert attributes.get(name, "#").startswith("#"), (tag, attributes)
    style = (page_module.HERE / "style.css").read_text()
    assert "url(" not in style
    assert "@import" not in style


def test_the_same_comparison_gives_the_same_bytes() -> None:
    found = comparison(judged("p", "s", used()))
    assert render(found) == render(found)


def test_a_comparison_in_which_nothing_finished_is_shown_all_the_same() -> None:
    page = Page(render(comparison(judged("p", "s", used(), safe=None, exit_value=0x12)), find_fleet("arm64")))
    assert "Not estimated" in page.text


def test_labels_of_points_do_not_lie_on_each_other() -> None:
    names = [f"a-policy-{number}" for number in range(28)]
    points = {name: (8 + number % 4 * 0.1, 3 + number % 5 * 0.02) for number, name in enumerate(names)}
    labels = label_points(points, (0, 18), (2, 5))
    boxes = []
    for label in labels:
        x, y = label["x"] / 18 * _PLOT[0] + label["ax"], (5 - label["y"]) / 3 * _PLOT[1] + label["ay"]
        half = 6.3 * len(label["text"]) / 2
        boxes.append((x - half, y - 7, x + half, y + 7))
    clashes = sum(
        one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
        for place, one in enumerate(boxes)
        for other in boxes[:place]
    )
    assert clashes == 0


def test_a_report_that_cannot_be_finished_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.html"
    path.write_text("the old one")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ConfigError, match="No space left"):
        write_report(path, comparison(judged("p", "s", used())))
    assert path.read_text() == "the old one"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("where", ["no/such/folder/out.html", "."])
def test_a_report_that_cannot_be_written_is_refused_before_anything_is_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = kstack("compare", "--scenarios", "laight", "--report", where)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""


def test_without_the_libraries_the_way_out_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'kstack\[report\]'"):
        write_report(tmp_path / "out.html", comparison(judged("p", "s", used())))


def test_compare_writes_the_report_and_estimates_a_fleet(tmp_path: Path) -> None:
    path = tmp_path / "out.html"
    words = ("compare", "--policies", "fixed-16k,entry-exit", "--scenarios", "laight", "--schedules", "0")
    found = document(*words, "--report", str(path), "--fleet", "intel")
    assert {one["policy"] for one in found["fleet"]["policies"]} <= {"fixed-16k", "entry-exit"}
    assert len(found["fleet"]["assumptions"]) >= 6
    page = Page(path.read_text())
    assert page.all("td", kind="unsafe")
    assert "laight_watch" in page.text


def test_a_cost_model_of_the_users_own_changes_cycles_and_no_count(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text('version = 1\n[ipi]\nlow = 0\nnominal = 0\nhigh = 0\nsource = "free of charge"\n')
    words = ("compare", "--policies", "switch-sp-ipi", "--scenarios", "laight", "--schedules", "0")
    (usual,), (free,) = (document(*words, *more)["results"] for more in ((), ("--costs", str(mine))))
    assert free["counts"] == usual["counts"]
    assert usual["cycles"]["nominal"] - free["cycles"]["nominal"] == usual["counts"]["ipis"] * 6000


def test_json_says_what_is_counted_beyond_the_totals() -> None:
    (found,) = document("compare", "--policies", "switch-sp-ipi", "--scenarios", "laight", "--schedules", "0")[
        "results"
    ]
    detail, counts = found["detail"], found["counts"]
    assert detail["pages_taken"] >= detail["pages_given"] > 0
    assert detail["interrupts"] >= counts["ipis"] > 0, "every IPI was taken"
    assert detail["per_switch"]["ipis"] == pytest.approx(counts["ipis"] / counts["switches"], abs=1e-4)
    assert detail["per_syscall"]["walks"] == pytest.approx(counts["walks"] / counts["syscalls"], abs=1e-4)
    assert found["usage"]["kib_asleep"] < found["usage"]["kib_mean"]
    assert sum(found["usage"]["depth_at_switch"]) == detail["hook_calls"]["switch_out"]


PROBE = """
<script nonce="NONCE">
addEventListener("load", () => {
  document.querySelector("td.unsafe a").click();
  setTimeout(() => {
    const panel = document.querySelector(".panel:target");
    const box = panel.querySelector("svg.lanes").getBoundingClientRect();
    document.title = JSON.stringify({
      shown: getComputedStyle(panel).display, wide: box.width, high: box.height, text: panel.textContent,
      hidden: [...document.querySelectorAll(".panel:not(:target)")].every((one) => getComputedStyle(one).display === "none"),
      plots: document.querySelectorAll("figure .main-svg").length, hacked: window.hacked === undefined,
    });
  }, 500);
});
</script></body>"""


@pytest.mark.system("chromium")
def test_in_a_browser_a_click_on_a_red_cell_opens_the_witness_and_nothing_complains(tmp_path: Path) -> None:
    found = comparison(
        judged("fixed-16k", "laight", used()),
        judged("entry-exit", "laight", used(), safe=False, finding=finding(HOSTILE)),
        judged(HOSTILE, "laight", used()),
    )
    text = render(found, find_fleet("intel"))
    nonce = re.search(r"'nonce-(\w+)'", text)
    assert nonce is not None
    path = tmp_path / "probe.html"
    path.write_text(text.replace("</body>", PROBE.replace("NONCE", nonce[1])))
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=15000", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    (title,) = Page(done.stdout.split("</title>")[0] + "</title></head></html>").words[-1:]
    seen = json.loads(title)
    assert seen["shown"] == "block"
    assert seen["hidden"] is True
    assert seen["wide"] > 500
    assert seen["high"] > 200
    assert "stale-translation" in seen["text"]
    assert seen["plots"] >= 4
    assert seen["hacked"] is True
