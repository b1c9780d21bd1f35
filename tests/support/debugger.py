"""What the debugger's tests share: recordings, small guests, and a client without a line."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from kstack.debug.origin import Origin
from kstack.debug.protocol import Protocol
from kstack.load import Symbols
from kstack.run.session import Session
from kstack.schedule import RoundRobin
from tests.support.long_mode import LongModeGuest
from tests.support.recordings import recorded


@lru_cache(maxsize=4)
def origin(scenario: str, policy: str, schedule: str = "scripted") -> Origin:
    """Where a recorded run begins; timelines from it end the ones before."""
    return Origin.of_recording(recorded(scenario, policy, schedule))


def laight() -> Origin:
    """The recording in which CPU 1 reads through a stale translation."""
    return origin("laight", "entry-exit")


def beginning(guest: LongModeGuest) -> Origin:
    """A live run of a small guest, from where it stands."""
    return Origin(Session(guest.machine, Symbols([]), RoundRobin(1)))


class Client:
    """A debugger without a line: packets go straight to the protocol.

    Args:
        start: where the run begins.
        place: where what it becomes is kept.
    """

    def __init__(self, start: Origin, place: Callable[[], Path] | None = None) -> None:
        self.interrupt = False
        self.protocol = Protocol(start, lambda: self.interrupt, place)
        self.console = ""

    def ask(self, packet: str | bytes) -> str:
        """The reply; what came as console output before it is kept."""
        *output, reply = self.protocol.answer(packet.encode() if isinstance(packet, str) else packet)
        self.console = b"".join(bytes.fromhex(text[1:].decode()) for text in output).decode()
        return reply.decode("latin-1")

    def monitor(self, command: str) -> str:
        """What a monitor command prints."""
        assert self.ask(f"qRcmd,{command.encode().hex()}") == "OK"
        return self.console

    def register(self, number: int) -> int:
        """A register of the selected thread."""
        return int.from_bytes(bytes.fromhex(self.ask(f"p{number:x}")), "little")

    @property
    def rip(self) -> int:
        """Of the selected thread."""
        return self.register(16)

    @property
    def time(self) -> int:
        """Virtual time."""
        return self.protocol.target.timeline.time
