"""The line to GDB: one TCP connection on the loopback interface (GDB manual, 20.3 and E.1).

Packets are acknowledged until GDB asks that they are not. While the machine runs, the line is looked at
now and then for the byte 03.
"""

from __future__ import annotations

import select
import socket
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

from kstack.base.errors import ConfigError
from kstack.debug.origin import Origin
from kstack.debug.packets import Received, ReceivedKind, Receiver, frame
from kstack.debug.protocol import Protocol

HOST: Final = "127.0.0.1"
_CHUNK: Final = 1 << 16


class Connection:
    """One connection.

    Args:
        connection: accepted, blocking.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._receiver = Receiver()
        self._waiting: deque[Received] = deque()
        self.closed = False

    def _read(self) -> list[Received]:
        try:
            data = self._connection.recv(_CHUNK)
        except OSError:
            data = b""
        self.closed = not data
        return self._receiver.feed(data)

    def next(self) -> Received | None:
        """What comes next; None where the other side is gone."""
        while not self._waiting and not self.closed:
            self._waiting += self._read()
        return self._waiting.popleft() if self._waiting else None

    def interrupted(self) -> bool:
        """Whether byte 03 has come, or the other side is gone; what else has come waits."""
        while not self.closed and select.select([self._connection], [], [], 0)[0]:
            events = self._read()
            self._waiting += [event for event in events if event.kind is not ReceivedKind.INTERRUPT]
            if any(event.kind is ReceivedKind.INTERRUPT for event in events):
                return True
        return self.closed

    def send(self, data: bytes) -> None:
        """Send bytes as they are; nothing where the other side is gone."""
        try:
            self._connection.sendall(data)
        except OSError:
            self.closed = True


def converse(connection: socket.socket, origin: Origin, place: Callable[[], Path] | None = None) -> str | None:
    """Serve one connection until GDB kills, detaches or is gone.

    Args:
        connection: accepted.
        origin: where the debugged run begins.
        place: names the file that keeps a recording of what it becomes; None keeps none.

    Returns:
        Where that is, in words; None if there is none, or if it had been saved before.

    Raises:
        KstackError: it cannot be written, or does not repeat what was done.
    """
    line = Connection(connection)
    protocol = Protocol(origin, line.interrupted, place)
    sent = b""
    while not protocol.ended and (event := line.next()) is not None:
        if event.kind is ReceivedKind.PACKET:
            if protocol.acknowledges:
                line.send(b"+")
            sent = b"".join(frame(reply) for reply in protocol.answer(event.data))
            line.send(sent)
        elif event.kind is ReceivedKind.DAMAGED and protocol.acknowledges:
            line.send(b"-")
        elif event.kind is ReceivedKind.NAK:
            line.send(sent)
    return protocol.target.keeper.close()


def serve(
    origin: Origin, port: int, listening: Callable[[int], None], place: Callable[[], Path] | None = None
) -> str | None:
    """Wait for one connection on the loopback interface, and serve it.

    Args:
        origin: where the debugged run begins.
        port: TCP port, 0 for any that is free.
        listening: told the port once connections are accepted.
        place: as `converse` takes it.

    Returns:
        As `converse`.

    Raises:
        ConfigError: the port cannot be had.
        KstackError: as `converse`.
    """
    if not 0 <= port < 1 << 16:
        raise ConfigError(f"--port {port}: give 0 to 65535")
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except OSError as error:
            raise ConfigError(f"--port {port}: {error.strerror}; give another, or 0 for any") from error
        listener.listen(1)
        listening(listener.getsockname()[1])
        connection, _ = listener.accept()
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return converse(connection, origin, place)
