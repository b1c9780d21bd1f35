"""What a policy must be, checked before it runs: the same hook under another name would never run, and look safe.

A class is held to `Policy`: each hook is a generator function of the class and takes the hook's arguments; a
method that nothing can call is a misspelled hook, as is an attribute that is nearly one. What its code makes
and forgets is for `forgotten`; what neither can see is seen while hooks run (`watch`).
"""

from __future__ import annotations

import ast
import difflib
import inspect
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import partialmethod
from types import FunctionType
from typing import Final, NamedTuple
from weakref import WeakKeyDictionary

from kstack.base.errors import PolicyError
from kstack.stacks.host.checks import shown
from kstack.stacks.loading.forgotten import forgotten
from kstack.stacks.loading.makers import Makers
from kstack.stacks.loading.reach import is_plain
from kstack.stacks.loading.sources import (
    ANY,
    Mistake,
    functions_of,
    index_of,
    own_classes,
    own_nodes,
    plain_function,
    uses_of,
)
from kstack.stacks.policy import Policy

HOOKS: Final = {
    name: inspect.signature(hook) for name, hook in vars(Policy).items() if inspect.isgeneratorfunction(hook)
}
ATTRIBUTES: Final = ("id", "title", "proposer", "source", "delivery", "pool_pages", "reclaims")
_NEAR: Final = 0.81  # of difflib's ratio: `switch_ot`, `pool_page`; not `request_page`
_FAR: Final = 0.6  # where it is wrong in any case


class Contract(NamedTuple):
    """What is known of a policy's class.

    Attributes:
        mistake: the first, None if it is as it must be.
        is_plain: its code can be told to forget nothing, so that its hooks need not be watched.
    """

    mistake: Mistake | None
    is_plain: bool


_known: WeakKeyDictionary[type[Policy], Contract] = WeakKeyDictionary()


def check_contract(policy: type[Policy]) -> bool:
    """Refuse a policy whose hooks would not run as they are written. Answers whether they must be watched while they do.

    Raises:
        PolicyError: with the first mistake: its file, its line, and how to mend it.
    """
    if policy not in _known:
        makers = Makers(policy)
        mistake = next(mistakes(policy, makers), None)
        _known[policy] = Contract(mistake, mistake is None and is_plain(policy, makers))
    mistake, plain = _known[policy]
    if mistake is not None:
        name = getattr(policy, "id", None)
        raise PolicyError(f"policy {name if isinstance(name, str) else policy.__name__}: {mistake}")
    return not plain


def check_object(policy: Policy) -> None:
    """Refuse a policy that says of its object what policies say of their class, or nearly: nobody would read it.

    Raises:
        PolicyError: it does.
    """
    uses = uses_of(type(policy))
    for name in sorted(getattr(policy, "__dict__", {})):
        if name in ("delivery", "pool_pages", "reclaims"):
            raise PolicyError(f"policy {policy.id}: {name} is set on the object: set it in the class, `{name} = ...`")
        hint = _hint(name, [*HOOKS, *ATTRIBUTES])
        if hint and name not in (*HOOKS, *ATTRIBUTES) and name not in uses:
            raise PolicyError(f"policy {policy.id}: {name} is nothing that policies have, and nothing uses it: {hint}")


def mistakes(policy: type[Policy], makers: Makers) -> Iterator[Mistake]:
    """All that can be seen without running it, in a fixed order."""
    for name in HOOKS:
        yield from _hook(policy, name)
    yield from _hidden(policy)
    uses = uses_of(policy)
    yield from _names(policy, uses)
    yield from _outside(policy)
    yield from forgotten(policy, makers, HOOKS, uses)


# --- hooks


