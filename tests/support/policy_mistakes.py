"""Mistakes that a policy's author can make in any hook, and what is right: one table, for every hook.

A case is a policy file with one mistake, on the line that ends with `# here`. `{hook}` is the hook's name, `{head}` its
arguments, `{given}` those of a call of it.
"""

from __future__ import annotations

from typing import Final, NamedTuple

HOOKS: Final = {
    "create_thread": "cpu, thread",
    "exit_thread": "cpu, thread",
    "enter_kernel": "cpu, thread",
    "exit_kernel": "cpu, thread",
    "switch_in": "cpu, thread",
    "switch_out": "cpu, thread",
    "stack_fault": "cpu, thread, address, error",
    "request": "cpu, thread, size",
    "memory_pressure": "cpu, wanted",
    "share": "cpu, thread",
    "tick": "cpu",
}


class Case(NamedTuple):
    """A policy file with one mistake.

    Attributes:
        source: its text.
        line: of the mistake, from 1.
        remedy: what the error has to say.
    """

    source: str
    line: int
    remedy: str


HELPERS: Final = '''"""Beside the policies."""

from kstack.stacks import OtherCpus


def told(cpu):
    yield OtherCpus()
'''
_FILE: Final = '''"""A policy with one mistake."""

import asyncio
import functools
from collections import deque

import helpers
from helpers import told
from kstack.policies.multiplex import Multiplex
from kstack.stacks import EMPTY, ExchangePte, Load, OtherCpus, Policy, PoolLevel, free, shootdown, steps


def drop(cpu):
    yield OtherCpus()


def plain(pages):
    yield from sorted(pages)


class Helper:
    def sweep(self, cpu):
        yield OtherCpus()

    def __call__(self, cpu):
        yield OtherCpus()


HELPER = Helper()


class Mine(Multiplex):
    id, title, proposer, source = "mine", "a mistake", "a test", "a test"

    def own(self, cpu):
        yield OtherCpus()

    def indirect(self, cpu):
        return self.own(cpu)

    def right(self, cpu):
        for page in plain((3, 2)):
            yield Load("x", page)
        yield from drop(cpu)
        yield from told(cpu)
        yield from HELPER.sweep(cpu)
        yield from HELPER(cpu)
        yield from helpers.told(cpu)
        yield from self.indirect(cpu)
        pages = tuple(plain((1, 2)))
        others = yield OtherCpus()
        return (pages, asyncio, deque, functools, EMPTY, ExchangePte, Policy, PoolLevel, free, shootdown, steps, others)

    def used(self, cpu):
        yield from self.right(cpu)

{code}
'''
_BODY: Final = """    def {hook}(self, {head}):
        yield from super().{hook}({given})
        yield from self.used(cpu)
{code}
        return True
"""

_HEAD: Final = "cpu, thread"

