"""Runs in which faults happen: of a bare machine, and of a scenario."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from kstack.fault import Fault, Injector
from kstack.hw.cpu.state import ActivityState
from kstack.hw.modes import Modes
from kstack.run.options import RunOptions
from kstack.run.session import Session
from kstack.run.spec import RunSpec
from kstack.schedule import RoundRobin
from tests.support.long_mode import LongModeGuest


def bare(guest: LongModeGuest, places: dict[str, int], *faults: Fault) -> Injector:
    """An injector of a guest that no policy sees."""
    symbols = SimpleNamespace(address=places.get)
    session = SimpleNamespace(machine=guest.machine, runtime=SimpleNamespace(calls=[[]], pools=None), symbols=symbols)
    return Injector(session, faults)  # type: ignore[arg-type] # all that it asks for


def run_to_halt(guest: LongModeGuest, injector: Injector, address: int, cpu: int = 0, **gprs: int) -> None:
    guest.start(address, cpu, **gprs)
    for _ in range(200):
        if guest.machine.cpus[cpu].state is not ActivityState.RUNNING:
            return
        injector.advance(cpu, 50)
    raise AssertionError("it still runs")


def flip(when: Any, register: str = "r9", bit: int = 0) -> Fault:
    return Fault("flip-register", when, register=register, bit=bit)


def session_with(policy: str, *faults: Fault, scenario: str = "laight", quantum: int = 200) -> Session:
    modes = Modes(df_restart="exact")
    setup = RunSpec(scenario, 2, 64 << 20, modes, policy, RunOptions(400_000), faults)
    return setup.session(RoundRobin(quantum))


def injector_of(one: Session) -> Injector:
    assert isinstance(one.injector, Injector)
    return one.injector


class Answers:
    """Keeps the answers of one kind of step, each with what `look` says of it then."""

    def __init__(self, one: Session, name: str, look: Callable[[Any], Any] = lambda answer: answer) -> None:
        self.found: list[Any] = []
        self._name, self._look = name, look
        one.machine.instruments.add(self)

    def on_step(self, cpu: int, call: Any, step: Any, answer: Any, previous: Any) -> None:
        if type(step).__name__ == self._name:
            self.found.append(self._look(answer))
