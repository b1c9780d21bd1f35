"""Generators and steps that a policy's code makes and forgets, found by reading it.

A generator that nothing runs does nothing, and a step that is not yielded is not made: without its
`yield from` a policy reclaims nothing, and looks safe. What cannot be told by reading (a function out of a
table, a generator given to another function) is for `watch`.
"""

from __future__ import annotations

import ast
import builtins
from collections import deque
from collections.abc import Collection, Iterator
from types import FunctionType
from typing import Final

from kstack.stacks.loading.makers import Made, Makers
from kstack.stacks.loading.reach import scopes_of
from kstack.stacks.loading.scope import Instance, Local, Scope
from kstack.stacks.loading.sources import Mistake, own_classes, plain_function

_SWALLOW: Final = (
    *(list, tuple, set, frozenset, dict, sorted, sum, any, all, bool, len, min, max, enumerate, next, str, repr, print),
    deque,
)
"""Given a generator of steps, they run it and keep the steps, or ask what it is."""
_LONGEST: Final = 60  # characters of code in an error
_TRUTH: Final = frozenset({"tested", "compared"})


def forgotten(policy: type, makers: Makers, hooks: Collection[str], uses: Collection[str]) -> Iterator[Mistake]:
    """Every place where a policy's code makes a generator or a step and forgets it.

    Args:
        policy: its class.
        makers: what calls make.
        hooks: names of the methods whose answer nobody runs.
        uses: names and attributes that the policy's code reads.
    """
    for scope in scopes_of(policy, makers):
        if scope is not None:
            yield from _Reader(scope, makers, hooks, uses).mistakes()


