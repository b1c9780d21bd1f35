"""What a verdict says: safe only of what was asked, under which modes, and what is broken elsewhere."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pytest
from rich.console import Console

from kstack.base.errors import ConfigError
from kstack.cli import app
from kstack.explore.breadth_first import Outcome
from kstack.hw.modes import READINGS, Modes
from kstack.hw.rules import RULES_VERSION
from kstack.judge.pairs import policy_hash_of
from kstack.judge.verdict import NEVER, _explored, _verdict
from kstack.report import decisions as shipped
from kstack.report.decisions import (
    ABOVE,
    Break,
    Decision,
    Reading,
    in_words,
    read_decisions,
    shipped_breaks,
    write_decisions,
)
from kstack.report.fleet import estimate, find_fleet
from kstack.report.html import render
from kstack.report.table import print_fleet, print_judgements
from kstack.report.words import VERDICTS, modes_line
from kstack.run.result import RunResult
from kstack.schedule import RoundRobin
from tests.nightly import decisions as nightly
from tests.support.command import ROOT, document, kstack, python
from tests.support.html_page import Page
from tests.support.judgements import comparison, judged, stale_use, used

LAZY: Final = "accessed-shrinker"  # it reclaims under memory pressure alone
GREEN: Final = "\x1b[32m"


def shown(console: Console, *judgements: Any, **more: Any) -> str:
    with console.capture() as captured:
        print_judgements(console, replace(comparison(*judgements), **more))
    return captured.get()


# --- a policy that did nothing


def result(exercised: int, unmaps: int) -> RunResult:
    run = judged("p", "s", used(), unmaps=unmaps).reference
    assert run is not None
    return replace(run, exercised=exercised)


@pytest.mark.parametrize("reclaims", [True, False])
@pytest.mark.parametrize("unmaps", [0, 3])
@pytest.mark.parametrize("exercised", [0, 5])
def test_safe_is_who_was_asked_or_never_reclaims(exercised: int, unmaps: int, reclaims: bool) -> None:
    said = _verdict([(RoundRobin(1), result(exercised, unmaps), ())], reclaims)
    if exercised:
        assert said == (True, "none found in 1", False)
    elif unmaps:
        assert said == (None, "not exercised in 1", False)
    elif reclaims:
        assert said == (None, "reclaimed nothing in 1", True)
    else:
        assert said == (True, f"{NEVER}, in 1", False)


def test_in_json_it_is_null_with_a_reason_and_a_word_of_its_own() -> None:
    policies = f"fixed-16k,{LAZY},switch-sp-ipi,entry-exit"
    found = document("compare", "--policies", policies, "--scenarios", "laight", "--schedules", "0")
    keys = ("safe", "verdict", "reason", "reclaims")
    assert {one["policy"]: tuple(one[key] for key in keys) for one in found["results"]} == {
        "fixed-16k": (True, "safe", f"{NEVER}, in 4", False),
        LAZY: (None, "did-nothing", "reclaimed nothing in 4", True),
        "switch-sp-ipi": (True, "safe", "none found in 4", True),
        "entry-exit": (False, "unsafe", "found in 3 of 3", True),
    }


def test_in_a_log_without_colours_its_words_are_others() -> None:
    done = kstack("compare", "--policies", f"fixed-16k,{LAZY}", "--scenarios", "laight", "--schedules", "0")
    text = re.sub(r"\s+", " ", done.stdout)
    assert f"{LAZY} laight did nothing here: reclaimed" in text
    assert "fixed-16k laight safe: never reclaims, by design" in text
    assert text.count("safe:") == 1
    assert "\x1b" not in done.stdout


def test_only_safe_is_green() -> None:
    assert [word for word, (_, colour) in VERDICTS.items() if colour == "green"] == ["safe"]
    assert (
        len({colour for _, colour in VERDICTS.values()})
        == len({text for text, _ in VERDICTS.values()})
        == len(VERDICTS)
    )
    for safe, did_nothing, green in (
        (True, False, True),
        (None, True, False),
        (None, False, False),
        (False, False, False),
    ):
        console = Console(width=120, force_terminal=True, color_system="standard", legacy_windows=False, _environ={})
        one = replace(judged("p", "laight", used(), safe=safe), did_nothing=did_nothing)
        assert (GREEN in shown(console, one)) == green


def test_in_a_page_it_has_a_word_a_class_and_colours_of_its_own() -> None:
    lazy = replace(judged(LAZY, "laight", used(), safe=None, reason="reclaimed nothing in 4"), did_nothing=True)
    page = Page(render(comparison(judged("fixed-16k", "laight", used()), lazy), find_fleet("intel")))
    assert [cell["class"] for cell in page.all("td") if cell.get("class") in VERDICTS] == ["safe", "did-nothing"]
    assert "1 safe as far as the runs go 1 did nothing" in page.text.replace("  ", " ")
    assert "did nothing here" in page.text
    style = (ROOT / "vm" / "base" / "html" / "style.css").read_text()
    colours = {verdict: re.search(rf"\.chip\.{verdict} {{ background: ([^;]+);", style) for verdict in VERDICTS}
    assert all(colours.values())
    assert len({found[1] for found in colours.values() if found}) == len(VERDICTS)


def test_a_fleets_table_counts_it_apart() -> None:
    lazy = replace(judged("p", "laight", used(), safe=None), did_nothing=True)
    (one,) = estimate(find_fleet("intel"), comparison(lazy)).policies
    assert (one.safe, one.did_nothing, one.undecided) == (0, 1, 0)


def test_strict_does_not_take_it_for_safe() -> None:
    words = ("compare", "--scenarios", "laight", "--schedules", "0", "--strict", "--policies")
    assert kstack(*words, "fixed-16k").returncode == 0
    assert kstack(*words, LAZY).returncode == 1


def outcome(verdict: str, exercised: int) -> Outcome:
    return Outcome(verdict, verdict == "safe", states=9, moves=9, exercised=exercised, depth=9, cut="budget 1 s")


def test_a_proof_that_asked_nothing_makes_nobody_safe_who_reclaims() -> None:
    modes = Modes(memory_order="tso")
    lazy = replace(judged("p", "s", used(), safe=None, reason="reclaimed nothing in 4"), did_nothing=True)
    found = _explored(lazy, outcome("safe", 0), modes)
    assert (found.verdict, found.basis) == ("did-nothing", "sampled")
    assert found.reason == "reclaimed nothing in 4; all 9 states ask nothing of it"
    asked = _explored(lazy, outcome("safe", 3), modes)
    assert (asked.verdict, asked.basis, asked.exercised, asked.modes) == ("safe", "exhaustive", 3, modes)
    never = _explored(replace(lazy, safe=True, did_nothing=False, reclaims=False), outcome("safe", 0), modes)
    assert (never.verdict, never.reason) == ("safe", f"no violation in all 9 states; {NEVER}")
    assert _explored(lazy, outcome("undecided", 0), modes).verdict == "undecided"


def test_compare_explores_and_says_who_was_asked_nothing() -> None:
    words = ("--scenarios", "litmus-laight", "--schedules", "0", "--explore", "--budget", "60")
    found = document("compare", "--policies", f"fixed-16k,{LAZY},switch-sp-ipi", *words)
    assert [(one["verdict"], one["basis"]) for one in found["results"]] == [
        ("safe", "exhaustive"),
        ("did-nothing", "sampled"),
        ("safe", "exhaustive"),
    ]


def decision(policy: str, verdict: str, exercised: int, scenario: str = "litmus-laight") -> Decision:
    return Decision(policy, policy_hash_of(policy), scenario, verdict, 44, 55, exercised, None)


def test_nightly_decisions_call_nobody_safe_who_was_asked_nothing() -> None:
    found = [decision(LAZY, "safe", 0), decision("fixed-16k", "safe", 0), decision("switch-sp-ipi", "safe", 7)]
    text = nightly.table(found, "sets-accessed")
    assert f"| {LAZY} | (44) |" in text
    assert "| fixed-16k | (44) |" in text
    assert "| switch-sp-ipi | 44 |" in text


# --- modes, whole


NAMES: Final = tuple(Modes().as_dict())


def names_all(text: str) -> bool:
    return all(f"{name}=" in text or f"{name}: " in text for name in NAMES)


def test_a_line_has_all_modes_the_chosen_ones_first_and_the_defaults_as_such() -> None:
    usual = Modes(tlb="adversarial")
    assert modes_line(usual, usual).startswith("Modes, all by default: speculation=sets-accessed, tlb=adversarial, ")
    chosen = replace(usual, df_restart="exact", tlb="capacity 4")
    assert modes_line(chosen, usual).startswith("Modes: tlb=capacity:4, df-restart=exact; by default speculation=")
    resolved = modes_line(Modes().resolved("ist"), given=Modes())
    assert "all by default" in resolved and "stack-fault-delivery=ist (the policy's)" in resolved
    explored = modes_line(Modes(tlb="adversarial"), explored=True)
    assert "tlb: every fill and eviction" in explored and "adversarial" not in explored
    for line in (modes_line(chosen, usual), resolved, explored):
        assert names_all(line) and "\n" not in line


COMMANDS: Final[dict[str, tuple[str, ...] | None]] = {
    "compare": ("compare", "--policies", "fault-ist", "--scenarios", "laight", "--schedules", "0"),
    "run": ("run", "litmus-laight", "--policy", "fault-ist"),
    "explore": ("explore", "litmus-laight", "--policy", "fault-ist"),
    "replay": ("replay", "FILE"),
    "inject": ("inject", "laight", "--policy", "fault-ist", "--faults", "drop-ipi", "--limit", "1"),
    "trace": None,  # what happened, and no verdict
    "gdb": None,
    "probe": None,  # it judges a processor
    "policies": None,
    "scenarios": None,
    "images": None,
    "image": None,
}


MORE: Final[dict[str, tuple[str, ...] | None]] = {
    "outcomes": ("explore", "x=1; r y | y=1; r x", "--outcomes"),
}


def test_every_command_says_whether_it_judges() -> None:
    assert sorted(COMMANDS) == sorted(name for name in app if not name.startswith("-"))


@pytest.mark.parametrize("mode", [(), ("--mode", "df-restart=exact")], ids=["defaults", "chosen"])
@pytest.mark.parametrize("name", [name for name, words in (COMMANDS | MORE).items() if words is not None])
def test_every_verdict_names_the_modes_it_was_made_under(name: str, mode: tuple[str, ...], tmp_path: Path) -> None:
    words, file = (COMMANDS | MORE)[name], tmp_path / "r.json"
    assert words is not None
    if name == "replay":
        kstack("run", "litmus-laight", "--policy", "fault-ist", "--record", file, *mode)
        words, mode = ("replay", str(file)), ()
    done = kstack(*words, *mode)
    text = re.sub(r"\s+", " ", done.stdout + done.stderr)
    assert names_all(text), text
    assert ("Modes: df-restart=exact; by default" in text) != ("Modes, all by default" in text)
    found = document(*words, *mode)["modes"]
    assert tuple(found) == NAMES
    assert f"df-restart={found['df-restart']}" in text


def test_a_page_and_each_of_its_pairs_name_all_modes(tmp_path: Path) -> None:
    modes = Modes(tlb="adversarial", kernel_pages="pcid")
    one = replace(judged("p", "laight", used()), modes=modes.resolved("fred"))
    page = Page(render(replace(comparison(one), modes=modes)))
    header, _, rest = page.text.partition("A red cell is")
    assert names_all(header) and "Modes: kernel-pages=pcid; by default" in header
    panel = rest.rpartition("p / laight:")[2]
    assert names_all(panel) and "stack-fault-delivery=fred (the policy's)" in panel


def test_the_nightly_table_of_decisions_names_all_modes() -> None:
    text = nightly.table([decision("switch-sp-ipi", "safe", 7)], "keeps-accessed-clear")
    assert names_all(text) and "Modes: speculation=keeps-accessed-clear, df-restart=exact; by default" in text


# --- what is broken elsewhere


def three() -> list[Any]:
    """A policy that a litmus scenario breaks, one that none does, and a verdict `safe` of both."""
    return [
        judged("entry-exit", "litmus-laight", used(), safe=False, finding=stale_use()),
        judged("entry-exit", "deep", used()),
        judged("fixed-16k", "deep", used()),
    ]


def test_what_a_litmus_scenario_breaks_stands_beside_every_verdict_safe() -> None:
    text = re.sub(r"\s+", " ", shown(Console(width=400, no_color=True), *three()))
    assert "entry-exit deep safe: none found in 7; broken in litmus-laight" in text
    assert text.count("broken in") == 1
    page = Page(render(comparison(*three()), find_fleet("intel")))
    assert len(page.all("td", kind="safe broken")) == 1
    assert "broken in litmus-laight" in page.text


def test_what_a_larger_scenario_breaks_is_its_own_row() -> None:
    rows = [
        judged("entry-exit", "laight", used(), safe=False, finding=stale_use()),
        judged("entry-exit", "deep", used()),
    ]
    assert "broken in" not in shown(Console(width=120, no_color=True), *rows)


def test_a_fleet_says_it_in_words_too() -> None:
    console = Console(width=120, no_color=True)
    with console.capture() as captured:
        print_fleet(console, estimate(find_fleet("intel"), comparison(*three())))
    assert "entry-exit is broken in litmus-laight." in captured.get()


def test_compare_says_what_it_has_found_itself() -> None:
    words = ("compare", "--policies", "entry-exit", "--scenarios", "litmus-laight,litmus-reuse", "--schedules", "0")
    found = document(*words, "--explore", "--budget", "60")["results"]
    assert [one["safe"] for one in found] == [False, True]
    assert Break(**found[1]["broken_in"][0]) == Break("litmus-laight", None)
    text = re.sub(r"\s+", " ", kstack(*words, "--explore", "--budget", "60").stdout)
    assert "broken in litmus-laight" in text


READING: Final = Modes(df_restart="exact")
SILENT: Final = replace(READING, speculation="keeps-accessed-clear")


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Decisions that come with kstack."""
    path = tmp_path / "decisions.json"
    broken = [decision("entry-exit", "unsafe", 5, "litmus-quiet"), decision("entry-exit", "unsafe", 5, "litmus-wilcox")]
    silent = [*broken, decision("accessed-atomic", "unsafe", 5, "litmus-quiet"), decision("switch-sp-ipi", "safe", 5)]
    readings = [Reading(READING.as_dict(), [*broken, decision("accessed-atomic", "safe", 5, "litmus-quiet")])]
    write_decisions(path, [*readings, Reading(SILENT.as_dict(), silent)])
    monkeypatch.setattr(shipped, "read_decisions", lambda: read_decisions(path))
    read_decisions.cache_clear()
    return path


