"""Fault injection: what goes wrong, where, and at which moment exactly."""

from kstack.fault.injector import Injector
from kstack.fault.records import ACTIONS, At, Fault, Flush, Moment, Send, Step, When, Where

__all__ = ["ACTIONS", "At", "Fault", "Flush", "Injector", "Moment", "Send", "Step", "When", "Where"]