class _Reader:
    """Reads one function, and those inside it.

    Args:
        scope: the function.
        makers: what calls make.
        hooks, uses: as for `forgotten`.
    """

    def __init__(self, scope: Scope, makers: Makers, hooks: Collection[str], uses: Collection[str]) -> None:
        self._scope, self._makers, self._hooks, self._uses = scope, makers, hooks, uses
        self._file = "" if scope.function is None else scope.function.__code__.co_filename
        self._parents = {child: node for node in (scope.node, *scope.nodes) for child in ast.iter_child_nodes(node)}
        self._called = {node.func for node in scope.nodes if isinstance(node, ast.Call)}
        self._inside = [node for node in scope.nodes if isinstance(node, _NESTED)]
        self._captured = {one.id for node in self._inside for one in ast.walk(node) if isinstance(one, ast.Name)}

    def mistakes(self) -> Iterator[Mistake]:
        """In the order of the code."""
        for node in self._scope.nodes:
            text = None
            if isinstance(node, ast.Call):
                text = self._of_call(node)
            elif isinstance(node, ast.Name | ast.Attribute) and node not in self._called:
                text = self._of_reference(node)
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                text = self._of_function(node)
            if text is not None:
                yield Mistake(self._file, getattr(node, "lineno", 0), text)
        for node in self._inside:
            if not isinstance(node, ast.ClassDef):
                inner = Scope(node, self._scope.policy, None, None, self._scope)
                yield from _Reader(inner, self._makers, self._hooks, self._uses).mistakes()

    # --- calls

    def _of_call(self, call: ast.Call) -> str | None:
        callee = self._scope.resolve(call.func)
        made = self._makers.made_by(callee)
        name, whole = _short(call.func), f"{_short(call.func)}({'...' if call.args or call.keywords else ''})"
        if made is Made.COROUTINE:
            return f"{name} is an `async def`, and nothing runs it: write `def`, and `yield from {whole}`"
        if made is None:
            return None
        fate, place = self._fate(call)
        if fate == "named":
            return self._of_variable(place, made, whole, callee)
        if made is Made.STEP:
            return _step(fate, place, whole, callee)
        return self._generator(fate, place, whole, callee)

    def _generator(self, fate: str, place: ast.AST, whole: str, callee: object) -> str | None:
        """What is wrong with a generator of this fate."""
        remedy = f"write `yield from {whole}`"
        if fate == "thrown":
            return f"`{whole}` makes a generator that nothing runs: {remedy}"
        if fate in _TRUTH:
            return f"`{whole}` is a generator, which is always true and equals nothing: write `(yield from {whole})`"
        if fate in ("yielded", "awaited"):
            return f"`{whole}` is {fate}, and is a generator and no step: {remedy}"
        if fate == "attribute" and self._makers.makes_steps(callee):
            return f"`{whole}` is a generator, asked for an attribute: write `(yield from {whole})`"
        if fate == "returned" and self._is_hook():
            return f"`{whole}` is returned by the hook, and nobody runs it: write `return (yield from {whole})`"
        if not self._swallows(fate, place) or not self._makers.makes_steps(callee):
            return None
        return f"`{whole}` makes its steps for nobody: {remedy}"

    def _swallows(self, fate: str, place: ast.AST) -> bool:
        """Whether the steps of a generator of this fate come to nothing."""
        if fate == "passed" and isinstance(place, ast.Call):
            return any(self._scope.resolve(place.func) is one for one in _SWALLOW)
        if fate == "iterated" and isinstance(place, ast.For):
            return not self._hands_on(place)
        return fate in ("spread", "iterated", "searched")

    def _hands_on(self, loop: ast.For) -> bool:
        """Whether a loop over steps yields them, or gives them to a function."""
        names = {node.id for node in ast.walk(loop.target) if isinstance(node, ast.Name)}
        for node in (inner for statement in loop.body for inner in ast.walk(statement)):
            if isinstance(node, ast.Yield) and isinstance(node.value, ast.Name) and node.value.id in names:
                return True
            if isinstance(node, ast.Call) and any(isinstance(one, ast.Name) and one.id in names for one in node.args):
                callee = self._scope.resolve(node.func)
                if getattr(builtins, getattr(callee, "__name__", ""), None) is not callee:
                    return True
        return False

    def _is_hook(self) -> bool:
        """Whether this is a hook that is a generator, so that nobody runs what it answers."""
        node, scope = self._scope.node, self._scope
        is_generator = any(isinstance(one, ast.Yield | ast.YieldFrom) for one in scope.nodes)
        return is_generator and scope.owner is not None and scope.outer is None and _name(node) in self._hooks

    # --- variables

    def _of_variable(self, target: ast.AST, made: Made, whole: str, callee: object) -> str | None:
        """What is wrong with a generator or a step that a local variable holds."""
        assert isinstance(target, ast.Name)
        name, kind = target.id, "from " if made is Made.GENERATOR else ""
        remedy = f"write `{name} = yield {kind}{whole}`"
        if name in self._captured or name not in self._scope.bound:
            return None
        fates = [self._fate(node) for node in self._loads(name)]
        if not fates:
            return f"`{name} = {whole}` is never used, so that nothing runs it: {remedy}"
        if not all(self._makes(value, made) for value in self._scope.bound[name]):
            return None
        if made is Made.GENERATOR and any(fate in ("tested", "yielded") for fate, _ in fates):
            return f"`{name}` is the generator `{whole}`, which is always true and no step: {remedy}"
        lost = {"thrown", "attribute", *_TRUTH} if made is Made.STEP else {"thrown", *_TRUTH}
        if all(fate in lost or self._is_lost(fate, place, made, callee) for fate, place in fates):
            return f"`{name} = {whole}` is not run: {remedy}"
        return None

    def _is_lost(self, fate: str, place: ast.AST, made: Made, callee: object) -> bool:
        return made is Made.GENERATOR and self._swallows(fate, place) and self._makers.makes_steps(callee)

    def _makes(self, value: ast.AST | None, made: Made) -> bool:
        return isinstance(value, ast.Call) and self._makers.made_by(self._scope.resolve(value.func)) is made

    # --- functions that are not called

    def _of_reference(self, node: ast.Name | ast.Attribute) -> str | None:
        if not isinstance(node.ctx, ast.Load):
            return None
        fate, place = self._fate(node)
        is_mapped = fate == "passed" and isinstance(place, ast.Call) and self._is_mapped(place)
        if isinstance(place, ast.BoolOp) or not (is_mapped or fate in ("thrown", "tested", "yielded", "delegated")):
            return None  # `is_late and self.late or self.early` chooses one
        made = self._makers.made_by(self._scope.resolve(node))
        if made is None or self._may_be_none(node):
            return None
        wrong = "mapped, and nothing runs what it makes" if is_mapped else "not called"
        how = "yield" if made is Made.STEP else "yield from"
        return f"`{_short(node)}` is {wrong}: write `{how} {_short(node)}(...)`{' in a loop' * is_mapped}"

    def _is_mapped(self, call: ast.Call) -> bool:
        """Whether a call is one of `map` whose results come to nothing."""
        fate, place = self._fate(call)
        is_lost = fate == "thrown" or (fate == "passed" and self._swallows(fate, place))
        return is_lost and self._scope.resolve(call.func) is map

    def _may_be_none(self, node: ast.Name | ast.Attribute) -> bool:
        """Whether some class of the policy's has no function under an attribute: then it may be asked for."""
        if isinstance(node, ast.Name):
            return self._scope.resolve(node) is not None and not isinstance(
                self._scope.resolve(node), type | FunctionType
            )
        there = [vars(one)[node.attr] for one in own_classes(self._scope.policy) if node.attr in vars(one)]
        return any(plain_function(one) is None for one in there)

    def _of_function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> str | None:
        loaded = {one.id for one in self._scope.nodes if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Load)}
        others = [one for one in self._inside if one is not node]
        named = loaded | {one.id for other in others for one in ast.walk(other) if isinstance(one, ast.Name)}
        if node.decorator_list or node.name in named or isinstance(self._scope.node, ast.Lambda):
            return None
        inner = Scope(node, self._scope.policy, None, None, self._scope)
        if node.name not in self._hooks and self._makers.made_by(Local(inner)) is None:
            return None
        mend = "indent it less" if node.name in self._hooks else f"write `yield from {node.name}(...)`"
        return f"{node.name} is a function inside {self._scope.node.name}, and nothing calls it: {mend}"

    # --- what becomes of a value

    def _fate(self, node: ast.AST) -> tuple[str, ast.AST]:
        """What becomes of the value of an expression, and where."""
        parent = self._parents.get(node)
        if parent is None or isinstance(parent, ast.Lambda):
            return "returned", self._scope.node
        plain = _FATES.get(type(parent))
        if plain is not None:
            return plain, parent
        if isinstance(parent, ast.If | ast.While | ast.Assert | ast.IfExp) and node is parent.test:
            return "tested", parent
        if isinstance(parent, ast.BoolOp) and node is not parent.values[-1]:
            return "tested", parent
        if isinstance(parent, ast.Compare):
            is_searched = node is not parent.left and all(isinstance(one, ast.In | ast.NotIn) for one in parent.ops)
            return ("searched" if is_searched else "compared"), parent
        if isinstance(parent, ast.comprehension | ast.For):
            return ("iterated" if node is parent.iter else "tested"), parent
        if isinstance(parent, ast.UnaryOp):
            return ("tested" if isinstance(parent.op, ast.Not) else "other"), parent
        if isinstance(parent, ast.IfExp | ast.BoolOp | ast.keyword):
            return self._fate(parent)
        return self._stored(node, parent)

    def _stored(self, node: ast.AST, parent: ast.AST) -> tuple[str, ast.AST]:
        """The fate of what is assigned, given away, or put into something."""
        if isinstance(parent, ast.Call):
            return "passed", parent
        if isinstance(parent, ast.Assign) and len(parent.targets) == 1 and isinstance(parent.targets[0], ast.Name):
            return "named", parent.targets[0]
        if isinstance(parent, ast.AnnAssign) and isinstance(parent.target, ast.Name):
            return "named", parent.target
        if isinstance(parent, ast.NamedExpr):
            fate, place = self._fate(parent)
            return (fate, place) if fate in ("thrown", "yielded", *_TRUTH) else ("named", parent.target)
        if isinstance(parent, _CONTAINERS):
            fate, place = self._fate(parent)
            if fate == "thrown" or (fate == "named" and isinstance(place, ast.Name) and not self._loads(place.id)):
                return "thrown", parent
        if isinstance(parent, ast.Assign) and all(self._is_never_read(target) for target in parent.targets):
            return "thrown", parent
        return "other", parent

    def _is_never_read(self, target: ast.expr) -> bool:
        """Whether a target is an attribute of the policy's that no code reads."""
        if not isinstance(target, ast.Attribute) or target.attr in self._uses:
            return False
        return isinstance(self._scope.resolve(target.value), Instance)

    def _loads(self, name: str) -> list[ast.AST]:
        """The places where a local variable is read, those in functions inside included."""
        inner = (one for node in self._inside for one in ast.walk(node))
        names = (one for one in (*self._scope.nodes, *inner) if isinstance(one, ast.Name) and one.id == name)
        return [one for one in names if isinstance(one.ctx, ast.Load)]