FORGOTTEN: Final = {
    "a method's generator": ("self.own(cpu)  # here", "yield from self.own(...)"),
    "a function's generator": ("drop(cpu)  # here", "yield from drop(...)"),
    "an imported function's": ("told(cpu)  # here", "yield from told(...)"),
    "an imported module's": ("helpers.told(cpu)  # here", "yield from helpers.told(...)"),
    "a ready-made one": ("free(())  # here", "yield from free(...)"),
    "the base's hook by super": ("super().{hook}({given})  # here", "yield from super().{hook}(...)"),
    "the base's hook by name": ("Policy.{hook}(self, {given})  # here", "yield from Policy.{hook}(...)"),
    "a nested function's": ("def inner():\n    yield OtherCpus()\ninner()  # here", "yield from inner()"),
    "a lambda's": ("flush = lambda: free(())\nflush()  # here", "yield from flush()"),
    "another name's": ("flush = self.own\nflush(cpu)  # here", "yield from flush(...)"),
    "a function's that returns one": ("self.indirect(cpu)  # here", "yield from self.indirect(...)"),
    "a partial function's": ("functools.partial(free, ())()  # here", "yield from functools.partial(free, ())()"),
    "an object's": ("HELPER.sweep(cpu)  # here", "yield from HELPER.sweep(...)"),
    "an object's that is called": ("HELPER(cpu)  # here", "yield from HELPER(...)"),
    "a new object's": ("Helper().sweep(cpu)  # here", "yield from Helper().sweep(...)"),
    "one imported here": (
        "from kstack.stacks import take_back\ntake_back(cpu, True)  # here",
        "yield from take_back(...)",
    ),
    "in a branch": ("if cpu:\n    pass\nelse:\n    self.own(cpu)  # here", "yield from self.own(...)"),
    "in a loop": ("for _ in range(2):\n    self.own(cpu)  # here", "yield from self.own(...)"),
    "in a try": ("try:\n    pass\nfinally:\n    self.own(cpu)  # here", "yield from self.own(...)"),
    "behind `and`": ("cpu and self.own(cpu)  # here", "yield from self.own(...)"),
    "in a conditional expression": ("self.own(cpu) if cpu else None  # here", "yield from self.own(...)"),
    "in a tuple": ("(self.own(cpu), cpu)  # here", "yield from self.own(...)"),
    "in a comprehension": ("[self.own(one) for one in (cpu, 1)]  # here", "yield from self.own(...)"),
    "asked by if": ("if self.own(cpu):  # here\n    cpu = 1", "(yield from self.own(...))"),
    "asked by while": ("while self.own(cpu):  # here\n    break", "(yield from self.own(...))"),
    "asked by assert": ("assert self.own(cpu)  # here", "(yield from self.own(...))"),
    "asked by not": ("cpu = not self.own(cpu)  # here", "(yield from self.own(...))"),
    "asked by or": ("cpu = self.own(cpu) or 1  # here", "(yield from self.own(...))"),
    "asked by a conditional": ("cpu = 1 if self.own(cpu) else 2  # here", "(yield from self.own(...))"),
    "asked by match": ("match self.own(cpu):  # here\n    case True:\n        cpu = 1", "(yield from self.own(...))"),
    "asked in a comprehension": ("cpu = [1 for _ in (1, 2) if self.own(cpu)]  # here", "(yield from self.own(...))"),
    "compared": ("cpu = self.own(cpu) == 1  # here", "(yield from self.own(...))"),
    "asked when named": ("if found := self.own(cpu):  # here\n    cpu = found", "(yield from self.own(...))"),
    "yielded": ("yield self.own(cpu)  # here", "yield from self.own(...)"),
    "named and not used": ("found = self.own(cpu)  # here", "found = yield from self.own(...)"),
    "named with a type": ("found: object = self.own(cpu)  # here", "found = yield from self.own(...)"),
    "named and asked": ("found = self.own(cpu)  # here\nif found:\n    cpu = 1", "found = yield from self.own(...)"),
    "named and yielded": ("found = self.own(cpu)  # here\nyield found", "found = yield from self.own(...)"),
    "named and compared": ("found = self.own(cpu)  # here\ncpu = found == 1", "found = yield from self.own(...)"),
    "named and listed": ("found = self.own(cpu)  # here\nlist(found)", "found = yield from self.own(...)"),
    "asked for an attribute": ("cpu = self.own(cpu).gi_running  # here", "(yield from self.own(...))"),
    "listed": ("list(self.own(cpu))  # here", "yield from self.own(...)"),
    "made a tuple": ("found = tuple(drop(cpu))  # here\nyield Load('x', found)", "yield from drop(...)"),
    "given to any": ("cpu = any(free(()))  # here", "yield from free(...)"),
    "given to next": ("cpu = next(told(cpu))  # here", "yield from told(...)"),
    "given to deque": ("deque(told(cpu), 0)  # here", "yield from told(...)"),
    "spread": ("print(*told(cpu))  # here", "yield from told(...)"),
    "iterated for nothing": ("for _ in told(cpu):  # here\n    pass", "yield from told(...)"),
    "iterated and printed": ("for one in told(cpu):  # here\n    print(one)", "yield from told(...)"),
    "iterated in a comprehension": ("found = [one for one in told(cpu)]  # here\nprint(found)", "yield from told(...)"),
    "returned": ("if cpu:\n    return self.own(cpu)  # here", "return (yield from self.own(...))"),
    "a step": ("OtherCpus()  # here", "yield OtherCpus()"),
    "a step of a module": ("steps.Load('x')  # here", "yield steps.Load(...)"),
    "a step asked by if": ("if Load('x'):  # here\n    cpu = 1", "yield Load(...)"),
    "a step asked by not": ("cpu = not Load('x')  # here", "yield Load(...)"),
    "a step named and not used": ("found = Load('x')  # here", "found = yield Load(...)"),
    "a step named and asked": ("found = OtherCpus()  # here\nif not found:\n    cpu = 1", "found = yield OtherCpus()"),
    "a step named and compared": ("found = Load('x')  # here\ncpu = found == 1", "found = yield Load(...)"),
    "a step asked for a value": ("cpu = ExchangePte(1, EMPTY, EMPTY).present  # here", "(yield ExchangePte(...))"),
    "a step delegated to": ("yield from OtherCpus()  # here", "yield OtherCpus()"),
    "a method not called": ("self.own  # here", "yield from self.own(...)"),
    "a function not called": ("drop  # here", "yield from drop(...)"),
    "a method not called and asked": ("if self.own:  # here\n    cpu = 1", "yield from self.own(...)"),
    "a method not called and delegated to": ("yield from self.own  # here", "yield from self.own(...)"),
    "a step not called": ("yield OtherCpus  # here", "yield OtherCpus(...)"),
    "an inner function not called": ("def inner():  # here\n    yield OtherCpus()", "yield from inner(...)"),
    "an inner hook": ("def {hook}(self, {head}):  # here\n    yield OtherCpus()", "indent it less"),
    "in a list with a name": ("found = [self.own(one) for one in (cpu, 1)]  # here", "yield from self.own(...)"),
    "kept by the policy": ("self.kept = self.own(cpu)  # here", "yield from self.own(...)"),
    "searched": ("cpu = 1 in told(cpu)  # here", "yield from told(...)"),
    "mapped": ("map(self.own, (cpu, 1))  # here", "yield from self.own(...)"),
    "mapped and listed": ("list(map(told, (cpu, 1)))  # here", "yield from told(...)"),
    "steps in a list with a name": ("found = [Load('x', one) for one in (1, 2)]  # here", "yield Load(...)"),
    "a step kept by the policy": ("self.kept = OtherCpus()  # here", "yield OtherCpus()"),
    "steps mapped": ("list(map(Load, ('x', 'y')))  # here", "yield Load(...)"),
    "a coroutine": ("async def wait():\n    pass\nwait()  # here", "yield from wait()"),
}
"""What may stand in a hook, and the remedy."""

