"""The matrix of a campaign, in the terminal and as a page."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from kstack.fault import Fault, Send, Step
from kstack.inject import TrialOutcome, TrialPair
from kstack.inject.campaign import TrialBatch
from kstack.inject.examples import Example
from kstack.report.faults import MOST, matrix, render, tally, write_matrix
from tests.support.command import kstack
from tests.support.html_page import Page

HOSTILE = "<script>window.hacked=1</script><img src=x onerror=window.hacked=1>\"'`{{7*7}}</title></script>"


def outcome(fault: Fault, name: str, by: str = "nobody", text: str = "", fired: int | None = 7) -> TrialOutcome:
    return TrialOutcome(fault, f"{fault.what} somewhere", fired, name, by, text, None, 1000)


def batch(policy: str, scenario: str, outcomes: list[TrialOutcome]) -> tuple[TrialBatch, list[TrialOutcome]]:
    return TrialBatch(TrialPair(policy, scenario), ("drop-ipi",), (), 10), outcomes


DROP = [Fault("drop-ipi", Send(number)) for number in range(1, 101)]
FAIL = Fault("fail-alloc", Step("TakePage", 1))
FOUND = [
    batch("one", "laight", [outcome(DROP[0], "hang", text=HOSTILE), outcome(DROP[1], "masked")]),
    batch("one", "wilcox", [outcome(DROP[0], "wrong-data", "oracle"), outcome(FAIL, "detected", "guest")]),
    batch("two", "laight", [outcome(DROP[0], "masked", fired=None)]),
]


def test_trials_are_counted_by_what_they_came_to_and_who_noticed() -> None:
    counts = tally(one for _, outcomes in FOUND for one in outcomes)
    assert counts == {
        "trials": 5, "fired": 4, "not fired": 1, "masked": 1, "hang": 1, "wrong-data": 1, "detected": 1, "by guest": 1,
    }  # fmt: skip


def test_the_terminal_has_a_row_a_policy_and_fault() -> None:
    table = matrix(FOUND)
    columns = {str(column.header): list(column.cells) for column in table.columns}
    assert columns["policy"] == ["one", "one", "two"]
    assert columns["fault"] == ["drop-ipi", "fail-alloc", "drop-ipi"]
    assert columns["trials"] == ["3", "1", "1"]
    assert columns["fired"] == ["3", "1", ""]
    assert columns["not fired"] == ["", "", "1"]
    assert columns["masked"] == ["1", "", ""], "what did not happen was not masked"
    assert columns["hang"] == ["1", "", ""]
    assert columns["by guest"] == ["", "1", ""]
    assert "shutdown" not in columns, "nothing came to it"


def test_the_page_has_a_cell_a_policy_and_fault_with_a_panel() -> None:
    recorded = Example(FOUND[0][0].pair, FOUND[0][1][0], Path("kept/0000.json"))
    text = render(FOUND, [recorded])
    assert render(FOUND, [recorded]) == text
    page = Page(text)
    cells = [one["href"] for one in page.all("a") if one.get("title")]
    panels = [one["id"] for one in page.all("section") if one.get("class") == "panel"]
    assert cells == [f"#{panel}" for panel in panels]
    assert len(cells) == 3
    assert page.all("td", kind="absent") != [], "policy two has no allocation"
    shares = re.findall(r'<i class="([\w-]+)" style="width:([\d.]+)%">', text)
    assert shares == [
        ("masked", "33.33"),
        ("wrong-data", "33.33"),
        ("hang", "33.33"),
        ("detected", "100.0"),
        ("not-fired", "100.0"),
    ]
    assert ">hang</span>" in text
    assert ">not fired</span>" in text, "and why, in its panel"
    words = " ".join(page.words)
    assert HOSTILE in words, "text is text"
    assert page.all("img") == []
    assert "kstack replay kept/0000.json" in words
    assert 'when = { on = "send", nth = 1 }' in words
    assert "http" not in re.sub(r"http-equiv", "", text), "it loads nothing"


def test_a_cell_lists_some_of_each_outcome_and_says_how_many_more_there_are() -> None:
    many = [outcome(fault, "hang") for fault in DROP[:99]] + [outcome(DROP[99], "shutdown")]
    found = batch("one", "laight", many)
    text = render([found], [])
    listed = text.count("<details>")
    assert listed == MOST // 2 + 1
    assert f"and {100 - listed} more." in text
    assert text.count('<span class="outcome shutdown">shutdown</span></td>') == 1
    assert "kept/98.json" in render([found], [Example(found[0].pair, many[98], Path("kept/98.json"))]), (
        "recorded: listed"
    )


@pytest.mark.system("chromium")
def test_in_a_browser_a_cell_opens_its_panel_and_nothing_complains(tmp_path: Path) -> None:
    path = tmp_path / "m.html"
    write_matrix(path, FOUND, [])
    text = path.read_text()
    nonce = re.search(r"'nonce-(\w+)'", text)
    assert nonce is not None
    probe = f"""<script nonce="{nonce[1]}">addEventListener("load", () => {{
        document.querySelector(".faults td a").click();
        setTimeout(() => {{
            const panel = document.querySelector(".panel:target");
            const shares = document.querySelectorAll(".faults .shares i");
            document.title = JSON.stringify({{
                shown: getComputedStyle(panel).display, wide: panel.getBoundingClientRect().width,
                share: shares[0].getBoundingClientRect().width, hacked: window.hacked === undefined,
            }});
        }}, 200);
    }});</script></body>"""
    path.write_text(text.replace("</body>", probe))
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    assert title is not None
    seen = json.loads(title[1])
    assert (seen["shown"], seen["hacked"]) == ("block", True)
    assert seen["wide"] > 500
    assert seen["share"] > 5


def test_the_command_writes_it_or_says_why_not(tmp_path: Path) -> None:
    words = ("inject", "laight", "--policy", "switch-sp-ipi", "--faults", "drop-ipi", "--limit", "2")
    kept = tmp_path / "kept"
    done = kstack(*words, "--report", tmp_path / "m.html", "--recordings", kept, "--every", "--json")
    trials = json.loads(done.stdout)["trials"]
    assert [Path(trial["recording"]).parent for trial in trials] == [kept, kept]
    assert len({trial["recording"] for trial in trials}) == 2
    page = (tmp_path / "m.html").read_text()
    for trial in trials:
        assert (f"kstack replay {trial['recording']}" in page) == (trial["outcome"] != "masked")
    for wrong, says in (
        (("--report", tmp_path / "no" / "m.html"), "there is no folder"),
        (("--report", tmp_path), "is a folder"),
        (("--every",), "--recordings FOLDER"),
    ):
        done = kstack(*words, *wrong)
        assert (done.returncode, says in done.stderr) == (2, True), done.stderr