def test_what_was_explored_before_stands_there_with_its_modes(written: Path) -> None:
    rows = [judged(policy, "deep", used()) for policy in ("entry-exit", "accessed-atomic", "switch-sp-ipi")]
    known = {one.policy: shipped_breaks(one.policy) for one in rows}
    assert known["switch-sp-ipi"] == ()
    text = re.sub(r"\s+", " ", shown(Console(width=400, no_color=True), *rows, shipped=known))
    assert "entry-exit deep safe: none found in 7; broken in litmus-quiet and 1 more " in text
    assert (
        "accessed-atomic deep safe: none found in 7; broken in litmus-quiet under speculation=keeps-accessed-clear "
        in text
    )
    assert text.count("broken in") == 2
    assert "Broken, as explored before. Modes: df-restart=exact; by default speculation=sets-accessed," in text
    assert "Broken, as explored before. Modes: speculation=keeps-accessed-clear, df-restart=exact;" in text


def breaks(**scenarios: str) -> tuple[Break, ...]:
    """As explored under each reading, by the first word of its name: scenarios, in words."""
    readings = {reading.partition("-")[0]: replace(READING, speculation=reading).as_dict() for reading in READINGS}
    return tuple(Break(name, readings[first]) for first, names in scenarios.items() for name in names.split())


