"""Policies by name: those that come with kstack, those of installed packages, and those in a file.

A built-in policy is a class in a module of the `policies` package; an installed one is an entry
point of the group `kstack.policies`; `--policy ./mine.py` takes the one policy class of a file.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import pkgutil
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Final

from vm.errors import PolicyError
from vm.stacks.checks import said, shown
from vm.stacks.hypercall import DELIVERIES
from vm.stacks.policy import Policy

GROUP: Final = "kstack.policies"
MAX_POOL_PAGES: Final = 1 << 20  # of a CPU's pool: 4 GiB
_SHOWN: Final = ("id", "title", "proposer", "source")


def _classes(module: ModuleType) -> Iterator[type[Policy]]:
    for _, value in inspect.getmembers(module, inspect.isclass):
        if issubclass(value, Policy) and value is not Policy and value.__module__ == module.__name__:
            yield value


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
        policy()
    except (Exception, SystemExit) as error:
        raise PolicyError(f"{where}: class {policy.__name__} cannot be made ({said(error)})") from error
    return policy


def policies() -> dict[str, type[Policy]]:
    """All built-in and installed policies by id, sorted.

    Raises:
        PolicyError: one of them is no policy, or two have one id.
    """
    package = importlib.import_module("policies")
    found: dict[str, type[Policy]] = {}
    for info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"policies.{info.name}")
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
    """A policy by its id, or the one in a Python file.

    Raises:
        PolicyError: there is none, with the nearest ids.
    """
    if name.endswith(".py") or "/" in name:
        return _from_file(Path(name))
    known = policies()
    if name not in known:
        near = difflib.get_close_matches(name, known, 3, 0.4)
        hint = f"did you mean {', '.join(near)}?" if near else "see: kstack policies"
        raise PolicyError(f"policy {name!r} does not exist; {hint}")
    return known[name]


def policy_hash(name: str) -> str:
    """What identifies the source of a policy: BLAKE2b of its file, and of those of the policies it is made from (hex).

    Raises:
        PolicyError: there is no such policy.
    """
    policy = find_policy(name)
    own = Path(name) if name.endswith(".py") or "/" in name else Path(inspect.getfile(policy))
    bases = [base for base in policy.__mro__[1:] if base.__module__.startswith("policies.")]
    whole = hashlib.blake2b(digest_size=16)
    for source in dict.fromkeys([own, *(Path(inspect.getfile(base)) for base in bases)]):
        try:
            whole.update(source.read_bytes())
        except OSError as error:
            raise PolicyError(f"policy file {source}: {error.strerror}") from error
    return whole.hexdigest()


def _from_file(path: Path) -> type[Policy]:
    spec = importlib.util.spec_from_file_location(f"kstack_policy_{path.stem}", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise PolicyError(f"policy file {path} does not exist")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise PolicyError(f"policy file {path}: {said(error)}") from error
    found = list(_classes(module))
    if len(found) != 1:
        raise PolicyError(f"policy file {path} has {len(found)} policy classes; it must have one")
    return _checked(found[0], f"policy file {path}")
