"""Who runs next, and for how long.

A schedule is asked before every slice and sees only what every schedule may see: which CPUs can
run, which of them wait inside a policy's step, virtual time, and the events the guest has marked.
`parse` makes one from its name on the command line.
"""

from __future__ import annotations

import re
from typing import Final

from kstack.base.errors import ConfigError
from kstack.schedule.base import Choice, Exhausted, Scheduler, View
from kstack.schedule.pct import HORIZON, PctSchedule
from kstack.schedule.randomised import RandomSchedule
from kstack.schedule.replay import ReplaySchedule
from kstack.schedule.round_robin import RoundRobin
from kstack.schedule.scripted import Script, ScriptedSchedule, ScriptStep

DEFAULT_QUANTUM = 1000
_NUMBER: Final = re.compile("[0-9]{1,18}")


def parse(text: str, seed: int = 0, script: Script | None = None) -> Scheduler:
    """A schedule by its name: `round-robin:QUANTUM`, `random[:LONGEST]`, `pct:DEPTH`, `scripted`.

    Args:
        text: the name.
        seed: for `random` and `pct`.
        script: for `scripted`.

    Raises:
        ConfigError: no such schedule, or no script to follow.
    """
    name, _, argument = text.partition(":")
    number = int(argument) if _NUMBER.fullmatch(argument) else None
    if argument and not number:
        raise ConfigError(f"schedule {text!r}: the number after the colon must be 1 or more, of 18 digits at most")
    if name == "round-robin":
        return RoundRobin(number or DEFAULT_QUANTUM)
    if name == "random":
        return RandomSchedule(seed, number or 64)
    if name == "pct" and number is not None:
        if number > HORIZON:
            raise ConfigError(f"schedule {text!r}: priorities change at most {HORIZON} times")
        return PctSchedule(seed, number)
    if name == "scripted" and not argument:
        if script is None:
            raise ConfigError("schedule 'scripted': this image has no script; use round-robin or random")
        return ScriptedSchedule(script)
    raise ConfigError(f"schedule {text!r}: one of scripted, round-robin:QUANTUM, random, pct:DEPTH, replay:FILE")


__all__ = [
    "Choice",
    "Exhausted",
    "PctSchedule",
    "RandomSchedule",
    "ReplaySchedule",
    "RoundRobin",
    "Scheduler",
    "Script",
    "ScriptStep",
    "ScriptedSchedule",
    "View",
    "parse",
]
