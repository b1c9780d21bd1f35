"""fixed-4k: one page a thread, as 32-bit Linux could be configured (CONFIG_4KSTACKS) until 2010.

The least that a stack can have, and what every policy that grows starts from.
"""

from kstack.stacks import Decision, Policy, Thread, map_pages


class Fixed4K(Policy):
    """The top page mapped at creation; below it is guard."""

    id = "fixed-4k"
    title = "fully backed, 4 KiB"
    proposer = "mainline Linux, CONFIG_4KSTACKS"
    source = "arch/x86/Kconfig.debug until 2.6.35"
    reclaims = False

    def create_thread(self, cpu: int, thread: Thread) -> Decision:
        """Map one page."""
        return (yield from map_pages((thread.top,)))
