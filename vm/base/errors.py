"""The one family of errors that kstack raises for its caller's mistakes.

Guest faults are values and events (see `kstack.hw.exits`), never Python exceptions.
"""


class KstackError(Exception):
    """Something the caller gave is wrong; the message names the thing and the way out.

    The command line prints it on one line and exits with code 2.
    """


class ImageError(KstackError):
    """A guest image cannot be read or loaded."""


class ConfigError(KstackError):
    """A machine, schedule, mode or option cannot be what was asked for."""


class ScenarioError(KstackError):
    """A scenario file is wrong."""


class PolicyError(KstackError):
    """A policy cannot be found, or did something a policy may not do."""


class RecordingError(KstackError):
    """A recording is damaged, of another version, or belongs to another image."""


class EngineError(KstackError):
    """The installed Unicorn is not the one whose insides kstack knows."""


class TraceError(KstackError):
    """A trace cannot be made, written or read."""