@pytest.mark.parametrize(
    ("found", "speculation", "said"),
    [
        (breaks(needs="a", sets="a b c", keeps="a b"), "needs-accessed", "broken in a"),
        (breaks(needs="a", sets="a b c", keeps="a b"), "sets-accessed", "broken in a and 2 more"),
        (
            breaks(needs="a d", sets="a b c d", keeps="a b d"),
            "none",
            "broken in a and 1 more with any speculation, and elsewhere",
        ),
        (breaks(needs="a", sets="a", keeps="a"), "none", "broken in a with any speculation"),
        (
            breaks(sets="a b", keeps="a b"),
            "needs-accessed",
            "broken in a and 1 more under speculation=sets-accessed or keeps-accessed-clear",
        ),
        (breaks(sets="a", keeps="b"), "needs-accessed", "broken in a under speculation=sets-accessed, and elsewhere"),
        (breaks(keeps="a b"), "needs-accessed", "broken in a and 1 more under speculation=keeps-accessed-clear"),
        (breaks(sets="a", keeps="b"), "keeps-accessed-clear", "broken in b"),
        ((Break("a", None), *breaks(sets="a b")), "none", "broken in a"),
        ((), "none", ""),
    ],
)
def test_where_a_policy_is_broken_is_said_of_this_reading_or_else_of_each_other(
    found: tuple[Break, ...], speculation: str, said: str
) -> None:
    assert in_words(found, Modes(speculation=speculation)) == said


