"""The text of a policy of a user's own."""

from __future__ import annotations

from typing import Final

OWN_POLICY: Final = """
from kstack.stacks import Policy, Steps, Thread, map_pages

class Mine(Policy):
    id, title, proposer, source = "mine", "all at once", "me", "here"

    def create_thread(self, cpu: int, thread: Thread) -> Steps:
        yield from map_pages(thread.pages)
"""
