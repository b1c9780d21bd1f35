"""The language of litmus tests: what is written is what is meant, and what is wrong is named with its place."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from kstack.base.errors import ConfigError
from kstack.kernels.kstack.language import FLAGS, NAMES, Entry, Operation, parse
from kstack.kernels.kstack.litmus import write_scenario
from kstack.kernels.kstack.pages import RESULTS, Litmus
from kstack.testing.reachable import read_test

EVERY = (
    "x=1; r y; z<>2; fence; lock; pte u=v; r pte x; pte y<>0; pte x=y-A if x-PW; lock pte x-A; lock pte v+D; pte x-W; "
    "pte z+A; invlpg x; cr3; send y; wait"
)


def test_what_is_printed_is_parsed_to_the_same() -> None:
    operations = parse(EVERY)
    assert len({one.what for one in operations}) == 15
    assert "; ".join(map(str, operations)) == EVERY
    assert parse("; ".join(map(str, operations))) == operations


def test_blanks_are_no_matter() -> None:
    assert parse(" pte x = y -A ;r  pte  x;lock pte x - A;x <> 1 ") == parse("pte x=y-A; r pte x; lock pte x-A; x<>1")
    assert parse("") == parse("  ") == ()


def test_a_shootdown_is_its_two_halves() -> None:
    assert parse("shoot y") == parse("send y; wait") == (Operation("send", 1), Operation("wait"))


def test_every_entry_has_one_text() -> None:
    entries = [Entry(frame, _flags(bits)) for frame in NAMES for bits in range(16)]
    entries += [Entry("", flags) for flags in ("", "W", "A", "D", "WA", "WD", "AD", "WAD")]
    assert len({str(entry) for entry in entries}) == len(entries) == 88
    assert [Entry.of(str(entry)) for entry in entries] == entries
    assert str(Entry("x", FLAGS)) == "x" and str(Entry()) == "0"


def _flags(bits: int) -> str:
    return "".join(flag for place, flag in enumerate(FLAGS) if bits >> place & 1)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x=1;; r y", "program, operation 2, '': no operation; write one of: x=1, r x"),
        ("x=1; jump x", "operation 2, 'jump x': no operation"),
        ("pte q=x", "operation 1, 'pte q=x': location 'q' does not exist; take one of x, y, z, u, v"),
        ("r xy", "location 'xy' does not exist"),
        ("pte x=y-Q", "entry 'y-Q': write 0, or a location (x, y, z, u, v) and flags that are clear, as in y-AD"),
        ("pte x=y-", "entry 'y-'"),
        ("pte x=0-A", "entry '0-A'"),
        ("pte x=0+P", r"entry '0+P'"),
        ("lock pte x+P", "flag '+P': write one of -P, -W, -A, -D, +W, +A, +D"),
        ("pte x-AD", "flag '-AD'"),
        ("x=-1", "value '-1': give a number from 0 to 2147483647"),
        ("x=2147483648", "value '2147483648'"),
        ("x=\u0661", "value"),
        ("x=one", "value 'one'"),
        ("wait", "operation 1, 'wait': write wait between two sends, and only behind a send"),
        ("send x; shoot y", "operation 2, 'shoot y': write wait between two sends"),
        ("shoot y; wait", "operation 2, 'wait'"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(text)
    assert says in str(error.value)


def test_nothing_but_a_program_is_one() -> None:
    """Texts of the language's own words and signs, in any order: a program, or one clear error."""
    rng, words = random.Random(1), "x y z q pte r lock fence invlpg send wait shoot cr3 if = <> - + ; 0 1 A P ~".split()
    programs = 0
    for _ in range(20_000):
        text = "".join(rng.choice(words) + rng.choice(("", " ")) for _ in range(rng.randint(1, 6)))
        try:
            operations = parse(text)
        except ConfigError:
            continue
        programs += 1
        assert parse("; ".join(map(str, operations))) == operations
    assert programs > 100


def test_results_are_named_by_what_was_done() -> None:
    test = Litmus.of(["r x; x=1; r x; pte x=y", "r pte x; lock pte x-A"], {"x": 5, "pte y": "x-A"})
    assert test.names == ("0:r x", "0:x=1", "0:r x #2", "1:r pte x", "1:lock pte x-A", "x", "y", "pte x", "pte y")
    assert [result.register for result in test.results] == ["r8", "", "r9", "r8", "r9"]
    assert Litmus.of(["x=1; r y"]).names == ("0:r y", "x", "y")  # no page is touched: no store can fault


@pytest.mark.parametrize(
    ("programs", "init", "says"),
    [
        ([], {}, "0 programs: give 1 to 4"),
        (["x=1"] * 5, {}, "5 programs: give 1 to 4"),
        (["r x; r x", "; ".join(["r x"] * 7)], {}, "program of CPU 1: 7 operations with 7 results"),
        (["; ".join(["x=1"] * 65)], {}, "program of CPU 0: 65 operations"),
        (["x=1", "y"], {}, "program of CPU 1, operation 1, 'y'"),
        (["x=1"], {"q": 1}, "init: 'q' does not exist; write x or 'pte x'"),
        (["x=1"], {"pte": "x"}, "init: 'pte' does not exist"),
        (["x=1"], {"x": -1}, "init: x = -1: give a number"),
        (["x=1"], {"x": "y"}, "init: x = 'y': give a number"),
        (["x=1"], {"x": True}, "init: x = True: give a number"),
        (["x=1"], {"pte x": "q"}, "init: pte x: entry 'q'"),
    ],
)
def test_what_is_wrong_with_a_test_is_named(programs: list[str], init: dict[str, int | str], says: str) -> None:
    with pytest.raises(ConfigError) as error:
        Litmus.of(programs, init)
    assert says in str(error.value)


def test_there_is_room_for_as_many_results_as_it_says() -> None:
    assert len(Litmus.of(["; ".join(["r x"] * len(RESULTS))]).results) == len(RESULTS)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('programs = ["x=1"]\nporgrams = 1\n', "key 'porgrams' does not exist; did you mean 'programs'?"),
        ('programs = "x=1"\n', "programs"),
        ('programs = ["x=1", "x"]\n', "program of CPU 1, operation 1, 'x'"),
        ('programs = ["x=1"]\n[init]\nq = 1\n', "init: 'q' does not exist"),
        ("programs = [", "test.toml"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "test.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        read_test(path)
    assert says in str(error.value) and "test.toml" in str(error.value)


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "test.toml"
    path.write_text('programs = ["x=1", "r x"]\nglobal = true\n[init]\nx = 2\n"pte y" = "x"\n')
    assert read_test(path) == Litmus.of(["x=1", "r x"], {"x": 2, "pte y": "x"}, True)
    path.write_text('id = "a scenario"\n')
    assert read_test(path) is None
    with pytest.raises(ConfigError, match="No such file"):
        read_test(tmp_path / "none.toml")


def test_what_needs_pages_is_not_written_without(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"program of CPU 1, 'invlpg x': such a test is written by kstack\.kernels\.kstack\.pages"
    ):
        write_scenario(tmp_path, [parse("x=1"), parse("r y; invlpg x")])
