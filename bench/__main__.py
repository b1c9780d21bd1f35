"""`python -m bench [--only NAME,...] [--json]`: run the benchmarks and print their figures."""

from __future__ import annotations

import argparse
import sys
from typing import Final

from bench import backwards, counter, events, shootdown, slices, speed, start, states, tracing, witnesses
from bench.harness import Benchmark, Row, as_json, show

BENCHMARKS: Final = (
    Benchmark("speed", speed.run),
    Benchmark("events", events.run),
    Benchmark("slices", slices.run),
    Benchmark("states", states.run),
    Benchmark("shootdown", shootdown.run),
    Benchmark("counter", counter.run),
    Benchmark("witnesses", witnesses.run),
    Benchmark("tracing", tracing.run),
    Benchmark("backwards", backwards.run),
    Benchmark("start", start.run),
)


def main() -> None:
    """Run what is asked for; progress goes to standard error where that is a terminal."""
    names = [benchmark.name for benchmark in BENCHMARKS]
    parser = argparse.ArgumentParser(prog="python -m bench", description="How fast kstack is, beside its peers.")
    parser.add_argument("--only", default=",".join(names), help=f"a comma-separated choice of {', '.join(names)}")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    chosen = arguments.only.split(",")
    if unknown := [name for name in chosen if name not in names]:
        parser.error(f"--only {unknown[0]}: one of {', '.join(names)}")
    rows: list[Row] = []
    for benchmark in BENCHMARKS:
        if benchmark.name in chosen:
            if sys.stderr.isatty():
                print(f"{benchmark.name} ...", file=sys.stderr)
            rows.extend(benchmark.run())
    if arguments.json:
        print(as_json(rows))
    else:
        show(rows)


if __name__ == "__main__":
    main()
