"""Policies in files: one of several, what lies beside a file, when a file is executed again, and what its hash covers."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from kstack.base.errors import PolicyError
from kstack.stacks import Policy
from kstack.stacks.loading.files import RenamedWarning, module_of
from kstack.stacks.loading.registry import find_policy, name_of, policies, policy_hash, split_name
from kstack.stacks.policy import Policy as Base
from tests.support import family
from tests.support.command import ROOT, kstack

FAMILY: Final = Path(str(family.__file__))
MEMBERS: Final = {
    name: one for name, one in vars(family).items() if isinstance(one, type) and getattr(one, "truth", "")
}
ONE: Final = """
from kstack.stacks import Policy
class One(Policy):
    id = title = proposer = source = "one"
"""


@pytest.fixture(autouse=True)
def _modules() -> Iterator[None]:
    """A test's files leave nothing behind that another could find."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("kstack_policy_"):
            del sys.modules[name]


def test_a_policy_that_no_name_finds_again_is_refused() -> None:
    class Hidden(find_policy("fixed-16k")):  # type: ignore[misc] # a class like any other
        pass

    with pytest.raises(PolicyError, match="cannot be found again by a name"):
        name_of(Hidden)
    assert name_of(find_policy("entry-exit")) == "entry-exit"


# --- one of several


def test_the_family_has_seven_members() -> None:
    assert len(MEMBERS) == 7 and {one.truth for one in MEMBERS.values()} == {"safe", "safe-2", "unsafe"}


@pytest.mark.parametrize("name", MEMBERS)
def test_each_policy_of_a_file_is_found_by_its_class_and_by_its_id(name: str) -> None:
    found = find_policy(f"{FAMILY}:{name}")
    assert (found.__name__, found.id, found.truth) == (name, MEMBERS[name].id, MEMBERS[name].truth)  # type: ignore[attr-defined]
    assert find_policy(f"{FAMILY}:{found.id}") is found


def test_a_file_with_several_policies_names_them() -> None:
    with pytest.raises(PolicyError) as error:
        find_policy(str(FAMILY))
    names = ", ".join(MEMBERS)
    assert str(error.value) == f"policy file {FAMILY} has 7 policy classes; name one, as {FAMILY}:MissDeepest: {names}"


@pytest.mark.parametrize(
    ("wrong", "near"), [("NoLok", "NoLock"), ("m-no-loc", "m-no-lock"), ("missdeepest", "m-miss-deepest")]
)
def test_a_name_that_no_policy_of_a_file_has_is_refused_with_near_ones(wrong: str, near: str) -> None:
    with pytest.raises(PolicyError, match=rf"has no policy '{wrong}'; did you mean .*{near}"):
        find_policy(f"{FAMILY}:{wrong}")
    with pytest.raises(PolicyError, match=r"has no policy 'zzz'; it has MissDeepest, .*, WaitFirst"):
        find_policy(f"{FAMILY}:zzz")


def test_a_base_without_an_id_is_no_choice_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "from kstack.stacks import Policy\nclass B(Policy):\n    pass\nclass A(B):\n    id = title = proposer = source = 'a'\n"
    )
    assert find_policy(str(path)).id == "a"
    with pytest.raises(PolicyError, match="class B lacks id"):
        find_policy(f"{path}:B")


