"""The functions that a policy's hooks can reach, and whether reading them is enough.

Read are the methods of a policy's class and bases, and all functions of their packages that these name.
Where every generator of steps is delegated to, every step yielded, and every other callee known to make
neither, nothing can be forgotten, and the hooks need not be watched while they run.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Final

from kstack.stacks import idioms
from kstack.stacks.area import Page, Pte, Thread
from kstack.stacks.loading.makers import Made, Makers
from kstack.stacks.loading.scope import UNKNOWN, Instance, Local, Scope, scope_of
from kstack.stacks.loading.sources import FOREIGN, functions_of, modules_of, own_classes, plain_function, top_of

_VALUES: Final = (list, dict, set, frozenset, tuple, str, int, bytes, Thread, Page, Pte)
_METHODS: Final = frozenset(name for one in _VALUES for name in dir(one) if not name.startswith("__"))
_NESTED: Final = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


def scopes_of(policy: type, makers: Makers) -> Iterator[Scope | None]:
    """The functions that a policy's hooks can reach, those of its class first; None for one without a source."""
    todo: list[tuple[FunctionType, type | None]] = [
        (function, one) for one in own_classes(policy) for function in functions_of(one)
    ]
    seen = {function.__code__ for function, _ in todo}
    while todo:
        function, owner = todo.pop(0)
        scope = scope_of(function, policy if owner is None or issubclass(policy, owner) else owner, owner)
        yield scope
        for called, of in () if scope is None else _named(scope):
            if makers.is_own(called) and called.__code__ not in seen:
                seen.add(called.__code__)
                todo.append((called, of))


def _named(scope: Scope) -> Iterator[tuple[FunctionType, type | None]]:
    """The functions that a function names, with the class that defines each."""
    for node in ast.walk(scope.node):
        if isinstance(node, ast.Name | ast.Attribute):
            found = scope.resolve(node)
            function = None if isinstance(found, type) else plain_function(found)
            if function is not None:
                base = scope.resolve(node.value) if isinstance(node, ast.Attribute) else None
                yield function, base.of if isinstance(base, Instance) else base if isinstance(base, type) else None


def is_plain(policy: type, makers: Makers) -> bool:
    """Whether reading a policy's code shows that it forgets nothing.

    Args:
        policy: its class, in whose code `forgotten` has found nothing.
        makers: what calls make.
    """
    reader = _Plain(policy, makers)
    return all(scope is not None and reader.is_plain(scope) for scope in scopes_of(policy, makers))


class _Plain:
    """Reads functions for `is_plain`."""

    def __init__(self, policy: type, makers: Makers) -> None:
        self._makers = makers
        modules = [*modules_of(policy), idioms]
        self._functions = {function.__name__ for module in modules for function in _functions(module, makers)}

    def is_plain(self, scope: Scope) -> bool:
        """Whether a function, and those inside it, can forget nothing."""
        parents = {child: node for node in scope.nodes for child in ast.iter_child_nodes(node)}
        for node in scope.nodes:
            if isinstance(node, ast.Call):
                told = self._is_call_plain(scope, node, parents.get(node))
            elif isinstance(node, ast.Name | ast.Attribute):
                parent = parents.get(node)
                is_called = isinstance(parent, ast.Call) and parent.func is node
                told = is_called or self._is_value_plain(scope, node)
            elif isinstance(node, _NESTED):
                told = self.is_plain(Scope(node, scope.policy, None, None, scope))
            else:
                told = not isinstance(node, ast.ClassDef)
            if not told:
                return False
        return True

    def _is_call_plain(self, scope: Scope, call: ast.Call, parent: ast.AST | None) -> bool:
        callee = scope.resolve(call.func)
        made, function = self._makers.made_by(callee), plain_function(callee)
        if (
            function is not None
            and top_of(function.__module__ or "") not in FOREIGN
            and not self._makers.is_own(function)
        ):
            return False  # another package's, which is not read
        if made is Made.GENERATOR:
            return isinstance(parent, ast.YieldFrom) or not self._makers.makes_steps(callee)
        if made is not None:
            return isinstance(parent, ast.Yield)
        if callee is not UNKNOWN:
            return isinstance(callee, type | BuiltinFunctionType | Local) or function is not None
        if not isinstance(call.func, ast.Attribute) or isinstance(scope.resolve(call.func.value), Instance):
            return False
        return call.func.attr in _METHODS - self._functions

    def _is_value_plain(self, scope: Scope, node: ast.Name | ast.Attribute) -> bool:
        """Whether a name that is not called is that of no function and no step."""
        found = scope.resolve(node)
        if found is UNKNOWN:
            return isinstance(node, ast.Name) or node.attr not in self._functions
        return self._makers.made_by(found) is None


def _functions(module: ModuleType, makers: Makers) -> Iterator[FunctionType]:
    """The functions and methods in a module that are the policy's own, or ready-made."""
    for value in vars(module).values():
        for function in functions_of(value) if inspect.isclass(value) else (plain_function(value),):
            if function is not None and (makers.is_own(function) or function.__globals__ is vars(idioms)):
                yield function
