"""All interleavings of a litmus scenario within bounds: proved clean, or the shortest way it breaks."""

from kstack.explore.explorer import Engine, explore
from kstack.explore.problem import Bounds, Outcome, Problem

__all__ = ["Bounds", "Engine", "Outcome", "Problem", "explore"]