_RIGHT: Final = (
    "    def {hook}(self, {head}):  # here\n        yield from super().{hook}({given})\n        return True\n"
)
WRONG: Final = {
    "without its underscore": (_RIGHT.replace("def {hook}", "def {joined}"), "did you mean {hook}?"),
    "in capitals": (_RIGHT.replace("def {hook}", "def {camel}"), "did you mean {hook}?"),
    "in the plural": (_RIGHT.replace("def {hook}", "def {hook}s"), "did you mean {hook}?"),
    "with a letter too few": (_RIGHT.replace("def {hook}", "def {short}"), "did you mean {hook}?"),
    "with two letters exchanged": (_RIGHT.replace("def {hook}", "def {mixed}"), "did you mean {hook}?"),
    "as a private method": (_RIGHT.replace("def {hook}", "def __{hook}"), "did you mean {hook}?"),
    "as a protected method": (_RIGHT.replace("def {hook}", "def _{hook}"), "did you mean {hook}?"),
    "of another name": (_RIGHT.replace("def {hook}", "def when_it_is_time"), "the hooks are"),
    "misspelled, no generator": (
        "    def {joined}x(self, {head}):  # here\n        return []\n",
        "did you mean {hook}?",
    ),
    "misspelled, no function": ("    {hook}s = None  # here\n", "did you mean {hook}?"),
    "that is None": ("    {hook} = None  # here\n", "def {hook}(self, {head}):"),
    "that is a number": ("    {hook} = 5  # here\n", "def {hook}(self, {head}):"),
    "that is a class": ("    class {hook}:  # here\n        pass\n", "def {hook}(self, {head}):"),
    "that is a static method": (
        "    @staticmethod\n    def {hook}({head}):  # here\n        yield OtherCpus()\n",
        "def {hook}(self, {head}):",
    ),
    "that is a class's method": (
        "    @classmethod\n    def {hook}(cls, {head}):  # here\n        yield OtherCpus()\n",
        "def {hook}(self, {head}):",
    ),
    "that is a property": (
        "    @property\n    def {hook}(self):  # here\n        yield OtherCpus()\n",
        "def {hook}(self, {head}):",
    ),
    "that is cached": (
        "    @functools.cache\n    def {hook}(self, {head}):  # here\n        yield OtherCpus()\n",
        "def {hook}(self, {head}):",
    ),
    "that is async": ("    async def {hook}(self, {head}):  # here\n        pass\n", "def {hook}(self, {head}):"),
    "that is an async generator": (
        "    async def {hook}(self, {head}):  # here\n        yield OtherCpus()\n",
        "def {hook}(self, {head}):",
    ),
    "that does nothing": ("    def {hook}(self, {head}):  # here\n        pass\n", "yield from ()"),
    "that answers a list": ("    def {hook}(self, {head}):  # here\n        return [OtherCpus()]\n", "yield from ()"),
    "that answers None": ("    def {hook}(self, {head}):  # here\n        return None\n", "yield from ()"),
    "that is a lambda": ("    {hook} = lambda self, {head}: None  # here\n", "yield from ()"),
    "without an argument": ("    def {hook}(self):  # here\n        yield OtherCpus()\n", "def {hook}(self, {head}):"),
    "without self": ("    def {hook}({head}):  # here\n        yield OtherCpus()\n", "def {hook}(self, {head}):"),
    "with an argument too many": (
        "    def {hook}(self, {head}, more):  # here\n        yield OtherCpus()\n",
        "def {hook}(self, {head}):",
    ),
    "with named arguments": (
        "    def {hook}(self, *, {head}):  # here\n        yield OtherCpus()\n",
        "def {hook}(self, {head}):",
    ),
    "with arguments exchanged": (
        "    def {hook}({turned}):  # here\n        yield OtherCpus()\n",
        "def {hook}(self, {head}):",
    ),
    "defined twice": (_RIGHT.replace("  # here", "") + "\n" + _RIGHT, "rename or delete one"),
    "hidden behind Policy": (
        "\nclass Mixin:\n    def {hook}(self, {head}):  # here\n        yield OtherCpus()\n\n\n"
        "class Other(Policy, Mixin):\n    pass\n\n\nclass Mine(Other):\n    id = title = proposer = source = 'mine'\n",
        "class Mine(Mixin, Policy)",
    ),
    "outside the class": ("\ndef {hook}(self, {head}):  # here\n    yield OtherCpus()\n", "indent it"),
}
"""What a hook may be, and the remedy."""


