"""What a name in a policy's code stands for, found without running the code.

Names of modules, classes and their attributes are looked up in the modules as they are loaded; local
names by what is assigned to them, if that is one thing. What cannot be told is `UNKNOWN`.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import sys
from collections.abc import Iterator
from functools import partial, partialmethod
from types import FunctionType, ModuleType
from typing import Final, NamedTuple

from kstack.stacks.loading.sources import Function, index_of, own_nodes, space_of, top_of

UNKNOWN: Final = object()
_FUNCTIONS: Final = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


class Instance(NamedTuple):
    """An object of a class; where the class is the policy's, `after` is the class whose `super()` it is."""

    of: type
    after: type | None = None


class Local(NamedTuple):
    """A function that is defined in another one."""

    scope: Scope


class Scope:
    """A function, and where it looks names up.

    Args:
        node: the function.
        policy: the class that is checked, which `self` is an object of.
        function: as it is loaded; None for one that is defined in another.
        owner: the class that defines it; None for a function of a module.
        outer: the scope in which it is defined, if that is known by its node alone.
    """

    def __init__(
        self,
        node: Function,
        policy: type,
        function: FunctionType | None,
        owner: type | None,
        outer: Scope | None = None,
    ) -> None:
        self.node, self.policy, self.outer = node, policy, outer
        self.function: FunctionType | None = function if outer is None else outer.function
        self.owner: type | None = owner if outer is None else outer.owner
        self._space: dict[str, object] = {}
        self.nodes = list(own_nodes(node))
        self.bound: dict[str, list[ast.AST | None]] = {}  # local name -> what is assigned; None for what cannot be told
        self._bind()

    def _bind(self) -> None:
        arguments = self.node.args
        for one in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg):
            if one is not None:
                self.bound[one.arg] = [None]
        told: set[int] = set()
        for node in self.nodes:
            told.update(id(target) for target in self._assign(node))
        for node in self.nodes:
            if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load) and id(node) not in told:
                self.bound.setdefault(node.id, []).append(None)
            elif isinstance(node, ast.Global | ast.Nonlocal):
                for name in node.names:
                    self.bound.pop(name, None)

    def _assign(self, node: ast.AST) -> Iterator[ast.AST]:
        """Bind what a node binds to one thing; the targets."""
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            target, value = node.targets[0], node.value
        elif isinstance(node, ast.AnnAssign | ast.NamedExpr) and isinstance(node.target, ast.Name) and node.value:
            target, value = node.target, node.value
        else:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                self.bound.setdefault(node.name, []).append(None if node.decorator_list else node)
            elif isinstance(node, ast.ClassDef):
                self.bound.setdefault(node.name, []).append(None)
            elif isinstance(node, ast.Import | ast.ImportFrom):
                for alias in node.names:
                    self.bound.setdefault(alias.asname or alias.name.partition(".")[0], []).append(node)
            return
        self.bound.setdefault(target.id, []).append(value)
        yield target

    # --- what an expression stands for

    def resolve(self, node: ast.AST | None, depth: int = 8) -> object:
        """The object, an `Instance`, a `Local` function, or `UNKNOWN`."""
        if node is None or depth < 0:
            return UNKNOWN
        if isinstance(node, ast.Name):
            return self._name(node.id, depth)
        if isinstance(node, ast.Attribute):
            return attribute(self.resolve(node.value, depth - 1), node.attr)
        if isinstance(node, _FUNCTIONS):
            return Local(Scope(node, self.policy, None, None, self))
        if isinstance(node, ast.Call):
            return self._called(node, depth)
        return UNKNOWN

    def _name(self, name: str, depth: int) -> object:
        if name in self.bound:
            assigned = self.bound[name]
            if assigned == [None] and self.owner is not None and self.outer is None and name == self._first():
                return Instance(self.policy)
            if len(assigned) != 1:
                return UNKNOWN
            if isinstance(assigned[0], ast.Import | ast.ImportFrom):
                return self._imported(assigned[0], name)
            return self.resolve(assigned[0], depth - 1)
        if self.outer is not None:
            return self.outer._name(name, depth)
        if self.function is None:
            return UNKNOWN
        if not self._space:
            self._space = space_of(self.function)
        return self._space.get(name, vars(builtins).get(name, UNKNOWN))

    def _first(self) -> str:
        """The name of the object whose method this is."""
        arguments = (*self.node.args.posonlyargs, *self.node.args.args)
        static = isinstance(vars(self.owner or object).get(getattr(self.node, "name", "")), staticmethod)
        return arguments[0].arg if arguments and not static else ""

    def _called(self, node: ast.Call, depth: int) -> object:
        """What a call answers, where that is plain: `super()`, an object of a class, a partial function."""
        callee = self.resolve(node.func, depth - 1)
        if callee is super and not node.args and self.owner is not None:
            return Instance(self.policy, self.owner)
        if (callee is partial or callee is partialmethod) and node.args:
            return self.resolve(node.args[0], depth - 1)
        return Instance(callee) if isinstance(callee, type) else UNKNOWN

    def _imported(self, node: ast.Import | ast.ImportFrom, name: str) -> object:
        """What an import inside the function binds, if it has been loaded."""
        space = self.function.__globals__ if self.function is not None else {}
        package = str(space.get("__package__") or "")
        for alias in node.names:
            if (alias.asname or alias.name.partition(".")[0]) != name:
                continue
            if isinstance(node, ast.Import):
                return _module(alias.name if alias.asname else name, package)
            base = _module(node.module or "", package) if not node.level else _module(package, "")
            return attribute(base, alias.name)
        return UNKNOWN


def attribute(base: object, name: str) -> object:
    """What an attribute is of a module, a class, an `Instance` or an object; functions as they are written."""
    if base is UNKNOWN or isinstance(base, Local):
        return UNKNOWN
    if isinstance(base, Instance):
        classes = base.of.__mro__[base.of.__mro__.index(base.after) + 1 :] if base.after else base.of.__mro__
        found = next((vars(one)[name] for one in classes if name in vars(one)), UNKNOWN)
    elif isinstance(base, ModuleType):
        found = vars(base).get(name, UNKNOWN)
    else:
        found = inspect.getattr_static(base, name, UNKNOWN)
    return UNKNOWN if isinstance(found, property) else found


def scope_of(function: FunctionType, policy: type, owner: type | None) -> Scope | None:
    """The scope of a function as it is loaded; None if its source is not there.

    Args:
        function: whose.
        policy: what `self` is an object of.
        owner: the class that defines it, if one does.
    """
    index = index_of(function.__globals__)
    node = None if index is None else index.function(function.__code__)
    return None if node is None else Scope(node, policy, function, owner)


def _module(name: str, package: str) -> object:
    """A module that has been loaded: the one beside a policy file, or another."""
    return sys.modules.get(f"{top_of(package)}.{name}" if package and name else package) or sys.modules.get(
        name, UNKNOWN
    )
