"""For people who test policies: what any policy must do, and mutants that a test suite must kill."""

from vm.testing.mutants import Mutant, mutants_of, without
from vm.testing.policies import PolicyConformance

__all__ = ["Mutant", "PolicyConformance", "mutants_of", "without"]
