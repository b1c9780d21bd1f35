"""Targets: TOML, the small languages of the command line, and GDB's packets."""

from __future__ import annotations

from typing import Final

from kstack.base.errors import KstackError
from kstack.debug.packets import ProtocolError, Receiver, escape, frame, number, numbers, octets, unescape
from kstack.guest.scenario import FOLDER
from kstack.hw.modes import Modes
from kstack.inject.campaign import read_campaign
from kstack.kernels.kstack.scenarios import find_scenario
from kstack.machine import MachineConfig, size
from kstack.report.fleet import FOLDER as FLEETS
from kstack.report.fleet import find_fleet
from kstack.run.spec import script_of
from kstack.schedule import parse
from kstack.stacks.measure.costs import DEFAULT as COSTS
from kstack.stacks.measure.costs import cost_model
from tests.fuzz.files import written


def scenario(data: bytes) -> object:
    """Read a scenario and what `kstack run` makes of it before its guest is assembled."""
    found = find_scenario(str(written("scenario.toml", data)))
    MachineConfig(found.cpus, size(found.ram))
    parse("scripted", 0, script_of(found) if found.script else None)
    return found


def scenarios() -> list[bytes]:
    """Those that come with kstack."""
    return [path.read_bytes() for path in sorted(FOLDER.glob("*.toml"))]


def toml(data: bytes) -> object:
    """Read it as a fleet and as a cost model."""
    path = written("table.toml", data)
    cost_model.cache_clear()
    errors = []
    for read in (lambda: find_fleet(str(path)), lambda: cost_model(path)):
        try:
            read()
        except KstackError as error:
            errors.append(error)
    return errors


def tomls() -> list[bytes]:
    """The fleets and the cost model that come with kstack."""
    return [path.read_bytes() for path in (*sorted(FLEETS.glob("*.toml")), COSTS)]


def words(data: bytes) -> object:
    """Values of options: schedules, sizes, modes."""
    text = data.decode("utf-8", "surrogateescape")
    errors = []
    for read in (lambda: parse(text), lambda: MachineConfig(1, size(text)), lambda: Modes().with_option(text)):
        try:
            read()
        except KstackError as error:
            errors.append(error)
    return errors


def some_words() -> list[bytes]:
    """Right ones."""
    modes = [f"{name}={value}".encode() for name, value in Modes().as_dict().items()]
    return [b"round-robin:7", b"random:64", b"pct:3", b"scripted", b"64M", b"1GiB", b"4096", b"tlb=capacity:8", *modes]


def packets(data: bytes) -> object:
    """GDB's side of the line: bytes into packets, and what stands in them."""
    receiver = Receiver()
    got = [event for at in range(0, len(data), 7) for event in receiver.feed(data[at : at + 7])]
    got += receiver.feed(frame(escape(data)))
    for event in got:
        assert unescape(escape(event.data)) == event.data
        for read in (number, numbers, octets):
            try:
                read(event.data)
            except ProtocolError:
                continue
    return got


def some_packets() -> list[bytes]:
    """Some of a session's."""
    bodies = ("qSupported:swbreak+", "?", "g", "m1000,40", "M1000,2:abcd", "X1000,2:}\x03a", "Z0,1000,1", "vCont;s:1;c")
    return [b"".join(frame(body.encode()) for body in bodies), *(frame(body.encode()) for body in bodies), b"+-\x03"]


def campaign(data: bytes) -> object:
    """Read a campaign of faults."""
    return read_campaign(written("campaign.toml", data))


def campaigns() -> list[bytes]:
    """One with a fault of each kind."""
    return [_CAMPAIGN.encode()]


_CAMPAIGN: Final = """
policies = ["switch-sp-ipi"]
scenarios = ["litmus-laight"]
limit = 3
modes = {tlb = "retain"}

[[faults]]
what = "drop-ipi"

[[faults]]
what = "flip-register"
when = {on = "at", place = "laight_watch+0x2d", nth = 1}
register = "r12"
bit = 3
"""