def test_a_finding_under_the_least_reading_that_another_one_proves_away_is_named() -> None:
    stale, proved, cut = (
        (verdict, kind) for verdict, kind in (("unsafe", "stale"), ("safe", None), ("undecided", None))
    )
    endless = ("unsafe", None)
    for needs, sets, keeps, named in (
        (stale, stale, stale, []),
        (stale, cut, stale, []),
        (endless, proved, proved, []),
        (proved, stale, proved, []),
        (stale, proved, stale, ["sets-accessed"]),
        (stale, endless, proved, ["sets-accessed", "keeps-accessed-clear"]),
    ):
        readings = [
            Reading({"speculation": reading}, [Decision("p", "", "s", verdict, 1, 1, 1, kind)])
            for reading, (verdict, kind) in zip(READINGS, (needs, sets, keeps), strict=True)
        ]
        assert [line.rpartition(" ")[2] for line in nightly.not_included(readings)] == named


@pytest.mark.parametrize("what", ["code", "rules", "format"])
def test_decisions_of_other_code_are_left_out(written: Path, what: str) -> None:
    text = written.read_text()
    assert shipped_breaks("entry-exit")
    old = {
        "code": f'"code": "{shipped.exploring_code()}"',
        "rules": f'"rules": {RULES_VERSION}',
        "format": '"format": 1',
    }
    assert old[what] in text
    written.write_text(text.replace(old[what], f'"{what}": ' + ('"other"' if what == "code" else "77")))
    read_decisions.cache_clear()
    assert shipped_breaks("entry-exit") == ()


