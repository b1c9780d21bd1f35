"""Policies by name: those that come with kstack, those of installed packages, and those in a file.

A built-in policy is a class in a module of the `kstack.policies` package; an installed one is an entry
point of the group `kstack.policies`; `--policy ./mine.py` takes the one policy class of a file, and
`--policy ./family.py:NoLock` one of several, by its class or id.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Iterable
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Final

from kstack.base.errors import PolicyError
from kstack.stacks.host.checks import said, shown
from kstack.stacks.loading.contract import HOOKS, check_contract, check_object
from kstack.stacks.loading.files import module_of
from kstack.stacks.loading.sources import source_hash
from kstack.stacks.policy import DELIVERIES, Policy

GROUP: Final = "kstack.policies"
MAX_POOL_PAGES: Final = 1 << 20  # of a CPU's pool: 4 GiB
_SHOWN: Final = ("id", "title", "proposer", "source")


def _classes(module: ModuleType) -> list[type[Policy]]:
    """The policies that are defined in a module, in its order."""
    found = (value for value in vars(module).values() if inspect.isclass(value) and issubclass(value, Policy))
    return list(dict.fromkeys(one for one in found if one.__module__ == module.__name__))


def _checked(policy: type[Policy], where: str) -> type[Policy]:
    missing = [name for name in _SHOWN if not isinstance(getattr(policy, name, None), str)]
    if missing:
        raise PolicyError(f"{where}: class {policy.__name__} lacks {', '.join(missing)} (class attributes, strings)")
    if policy.delivery not in DELIVERIES:
        raise PolicyError(f"{where}: delivery {shown(policy.delivery)} is none of {', '.join(DELIVERIES)}")
    pages = policy.pool_pages
    if pages is not None and (type(pages) is not int or not 0 <= pages <= MAX_POOL_PAGES):
        raise PolicyError(f"{where}: pool_pages {shown(pages)} is no number of pages up to {MAX_POOL_PAGES}")
    if type(policy.reclaims) is not bool:
        raise PolicyError(f"{where}: reclaims {shown(policy.reclaims)} is neither True nor False")
    try:
        made = policy()
    except (Exception, SystemExit) as error:
        raise PolicyError(f"{where}: class {policy.__name__} cannot be made ({said(error)})") from error
    if vars(made):
        check_object(made)
    return policy


def policies() -> dict[str, type[Policy]]:
    """All built-in and installed policies by id, sorted.

    Raises:
        PolicyError: one of them is no policy, or two have one id.
    """
    package = importlib.import_module("kstack.policies")
    found: dict[str, type[Policy]] = {}
    for info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"kstack.policies.{info.name}")
        for policy in _classes(module):
            found[_checked(policy, module.__name__).id] = policy
    for entry in entry_points(group=GROUP):
        try:
            policy = entry.load()
        except (Exception, SystemExit) as error:
            raise PolicyError(f"entry point {entry.name} of {GROUP}: {said(error)}") from error
        if not (inspect.isclass(policy) and issubclass(policy, Policy)):
            raise PolicyError(f"entry point {entry.name} of {GROUP} is no policy class: {policy!r}")
        if _checked(policy, entry.value).id in found:
            raise PolicyError(f"policy {policy.id!r} exists twice: {entry.value} and a built-in or installed one")
        found[policy.id] = policy
    return dict(sorted(found.items()))


def find_policy(name: str) -> type[Policy]:
    """A policy by its id, or in a Python file: `mine.py` with one, or one of several by class or id, `family.py:NoLock`.

    Raises:
        PolicyError: there is none, with the nearest names; or it breaks the contract of policies.
    """
    path, wanted = split_name(name)
    if path is not None:
        policy = _in_file(path, wanted)
        check_contract(policy)
        return _checked(policy, f"policy file {path}")
    known = policies()
    if name not in known:
        raise PolicyError(f"policy {name!r} does not exist; {_near(name, known, 'see: kstack policies')}")
    check_contract(known[name])
    return known[name]


def split_name(name: str) -> tuple[Path | None, str]:
    """The file that a policy's name names, and which policy in it: (None, name) for an id, "" for the only one."""
    if name.endswith(".py"):
        return Path(name), ""
    file, found, wanted = name.rpartition(".py:")
    if found:
        return Path(f"{file}.py"), wanted
    return (Path(name), "") if "/" in name else (None, name)


def policy_hash(name: str) -> str:
    """What identifies the source of a policy: BLAKE2b of its file, its bases' and what they import from beside them (hex).

    Raises:
        PolicyError: there is no such policy, or a file cannot be read.
    """
    return source_hash(find_policy(name))


def name_of(policy: type[Policy]) -> str:
    """By what a policy is found again: its id, or the path of its file, with its name if that has others in it.

    Raises:
        PolicyError: by nothing.
    """
    if policies().get(policy.id) is policy:
        return policy.id
    module = sys.modules.get(policy.__module__)
    file = getattr(module, "__file__", None) or ""
    if file.endswith(".py") and vars(module).get(policy.__name__) is policy:
        return f"{Path(file).resolve()}:{policy.__name__}"
    raise PolicyError(
        f"policy {policy.__qualname__} cannot be found again by a name: define it in a file, outside functions and "
        "classes, or offer it as an entry point of the group kstack.policies"
    )


def _in_file(path: Path, wanted: str) -> type[Policy]:
    """The one policy of a file, or the one of this class name or id.

    Raises:
        PolicyError: the file is none, or has not one such policy.
    """
    module = module_of(path)
    found = _classes(module)
    offered = [policy for policy in found if isinstance(getattr(policy, "id", None), str)]  # others are only bases
    if wanted:
        other = getattr(module, wanted, None)
        named = [other] if inspect.isclass(other) and issubclass(other, Policy) else []
        chosen = named or [policy for policy in offered if policy.id == wanted]
        names = [name for policy in offered for name in (policy.__name__, policy.id)]
        near = f"{_near(wanted, names, '')} " if _near(wanted, names, "") else ""
        missing = f"has no policy {wanted!r}; {near}it has {_listed(offered)}"
    else:
        chosen = offered or found
        missing = f"has 0 policy classes; {_unrelated(module)}"
    if not chosen:
        raise PolicyError(f"policy file {path} {missing}")
    if len(chosen) > 1:
        example = f"{path}:{chosen[0].__name__}"
        raise PolicyError(
            f"policy file {path} has {len(chosen)} policy classes; name one, as {example}: {_listed(chosen)}"
        )
    return chosen[0]


def _unrelated(module: ModuleType) -> str:
    """What to say of a module that has no policy."""
    own = [one for one in vars(module).values() if inspect.isclass(one) and one.__module__ == module.__name__]
    hooked = [one.__name__ for one in own if HOOKS.keys() & vars(one).keys()]
    return f"write `class {hooked[0]}(Policy)`" if hooked else "it must have one"


def _near(name: str, names: Iterable[str], otherwise: str) -> str:
    near = difflib.get_close_matches(name, list(names), 3, 0.4)
    return f"did you mean {', '.join(near)}?" if near else otherwise


def _listed(found: Iterable[type[Policy]]) -> str:
    return ", ".join(policy.__name__ for policy in found) or "none"
