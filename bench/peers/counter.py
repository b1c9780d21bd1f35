"""Two threads count a shared number up, in frontrun: its own process, since frontrun changes the one it is in.

Prints executions and seconds of each strategy as JSON: `frontrun python counter.py INCREMENTS EXECUTIONS`.
"""

import json
import sys
import time
from typing import Any

import frontrun


class Counter:
    """A shared number."""

    def __init__(self) -> None:
        self.value = 0


def count_up(counter: Counter) -> None:
    """Load, add, store, some times."""
    for _ in range(int(sys.argv[1])):
        value = counter.value
        counter.value = value + 1


def main() -> None:
    """Explore all executions up to the order of what is independent; then some at random."""
    strategies: dict[str, dict[str, Any]] = {
        "dpor": {"preemption_bound": None, "stop_on_first": False},
        "random": {"max_attempts": int(sys.argv[2]), "seed": 1},
    }
    figures = {}
    for strategy, options in strategies.items():
        start = time.perf_counter()
        result = frontrun.explore(
            setup=Counter,
            workers=count_up,
            count=2,
            invariant=lambda _: True,
            strategy=strategy,
            **options,
        )
        figures[strategy] = (result.num_explored, time.perf_counter() - start)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