def test_a_decision_of_another_policy_is_left_out(written: Path) -> None:
    here = policy_hash_of("entry-exit")
    written.write_text(written.read_text().replace(here, here[::-1]))
    read_decisions.cache_clear()
    assert shipped_breaks("entry-exit") == ()
    assert shipped_breaks("accessed-atomic")


def test_a_guest_that_has_changed_is_other_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    for text in ("nop", "hlt"):
        (tmp_path / "lib.s").write_text(text)
        monkeypatch.setattr(shipped, "usual_guests", lambda: SimpleNamespace(folder=tmp_path))
        shipped.exploring_code.cache_clear()
        made.append(shipped.exploring_code())
    monkeypatch.undo()
    shipped.exploring_code.cache_clear()
    assert len({*made, shipped.exploring_code()}) == 3


def test_a_policy_of_the_users_own_with_the_same_id_is_another_one(written: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text((ROOT / "policies" / "entry_exit.py").read_text() + "\n# mended\n")
    assert shipped_breaks("entry-exit")
    assert shipped_breaks(str(mine)) == ()


def test_damaged_decisions_are_one_clear_error(written: Path) -> None:
    written.write_text(written.read_text()[:-40])
    read_decisions.cache_clear()
    with pytest.raises(ConfigError, match=r"decisions.json is damaged: .*; python -m tests.nightly decisions --write"):
        shipped_breaks("entry-exit")


def test_without_a_file_there_are_none(tmp_path: Path) -> None:
    assert read_decisions(tmp_path / "none.json") is None


def test_exploring_uses_nothing_that_its_hash_leaves_out() -> None:
    done = python("-c", "import sys, kstack.explore.breadth_first; print(*sys.modules)")
    used = [name.removeprefix("kstack.") for name in done.stdout.split() if name.startswith("kstack.")]
    assert "explore.breadth_first" in used
    left_out = [part.removesuffix(".py").replace("/", ".") for part in ABOVE if part not in ("guest", "policies")]
    assert [name for name in used for part in left_out if f"{name}.".startswith(f"{part}.")] == []
