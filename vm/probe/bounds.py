"""What counts say of a rate: Wilson's interval, which also holds where nothing was ever seen."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Final

USUAL: Final = 1.959964
"""Standard deviations of bounds that are told: 95 % of intervals have the rate (0 of 1,000 is less than 0.4 %)."""
STRICT: Final = 3.290527
"""Of bounds on which a value is refuted: 99.9 %, since a probe asks dozens of questions at once."""


@dataclass(frozen=True)
class Rate:
    """How often something was seen.

    Attributes:
        count: trials in which it was.
        of: trials.
    """

    count: int
    of: int

    def bounds(self, deviations: float = USUAL) -> tuple[float, float]:
        """Wilson's interval (1927): between which two shares the rate is; 0 and 1 of no trials."""
        if not self.of:
            return 0.0, 1.0
        share, square = self.count / self.of, deviations * deviations / self.of
        middle = share + square / 2
        width = deviations * sqrt(share * (1 - share) / self.of + square / self.of / 4)
        low = (middle - width) / (1 + square) if self.count else 0.0
        return low, (middle + width) / (1 + square) if self.count < self.of else 1.0

    def at_least(self, deviations: float = USUAL) -> float:
        """The lower bound."""
        return self.bounds(deviations)[0]

    def at_most(self, deviations: float = USUAL) -> float:
        """The upper bound."""
        return self.bounds(deviations)[1]

    @property
    def share(self) -> float:
        """Of the trials in which it was seen; 0 of no trials."""
        return self.count / self.of if self.of else 0.0

    def exceeds(self, noise: Rate) -> bool:
        """Whether more of it was seen than noise explains: the two strict intervals have nothing in common."""
        return self.at_least(STRICT) > noise.at_most(STRICT)

    def __add__(self, other: Rate) -> Rate:
        """Both together."""
        return Rate(self.count + other.count, self.of + other.of)
