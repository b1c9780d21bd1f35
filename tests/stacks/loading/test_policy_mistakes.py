"""A policy whose hooks would not run as they are written is refused, with the line and the remedy: every hook x mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from kstack.base.errors import PolicyError
from kstack.stacks.loading import contract
from kstack.stacks.loading.makers import Makers
from kstack.stacks.loading.registry import find_policy
from kstack.testing.mutants import Site, Sites, mutants_of, without
from tests.support.policy_mistakes import FORGOTTEN, HELPERS, HOOKS, WRONG, cases, right


def test_the_table_has_every_hook() -> None:
    assert {name: list(hook.parameters)[1:] for name, hook in contract.HOOKS.items()} == {
        name: head.split(", ") for name, head in HOOKS.items()
    }


def test_a_policy_without_a_mistake_is_taken(tmp_path: Path) -> None:
    (tmp_path / "helpers.py").write_text(HELPERS)
    (tmp_path / "mine.py").write_text(right())
    assert find_policy(str(tmp_path / "mine.py")).id == "mine"


@pytest.mark.parametrize("mistake", [*FORGOTTEN, *WRONG])
def test_a_mistake_in_any_hook_is_named_with_its_line_and_the_remedy(mistake: str, tmp_path: Path) -> None:
    (tmp_path / "helpers.py").write_text(HELPERS)
    for hook, case in cases(mistake).items():
        path = tmp_path / f"{hook}.py"
        path.write_text(case.source)
        with pytest.raises(PolicyError) as error:
            find_policy(str(path))
        text = str(error.value)
        assert text.startswith("policy mine: ") and text.endswith(f"({path}, line {case.line})"), (hook, text)
        assert case.remedy in text and "\n" not in text and len(text) < 1000, (hook, text)


ATTRIBUTES: Final = {
    "delivry = 'ist'": "delivery",
    "Delivery = 'ist'": "delivery",
    "pool_page = 3": "pool_pages",
    "POOL_PAGES = 3": "pool_pages",
    "poolpages: int = 3": "pool_pages",
    "reclaim = False": "reclaims",
    "reclaimes = False": "reclaims",
    "_reclaims = False": "reclaims",
    "def poolpages(self):\n        return 3": "pool_pages",
}


@pytest.mark.parametrize("line", ATTRIBUTES)
def test_an_attribute_that_is_nearly_one_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(f"from kstack.policies.fixed_8k import Fixed8K\n\nclass Mine(Fixed8K):\n    {line}\n")
    with pytest.raises(PolicyError, match=rf"did you mean {ATTRIBUTES[line]}\? \(.*mine.py, line 4\)"):
        find_policy(str(path))


@pytest.mark.parametrize("name", ["id", "title", "proposer", "source"])
def test_what_a_policy_must_say_and_says_under_another_name_is_named(name: str, tmp_path: Path) -> None:
    path, said = tmp_path / "mine.py", dict.fromkeys(("id", "title", "proposer", "source"), "x")
    said[f"{name}s" if name != "id" else "ID"] = said.pop(name)
    path.write_text(
        "from kstack.stacks import Policy\nclass Mine(Policy):\n"
        + "".join(f"    {a} = {b!r}\n" for a, b in said.items())
    )
    with pytest.raises(PolicyError, match=rf"did you mean {name}\? \(.*mine.py, line 6\)"):
        find_policy(str(path))


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("self.delivry = 'ist'", "did you mean delivery?"),
        ("self.switchout = None", "did you mean switch_out?"),
        ("self.delivery = 'ist'", "set it in the class, `delivery = ...`"),
        ("self.reclaims = False", "set it in the class, `reclaims = ...`"),
    ],
)
def test_what_a_policy_says_of_its_object_alone_is_named(line: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        f"from kstack.policies.fixed_8k import Fixed8K\n\nclass Mine(Fixed8K):\n    def __init__(self):\n        {line}\n"
    )
    with pytest.raises(PolicyError) as error:
        find_policy(str(path))
    assert says in str(error.value)


# --- what is no mistake


RIGHT: Final = {
    "a helper that is no generator": "def shared(self):\n        return 3\n    def tick(self, cpu):\n        yield Load('x', self.shared())",
    "a constant that a hook uses": "ticks = 3\n    def tick(self, cpu):\n        yield Load('x', self.ticks)",
    "a helper that a base uses": "def drain(self, cpu):\n        yield OtherCpus()",
    "a helper by a string": "def tick(self, cpu):\n        yield from getattr(self, 'late')(cpu)\n    def late(self, cpu):\n        yield OtherCpus()",
    "a private helper": "def tick(self, cpu):\n        yield from self.__late(cpu)\n    def __late(self, cpu):\n        yield OtherCpus()",
    "a hook by another name": "def _late(self, cpu):\n        yield OtherCpus()\n    tick = _late",
    "other names of arguments": "def tick(self, _processor):\n        yield OtherCpus()",
    "any arguments": "def tick(self, *arguments):\n        yield from super().tick(*arguments)",
    "an argument more, with a default": "def tick(self, cpu, more=3):\n        yield Load('x', more)",
    "a hook that returns a generator": "def tick(self, cpu):\n        return free(())",
    "a partial method": "def late(self, more, cpu):\n        yield Load('x', more)\n    tick = partialmethod(late, 3)",
    "an answer of a hook": "def switch_out(self, cpu, thread):\n        return (yield from free(()))",
    "a generator of plain things": "def tick(self, cpu):\n        for one in pages((1, 2)):\n            yield Load('x', one)\n        list(pages((1,)))\n        any(pages(()))",
    "a generator for later": "def tick(self, cpu):\n        work = free(())\n        yield OtherCpus()\n        yield from work",
    "one of two generators": "def tick(self, cpu):\n        work = free(()) if cpu else shootdown(())\n        yield from work",
    "a generator or none": "def tick(self, cpu):\n        work = None\n        if cpu:\n            work = free(())\n        if work:\n            yield from work",
    "generators in a list": "def tick(self, cpu):\n        work = [free(()) for _ in range(2)]\n        for one in work:\n            yield from one",
    "a generator that is driven": "def tick(self, cpu):\n        for step in free(()):\n            yield step",
    "a step for later": "def tick(self, cpu):\n        step = OtherCpus()\n        return (yield step)",
    "steps in a tuple": "def tick(self, cpu):\n        for step in (OtherCpus(), Load('x')):\n            yield step",
    "a hook that may be there": "def tick(self, cpu):\n        if self.extra:\n            yield from self.extra(cpu)\n        yield OtherCpus()\n    extra = None",
    "a choice of generators": "def pick(self, cpu):\n        level = yield Load('x')\n        return free(()) if level else shootdown(())\n    def tick(self, cpu):\n        yield from (yield from self.pick(cpu))",
    "a search": "def tick(self, cpu):\n        if cpu in pages((1, 2)):\n            yield OtherCpus()",
    "generators of a map": "def tick(self, cpu):\n        for one in map(shootdown, ((), ())):\n            yield from one",
    "a state of the object": "def __init__(self):\n        self.limit = 3\n    def tick(self, cpu):\n        yield Load('x', self.limit)",
    "an old conditional": "def tick(self, cpu):\n        work = cpu and free or shootdown\n        yield from work(())",
    "a named answer": "def tick(self, cpu):\n        if (found := (yield Load('x'))) is not None:\n            yield Load('x', found)",
    "a property": "@property\n    def ticks(self):\n        return 3\n    def tick(self, cpu):\n        yield Load('x', self.ticks)",
    "a static helper": "@staticmethod\n    def late(cpu):\n        yield OtherCpus()\n    def tick(self, cpu):\n        yield from self.late(cpu)",
    "a decorated hook": "@decorated\n    def tick(self, cpu):\n        yield OtherCpus()",
}
SOURCE: Final = """
from functools import partialmethod, wraps
from kstack.stacks import Load, OtherCpus, Policy, free, shootdown
def pages(all_of_them):
    yield from sorted(all_of_them)
def decorated(hook):
    @wraps(hook)
    def run(self, *arguments):
        return hook(self, *arguments)
    return run
class Base(Policy):
    def drain(self, cpu):
        yield from ()
    def share(self, cpu, thread):
        yield from self.drain(cpu)
class Mine(Base):
    id = title = proposer = source = "mine"
    {code}
"""


@pytest.mark.parametrize("what", RIGHT)
def test_what_is_right_is_taken(what: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(SOURCE.format(code=RIGHT[what]))
    assert find_policy(str(path)).id == "mine"


def test_mutants_are_no_mistakes() -> None:
    right, site = find_policy("multiplex"), Site("switch_out", "shootdown", 1, "Invlpg")
    changed = [Sites(right).policy, without(right, ["Invlpg"]), *(one.policy for one in mutants_of(right, [site]))]
    assert [list(contract.mistakes(one, Makers(one))) for one in changed] == [[]] * len(changed)