def test_a_class_under_two_names_is_one_policy(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(ONE + "Two = One\n")
    assert find_policy(str(path)) is find_policy(f"{path}:One") is find_policy(f"{path}:Two")


def test_one_id_of_two_classes_is_no_name(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(ONE + "class Two(One):\n    pass\n")
    assert find_policy(f"{path}:Two").__name__ == "Two"
    with pytest.raises(PolicyError, match=r"has 2 policy classes; name one, as .*mine.py:One: One, Two"):
        find_policy(f"{path}:one")


def test_a_class_that_is_no_policy_and_has_hooks_is_told_how_to_be_one(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("class Mine:\n    def switch_out(self, cpu, thread):\n        yield\n")
    with pytest.raises(PolicyError, match=r"has 0 policy classes; write `class Mine\(Policy\)`"):
        find_policy(str(path))


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("mine.py", (Path("mine.py"), "")),
        ("a/mine.py:Mine", (Path("a/mine.py"), "Mine")),
        ("a.py:b/mine.py:an-id", (Path("a.py:b/mine.py"), "an-id")),
        ("a.py:b/mine.py", (Path("a.py:b/mine.py"), "")),
        ("a/mine", (Path("a/mine"), "")),
        ("fixed-16k", (None, "fixed-16k")),
        ("fixed:16k", (None, "fixed:16k")),
    ],
)
def test_a_name_is_an_id_or_a_file_and_a_policy_in_it(name: str, split: tuple[Path | None, str]) -> None:
    assert split_name(name) == split


@pytest.mark.parametrize("name", ["none.py", "none.py:One", "a/none", "a/none.py"])
def test_a_file_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(PolicyError, match=rf"policy file {split_name(name)[0]} does not exist"):
        find_policy(name)


def test_a_file_that_is_no_python_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text(ONE)
    with pytest.raises(PolicyError, match=r"mine is no Python file"):
        find_policy(str(tmp_path / "mine"))


@pytest.mark.slow
def test_every_command_takes_a_policy_by_its_file_and_name(tmp_path: Path) -> None:
    name, here = f"{FAMILY.relative_to(ROOT)}:MissDeepest", ROOT
    recording, witness = tmp_path / "run.json", tmp_path / "witness.json"
    assert kstack("run", "exit-reuse", "--policy", name, "--record", recording).returncode == 0, here
    assert kstack("replay", recording).returncode == 0
    compared = kstack("compare", "--policies", f"{name},{FAMILY}:no-such", "--scenarios", "exit-reuse")
    assert (compared.returncode, "has no policy 'no-such'" in compared.stderr) == (2, True)
    compared = kstack(
        "compare", "--policies", f"{name},{FAMILY}:ClockFlush", "--scenarios", "exit-reuse", "--schedules", "1"
    )
    assert compared.returncode == 0 and {"m-miss-deepest", "m-clock-flush"} <= set(compared.stdout.split())
    explored = kstack("explore", "litmus-laight", "--policy", f"{FAMILY}:NoLock", "--json", "--jobs", "2")
    assert explored.returncode == 0, explored.stderr
    explored = kstack("explore", "litmus-laight", "--policy", f"{FAMILY}:c-tlb-gen", "--witness", witness)
    assert explored.returncode == 4, explored.stderr  # it collects from nobody there


# --- beside the file


def write(folder: Path, **files: str) -> Path:
    """Write Python files, by the names of their modules ; the first one's path."""
    paths = [folder / f"{name}.py" for name in files]
    for path, text in zip(paths, files.values(), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return paths[0]


IMPORTS: Final = {
    "a module": "import helpers\nNAME = helpers.NAME",
    "a module under another name": "import helpers as h\nNAME = h.NAME",
    "a name": "from helpers import NAME",
    "all names": "from helpers import *",
    "a package": "import tools\nNAME = tools.NAME",
    "a module of a package": "import tools.names\nNAME = tools.names.NAME and tools.NAME",
    "a module of a package, renamed": "import tools.names as n\nNAME = n.NAME",
    "a name of a module of a package": "from tools.names import NAME",
    "a module from a package": "from tools import names\nNAME = names.NAME",
    "a module of a folder": "from bare.names import NAME",
    "several": "import os, helpers, sys as system\nNAME = helpers.NAME if os and system else ''",
    "relatively": "from .helpers import NAME",
    "relatively from here": "from . import helpers\nNAME = helpers.NAME",
    "in a branch": "if True:\n    try:\n        import helpers\n    finally:\n        NAME = helpers.NAME",
    "in a function": "def get():\n    from helpers import NAME\n    return NAME\nNAME = get()",
    "in a hook's time": "class Late:\n    @property\n    def name(self):\n        import tools.names\n        return tools.names.NAME\nNAME = Late().name",
}


@pytest.mark.parametrize("what", IMPORTS)
def test_what_lies_beside_a_file_can_be_imported(what: str, tmp_path: Path) -> None:
    found = [find_policy(str(self_made(tmp_path / one, IMPORTS[what], one))) for one in ("x", "y")]
    assert [policy.title for policy in found] == ["x", "y"], "two files' helpers of one name are two"
    assert not {"helpers", "tools", "bare"} & set(sys.modules)


def self_made(folder: Path, imports: str, name: str) -> Path:
    """A policy that has its title from a module beside it, which has it from another."""
    own = f"{imports}\nfrom kstack.stacks import Policy\nclass Mine(Policy):\n    id = proposer = source = 'm'\n    title = NAME\n"
    return write(
        folder,
        mine=own,
        helpers="from tools.names import NAME",
        other=f"NAME = {name!r}",
        **{
            "tools/__init__": "from .names import NAME\nfrom . import names",
            "tools/names": "import other\nNAME = other.NAME",
            "bare/names": "from helpers import NAME",
        },
    )


def test_a_file_beside_hides_neither_the_standard_library_nor_kstack(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        mine=ONE
        + "import queue, json.decoder, kstack.base.errors\nassert queue.Queue and json.loads and kstack.base.errors.KstackError\n"
        "from kstack.policies.switch_sp import SwitchSp\nfrom kstack.stacks import Policy as Same\n",
        queue="raise RuntimeError",
        json="raise RuntimeError",
        kstack="raise RuntimeError",
    )
    assert find_policy(str(path)).id == "one"
    assert vars(module_of(path))["Same"] is Base


@pytest.mark.parametrize("name", ["vm", "guest", "policies"])
def test_names_of_folders_in_kstacks_repository_are_free(name: str, tmp_path: Path) -> None:
    path = write(tmp_path, mine=f"from {name}.stacks import PAGES\n{ONE}", **{f"{name}/stacks": "PAGES = 7"})
    assert vars(module_of(path))["PAGES"] == 7


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("vm.stacks", "kstack.stacks"),
        ("vm.stacks.policy", "kstack.stacks.policy"),
        ("policies.switch_sp", "kstack.policies.switch_sp"),
    ],
)
def test_a_name_that_a_module_had_once_is_taken_with_a_line_of_advice(old: str, new: str, tmp_path: Path) -> None:
    path = write(tmp_path, mine=f"{ONE}\ndef f():\n    from {old} import Policy\n    return Policy\n")
    with pytest.warns(RenamedWarning, match=rf"`from {old} import` is `from {new} import` now") as caught:
        module = module_of(path)
    assert [(one.filename, one.lineno) for one in caught] == [(str(path), len(ONE.splitlines()) + 3)]
    assert vars(module)["f"]() is Base


