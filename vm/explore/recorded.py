"""Containers that record who looks at what in them, for as long as a move is made.

What is recorded is all of what a move's outcome depends on, so nothing may get past it. None of these is a subclass of what
it stands for: each has the methods that are written here, and those that `MutableMapping` makes of them, which read by
`__getitem__` and `__iter__` and write by `__setitem__` and `__delitem__`. Whatever else somebody may want of a dictionary,
of pools or of areas is not there. `tests/explore/test_recorded.py` goes through all that there is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from typing import Final, NoReturn, TypeVar

from kstack.stacks import Thread
from kstack.stacks.area import Areas
from kstack.stacks.host.pool import Pools

KeyT = TypeVar("KeyT")
ValueT = TypeVar("ValueT")
_COPY: Final = "a copy would not record"


class Unrecorded(RuntimeError):
    """Somebody looks at a container in a way that is not recorded: a mistake in the model, and no policy's."""


class RecordedDict(MutableMapping[KeyT, ValueT]):
    """A dictionary's contents, each access to which is recorded.

    Args:
        inside: the dictionary, which is changed.
        record: told of each key that is read or written.
        all_keys: recorded where somebody looks which keys there are, or how many; None if nobody may.
        has_length: it may be asked how many there are, and that is not recorded: nothing that goes on depends on it.
    """

    __slots__ = ("_all_keys", "_has_length", "_inside", "_record")

    def __init__(
        self,
        inside: dict[KeyT, ValueT],
        record: Callable[[KeyT], None],
        all_keys: Iterable[KeyT] | None = None,
        has_length: bool = False,
    ) -> None:
        self._inside = inside
        self._record = record
        self._all_keys = all_keys
        self._has_length = has_length

    def _read(self, key: KeyT) -> dict[KeyT, ValueT]:
        """Where to look for a key, or to change it: a change depends on what was there, and leaves it to be seen."""
        self._record(key)
        return self._inside

    def __getitem__(self, key: KeyT) -> ValueT:
        return self._read(key)[key]

    def __contains__(self, key: object) -> bool:
        return key in self._read(key)  # type: ignore[arg-type] # whatever it is, it is recorded

    def __setitem__(self, key: KeyT, value: ValueT) -> None:
        self._read(key)[key] = value

    def __delitem__(self, key: KeyT) -> None:
        del self._read(key)[key]

    def _read_all(self) -> dict[KeyT, ValueT]:
        """Where to look which keys there are."""
        if self._all_keys is None:
            raise Unrecorded("which keys there are is not recorded")
        for key in self._all_keys:
            self._record(key)
        return self._inside

    def __iter__(self) -> Iterator[KeyT]:
        return iter(self._read_all())

    def __len__(self) -> int:
        return len(self._inside if self._has_length else self._read_all())

    def popitem(self) -> tuple[KeyT, ValueT]:
        """As of a dictionary: the last one, not the first."""
        return self._read_all().popitem()

    def __getstate__(self) -> NoReturn:
        raise Unrecorded(_COPY)

    def __reduce_ex__(self, _: object) -> NoReturn:
        raise Unrecorded(_COPY)


class RecordedPools:
    """Pools that record which of them are touched.

    Args:
        inside: the pools.
        pool: told of each CPU whose pool is touched.
        reserve: called where what is behind them all is.
        life: told of each frame of which it is asked whether it is in one of them.
    """

    __slots__ = ("_inside", "_life", "_pool", "_reserve")

    def __init__(
        self, inside: Pools, pool: Callable[[int], None], reserve: Callable[[], None], life: Callable[[int], None]
    ) -> None:
        self._inside = inside
        self._pool = pool
        self._reserve = reserve
        self._life = life

    def take(self, cpu: int, fallback: bool = True) -> int | None:
        """As of pools; what is behind them all is touched where the CPU's is empty."""
        self._pool(cpu)
        if fallback and not self._inside.level(cpu):
            self._reserve()
        return self._inside.take(cpu, fallback)

    def allocate(self) -> int | None:
        """As of pools."""
        self._reserve()
        return self._inside.allocate()

    def give(self, cpu: int, frame: int) -> None:
        """As of pools."""
        self._pool(cpu)
        self._inside.give(cpu, frame)

    def level(self, cpu: int) -> int:
        """As of pools."""
        self._pool(cpu)
        return self._inside.level(cpu)

    def __contains__(self, frame: int) -> bool:
        self._life(frame)  # which says whether it is in one of them
        return frame in self._inside

    def __reduce_ex__(self, _: object) -> NoReturn:
        raise Unrecorded(_COPY)


class RecordedAreas:
    """Stack areas that record of which pages somebody has asked whose they are.

    Args:
        inside: the areas.
        area: told of addresses.
    """

    __slots__ = ("_area", "_inside")

    def __init__(self, inside: Areas, area: Callable[[int], None]) -> None:
        self._inside = inside
        self._area = area

    def add(self, thread: Thread) -> None:
        """As of areas: what a thread's stack is, is known of the thread."""
        self._inside.add(thread)

    def find(self, threads: Mapping[int, Thread], address: int) -> Thread | None:
        """As of areas."""
        self._area(address)
        return self._inside.find(threads, address)

    def __reduce_ex__(self, _: object) -> NoReturn:
        raise Unrecorded(_COPY)
