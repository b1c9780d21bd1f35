"""Fault-injection trials: one fault in one run each, and what came of it."""

from vm.trials.sites import SYSTEMATIC, Census, census, faults_at
from vm.trials.trial import NOT_FIRED, OUTCOMES, Outcome, Pair, Trial

__all__ = ["NOT_FIRED", "OUTCOMES", "SYSTEMATIC", "Census", "Outcome", "Pair", "Trial", "census", "faults_at"]
