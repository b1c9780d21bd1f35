"""Python files with policies: `mine.py`, or `family.py:NoLock` for one policy of several.

A file is the module of a package of its own, `kstack_policy_...`, whose other modules are the files and
packages beside it. `import helpers` in the file, or in one beside it, means the one beside: two files'
`helpers` are two modules. The standard library and kstack cannot be hidden so; an installed package is, by a module
or package of its name, not by a mere folder.

What kstack's modules were called before it was one package, `vm.stacks` and `policies`, is taken for what they are called
now, with a line of advice, unless there is such a module beside the file.

A file is executed again when it, or what it imported from beside it, has changed; else its classes stay
what they are.
"""

from __future__ import annotations

import ast
import importlib.util
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import CodeType, ModuleType
from typing import Final

from kstack.base.digests import digest
from kstack.base.errors import PolicyError
from kstack.stacks.host.checks import said

_PREFIX: Final = "kstack_policy_"
_ELSEWHERE: Final = sys.stdlib_module_names | {"kstack"}
_ONCE: Final = {"vm": "kstack", "guest": "kstack.guest", "policies": "kstack.policies"}
_KSTACK: Final = Path(__file__).parents[2]
_OWN: Final = {Path(__file__).resolve().parents[2], *((_KSTACK / name).resolve() for name in ("guest", "policies"))}


class RenamedWarning(FutureWarning):
    """A policy file uses a name that kstack's modules had once."""


class PolicyFile(InspectLoader):
    """A file with policies, and what it imports from beside it: they are loaded here.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.package = _PREFIX + digest(str(self.path), 8)
        self.sources: dict[Path, bytes] = {}  # as executed
        self._folder, self._shown = self.path.parent, path.parent

    @property
    def is_current(self) -> bool:
        """Whether all that was executed is still what the files say."""
        try:
            return all(path.read_bytes() == source for path, source in self.sources.items())
        except OSError:
            return False

    def execute(self) -> ModuleType:
        """Execute the file."""
        package = ModuleType(self.package)
        package.__path__ = [str(self._folder)]
        sys.modules[self.package] = package
        spec = self._spec(f"{self.package}.{self.path.stem.replace('.', '_')}", self.path)
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        self.exec_module(module)
        return module

    def forget(self) -> None:
        """Let the file be executed anew; classes that others still have stay usable."""
        for name in [name for name in sys.modules if name.partition(".")[0] == self.package]:
            del sys.modules[name]

    # --- the finder asks

    def find(self, name: str, places: Sequence[str]) -> ModuleSpec | None:
        """A module or package beside the file."""
        for place in places:
            folder = Path(place) / name.rpartition(".")[2]
            for file in (folder / "__init__.py", folder.with_name(f"{folder.name}.py")):
                if file.is_file():
                    return self._spec(name, file)
            if folder.is_dir():  # a package without an __init__.py
                spec = ModuleSpec(name, None, is_package=True)
                spec.submodule_search_locations = [str(folder)]
                return spec
        return None

    def _spec(self, name: str, file: Path) -> ModuleSpec:
        inside = [str(file.parent)] if file.name == "__init__.py" and file != self.path else None
        spec = importlib.util.spec_from_file_location(name, file, loader=self, submodule_search_locations=inside)
        assert spec is not None
        return spec

    # --- the loader

    def get_source(self, fullname: str) -> str:
        """The text of a module as it was executed."""
        return importlib.util.decode_source(self.sources[Path(str(sys.modules[fullname].__file__))])

    def exec_module(self, module: ModuleType) -> None:
        """Compile and execute; no bytecode is kept, so that no old one is taken."""
        file = Path(str(module.__file__))
        data = self.sources[file] = file.read_bytes()
        exec(self._compiled(data, str(self._shown / file.relative_to(self._folder))), module.__dict__)

    def _compiled(self, data: bytes, shown: str) -> CodeType:
        tree = ast.parse(data, shown)
        blocks: list[list[ast.stmt]] = [tree.body]
        while blocks:
            block = blocks.pop()
            block[:] = [new for old in block for new in self._beside(old)]
            blocks += (part for statement in block for part in _blocks(statement))
        for statement in ast.walk(tree):
            if isinstance(statement, ast.ImportFrom) and not statement.level and (new := self._now(statement)):
                advice = f"`from {statement.module} import` is `from {new} import` now"
                warnings.warn_explicit(advice, RenamedWarning, shown, statement.lineno, registry={})
                statement.module = new
        return compile(tree, shown, "exec", dont_inherit=True)

    def _beside(self, statement: ast.stmt) -> list[ast.stmt]:
        """The statement; an import of what lies beside the file imports it from the file's package."""
        new: list[ast.stmt] = []
        if isinstance(statement, ast.ImportFrom) and not statement.level and self._has(statement.module or ""):
            new = [ast.ImportFrom(f"{self.package}.{statement.module}", statement.names, 0)]
        elif isinstance(statement, ast.Import) and any(self._has(alias.name) for alias in statement.names):
            for alias in statement.names:
                top = alias.name.partition(".")[0]
                if not self._has(alias.name):
                    new.append(ast.Import([alias]))
                    continue
                new.append(ast.Import([ast.alias(f"{self.package}.{alias.name}", alias.asname or top)]))
                if alias.asname is None and top != alias.name:  # `import a.b` binds `a`
                    new.append(ast.Import([ast.alias(f"{self.package}.{top}", top)]))
        return [ast.fix_missing_locations(ast.copy_location(one, statement)) for one in new] or [statement]

    def _now(self, statement: ast.ImportFrom) -> str | None:
        """What the module of an import is called that had another name once; else None."""
        top, _, rest = (statement.module or "").partition(".")
        if top not in _ONCE or self._has(top):
            return None
        now = f"{_ONCE[top]}.{rest}" if rest else _ONCE[top]
        return now if _exists(now) else None

    def _has(self, name: str) -> bool:
        """Whether a module of this name is the one beside the file."""
        top = name.partition(".")[0]
        found = None if top in _ELSEWHERE else self.find(top, [str(self._folder)])
        if found is None:
            return False
        if top in _ONCE:  # unless the file lies in kstack's repository
            return Path((found.submodule_search_locations or [str(found.origin)])[0]).resolve() not in _OWN
        return found.loader is not None or importlib.util.find_spec(top) is None


