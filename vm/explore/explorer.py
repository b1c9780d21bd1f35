"""One way to ask for a search: all states breadth first, all executions up to order, or random walks."""

from __future__ import annotations

from concurrent.futures import Executor
from pathlib import Path
from typing import Final, Literal, get_args

from kstack.base.errors import ConfigError
from kstack.explore.breadth_first import search
from kstack.explore.dpor import dpor
from kstack.explore.problem import Bounds, Outcome, Problem, Progress
from kstack.explore.sample import sample

Engine = Literal["stateful", "dpor", "sample"]
ENGINES: Final[tuple[Engine, ...]] = get_args(Engine)


def explore(
    problem: Problem,
    bounds: Bounds = Bounds(),
    engine: Engine = "stateful",
    progress: Progress = lambda *_: None,
    executor: Executor | None = None,
    checkpoint: Path | None = None,
) -> Outcome:
    """Search all interleavings of a litmus scenario under a policy, or as many as the engine tries.

    Args:
        problem: the scenario, the policy, the modes.
        bounds: where to stop.
        engine: `stateful` merges equal states and looks for a shortest way to a finding; `dpor` makes every execution, up to
            the order of what does not depend; `sample` walks at random, by seed, and proves nothing.
        progress: told of states, frontier and depth, or of executions and their moves.
        executor: of `stateful`: expands states in other processes; the outcome does not depend on it.
        checkpoint: of `stateful`: saved there from time to time, and gone on from if it exists.

    Raises:
        ScenarioError: the scenario cannot be explored.
        PolicyError: the policy did what no policy may.
        ConfigError: a bound, a mode or an argument is of another engine; or the checkpoint is of another search, or damaged.
    """
    check(engine, bounds, problem, executor is not None or checkpoint is not None)
    if engine == "dpor":
        return dpor(problem, bounds, progress)
    if engine == "sample":
        return sample(problem, bounds, progress)
    return search(problem, bounds, progress, executor, checkpoint)


def check(engine: Engine, bounds: Bounds, problem: Problem | None = None, elsewhere: bool = False) -> None:
    """Find out what does not go together before anything is done.

    Args:
        engine: which.
        bounds: where to stop.
        problem: what is searched.
        elsewhere: states are expanded in other processes, or the search is saved.

    Raises:
        ConfigError: it does not.
    """
    if engine not in ENGINES:
        raise ConfigError(f"engine {engine!r} does not exist; there are {', '.join(ENGINES)}")
    if engine != "stateful" and elsewhere:
        raise ConfigError("--jobs, --dask and --checkpoint are for the engine stateful")
    if engine != "stateful" and bounds.every_move:
        raise ConfigError("--every-move is for the engine stateful")
    if engine != "dpor" and bounds.preemptions is not None:
        raise ConfigError("--preemptions is for the engine dpor")
    if engine == "dpor" and problem is not None and problem.modes.memory_order != "sc":
        raise ConfigError("the engine dpor is for memory-order=sc; take stateful or sample")