def _step(fate: str, place: ast.AST, whole: str, step: object) -> str | None:
    """What is wrong with a step of this fate."""
    if fate in ("thrown", "tested"):
        return f"`{whole}` is a step that is not yielded: write `yield {whole}`"
    if fate in ("delegated", "iterated", "spread", "awaited"):
        return f"`{whole}` is a step, and no generator: write `yield {whole}`"
    if fate == "attribute" and isinstance(place, ast.Attribute) and not hasattr(step, place.attr):
        names = getattr(step, "__dataclass_fields__", {})
        return None if place.attr in names else f"`{whole}` is a step that is not yielded: write `(yield {whole})`"
    return None


def _short(node: ast.expr) -> str:
    text = ast.unparse(node)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _name(node: ast.AST) -> str:
    return str(getattr(node, "name", ""))


_NESTED: Final = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)
_CONTAINERS: Final = (ast.Tuple, ast.List, ast.Set, ast.Dict, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_FATES: Final[dict[type[ast.AST], str]] = {
    ast.Expr: "thrown",
    ast.Yield: "yielded",
    ast.YieldFrom: "delegated",
    ast.Await: "awaited",
    ast.Return: "returned",
    ast.Attribute: "attribute",
    ast.Starred: "spread",
    ast.Match: "tested",
    ast.match_case: "tested",
}