def test_kstacks_own_folders_beside_a_file_are_not_loaded_twice(tmp_path: Path) -> None:
    for name in ("vm", "guest", "policies"):
        (tmp_path / name).symlink_to(ROOT / name)
    path = write(tmp_path, mine=f"from vm.stacks import Policy as Same\n{ONE}")
    with pytest.warns(RenamedWarning):
        assert vars(module_of(path))["Same"] is Base


def test_a_mere_folder_hides_no_installed_package(tmp_path: Path) -> None:
    (tmp_path / "pytest").mkdir()
    assert find_policy(str(write(tmp_path, mine=ONE + "import pytest\nassert pytest.raises\n"))).id == "one"


def test_a_base_from_beside_a_file_is_the_file_s_own(tmp_path: Path) -> None:
    path = write(tmp_path, mine="from base import One\nclass Two(One):\n    id = 'two'\n", base=ONE)
    assert find_policy(str(path)).id == "two"
    assert find_policy(f"{path}:One").id == "one", "it can be named all the same"


def test_a_forgotten_generator_beside_a_file_is_found(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        mine=ONE + "    def tick(self, cpu):\n        yield from sweep(cpu)\nfrom helpers import sweep\n",
        helpers="from kstack.stacks import OtherCpus\ndef flush():\n    yield OtherCpus()\ndef sweep(cpu):\n    yield OtherCpus()\n    flush()\n",
    )
    with pytest.raises(PolicyError, match=rf"write `yield from flush\(\)` \({tmp_path}/helpers.py, line 6\)"):
        find_policy(str(path))


@pytest.mark.parametrize(
    "text", ["import nothing_of_this_name", "from helpers import missing", "import helpers.more", "from .. import x"]
)
def test_an_import_of_what_is_not_there_is_refused(text: str, tmp_path: Path) -> None:
    before = set(sys.modules)
    with pytest.raises(PolicyError, match=r"policy file .*mine.py: (ModuleNotFound|Import)Error: "):
        find_policy(str(write(tmp_path, mine=f"{text}\n{ONE}", helpers="")))
    assert not [name for name in sys.modules if name.startswith("kstack_policy_") and name not in before]


def test_files_that_import_each_other_work(tmp_path: Path) -> None:
    path = write(tmp_path, mine=ONE + "import helpers\n", helpers="import mine\nassert mine.One\n")
    assert find_policy(str(path)) is vars(vars(module_of(path))["helpers"])["mine"].One


# --- a file's module


@pytest.mark.parametrize("future", ["", "from __future__ import annotations\n"])
def test_dataclasses_and_pickles_of_a_file_work(future: str, tmp_path: Path) -> None:
    text = (
        "from dataclasses import dataclass, field\nfrom typing import ClassVar\nfrom kstack.stacks import Policy\n"
        "@dataclass(frozen=True)\nclass Entry:\n    page: int\n    more: list[int] = field(default_factory=list)\n"
        "@dataclass\nclass Mine(Policy):\n    id: ClassVar[str] = 'mine'\n    limit: int = 3\n"
        "    title: ClassVar[str] = 't'\n    proposer: ClassVar[str] = 'p'\n    source: ClassVar[str] = 's'\n"
    )
    found = find_policy(str(write(tmp_path, mine=future + text)))
    assert found().limit == 3  # type: ignore[attr-defined]
    assert pickle.loads(pickle.dumps(found)) is found
    entry = vars(sys.modules[found.__module__])["Entry"](1, [2])
    assert pickle.loads(pickle.dumps(entry)) == entry


