"""Fault-injection trials: one fault in one run each, and what came of it."""

from kstack.inject.sites import SYSTEMATIC, Census, census, faults_at
from kstack.inject.trial import NOT_FIRED, OUTCOMES, Trial, TrialOutcome, TrialPair

__all__ = ["NOT_FIRED", "OUTCOMES", "SYSTEMATIC", "Census", "Trial", "TrialOutcome", "TrialPair", "census", "faults_at"]
