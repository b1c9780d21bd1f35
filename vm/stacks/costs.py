"""From exact counts to cycles with a range, by a cost model in TOML."""

from __future__ import annotations

import tomllib
from functools import lru_cache
from pathlib import Path
from typing import Final

import msgspec

from vm.stacks.runtime import StepCounts

DEFAULT: Final = Path(__file__).parent / "costs.toml"


class Cost(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Cycles of one operation, and where the figures come from."""

    low: int
    nominal: int
    high: int
    source: str


class CostModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Cycles of every operation that is counted."""

    version: int
    page_fault: Cost
    invlpg: Cost
    ipi: Cost
    pte_write: Cost
    pte_exchange: Cost
    pte_read: Cost
    pool: Cost
    zero_page: Cost


class Cycles(msgspec.Struct, frozen=True):
    """A number of cycles with its range."""

    low: int
    nominal: int
    high: int


@lru_cache(maxsize=4)
def cost_model(path: Path = DEFAULT) -> CostModel:
    """The cost model in a TOML file."""
    return msgspec.convert(tomllib.loads(path.read_text()), CostModel)


def cycles(counts: StepCounts, page_faults: int, guest_invlpg: int, model: CostModel | None = None) -> Cycles:
    """What a run's policy cost.

    Args:
        counts: what the policy did.
        page_faults: #PF delivered to the guest.
        guest_invlpg: INVLPGs that the guest's own handlers executed.
        model: None for the one that comes with kstack.
    """
    model = model or cost_model()
    amounts = (
        (page_faults, model.page_fault),
        (counts.invlpg + guest_invlpg, model.invlpg),
        (counts.ipis, model.ipi),
        (counts.pte_writes, model.pte_write),
        (counts.pte_exchanges, model.pte_exchange),
        (counts.pte_reads, model.pte_read),
        (counts.pages_taken + counts.pages_given, model.pool),
        (counts.pages_zeroed, model.zero_page),
    )
    return Cycles(
        sum(amount * cost.low for amount, cost in amounts),
        sum(amount * cost.nominal for amount, cost in amounts),
        sum(amount * cost.high for amount, cost in amounts),
    )
