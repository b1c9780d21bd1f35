"""What a call in a policy's code makes: a generator, a step, or something of no concern."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator, Mapping
from enum import Enum
from types import CodeType, FunctionType, ModuleType

from kstack.stacks.loading.scope import UNKNOWN, Instance, Local, Scope, attribute, scope_of
from kstack.stacks.loading.sources import (
    FOREIGN,
    functions_of,
    names_in,
    own_classes,
    own_nodes,
    plain_function,
    space_of,
    top_of,
)
from kstack.stacks.steps import Step


class Made(Enum):
    """What must not be forgotten."""

    GENERATOR = "generator"
    STEP = "step"
    COROUTINE = "coroutine"


class Makers:
    """Knows what callees make, for one policy.

    Args:
        policy: its class.
    """

    def __init__(self, policy: type) -> None:
        self._policy = policy
        self._packages = {top_of(one.__module__) for one in own_classes(policy)}
        self._owners = {function.__code__: one for one in own_classes(policy)[::-1] for function in functions_of(one)}
        self._asked: set[int] = set()  # nodes whose functions are being looked at

    def is_own(self, function: FunctionType) -> bool:
        """Whether a function is the policy's: of a package in which its class or a base is."""
        return top_of(str(function.__globals__.get("__name__"))) in self._packages

    def made_by(self, callee: object) -> Made | None:
        """What a call of it makes, always; None for other things, and where it cannot be told."""
        if isinstance(callee, Local):
            return self._by_scope(callee.scope)
        if isinstance(callee, type):
            return Made.STEP if issubclass(callee, Step) else None
        function = None if callee is UNKNOWN else plain_function(callee)
        if function is None:  # an object, which its class may let be called
            whole = callee if isinstance(callee, Instance) else Instance(type(callee))
            function = plain_function(attribute(whole, "__call__"))
        if function is None:
            return None
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            return Made.COROUTINE if self.is_own(function) else None
        if inspect.isgeneratorfunction(function):
            return Made.GENERATOR
        owner = self._owners.get(function.__code__)
        scope = scope_of(function, self._policy, owner) if self.is_own(function) else None
        return None if scope is None else self._by_scope(scope)

    def _by_scope(self, scope: Scope) -> Made | None:
        node = scope.node
        if isinstance(node, ast.AsyncFunctionDef):
            return Made.COROUTINE
        if any(isinstance(one, ast.Yield | ast.YieldFrom) for one in scope.nodes):
            return Made.GENERATOR
        if id(node) in self._asked:
            return None
        self._asked.add(id(node))
        try:
            made = {self._returned(scope, value) for value in _answers(scope)}
        finally:
            self._asked.discard(id(node))
        return made.pop() if len(made) == 1 else None

    def _returned(self, scope: Scope, value: ast.expr | None) -> Made | None:
        return self.made_by(scope.resolve(value.func)) if isinstance(value, ast.Call) else None

    def makes_steps(self, callee: object) -> bool:
        """Whether a generator function, or one that it calls, makes steps."""
        if isinstance(callee, Local):
            return _names_steps(
                _words(callee.scope.node),
                {} if callee.scope.function is None else space_of(callee.scope.function),
                self._policy,
                set(),
            )
        function = plain_function(callee)
        return function is not None and makes_steps(function.__code__, space_of(function), self._policy)


def makes_steps(code: CodeType, space: Mapping[str, object], policy: type) -> bool:
    """Whether a function, or one that it calls, makes steps: by the names that it has.

    Args:
        code: of the function.
        space: what its names stand for: globals and outer variables.
        policy: whose methods it may call.
    """
    return _names_steps(set(names_in(code)), space, policy, {code})


def _names_steps(names: set[str], space: Mapping[str, object], policy: type, seen: set[CodeType]) -> bool:
    for found in _meant(names, space, policy):
        if isinstance(found, type) and issubclass(found, Step):
            return True
        function = plain_function(found)
        if function is None or function.__code__ in seen or _is_foreign(function):
            continue
        seen.add(function.__code__)
        if _names_steps(set(names_in(function.__code__)), space_of(function), policy, seen):
            return True
    return False


def _meant(names: set[str], space: Mapping[str, object], policy: type) -> Iterator[object]:
    """What names may stand for: in the function's space, in modules of it, as attributes of the policy."""
    for name in sorted(names):
        found = space.get(name)
        yield found
        if isinstance(found, ModuleType):
            yield from (vars(found)[other] for other in sorted(names) if other in vars(found))
        yield inspect.getattr_static(policy, name, None)


def _is_foreign(function: FunctionType) -> bool:
    """Whether a function is Python's or the machine's, and no ready-made sequence of steps."""
    module = str(function.__globals__.get("__name__"))
    return top_of(module) in FOREIGN and not module.startswith("kstack.stacks.")


def _words(node: ast.AST) -> set[str]:
    """The names and attributes in a piece of code."""
    inside = list(ast.walk(node))
    return {one.id for one in inside if isinstance(one, ast.Name)} | {
        one.attr for one in inside if isinstance(one, ast.Attribute)
    }


def _answers(scope: Scope) -> Iterator[ast.expr | None]:
    """What a function that is no generator returns; None for nothing."""
    if isinstance(scope.node, ast.Lambda):
        values: list[ast.expr | None] = [scope.node.body]
    else:
        values = [one.value for one in own_nodes(scope.node) if isinstance(one, ast.Return)]
        if not isinstance(scope.node.body[-1], ast.Return | ast.Raise):
            values.append(None)  # it may end without a return
    for value in values:
        yield from (value.body, value.orelse) if isinstance(value, ast.IfExp) else (value,)
