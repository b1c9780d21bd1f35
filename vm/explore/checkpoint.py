"""A search that was interrupted, in a file: what has been found, and which states are to be expanded.

Written whole after a layer, so that a kill loses what came after the last one. The states themselves
are not in it: they are made again by the moves that lead to them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import msgspec

from kstack.base.errors import ConfigError
from kstack.base.files import refused_as, write_whole
from kstack.explore.components import KEY_BYTES
from kstack.explore.states import MoveKind
from kstack.kernels.known import usual_guests
from kstack.machine import MAX_CPUS
from kstack.recording import RULES_VERSION, UNNAMED_RULES, image_hash
from kstack.stacks.loading.registry import policy_hash

if TYPE_CHECKING:
    from kstack.explore.problem import Problem

VERSION: Final = 6

_Number = Annotated[int, msgspec.Meta(ge=0)]
_Cpu = Annotated[int, msgspec.Meta(ge=0, lt=MAX_CPUS)]
_Cpus = _Number  # as bits
_Masks = tuple[_Cpus, _Cpus, _Cpus, _Cpus]
_Place = Annotated[bytes, msgspec.Meta(max_length=KEY_BYTES)]


class SearchCheckpoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where a search stands; states by number, in the order in which they were found.

    Attributes:
        visible: frames known to be visible, by number.
        seen: by frame number, who has touched it how (`Visible`).
        stronger: of `StoreBuffers`.
        keys: of each state.
        parents: of each state: the state before, and the moves (CPU, kind, choice); None for the root.
        switches: of each state: the CPU that moved last, and switches of CPU on the way.
        predecessors: of each state: all states it was reached from.
        ends: states in which all programs have ended.
        layer: states to be expanded next; of these, `whole` in full.
        moves, exercised, depth: counts so far.
        names, edges: of `FutureAccesses`; `names` is None where every move is made by itself.
        relied: states, each with where a CPU was taken to stand, and not to access what, as bits.
    """

    visible: list[_Number]
    seen: dict[_Number, _Masks]
    stronger: list[_Number]
    keys: list[bytes]
    parents: list[tuple[_Number, list[tuple[_Cpu, MoveKind, int]]] | None]
    switches: list[tuple[int, _Number]]
    predecessors: list[list[_Number]]
    ends: list[_Number]
    layer: list[_Number]
    whole: list[_Number]
    moves: _Number
    exercised: _Number
    depth: _Number
    names: list[str] | None
    edges: list[tuple[_Place, _Place, bytes]]
    relied: list[tuple[_Number, _Place, bytes]]


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    version: int
    search: dict[str, str]
    checkpoint: SearchCheckpoint


def identity(problem: Problem) -> dict[str, str]:
    """What must be the same when a search goes on, later or in another process.

    Raises:
        ConfigError: the policy is a class, which has no name elsewhere.
    """
    if not isinstance(problem.policy, str):
        raise ConfigError(f"the class {problem.policy.__name__} is known in this process alone; give an id or a file")
    return {
        "scenario": problem.scenario,
        "image": image_hash(usual_guests().image(problem.scenario)),
        "policy": problem.policy,
        "policy source": policy_hash(problem.policy),
        "version of the machine's rules": str(RULES_VERSION),
        **problem.modes.as_dict(),
    }


def write_checkpoint(path: Path, problem: Problem, checkpoint: SearchCheckpoint) -> None:
    """Write it whole or not at all.

    Raises:
        ConfigError: it cannot be written.
    """
    data = msgspec.msgpack.encode(_File(version=VERSION, search=identity(problem), checkpoint=checkpoint))
    write_whole(path, data, f"--checkpoint {path}")


def read_checkpoint(path: Path, problem: Problem) -> SearchCheckpoint:
    """Read one that belongs to this search.

    Raises:
        ConfigError: it is damaged, of another version, or of another search.
    """
    with refused_as(f"--checkpoint {path}"):
        data = path.read_bytes()
    try:
        found = msgspec.msgpack.decode(data, type=_File)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"--checkpoint {path} is no checkpoint of kstack, or damaged; delete it ({error})") from error
    if found.version != VERSION:
        raise ConfigError(f"--checkpoint {path} has version {found.version}; this kstack reads {VERSION}")
    search = {"version of the machine's rules": str(UNNAMED_RULES), **found.search}
    for name, value in identity(problem).items():
        if search.get(name) != value:
            raise ConfigError(
                f"--checkpoint {path} is of another search: its {name} is {search.get(name)!r}, not {value!r}; give a new file"
            )
    saved = found.checkpoint
    count = len(saved.keys)
    lists = (saved.parents, saved.switches, saved.predecessors)
    relying = (number for number, _, _ in saved.relied)
    inside = all(0 <= number < count for number in (*saved.layer, *saved.ends, *relying))
    older = all(one is None or 0 <= one[0] < number for number, one in enumerate(saved.parents))
    known = all(0 <= number < count for one in saved.predecessors for number in one)
    rooted = count > 0 and all((one is None) == (number == 0) for number, one in enumerate(saved.parents))
    sound = inside and older and known and rooted
    if any(len(one) != count for one in lists) or not sound or len(set(saved.keys)) != count:
        raise ConfigError(f"--checkpoint {path} is damaged; delete it")
    return saved
