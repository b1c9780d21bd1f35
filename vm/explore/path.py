"""Witnesses in files: the moves of a path, each named by CPU, kind and place, and what the last one finds.

They are made again by `kstack replay`, also under a policy or a guest that has been changed since: then the first
move that is not what it was says where the two part.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import msgspec

from kstack.explore.model.gate import Visible
from kstack.explore.states import Grown, Move, MoveKind
from kstack.explore.witness import PathWitness, WitnessLine, line_of
from kstack.explore.world import World
from kstack.hw.modes import Modes
from kstack.kernels.known import usual_guests
from kstack.recording import (
    READABLE,
    RULES_VERSION,
    UNNAMED_RULES,
    check_rules,
    image_hash,
    parsed,
    read_document,
    write_document,
)
from kstack.recording.journal import read_journal
from kstack.stacks.loading.registry import find_policy, policy_hash

VERSION: Final = 2
VERSIONS: Final = (1, 2)  # that can be read; 2 has the version of the machine's rules
FRAMES: Final = 2  # the first version whose visible pages are named by their frames
KIND: Final = "witness"


class WitnessStep(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One move: its CPU, kind and choice, and where and what it was."""

    cpu: int
    kind: MoveKind
    choice: int
    symbol: str
    what: str


class PathFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A witness.

    Attributes:
        version: of this format.
        scenario, image_hash: its id or path, and BLAKE2b of its image (hex).
        policy, policy_hash: id or path, and BLAKE2b of its source file (hex).
        modes: the machine's.
        visible: frame numbers that were known to be visible; in version 1 linear page numbers.
        steps: the moves.
        finding: kind and text of what the last one, at least one, finds; None for a state from which no end can be reached.
        rules: version of the machine's rules.
    """

    version: int
    scenario: str
    image_hash: str
    policy: str
    policy_hash: str
    modes: dict[str, str]
    visible: list[int]
    steps: Annotated[list[WitnessStep], msgspec.Meta(min_length=1)]
    finding: tuple[str, str] | None
    rules: int = UNNAMED_RULES


class Divergence(msgspec.Struct, frozen=True):
    """Where a path is no longer what it was: the number of the move (from 1), what it was, and what there is now."""

    number: int
    recorded: str
    now: str


def write_path(path: Path, scenario: str, policy: str, modes: Modes, visible: Visible, found: PathWitness) -> None:
    """Write a witness to a file, whole or not at all.

    Raises:
        RecordingError: it cannot be written.
    """
    finding = found.finding
    document = PathFile(
        version=VERSION,
        scenario=scenario,
        image_hash=image_hash(usual_guests().image(scenario)),
        policy=policy,
        policy_hash=policy_hash(policy),
        modes=modes.as_dict(),
        visible=sorted(visible.frames),
        steps=[WitnessStep(*move, line.symbol, line.what) for move, line in zip(found.path, found.lines, strict=True)],
        finding=None if finding is None else (finding.kind.value, finding.text),
        rules=RULES_VERSION,
    )
    write_document(path, KIND, msgspec.to_builtins(document))


def is_path(path: Path) -> bool:
    """Whether a file is a witness and no recording of a run.

    Raises:
        RecordingError: it is neither.
    """
    if read_journal(path) is not None:
        return False
    return read_document(path, {KIND: VERSIONS, "recording": READABLE})[0] == KIND


def read_path(path: Path) -> PathFile:
    """Read and check a witness.

    Raises:
        RecordingError: it cannot be read, is damaged, or of another version.
    """
    _, document = read_document(path, {KIND: VERSIONS})
    return parsed(path, document, PathFile)


def follow(saved: PathFile, anyway: bool = False) -> tuple[list[WitnessLine], Divergence | None]:
    """Make a witness's moves again: the lines so far, and where it is not what it was.

    Args:
        saved: the witness.
        anyway: make them also on a machine of other rules.

    Raises:
        RecordingError: the machine has other rules now.
        KstackError: the scenario, the policy or a mode does not exist any more.
    """
    check_rules(f"the witness of {saved.scenario}", saved.rules, anyway)
    lines: list[WitnessLine] = []
    modes = Modes.of(saved.modes)
    try:
        world = _world(saved, modes)
        for number, step in enumerate(saved.steps, 1):
            divergence = _compare(world, number, step)
            if divergence is not None:
                return lines, divergence
            move = Move(step.cpu, step.kind, step.choice)
            lines.append(line_of(world, number, move))
            finding = world.make(move)
            if world.visible.grown:
                raise Grown
    except Grown:
        return lines, Divergence(len(lines), "visible pages as recorded", "more pages are visible")
    now = None if finding is None else (finding.kind.value, finding.text)
    return lines, None if now == saved.finding else Divergence(len(lines), _said(saved.finding), _said(now))


def _world(saved: PathFile, modes: Modes) -> World:
    """A witness's world at its beginning, with all that was known to be visible."""
    policy = find_policy(saved.policy)
    if saved.version >= FRAMES:
        return World(saved.scenario, policy, modes, Visible(saved.visible))
    world = World(saved.scenario, policy, modes, Visible())
    pages = [page for page in saved.visible if page not in world.managed]
    frames = [frame for page in pages if (frame := world.frame_of(world.programs[0], page << 12)) is not None]
    return World(saved.scenario, policy, modes, Visible(frames), world.booted)


def _compare(world: World, number: int, step: WitnessStep) -> Divergence | None:
    """Whether a move can be made and is what it was."""
    recorded, move = f"CPU {step.cpu} at {step.symbol}: {step.what}", Move(step.cpu, step.kind, step.choice)
    possible = world.moves()
    lines = [line_of(world, number, one) for one in ([move] if move in possible else possible)]
    now = "; ".join(f"CPU {line.cpu} at {line.symbol}: {line.what}" for line in lines) or "nothing can happen"
    return None if move in possible and now == recorded else Divergence(number, recorded, now)


def _said(finding: tuple[str, str] | None) -> str:
    return "no finding" if finding is None else f"{finding[0]}: {finding[1]}"
