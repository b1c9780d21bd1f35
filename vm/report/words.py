"""Words and colours for verdicts, and modes in a line: the same in every table, page and log."""

from __future__ import annotations

from typing import Final

from kstack.hw.modes import Modes

VERDICTS: Final = {
    "safe": ("safe", "green"),
    "unsafe": ("unsafe", "red"),
    "undecided": ("undecided", "yellow"),
    "did-nothing": ("did nothing here", "cyan"),
}
"""By `Judgement.verdict`: the word, and its colour on a terminal."""
FILLS: Final = "every fill and eviction that speculation allows"  # what `tlb` is where everything is tried


def modes_line(modes: Modes, usual: Modes = Modes(), *, given: Modes | None = None, explored: bool = False) -> str:
    """All modes of a verdict in one line: those that were chosen, then the defaults, as such.

    Args:
        modes: under which it was made.
        usual: the command's defaults.
        given: the modes before the policy chose how stack faults are taken; None if they are the same.
        explored: by trying everything, so that `tlb` has no meaning.
    """
    defaults, asked = usual.as_dict(), (given or modes).as_dict()
    chosen: list[str] = []
    left: list[str] = []
    for name, value in modes.as_dict().items():
        if explored and name == "tlb":
            left.append(f"{name}: {FILLS}")
            continue
        policys = " (the policy's)" if asked[name] != value else ""
        text = f"{name}={value.replace(' ', ':')}{policys}"
        (left if asked[name] == defaults[name] else chosen).append(text)
    rest = ", ".join(left)
    return f"Modes: {', '.join(chosen)}; by default {rest}" if chosen else f"Modes, all by default: {rest}"
