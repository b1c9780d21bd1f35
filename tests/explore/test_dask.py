"""States are expanded on a dask.distributed cluster, and the outcome is the same."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kstack.explore import breadth_first as stateful
from kstack.explore.breadth_first import search
from kstack.explore.workers import executor_of
from tests.support.searches import essence, problem

distributed = pytest.importorskip("distributed", reason="dask.distributed is not installed (make setup installs it)")
pytestmark = pytest.mark.filterwarnings("ignore")  # dask's own, of ports and event loops
ROOT = Path(__file__).parents[2]


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stateful, "BATCH", 8)


@pytest.mark.slow
def test_a_local_cluster_gives_the_same_outcome(small_batches: None) -> None:
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        executor_of(1, cluster.scheduler_address) as executor,
    ):
        assert essence(search(problem("switch-sp-ipi"), executor=executor)) == essence(search(problem("switch-sp-ipi")))


@pytest.fixture
def scheduler() -> Iterator[str]:
    """A scheduler and two workers, each a process of its own."""
    words = [
        sys.executable,
        "-m",
        "distributed.cli.dask_scheduler",
        "--host",
        "127.0.0.1",
        "--port",
        "0",
        "--no-dashboard",
    ]
    started = [subprocess.Popen(words, stderr=subprocess.PIPE, text=True, cwd=ROOT)]
    assert started[0].stderr is not None
    address = ""
    for line in started[0].stderr:
        if "Scheduler at:" in line:
            address = line.split("Scheduler at:")[1].strip()
            break
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nworkers", "1", "--nthreads", "1"]
    started += [
        subprocess.Popen([*worker, "--no-dashboard", "--no-nanny"], stderr=subprocess.DEVNULL, cwd=ROOT)
        for _ in range(2)
    ]
    try:
        yield address
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait(timeout=30)
        started[0].stderr.close()


@pytest.mark.slow
def test_two_workers_in_processes_of_their_own_give_the_same_outcome(scheduler: str, small_batches: None) -> None:
    with executor_of(1, scheduler) as executor:
        assert essence(search(problem("entry-exit"), executor=executor)) == essence(search(problem("entry-exit")))
