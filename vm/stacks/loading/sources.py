"""The text of policies: what they are made of, and the syntax trees of their classes and functions."""

from __future__ import annotations

import ast
import importlib.util
import linecache
import sys
from collections.abc import Iterator, Mapping
from functools import lru_cache, partial, partialmethod
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Final, NamedTuple

from kstack.base.digests import digest
from kstack.base.errors import PolicyError
from kstack.stacks.loading.files import sources_beside

FOREIGN: Final = sys.stdlib_module_names | {"kstack"}
"""Packages whose code is no policy's: Python's and the machine's."""
ANY: Final = "*"  # among the names that code reads: it reads some by a name that it computes
_SHIPPED: Final = "kstack.policies"
_BY_NAME: Final = frozenset({"getattr", "hasattr", "attrgetter", "methodcaller"})
Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


class Mistake(NamedTuple):
    """One thing that is wrong with a policy, and the way out.

    Attributes:
        file: where, as Python names it; empty if nobody knows.
        line: of the file, from 1; 0 if nobody knows.
        text: what, and how to mend it.
    """

    file: str
    line: int
    text: str

    def __str__(self) -> str:
        where = f"{self.file}, line {self.line}" if self.line else self.file
        return f"{self.text} ({where})" if where else self.text


def top_of(module: str) -> str:
    """The package in which a module is; that of the policies that come with kstack is one of its own."""
    return _SHIPPED if module.startswith(f"{_SHIPPED}.") else module.partition(".")[0]


def own_classes(policy: type) -> list[type]:
    """A policy's class and those of its bases that are not Python's or the machine's."""
    return [one for one in policy.__mro__ if top_of(one.__module__) not in FOREIGN]


# --- what a policy is made of


def modules_of(policy: type) -> list[ModuleType]:
    """The modules that a policy's code comes from, that of its class first.

    They are those of its class and bases, and what these import from their own package, from beside their
    file, or from the policies that come with kstack. `kstack.stacks` is the machine's.
    """
    names = [one.__module__ for one in own_classes(policy)]
    found: dict[str, ModuleType] = {}
    while names:
        name = names.pop(0)
        module = sys.modules.get(name)
        if name not in found and module is not None:
            found[name] = module
            names += _imports(module)
    return list(found.values())


def _imports(module: ModuleType) -> Iterator[str]:
    """The modules that a module imports from its own package, or from the policies that come with kstack."""
    top, package = top_of(module.__name__), getattr(module, "__package__", None) or ""
    if sources_beside(top):
        yield from [name for name in sys.modules if top_of(name) == top]
    index = index_of(vars(module))
    for node in () if index is None else index.imports:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            base = _absolute(node, package)
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        yield from (name for name in names if top_of(name) in (top, _SHIPPED) and name in sys.modules)


def _absolute(node: ast.ImportFrom, package: str) -> str:
    try:
        return importlib.util.resolve_name("." * node.level + (node.module or ""), package)
    except ImportError:  # beyond the top: it was not executed
        return ""


def source_hash(policy: type) -> str:
    """BLAKE2b (hex) of the files that a policy's code comes from.

    Raises:
        PolicyError: one of them cannot be read.
    """
    found: dict[Path, bytes] = {}
    for module in modules_of(policy):
        file = getattr(module, "__file__", None)
        found.update(sources_beside(module.__name__) or ({Path(file): _read(Path(file))} if file else {}))
    return digest(b"".join(found.values()))


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise PolicyError(f"policy file {file}: {error.strerror}") from error


# --- syntax trees


