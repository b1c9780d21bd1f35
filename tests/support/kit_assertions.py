"""The conformance kits with one assertion left out, to see which broken subject then passes."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from types import ModuleType
from typing import Any, Final, NamedTuple

from kstack.base.errors import KstackError
from kstack.testing import DeviceConformance, FaultConformance, PolicyConformance, SchedulerConformance

KITS: Final = (PolicyConformance, DeviceConformance, SchedulerConformance, FaultConformance)
UNSAID: Final = (AttributeError, NameError, TypeError, KstackError)
"""What a check may raise that does not say what is wrong."""
_OWN: Final = ("__dict__", "__weakref__", "__firstlineno__", "__static_attributes__")


def checks(kit: type) -> list[str]:
    """Names of a kit's checks."""
    return [name for name in dir(kit) if name.startswith("test_")]


def fails(kit: type, check: str) -> bool:
    """Whether a check fails on a kit's subject, by saying so: what else it raises is no failure of the check's."""
    try:
        getattr(kit(), check)()
    except AssertionError:
        return True
    except UNSAID:
        return False
    return False


class LeftOut(NamedTuple):
    """An assertion.

    Attributes:
        kit: whose.
        lines: of its module's file.
        text: how it begins.
        concerns: checks that come by it.
        module: the kit's without it.
    """

    kit: type
    lines: frozenset[int]
    text: str
    concerns: list[str]
    module: ModuleType

    def without(self, subject: type) -> type:
        """A subject of the kit that lacks the assertion."""
        attributes = {name: value for name, value in vars(subject).items() if name not in _OWN}
        return type(subject.__name__, (getattr(self.module, self.kit.__name__),), attributes)


def each_left_out(kit: type) -> Iterator[LeftOut]:
    """Each assertion of a kit's module left out, in order; so is each return by which a helper says what is wrong."""
    module = inspect.getmodule(kit)
    assert module is not None
    source = inspect.getsource(module)
    number = 0
    while True:
        tree = ast.parse(source)
        found = [
            (function, node) for function in _functions(tree) for node in ast.walk(function) if _asserts(function, node)
        ]
        if number == len(found):
            return
        function, node = found[number]
        number += 1
        text = ast.unparse(node).splitlines()[0][:90]
        concerns = [check for check in checks(kit) if function.name in _reached(tree, check)]
        lines = frozenset(range(node.lineno, (node.end_lineno or node.lineno) + 1))
        yield LeftOut(kit, lines, text, concerns, _compiled(_Without(node).visit(tree), module))


def _functions(tree: ast.Module) -> list[ast.FunctionDef]:
    """All functions but those inside others, which belong to these."""
    bodies = [tree.body, *(node.body for node in tree.body if isinstance(node, ast.ClassDef))]
    return [node for body in bodies for node in body if isinstance(node, ast.FunctionDef)]


def _asserts(function: ast.FunctionDef, node: ast.AST) -> bool:
    if isinstance(node, ast.Raise):
        return isinstance(node.exc, ast.Call) and ast.unparse(node.exc.func) == "AssertionError"
    says = isinstance(node, ast.Return) and isinstance(node.value, ast.JoinedStr) and function.name == "differs_from"
    return says or isinstance(node, ast.Assert)


def _reached(tree: ast.Module, name: str) -> set[str]:
    """Names that a function comes by, in its module."""
    bodies = {function.name: function for function in _functions(tree)}
    seen: set[str] = set()
    left = [name]
    while left:
        at = left.pop()
        if at in seen or at not in bodies:
            continue
        seen.add(at)
        left += [node.attr for node in ast.walk(bodies[at]) if isinstance(node, ast.Attribute)]
        left += [node.id for node in ast.walk(bodies[at]) if isinstance(node, ast.Name)]
    return seen


class _Without(ast.NodeTransformer):
    def __init__(self, node: ast.AST) -> None:
        self._node = node

    def visit(self, node: ast.AST) -> Any:
        return ast.copy_location(ast.Pass(), node) if node is self._node else super().generic_visit(node)


def _compiled(tree: ast.Module, module: ModuleType) -> ModuleType:
    made = ModuleType(module.__name__)
    made.__file__ = module.__file__
    exec(compile(ast.fix_missing_locations(tree), str(module.__file__), "exec"), vars(made))
    return made