def _hook(policy: type[Policy], name: str) -> Iterator[Mistake]:
    owner = next(one for one in policy.__mro__ if name in vars(one))
    if owner is Policy:
        return
    hook = vars(owner)[name]
    written = f"def {name}{_signature(name)}:"
    function = hook.func if isinstance(hook, partialmethod) else hook
    if not isinstance(function, FunctionType):
        yield _at(owner, name, f"{name} is {_kind(hook)} and no method: write `{written}`, or leave it out")
    elif inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        yield _at(owner, name, f"{name} is an `async def`: write `{written}`, and `yield from` for `await`")
    elif not _takes(policy, name):
        yield _at(owner, name, f"{name} takes other arguments than the hook: write `{written}`")
    elif (wrong := _misplaced(policy, name)) is not None:
        yield _at(owner, name, f"{name} has `{wrong}` in another's place: write `{written}`")
    elif not inspect.isgeneratorfunction(function) and _is_empty(function):
        way = "`yield` each step, or `yield from ()` for none"
        if (call := _last_call(function)) is not None:
            way = f"if `{call}` makes its steps, write `yield from {call}`; else {way}"
        yield _at(owner, name, f"{name} has no `yield`, so it makes no step: {way}")


def _hidden(policy: type[Policy]) -> Iterator[Mistake]:
    """What bases have that `Policy`, which comes before them, has too."""
    classes = policy.__mro__
    for name in (*HOOKS, *ATTRIBUTES):
        owners = [one for one in classes if name in vars(one)]
        if len(owners) > 1 and owners[0] is Policy:
            base = owners[1].__name__
            text = f"{name} of {base} is hidden by that of Policy, which comes first"
            yield _at(owners[1], name, f"{text}: write `class {policy.__name__}({base}, Policy)`")


def _signature(name: str) -> str:
    return f"({', '.join(HOOKS[name].parameters)})"


def _kind(value: object) -> str:
    named = {staticmethod: "a staticmethod", classmethod: "a classmethod", property: "a property"}
    return named.get(type(value), shown(value))


def _takes(policy: type[Policy], name: str) -> bool:
    """Whether the hook can be called as hooks are."""
    try:
        inspect.signature(getattr(policy, name)).bind(*HOOKS[name].parameters)
    except TypeError:
        return False
    return True


def _misplaced(policy: type[Policy], name: str) -> str | None:
    """An argument that has the name of another one."""
    wanted = list(HOOKS[name].parameters)
    given = list(inspect.signature(getattr(policy, name)).parameters)
    return next((one for one, right in zip(given, wanted, strict=False) if one != right and one in wanted), None)


def _is_empty(function: FunctionType) -> bool:
    """Whether a function that is no generator cannot return one either."""
    index = index_of(function.__globals__)
    node = None if index is None else index.function(function.__code__)
    if node is None:
        return False
    if isinstance(node, ast.Lambda):
        return _is_plain(node.body)
    inside = list(own_nodes(node))
    returned = [one.value for one in inside if isinstance(one, ast.Return) and one.value is not None]
    return all(map(_is_plain, returned)) and not any(isinstance(one, ast.Raise) for one in inside)


def _last_call(function: FunctionType) -> str | None:
    """A call whose answer nobody takes, with which a function ends."""
    index = index_of(function.__globals__)
    node = None if index is None else index.function(function.__code__)
    body = [] if node is None or isinstance(node, ast.Lambda) else node.body
    last = body[-1] if body else None
    return ast.unparse(last.value) if isinstance(last, ast.Expr) and isinstance(last.value, ast.Call) else None


def _is_plain(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant | ast.List | ast.Tuple | ast.Set | ast.Dict | ast.ListComp)


# --- names


def _names(policy: type[Policy], uses: Mapping[str, set[str]]) -> Iterator[Mistake]:
    """Attributes of the policy's classes that nothing uses, where they would be hooks under another name."""
    for owner in own_classes(policy):
        for name, value in vars(owner).items():
            if name.startswith("__") or hasattr(Policy, name) or name in ATTRIBUTES or inspect.isclass(value):
                continue
            written = name.removeprefix(f"_{owner.__name__.lstrip('_')}") if "__" in name else name
            using = uses.get(name, set()) | uses.get(written, set())
            if not using - {name, written} and not _is_hook(policy, value):
                yield from _unused(owner, name, value, ANY in uses)
        yield from _twice(owner)