def cases(mistake: str) -> dict[str, Case]:
    """A mistake in each hook, by hook."""
    return {hook: _case(mistake, hook) for hook in HOOKS}


def _case(mistake: str, hook: str) -> Case:
    head = HOOKS[hook]
    turned = ", ".join(["self", *head.split(", ")[::-1]] if ", " in head else [head, "self"])
    words = {
        "hook": hook,
        "head": head,
        "given": head,
        "turned": turned,
        "joined": hook.replace("_", "") if "_" in hook else f"{hook}_",
        "camel": "".join(part.capitalize() for part in hook.split("_")),
        "short": hook[:-2] + hook[-1],
        "mixed": hook[:-2] + hook[:-3:-1],
    }
    code, remedy = (one.format(**words) for one in (FORGOTTEN.get(mistake) or WRONG[mistake]))
    if mistake in FORGOTTEN:
        code = _BODY.format(code=_indented(code), **words)
    else:
        code = (
            _BODY.format(code="", hook="share" if hook == "switch_in" else "switch_in", head=_HEAD, given=_HEAD) + code
        )
    source = _FILE.format(code=code)
    lines = [number for number, line in enumerate(source.splitlines(), 1) if line.endswith("# here")]
    return Case(source, lines[-1], remedy)


def right() -> str:
    """The file without a mistake."""
    return _FILE.format(code=_BODY.format(code="", hook="switch_out", head=_HEAD, given=_HEAD))


def _indented(code: str) -> str:
    return "\n".join(f"        {line}" for line in code.split("\n"))
