"""From exact counts to cycles with a range, by a cost model in TOML.

Counts are facts of a run; cycles are those counts times figures that somebody measured elsewhere, or
estimated. So every figure has a range and a source, and a user may give another model.

Not modelled: time spent waiting for a lock or an acknowledgement beyond the IPI's own round trip,
cache misses that a hook's code would cause, and the guest's own kernel, which is the same for all.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Final

import msgspec

from kstack.base.errors import ConfigError
from kstack.base.toml import parse_toml
from kstack.stacks import steps
from kstack.stacks.host.call import StepCounts

DEFAULT: Final = Path(__file__).parent / "costs.toml"
VERSION: Final = 1


class Cost(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Cycles of one operation, and where the figures come from."""

    low: int
    nominal: int
    high: int
    source: str

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.nominal <= self.high:
            raise ValueError(f"{self.low}, {self.nominal}, {self.high}: must be 0 <= low <= nominal <= high")
        if not self.source.strip():
            raise ValueError("source is empty: say where the figures come from, or that they are an estimate")


class CostModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Cycles of every operation that is counted; `OPERATIONS` has their names in this order."""

    version: int
    page_fault: Cost
    double_fault: Cost
    fred_fault: Cost
    walk: Cost
    invlpg: Cost
    invlpgb: Cost
    tlbsync: Cost
    ipi: Cost
    pte_read: Cost
    pte_write: Cost
    pte_exchange: Cost
    lock: Cost
    variable: Cost
    pool: Cost
    alloc_page: Cost
    zero_page: Cost

    def cost(self, operation: str) -> Cost:
        """What one operation costs."""
        found: Cost = getattr(self, operation)
        return found

    def costs(self) -> dict[str, Cost]:
        """All costs by operation."""
        return {name: self.cost(name) for name in OPERATIONS}

    def with_nominal(self, operation: str, value: int) -> CostModel:
        """This with another nominal figure for one operation (cycles); its range is not looked at."""
        return msgspec.structs.replace(self, **{operation: _unchecked(self.cost(operation), value)})


OPERATIONS: Final = tuple(name for name in CostModel.__struct_fields__ if name != "version")
"""What costs are counted of."""

STEP_OPERATIONS: Final[Mapping[type[steps.Step], str]] = {
    steps.ReadPte: "pte_read",
    steps.WritePte: "pte_write",
    steps.ExchangePte: "pte_exchange",
    steps.SwapPte: "pte_exchange",
    steps.Invlpg: "invlpg",
    steps.Invlpgb: "invlpgb",
    steps.Tlbsync: "tlbsync",
    steps.SendIpi: "ipi",
    steps.Lock: "lock",
    steps.Load: "variable",
    steps.Store: "variable",
    steps.Swap: "variable",
    steps.TakePage: "pool",
    steps.GiveBack: "pool",
    steps.AllocPage: "alloc_page",
    steps.ZeroPage: "zero_page",
}
"""Which operation a micro-step is; others cost nothing of their own."""


class Cycles(msgspec.Struct, frozen=True):
    """A number of cycles with its range."""

    low: float
    nominal: float
    high: float

    def scaled(self, factor: float) -> Cycles:
        """This times a number."""
        return Cycles(self.low * factor, self.nominal * factor, self.high * factor)

    def __add__(self, other: Cycles) -> Cycles:
        return Cycles(self.low + other.low, self.nominal + other.nominal, self.high + other.high)


def _unchecked(cost: Cost, nominal: int) -> Cost:
    return Cost(min(cost.low, nominal), nominal, max(cost.high, nominal), cost.source)


@lru_cache(maxsize=4)
def cost_model(path: Path = DEFAULT) -> CostModel:
    """The cost model in a TOML file; operations that a user's file leaves out are those of kstack's own.

    Raises:
        ConfigError: the file cannot be read, or says something it may not.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cost model {path}: {getattr(error, 'strerror', None) or error}") from error
    if path == DEFAULT:
        return parse_toml(text, CostModel, str(path))
    given = parse_toml(text, _PARTIAL, str(path))
    if given.version != VERSION:  # type: ignore[attr-defined] # _PARTIAL has CostModel's fields
        raise ConfigError(f"{path}: version {given.version}; this kstack reads {VERSION}")  # type: ignore[attr-defined]
    changes: dict[str, Cost] = {name: getattr(given, name) for name in OPERATIONS if getattr(given, name) is not None}
    return msgspec.structs.replace(cost_model(), **changes)


_PARTIAL: Final = msgspec.defstruct(
    "_PARTIAL",
    [("version", int), *((name, Cost | None, None) for name in OPERATIONS)],
    frozen=True,
    forbid_unknown_fields=True,
)


def operations(
    counts: StepCounts,
    page_faults: int = 0,
    guest_invlpg: int = 0,
    double_faults: int = 0,
    fred_faults: int = 0,
    walks: int = 0,
) -> dict[str, int]:
    """How often a run did each operation of the cost model.

    Args:
        counts: what the policy did.
        page_faults: faults that were taken as #PF through the IDT.
        guest_invlpg: INVLPGs that the guest's own handlers executed.
        double_faults: faults that were taken as #DF through the IDT.
        fred_faults: faults that were taken by FRED.
        walks: page walks that the guest's accesses made.
    """
    return {
        "page_fault": page_faults,
        "double_fault": double_faults,
        "fred_fault": fred_faults,
        "walk": walks,
        "invlpg": counts.invlpg + guest_invlpg,
        "invlpgb": counts.invlpgb,
        "tlbsync": counts.tlbsync,
        "ipi": counts.ipis,
        "pte_read": counts.pte_reads,
        "pte_write": counts.pte_writes,
        "pte_exchange": counts.pte_exchanges,
        "lock": counts.locks,
        "variable": counts.variables,
        "pool": counts.pages_taken + counts.pages_given,
        "alloc_page": counts.pages_allocated,
        "zero_page": counts.pages_zeroed,
    }


def cycles(amounts: Mapping[str, float], model: CostModel | None = None) -> Cycles:
    """What a number of operations costs: a pure function of counts and model.

    Args:
        amounts: how often each operation was done, by its name.
        model: None for the one that comes with kstack.
    """
    model = model or cost_model()
    costs = [(amount, model.cost(name)) for name, amount in amounts.items()]
    return Cycles(
        sum(amount * cost.low for amount, cost in costs),
        sum(amount * cost.nominal for amount, cost in costs),
        sum(amount * cost.high for amount, cost in costs),
    )