def test_a_file_is_executed_once_while_it_stays_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, mine=ONE)
    first = find_policy(str(path))
    monkeypatch.chdir(tmp_path)
    path.touch()
    assert find_policy(str(path)) is find_policy("./mine.py") is find_policy("mine.py:One") is first


@pytest.mark.parametrize("changed", ["mine", "base", "deep"])
def test_a_file_is_executed_again_when_it_or_what_it_imports_has_changed(changed: str, tmp_path: Path) -> None:
    """Of the same length and within a second: a cache of bytecode would not see it."""
    path = write(
        tmp_path,
        mine="from base import A\nclass B(A):\n    id = 'x'\n",
        base="from deep import A\n",
        deep=ONE.replace("One", "A"),
    )
    before, hashed = find_policy(str(path)), policy_hash(str(path))
    file = tmp_path / f"{changed}.py"
    file.write_text(file.read_text().replace("A", "C") if changed != "mine" else file.read_text().replace("'x'", "'y'"))
    if changed == "deep":
        file.write_text(file.read_text().replace("C", "A").replace('"one"', '"two"'))
    elif changed == "base":
        file.write_text("from deep import A #")
    after = find_policy(str(path))
    assert after is not before and policy_hash(str(path)) != hashed
    assert (after.id, after.title) == ("y" if changed == "mine" else "x", "two" if changed == "deep" else "one")
    assert before.id == "x" and before().tick, "who has the old class can use it"
    assert not list(tmp_path.rglob("*.pyc"))


def test_a_file_whose_neighbour_is_gone_is_executed_again(tmp_path: Path) -> None:
    path = write(tmp_path, mine=ONE + "import helpers\n", helpers="")
    find_policy(str(path))
    (tmp_path / "helpers.py").unlink()
    with pytest.raises(PolicyError, match="ModuleNotFoundError: No module named 'helpers'"):
        find_policy(str(path))


def test_an_error_names_the_file_as_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, mine=ONE + "    def ticks(self, cpu):\n        yield\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PolicyError, match=r"\(mine.py, line 5\)"):
        find_policy("mine.py")


# --- the hash


def test_the_hash_of_a_file_covers_what_it_imports_from_beside_it(tmp_path: Path) -> None:
    path = write(tmp_path, mine=ONE + "def later():\n    import absent\n", helpers="")
    alone = policy_hash(str(path))
    path.write_text(path.read_text() + "import helpers\n")
    two = policy_hash(str(path))
    (tmp_path / "helpers.py").write_text("y = 2")
    assert len({alone, two, policy_hash(str(path))}) == 3
    (tmp_path / "other.py").write_text("z = 3")
    assert policy_hash(str(path)) == policy_hash(f"{path}:One"), "what is not imported is not covered"


def test_the_hash_of_a_file_covers_its_bases_wherever_they_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "installed", somewhere=ONE, somewhere_else="LIMIT = 3\n")
    monkeypatch.syspath_prepend(str(tmp_path / "installed"))
    path = write(tmp_path / "own", mine="from somewhere import One\nclass Mine(One):\n    id = 'mine'\n")
    before = policy_hash(str(path))
    with (tmp_path / "installed" / "somewhere.py").open("a") as file:
        file.write("# changed\n")
    assert policy_hash(str(path)) != before
    del sys.modules["somewhere"]


@pytest.mark.parametrize("name", policies())
def test_the_hash_of_a_shipped_policy_covers_its_file_and_those_it_imports_and_no_others(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    data = Path.read_bytes

    def watched(path: Path) -> bytes:
        read.append(path)
        return data(path)

    monkeypatch.setattr(Path, "read_bytes", watched)
    policy_hash(name)
    own = Path(str(sys.modules[policies()[name].__module__].__file__))
    wanted, todo = {own}, [own]
    while todo:
        text = todo.pop().read_text()
        for path in own.parent.glob("*.py"):
            if f"from kstack.policies.{path.stem} import" in text and path not in wanted:
                wanted.add(path)
                todo.append(path)
    assert set(read) == wanted and read[0] == own


def test_the_hash_of_a_policy_in_one_file_is_that_of_its_bytes() -> None:
    """So that recordings of earlier versions find it again."""
    from hashlib import blake2b

    own = ROOT / "policies" / "entry_exit.py"
    assert policy_hash("entry-exit") == blake2b(own.read_bytes(), digest_size=16).hexdigest()
    assert issubclass(find_policy("entry-exit"), Policy)
