"""One way to build a run, to repeat it and to say what it counted. Names are imported when they are asked for."""

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from kstack.hw.modes import Modes
    from kstack.run.booted import BootedScenario
    from kstack.run.options import RunOptions
    from kstack.run.result import RunResult
    from kstack.run.session import Session
    from kstack.run.spec import RunSpec, boot, replay_session, script_of

_PLACES: Final = {
    "BootedScenario": "kstack.run.booted",
    "Modes": "kstack.hw.modes",
    "RunOptions": "kstack.run.options",
    "RunResult": "kstack.run.result",
    "Session": "kstack.run.session",
    "RunSpec": "kstack.run.spec",
    "boot": "kstack.run.spec",
    "replay_session": "kstack.run.spec",
    "script_of": "kstack.run.spec",
}


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


__all__ = [
    "BootedScenario",
    "Modes",
    "RunOptions",
    "RunResult",
    "RunSpec",
    "Session",
    "boot",
    "replay_session",
    "script_of",
]
