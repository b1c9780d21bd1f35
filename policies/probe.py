"""probe: the compiler checks the stack at calls, and gets more where there is too little.

Mentioned in the RFC's thread (stack probes, split stacks). Laight: a probe on every call is a likely
cache miss and slow. The kernel's calls that ask (`stack_request`) stand for the compiler's probes.
RFC "Dynamic Kernel Stacks", linux-mm, March 2024.
"""

from kstack.stacks import Decision, Policy, Pte, ReadPte, Thread, ensure, map_pages


class Probe(Policy):
    """The top page; each probe that finds too little maps what the call needs. Nothing is taken back."""

    id = "probe"
    title = "probe at calls, grow where it is too little"
    proposer = "mentioned"
    source = "RFC Dynamic Kernel Stacks, linux-mm, 2024-03"
    reclaims = False

    def create_thread(self, cpu: int, thread: Thread) -> Decision:
        """The top page."""
        return (yield from map_pages((thread.top,)))

    def request(self, cpu: int, thread: Thread, size: int) -> Decision:
        """A probe: one look at the page's entry if it is there."""
        if size > thread.size:
            return False
        pte: Pte = yield ReadPte(thread.pages_for(size)[-1])
        return True if pte.present else (yield from ensure(thread, size))
