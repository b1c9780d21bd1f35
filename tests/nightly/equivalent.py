"""Mutants that no run can tell from the policy: what a step is there for does not come about, and why.

A survivor of the mutation run that is not named here is a hole in the scenarios.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from vm.testing.mutants import Site


class Equivalent(NamedTuple):
    """Steps that can be left out or taken apart unseen: of which policies (none: all), where, and why."""

    policies: tuple[str, ...]
    hook: str
    function: str
    step: str
    why: str


EQUIVALENT: Final = (
    Equivalent(
        (),
        "exit_thread",
        "unmap_pages",
        "SwapPte",
        "atomic for the sake of Dirty: nobody may write to the stack of a thread that has exited",
    ),
    Equivalent(
        (),
        "switch_out",
        "unmap_pages",
        "SwapPte",
        "atomic for the sake of Dirty: below the saved SP nobody may write until the thread runs again",
    ),
)


def why_equivalent(policy: str, site: Site) -> str | None:
    """Why a mutant at a site cannot be told from the policy, or None."""
    for one in EQUIVALENT:
        place = (one.hook, one.function, one.step) == (site.hook, site.function, site.step)
        if place and (not one.policies or policy in one.policies):
            return one.why
    return None
