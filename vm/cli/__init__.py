"""The command line. One file a command; each is imported only when it is used."""

from __future__ import annotations

import sys
import warnings
from typing import Final

from cyclopts import App

from kstack.base.errors import KstackError

BAD_USAGE: Final = 2
EXIT_CODES: Final = """\
Exit codes: 0 the guest ended well (it wrote 0 or 0x10 to the debug-exit port 0xf4) and nothing was found; 1 it wrote another \
value, or something was found; 2 bad usage; 3 it died (it wrote 0x12, a CPU shut down, or all sleep for ever); 4 the bound came \
first, or explore has asked nothing of its policy.
"""

app = App(
    name="kstack",
    help="Run guest kernels on an emulated multi-core x86-64 machine, and judge policies for dynamic kernel stacks.",
    version="0.1.0",
    version_flags=["--version"],
    result_action="return_value",
)
app.command("kstack.cli.compare:compare", help="Judge every policy against every scenario: verdicts, memory, cost.")
app.command(
    "kstack.cli.run:run",
    help="Run a guest image or a scenario; its serial port goes to stdout.",
    help_epilogue=EXIT_CODES,
)
app.command("kstack.cli.explore:explore", help="Try all interleavings of a litmus scenario under a policy.")
app.command("kstack.cli.replay:replay", help="Repeat a recording exactly.")
app.command("kstack.cli.inject:inject", help="Inject faults into a scenario under a policy: what does each come to?")
app.command("kstack.cli.trace:trace", help="What a recording did, instruction by instruction.")
app.command("kstack.cli.gdb:gdb", help="Debug a recording or a live run with GDB, forwards and backwards.")
app.command("kstack.cli.probe:probe", help="What does this processor do? Refute readings of the manuals by trials.")
app.command("kstack.cli.listing:policies", help="List the policies, with who proposed them and where.")
app.command("kstack.cli.listing:scenarios", help="List the scenarios, with the questions they answer.")
app.command("kstack.cli.listing:images", help="List the guest images that come with kstack.")
app.command("kstack.cli.image:image", help="Write a built-in image to a file, for another machine.")


def _advise(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """A warning as one line, as errors are."""
    return f"kstack: {filename}, line {lineno}: {message}\n"


def main() -> None:
    """Entry point of the console script; errors of the caller are one line and exit code 2."""
    warnings.formatwarning = _advise
    try:
        code = app(sys.argv[1:])
    except KstackError as error:
        print(f"kstack: {error}", file=sys.stderr)
        sys.exit(BAD_USAGE)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except KeyboardInterrupt:
        print("kstack: interrupted", file=sys.stderr)
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)