class Index:
    """The syntax tree of a module, and where in it the classes and functions are.

    Args:
        tree: of the module.
    """

    def __init__(self, tree: ast.Module) -> None:
        self.imports: list[ast.Import | ast.ImportFrom] = []
        self.classes: dict[str, ast.ClassDef] = {}  # by qualified name
        self._functions: dict[tuple[str, int], list[Function]] = {}  # by name and first line
        self.uses: dict[str, set[str]] = {}  # name or attribute -> the functions that read it, "" for the module
        self.module = tree
        nodes: list[tuple[str, ast.AST]] = [("", tree)]
        while nodes:
            scope, node = nodes.pop()
            nodes += ((self._enter(scope, child), child) for child in ast.iter_child_nodes(node))

    def _enter(self, scope: str, node: ast.AST) -> str:
        for name in _used(node):
            self.uses.setdefault(name, set()).add(scope.rpartition(".<locals>.")[0].rpartition(".")[2])
        if isinstance(node, ast.Import | ast.ImportFrom):
            self.imports.append(node)
        elif isinstance(node, ast.ClassDef):
            self.classes[scope + node.name] = node
            return f"{scope}{node.name}."
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
            self._functions.setdefault((node.name, first), []).append(node)
            return f"{scope}{node.name}.<locals>."
        elif isinstance(node, ast.Lambda):
            self._functions.setdefault(("<lambda>", node.lineno), []).append(node)
        return scope

    def function(self, code: CodeType) -> Function | None:
        """The node of a function; None if it is not there, or not the only one at its line."""
        found = self._functions.get((code.co_name, code.co_firstlineno), [])
        return found[0] if len(found) == 1 else None


def own_nodes(function: Function) -> Iterator[ast.AST]:
    """The nodes of a function in their order; of functions and classes inside it their heads alone; no annotations."""
    nodes: list[ast.AST] = [function.body] if isinstance(function, ast.Lambda) else list(reversed(function.body))
    while nodes:
        node = nodes.pop()
        yield node
        if isinstance(node, ast.AnnAssign):
            nodes += [part for part in (node.value, node.target) if part is not None]
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
            nodes += list(ast.iter_child_nodes(node))[::-1]


def _used(node: ast.AST) -> Iterator[str]:
    """The names that a node by itself reads; a string may be one, as in `getattr(self, "flush")`."""
    if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load):
        yield node.id if isinstance(node, ast.Name) else node.attr
    elif isinstance(node, ast.Call) and (getattr(node.func, "id", "") or getattr(node.func, "attr", "")) in _BY_NAME:
        names = [part.value for part in node.args if isinstance(part, ast.Constant) and isinstance(part.value, str)]
        yield from names or [ANY]


def index_of(namespace: Mapping[str, object]) -> Index | None:
    """The syntax tree of the module that has these globals; None if there is no source of it."""
    file = namespace.get("__file__")
    if file is None:
        return None
    path = str(file)
    source = sources_beside(str(namespace.get("__name__"))).get(Path(path))
    if source is not None:
        return _index(importlib.util.decode_source(source))
    linecache.checkcache(path)
    return _index("".join(linecache.getlines(path, dict(namespace))))


@lru_cache(maxsize=256)
def _index(text: str) -> Index | None:
    try:
        return Index(ast.parse(text)) if text else None
    except (SyntaxError, ValueError, RecursionError):
        return None


def uses_of(policy: type) -> dict[str, set[str]]:
    """The names that a policy's code reads, each with the functions that do ("" for a module)."""
    found: dict[str, set[str]] = {}
    for module in modules_of(policy):
        index = index_of(vars(module))
        for name, where in ({} if index is None else index.uses).items():
            found.setdefault(name, set()).update(where)
    for one in own_classes(policy):
        if index_of(vars(sys.modules.get(one.__module__, object))) is None:
            for function in functions_of(one):
                for name in names_in(function.__code__):
                    found.setdefault(name, set()).add(function.__name__)
    return found


def functions_of(one: type) -> Iterator[FunctionType]:
    """The functions that a class defines."""
    for value in vars(one).values():
        function = plain_function(value)
        if function is not None:
            yield function


def plain_function(value: object) -> FunctionType | None:
    """The function that a method, a static one, a class's or a partial one calls; None if it is none in Python."""
    while not isinstance(value, FunctionType):
        if isinstance(value, staticmethod | classmethod | MethodType):
            value = value.__func__
        elif isinstance(value, partial | partialmethod):
            value = value.func
        elif isinstance(value, property):
            value = value.fget
        else:
            return None
    return value


def names_in(code: CodeType) -> Iterator[str]:
    """The global names, attributes and outer variables that a function's code has, those of functions in it too."""
    yield from (*code.co_names, *code.co_freevars)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from names_in(constant)


def space_of(function: FunctionType) -> dict[str, object]:
    """What a function's names stand for: its module's globals, and the variables of functions around it."""
    space = dict(function.__globals__)
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            space[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    return space
