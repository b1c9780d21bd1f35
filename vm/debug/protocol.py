"""What GDB may ask, and what it is told: GDB manual, appendix E.

vCPUs are threads 1 to N. All stop and go together (all-stop mode).

Not modelled: signals to the guest, thread-specific resumption (the schedule decides who runs), non-stop mode,
multiprocess extensions, files.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from kstack.debug.monitor import Monitor
from kstack.debug.origin import Origin
from kstack.debug.packets import MAX_PACKET, ProtocolError, escape, number, numbers, octets
from kstack.debug.points import MAX_WATCHED, Point, PointType, pieces
from kstack.debug.registers import REGISTERS, TOTAL_BYTES, read_register, target_xml
from kstack.debug.target import Exited, StopReply, Target
from kstack.debug.views import whereabouts
from kstack.hw.cpu.cpu import Cpu
from kstack.run import writes

OK: Final = b"OK"
UNKNOWN: Final = b""
INVALID: Final = b"E16"  # EINVAL
NOT_THERE: Final = b"E0e"  # EFAULT
RIP: Final = 16  # its number among REGISTERS
FEATURES: Final = (
    f"PacketSize={MAX_PACKET:x};QStartNoAckMode+;vContSupported+;ReverseStep+;ReverseContinue+;"
    "qXfer:features:read+;swbreak+;hwbreak+"
)
MAX_BYTES: Final = MAX_PACKET // 2  # of memory in one packet
CONSOLE_BYTES: Final = 1024  # of text in one O packet


class Protocol:
    """Answers packets.

    Args:
        origin: where the debugged run begins.
        interrupted: whether the user wants a running machine to stop.
        place: where a recording of what the run becomes is kept; None keeps none.
    """

    def __init__(
        self, origin: Origin, interrupted: Callable[[], bool], place: Callable[[], Path] | None = None
    ) -> None:
        self._news: list[str] = []
        self.target = Target(origin, self._news.append, interrupted, place)
        self.monitor = Monitor(self.target)
        self.ended = False
        self.acknowledges = True
        self._negotiated: frozenset[str] = frozenset()
        self._cpu = self._continue = self._stopped_cpu()

    def answer(self, packet: bytes) -> list[bytes]:
        """The packets that answer one; the last is the reply, those before are console output."""
        try:
            for name, handler in _HANDLERS:
                if packet.startswith(name):
                    reply = handler(self, packet[len(name) :])
                    break
            else:
                reply = UNKNOWN
        except ProtocolError:
            reply = INVALID
        if reply is None:
            return []
        return [*self._console(), reply] if packet.startswith(_CAN_SAY) else [reply]

    def _console(self) -> list[bytes]:
        """O packets; GDB takes them while it waits for a stop or a monitor command."""
        text = "".join(f"{line}\n" for line in self._news).encode()
        self._news.clear()
        return [b"O" + text[at : at + CONSOLE_BYTES].hex().encode() for at in range(0, len(text), CONSOLE_BYTES)]

    # --- threads

    @property
    def _general(self) -> Cpu:
        return self.target.cpus[self._cpu]

    def _stopped_cpu(self) -> int:
        return self.target.stop.cpu if isinstance(self.target.stop, StopReply) else 0

    def _thread(self, text: bytes) -> int | None:
        """The CPU of a thread id; None for any (0) or all (-1)."""
        if text in (b"0", b"-1"):
            return None
        cpu = number(text) - 1
        if not 0 <= cpu < len(self.target.cpus):
            raise ProtocolError(f"there is no thread {text!r}")
        return cpu

    def _select(self, rest: bytes) -> bytes:
        cpu = self._thread(rest[1:])
        if rest[:1] == b"g":
            self._cpu = self._stopped_cpu() if cpu is None else cpu
        elif rest[:1] == b"c":
            self._continue = self._stopped_cpu() if cpu is None else cpu
        else:
            raise ProtocolError("H takes g or c")
        return OK

    def _alive(self, rest: bytes) -> bytes:
        self._thread(rest)
        return OK

    def _current(self, _: bytes) -> bytes:
        return b"QC%x" % (self._cpu + 1)

    def _threads(self, _: bytes) -> bytes:
        return b"m" + b",".join(b"%x" % (cpu.index + 1) for cpu in self.target.cpus)

    def _extra(self, rest: bytes) -> bytes:
        cpu = self._thread(rest)
        words = whereabouts(self.target.timeline.session, self._cpu if cpu is None else cpu)
        return words.encode().hex().encode()

    # --- what there is

    def _supported(self, rest: bytes) -> bytes:
        self._negotiated = frozenset(rest.decode("ascii", "replace").removeprefix(":").split(";"))
        return FEATURES.encode()

    def _features(self, rest: bytes) -> bytes:
        annex, _, where = rest.partition(b":")
        offset, length = numbers(where)
        if annex != b"target.xml":
            return b"E00"
        text = target_xml().encode()
        part = text[offset : offset + min(length, MAX_BYTES)]
        return (b"l" if offset + len(part) >= len(text) else b"m") + escape(part)

    def _no_acknowledgements(self, _: bytes) -> bytes:
        self.acknowledges = False
        return OK

    def _command(self, rest: bytes) -> bytes:
        self._news += self.monitor.run(octets(rest).decode("utf-8", "replace"), self._cpu)
        return OK

    # --- registers

    def _read_registers(self, _: bytes) -> bytes:
        cpu = self._general
        return b"".join(read_register(cpu, index) for index in range(len(REGISTERS))).hex().encode()

    def _write_registers(self, rest: bytes) -> bytes:
        data = octets(rest)
        if len(data) != TOTAL_BYTES:
            raise ProtocolError(f"{len(data)} bytes of registers; there are {TOTAL_BYTES}")
        for index, register in enumerate(REGISTERS):
            value, data = data[: register.bits // 8], data[register.bits // 8 :]
            if register.name in writes.REGISTERS and value != read_register(self._general, index):
                self.target.write_register(self._cpu, index, int.from_bytes(value, "little"))
        return OK

    def _read_register(self, rest: bytes) -> bytes:
        return read_register(self._general, number(rest)).hex().encode()

    def _write_register(self, rest: bytes) -> bytes:
        which, _, text = rest.partition(b"=")
        index, value = number(which), octets(text)
        if len(value) != len(read_register(self._general, index)):
            raise ProtocolError("the value is not as long as the register")
        if value != read_register(self._general, index):
            self.target.write_register(self._cpu, index, int.from_bytes(value, "little"))
        return OK

    # --- memory

    def _read_memory(self, rest: bytes) -> bytes:
        address, length = numbers(rest)
        memory = self.target.timeline.machine.memory
        parts = pieces(self._general, address, min(length, MAX_BYTES))
        if length and not parts:
            return NOT_THERE
        return b"".join(memory.read(where, size) for where, size in parts).hex().encode()

    def _write_hex(self, rest: bytes) -> bytes:
        where, _, text = rest.partition(b":")
        return self._write_memory(where, octets(text))

    def _write_binary(self, rest: bytes) -> bytes:
        where, _, data = rest.partition(b":")
        return self._write_memory(where, data)

    def _write_memory(self, where: bytes, data: bytes) -> bytes:
        address, length = numbers(where)
        if length != len(data):
            raise ProtocolError(f"{len(data)} bytes come, {length} were announced")
        parts, at = [], 0
        for physical, size in pieces(self._general, address, length):
            parts.append((physical, data[at : at + size]))
            at += size
        if at < length:
            return NOT_THERE
        if length:
            self.target.write_memory(parts)
        return OK

    # --- breakpoints and watchpoints

    def _point(self, rest: bytes) -> Point:
        kind, address, size = numbers(rest.split(b";")[0], count=3)
        if kind > max(PointType) or (kind >= PointType.WRITE and not 1 <= size <= MAX_WATCHED):
            raise ProtocolError(f"no point of kind {kind} and {size} bytes")
        return Point(PointType(kind), address, size)

    def _insert(self, rest: bytes) -> bytes:
        self.target.points.add(self._point(rest))
        return OK

    def _remove(self, rest: bytes) -> bytes:
        self.target.points.remove(self._point(rest))
        return OK

    # --- running

    def _why(self, _: bytes = b"") -> bytes:
        stop = self.target.stop
        if isinstance(stop, Exited):
            return b"W%02x" % stop.status
        reply = f"T{stop.signal:02x}thread:{stop.cpu + 1:x};"
        if stop.reason and (not stop.reason.endswith("break") or f"{stop.reason}+" in self._negotiated):
            reply += f"{stop.reason}:{stop.value};"
        return reply.encode()

    def _moved(self) -> bytes:
        self._cpu = self._continue = self._stopped_cpu()
        return self._why()

    def _resume(self, stepping: tuple[int, ...]) -> bytes:
        self.target.resume(stepping)
        return self._moved()

    def _go(self, rest: bytes, step: bool, signalled: bool) -> bytes:
        """c, s, C and S, with an address to go on at."""
        address = rest
        if signalled:
            signal, _, address = rest.partition(b";")
            number(signal)
        if address:
            self.target.write_register(self._continue, RIP, number(address))
        return self._resume((self._continue,) if step else ())

    def _actions(self, rest: bytes) -> bytes:
        """vCont: for each CPU the first action that names it; one without an action runs as it is scheduled."""
        actions: dict[int, bool] = {}
        for action in rest.split(b";"):
            what, _, thread = action.partition(b":")
            if what[:1] in (b"C", b"S"):
                number(what[1:])
            elif what not in (b"c", b"s"):
                raise ProtocolError(f"no action {action[:20]!r}")
            cpu = self._thread(thread) if thread else None
            for index in range(len(self.target.cpus)) if cpu is None else (cpu,):
                actions.setdefault(index, what[:1] in (b"s", b"S"))
        return self._resume(tuple(sorted(cpu for cpu, steps in actions.items() if steps)))

    def _back(self, rest: bytes) -> bytes:
        if rest == b"s":
            self.target.step_back(self._continue)
        elif rest == b"c":
            self.target.resume_back()
        else:
            return UNKNOWN
        return self._moved()

    def _detach(self, _: bytes) -> bytes:
        self.ended = True
        return OK

    def _kill(self, _: bytes) -> None:
        self.ended = True


_CAN_SAY: Final = (b"c", b"s", b"C", b"S", b"vCont;", b"bs", b"bc", b"qRcmd,")
"""Packets that wait for a stop or what a command says: the only ones before whose answers GDB takes text."""
_HANDLERS: Final[tuple[tuple[bytes, Callable[[Protocol, bytes], bytes | None]], ...]] = (
    (b"qSupported", Protocol._supported),
    (b"qXfer:features:read:", Protocol._features),
    (b"qfThreadInfo", Protocol._threads),
    (b"qsThreadInfo", lambda protocol, rest: b"l"),
    (b"qThreadExtraInfo,", Protocol._extra),
    (b"qC", Protocol._current),
    (b"qRcmd,", Protocol._command),
    (b"qAttached", lambda protocol, rest: b"1"),
    (b"QStartNoAckMode", Protocol._no_acknowledgements),
    (b"vCont?", lambda protocol, rest: b"vCont;c;C;s;S"),
    (b"vCont;", Protocol._actions),
    (b"?", Protocol._why),
    (b"g", Protocol._read_registers),
    (b"G", Protocol._write_registers),
    (b"p", Protocol._read_register),
    (b"P", Protocol._write_register),
    (b"m", Protocol._read_memory),
    (b"M", Protocol._write_hex),
    (b"X", Protocol._write_binary),
    (b"Z", Protocol._insert),
    (b"z", Protocol._remove),
    (b"c", lambda protocol, rest: protocol._go(rest, False, False)),
    (b"s", lambda protocol, rest: protocol._go(rest, True, False)),
    (b"C", lambda protocol, rest: protocol._go(rest, False, True)),
    (b"S", lambda protocol, rest: protocol._go(rest, True, True)),
    (b"b", Protocol._back),
    (b"H", Protocol._select),
    (b"T", Protocol._alive),
    (b"D", Protocol._detach),
    (b"k", Protocol._kill),
)
