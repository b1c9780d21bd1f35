"""Instruments: who wants to know what a machine does, and never changes it.

An instrument is any object with methods `on_fill`, `on_step`, ...: one a hook that it wants to hear, all optional. It is added
to a machine's `Instruments`, and removed, in one place. Each room offers the hooks of what it tells (`Hooks`): MMUs, CPUs, the
machine, and above the hardware a policy's host and a debugger's writes, so that one instrument hears all of them. A hook that
nobody hears costs one look at an empty list.

Who decides something in the machine's place, and who hears one thing of one part for a while, holds a `Slot` of that part: by its
name it `decides_...` or `hears_...`. It is no instrument: there is at most one.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any, Final, Generic, ParamSpec, TypeVar

from kstack.base.errors import ConfigError

P = ParamSpec("P")
R = TypeVar("R")
PREFIX: Final = "on_"


class Hook(Generic[P]):
    """One thing that is told, and who hears it, in the order in which they were added.

    What happens for every access or slice looks at `heard` before it makes the moment that it would tell: a call less.
    """

    __slots__ = ("heard",)

    def __init__(self) -> None:
        self.heard: list[Callable[P, None]] = []

    def __bool__(self) -> bool:
        return bool(self.heard)

    def __call__(self, *moment: P.args, **named: P.kwargs) -> None:
        """Tell it."""
        for hear in self.heard:
            hear(*moment, **named)


class Slot(Generic[P, R]):
    """A place for one who decides, or hears.

    Attributes:
        held: who does, None for nobody.
    """

    __slots__ = ("held",)

    def __init__(self) -> None:
        self.held: Callable[P, R] | None = None

    def hold(self, by: Callable[P, R]) -> None:
        """Let somebody decide, or hear, from now on.

        Raises:
            ConfigError: somebody does already.
        """
        if self.held is not None:
            raise ConfigError(f"{by} is to hold what {self.held} holds already: release it first")
        self.held = by

    def release(self) -> None:
        """Let nobody do so."""
        self.held = None

    def swap(self, by: Callable[P, R] | None) -> Callable[P, R] | None:
        """Let another one do so, or nobody; who did."""
        before, self.held = self.held, by
        return before


class Hooks:
    """The hooks that one room offers: its attributes that are hooks, each heard by the method `on_<name>`."""

    def named(self) -> dict[str, Hook[Any]]:
        """All of them, by the name of the method that hears each."""
        return {f"{PREFIX}{name}": hook for name, hook in vars(self).items() if isinstance(hook, Hook)}


class Instruments:
    """The instruments of one machine."""

    def __init__(self) -> None:
        self._offered: dict[type[Hooks], Hooks] = {}
        self._added: list[object] = []

    def offer(self, hooks: Hooks) -> None:
        """Hooks of a room; those of the same kind that were offered before are heard no more."""
        self._offered[type(hooks)] = hooks
        for instrument in self._added:
            _index(instrument, hooks.named())

    def add(self, instrument: object) -> None:
        """Let an instrument hear from now on.

        Raises:
            ConfigError: it has no method `on_...`, or one that is no hook's.
        """
        known = {name: hook for hooks in self._offered.values() for name, hook in hooks.named().items()}
        for name in dir(instrument):
            if name.startswith(PREFIX) and callable(getattr(instrument, name)) and name not in known:
                near = difflib.get_close_matches(name, known, 1)
                what = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(known))}"
                raise ConfigError(f"instrument {type(instrument).__name__}: {name} hears nothing; {what}")
        if not _index(instrument, known):
            raise ConfigError(f"instrument {type(instrument).__name__} hears nothing: it has no method on_...")
        self._added.append(instrument)

    def remove(self, instrument: object) -> None:
        """Let it hear no more."""
        self._added = [one for one in self._added if one is not instrument]
        for hooks in self._offered.values():
            for name, hook in hooks.named().items():
                if (hear := getattr(instrument, name, None)) in hook.heard:
                    hook.heard.remove(hear)

    def clear(self) -> None:
        """Let nobody hear any more."""
        self._added.clear()
        for hooks in self._offered.values():
            for hook in hooks.named().values():
                hook.heard.clear()


def _index(instrument: object, hooks: dict[str, Hook[Any]]) -> int:
    """Let an instrument hear what it has methods for; how many."""
    found = [(hook, hear) for name, hook in hooks.items() if (hear := getattr(instrument, name, None)) is not None]
    for hook, hear in found:
        hook.heard.append(hear)
    return len(found)