def _exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _blocks(statement: ast.AST) -> list[list[ast.stmt]]:
    """The blocks of statements in a statement."""
    found: list[list[ast.stmt]] = []
    for _, value in ast.iter_fields(statement):
        if isinstance(value, list) and value and isinstance(value[0], ast.stmt):
            found.append(value)
        elif isinstance(value, list) and value and isinstance(value[0], ast.ExceptHandler | ast.match_case):
            found += (part.body for part in value)
    return found


class _Files(MetaPathFinder):
    """The policy files of this process, and the finder of what lies beside them."""

    def __init__(self) -> None:
        self._packages: dict[str, PolicyFile] = {}
        self._modules: dict[str, ModuleType] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Of modules of policy files' packages; of others None."""
        file = self._packages.get(fullname.partition(".")[0])
        return None if file is None or path is None else file.find(fullname, path)

    def module(self, path: Path) -> ModuleType:
        """The module of a file, executed if it has to be."""
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)  # before Python's own, which would find what lies beside a file, too
        file = PolicyFile(path)
        known = self._packages.get(file.package)
        if known is not None and known.is_current:
            return self._modules[file.package]
        self._forget(file)
        self._packages[file.package] = file
        try:
            self._modules[file.package] = file.execute()
        except BaseException:
            self._forget(file)
            raise
        return self._modules[file.package]

    def _forget(self, file: PolicyFile) -> None:
        file.forget()
        self._packages.pop(file.package, None)
        self._modules.pop(file.package, None)

    def sources(self, module: str) -> dict[Path, bytes]:
        """What was executed for the file of whose package a module is, the file first; nothing for other modules."""
        file = self._packages.get(module.partition(".")[0])
        return {} if file is None else dict(file.sources)


_FILES: Final = _Files()


def module_of(path: Path) -> ModuleType:
    """The module of a Python file; the same one until the file, or what it imports from beside it, changes.

    Raises:
        PolicyError: there is no such file, or it cannot be executed.
    """
    if not path.is_file():
        raise PolicyError(f"policy file {path} does not exist")
    if path.suffix != ".py":
        raise PolicyError(f"policy file {path} is no Python file; its name must end with .py")
    try:
        return _FILES.module(path)
    except (Exception, SystemExit) as error:
        raise PolicyError(f"policy file {path}: {said(error)}") from error


def sources_beside(module: str) -> dict[Path, bytes]:
    """The files that were executed for a policy file, and their bytes, in that order: the file itself first.

    Args:
        module: name of the file's module, or of one beside it; for others there are none.
    """
    return _FILES.sources(module)