def _is_hook(policy: type[Policy], value: object) -> bool:
    """Whether a hook is another name of an attribute."""
    return any(hook in vars(one) and vars(one)[hook] is value for one in own_classes(policy) for hook in HOOKS)


def _unused(owner: type, name: str, value: object, perhaps: bool) -> Iterator[Mistake]:
    """What is wrong with an attribute that nothing uses; `perhaps` something does, by a computed name."""
    plain = name.removeprefix(f"_{owner.__name__.lstrip('_')}__")
    function = plain_function(value)
    if function is not None and inspect.isgeneratorfunction(function) and not perhaps:
        hint = _hint(plain, HOOKS, cutoff=_FAR) or f"the hooks are {', '.join(HOOKS)}"
        yield _at(owner, name, f"{name} is no hook, and nothing calls it, so it would never run: {hint}")
    elif hint := _hint(plain, [*HOOKS, *ATTRIBUTES], vars(owner)):
        yield _at(owner, name, f"{name} is nothing that policies have, and nothing uses it: {hint}")


def _hint(name: str, known: Iterable[str], there: Iterable[str] = (), cutoff: float = _NEAR) -> str:
    """Which of the known names is meant, if it is not there as well."""
    plain = {one.replace("_", ""): one for one in known if one not in there}
    near = difflib.get_close_matches(name.replace("_", "").lower(), plain, 1, cutoff)
    return f"did you mean {plain[near[0]]}?" if near else ""


def _twice(owner: type) -> Iterator[Mistake]:
    """Methods that another one of the same name, further down, replaces."""
    node = _node(owner)
    seen: dict[str, int] = {}
    for one in [] if node is None else node.body:
        if not isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef) or one.decorator_list:
            continue
        if one.name in seen:
            text = f"{one.name} is defined a second time in class {owner.__name__}: the first, line {seen[one.name]}, never runs"
            yield Mistake(_file(owner), one.lineno, f"{text}; rename or delete one")
        seen[one.name] = one.lineno


def _outside(policy: type[Policy]) -> Iterator[Mistake]:
    """Functions of the class's module that are meant to be in the class."""
    index = index_of(vars(sys.modules.get(policy.__module__, object)))
    if index is None:
        return
    for one in index.module.body:
        if not isinstance(one, ast.FunctionDef) or not one.args.args or one.args.args[0].arg != "self":
            continue
        if _hint(one.name, HOOKS) and not index.uses.get(one.name, set()) - {one.name}:
            text = f"{one.name} is a function of the file and in no class, so it would never run: indent it"
            yield Mistake(_file(policy), one.lineno, text)


# --- where


def _at(owner: type, name: str, text: str) -> Mistake:
    """A mistake of a class's attribute."""
    node = _node(owner)
    lines = [one.lineno for one in ([] if node is None else node.body) if name in _bound(one)]
    function = plain_function(vars(owner).get(name))
    if not lines and function is not None:
        return Mistake(function.__code__.co_filename, function.__code__.co_firstlineno, text)
    return Mistake(_file(owner), lines[-1] if lines else getattr(node, "lineno", 0), text)


def _bound(statement: ast.stmt) -> Iterator[str]:
    """The names that a statement of a class binds."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield statement.name
    else:
        yield from (
            one.id for one in ast.walk(statement) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)
        )


def _node(owner: type) -> ast.ClassDef | None:
    index = index_of(vars(sys.modules.get(owner.__module__, object)))
    return None if index is None else index.classes.get(owner.__qualname__)


def _file(owner: type) -> str:
    """The file of a class, as its functions name it."""
    named = [function.__code__.co_filename for function in functions_of(owner)]
    return named[0] if named else str(getattr(sys.modules.get(owner.__module__), "__file__", ""))
