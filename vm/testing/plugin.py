"""The pytest plugin: machines, guests and policies in tests, and what is needed to understand a test that failed.

Installed as the entry point `kstack` of the group `pytest11`, so every pytest run of the environment imports it. It
imports nothing but pytest and `watched.py` until a test asks for one of its fixtures, or a scenario's TOML is collected.

Fixtures: `machine`, `machine_factory`, `guest`, `policy`, `schedule`, `inject`, `explore`. Markers: `smp`, `policy`,
`mode`, `schedules`. Files `test_*.toml` that are scenarios are tests. docs/testing.md explains all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from kstack.testing.watched import bench_of, watch

if TYPE_CHECKING:
    from kstack.explore.breadth_first import Outcome
    from kstack.machine import Machine
    from kstack.stacks.policy import Policy
    from kstack.testing.bench import Bench, Injection
    from kstack.testing.guests import GuestRun, Schedule
    from kstack.testing.items import ScenarioFile

TITLE: Final = "kstack"
MARKERS: Final = (
    "smp(n): machines of this test have n CPUs",
    "policy(name) or policy(cls=Class): stack policy of this test's guests, by id, file, file:name or class (default: fixed-16k)",
    'mode("name=value", ...): architecture modes of this test\'s machines',
    "schedules(n): run this test under n schedules: round robin at some quanta, then random ones by seed",
)
_MOST: Final = 100  # runs that are tried for a simpler schedule


def pytest_addoption(parser: pytest.Parser) -> None:
    """Where recordings go, and how many runs a simpler schedule may cost."""
    group = parser.getgroup(TITLE, "guests on kstack's machine")
    group.addoption(
        "--kstack-dir",
        type=Path,
        metavar="DIR",
        help="Write recordings of failed tests here (default: pytest's cache).",
    )
    group.addoption(
        "--kstack-runs",
        type=int,
        default=_MOST,
        metavar="N",
        help=f"Try N runs to find a simpler schedule for a failed test; 0 leaves it as it was (default: {_MOST}).",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers."""
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`schedules(n)` makes n tests of one."""
    marker = metafunc.definition.get_closest_marker("schedules")
    if marker is None:
        return
    if "schedule" not in metafunc.fixturenames:
        raise pytest.UsageError(
            f"{metafunc.definition.nodeid}: schedules(n) is for tests that use `guest` or `schedule`; this one uses neither"
        )
    from kstack.testing.guests import portfolio

    count = _one(marker, "a number of schedules, as schedules(5)")
    if not isinstance(count, int) or count < 1:
        raise pytest.UsageError(f"{metafunc.definition.nodeid}: schedules({count!r}): give 1 or more")
    metafunc.parametrize("schedule", portfolio(count), indirect=True, ids=str)


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> ScenarioFile | None:
    """`test_*.toml` with the keys of a scenario; other TOML files belong to somebody else."""
    if file_path.suffix != ".toml" or not file_path.name.startswith("test_"):
        return None
    from kstack.testing.items import ScenarioFile, is_scenario_file

    if not is_scenario_file(file_path):
        return None
    file: ScenarioFile = ScenarioFile.from_parent(parent, path=file_path)
    return file


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """A test whose faults had no run to happen in fails."""
    yield
    bench = bench_of(item)
    if bench is not None:
        bench.check_injected()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test that ran guests says how to run them again."""
    report = yield
    bench = bench_of(item)
    if report.failed and report.when != "teardown" and bench is not None:
        from kstack.testing.failures import ReportSection

        section = ReportSection(
            item.nodeid, _folder(item.config), item.config.invocation_params.dir, _runs(item.config)
        )
        run = bench.last_failed or bench.last
        if run is not None:
            is_python = isinstance(item, pytest.Function)  # an item of a scenario shows the panic report itself
            report.sections.append((TITLE, section.of_run(run, whole=is_python)))
        found = [search for search in bench.searches if search.outcome.path]
        if found:
            report.sections.append((TITLE, section.of_search(found[-1])))
    return report


def _folder(config: pytest.Config) -> Path:
    """Where recordings go."""
    chosen: Path | None = config.getoption("--kstack-dir")
    if chosen is not None:
        return config.invocation_params.dir / chosen
    cache = getattr(config, "cache", None)  # none with -p no:cacheprovider
    return config.rootpath / ".kstack" if cache is None else Path(cache.mkdir(TITLE))


def _runs(config: pytest.Config) -> int:
    return int(config.getoption("--kstack-runs"))


def _one(marker: pytest.Mark, what: str) -> Any:
    """The one argument of a marker."""
    if len(marker.args) != 1 or marker.kwargs:
        raise pytest.UsageError(f"mark.{marker.name}: give {what}")
    return marker.args[0]


def _policy(marker: pytest.Mark | None) -> str | type[Policy] | None:
    """What a marker `policy` names. A class is given by keyword: pytest takes `policy(Class)` for a decorated class."""
    if marker is not None and not marker.args and list(marker.kwargs) == ["cls"]:
        chosen: type[Policy] = marker.kwargs["cls"]
        return chosen
    return None if marker is None else _one(marker, "a policy's id or file, or its class as policy(cls=Mine)")


@pytest.fixture
def _kstack_bench(request: pytest.FixtureRequest, schedule: Schedule) -> Bench:
    from kstack.testing.bench import Bench, modes_of

    smp, policy = request.node.get_closest_marker("smp"), request.node.get_closest_marker("policy")
    options = [option for marker in request.node.iter_markers("mode") for option in marker.args]
    bench = Bench(
        request.path.parent,
        _policy(policy),
        modes_of(reversed(options)),  # the closest marker decides
        None if smp is None else _one(smp, "a number of CPUs, as smp(2)"),
        schedule,
    )
    watch(request.node, bench)
    return bench


@pytest.fixture
def schedule(request: pytest.FixtureRequest) -> Schedule:
    """The schedule of this test's guests: the scenario's own unless the test is marked with `schedules(n)`."""
    from kstack.testing.guests import Schedule

    chosen: Schedule = getattr(request, "param", Schedule())
    return chosen


@pytest.fixture
def policy(_kstack_bench: Bench) -> type[Policy]:
    """The class of the stack policy by the marker `policy`; else fixed-16k."""
    return _kstack_bench.policy


@pytest.fixture
def machine_factory(_kstack_bench: Bench) -> Callable[..., Machine]:
    """Makes bare machines: `machine_factory(cpus=2, ram="16M", modes=["tlb=capacity:8"])`; see `Bench.machine`."""
    return _kstack_bench.machine


@pytest.fixture
def machine(_kstack_bench: Bench) -> Machine:
    """A bare machine at reset, with the CPUs and modes of the markers `smp` and `mode`, and 64 MiB."""
    return _kstack_bench.machine()


@pytest.fixture
def guest(_kstack_bench: Bench) -> Callable[..., GuestRun]:
    """Runs a scenario or an image to its end: `guest("laight")`, `guest("mine.toml")`; see `Bench.guest`."""
    return _kstack_bench.guest


@pytest.fixture
def inject(_kstack_bench: Bench) -> Callable[..., Injection]:
    """Lets faults happen in the guest runs that follow, or fails: `inject(Fault("nmi", At("schedule")))`; see `Bench.inject`."""
    return _kstack_bench.inject


@pytest.fixture
def explore(_kstack_bench: Bench) -> Callable[..., Outcome]:
    """Tries all interleavings of a litmus scenario: `explore("litmus-laight")`; see `Bench.explore`."""
    return _kstack_bench.explore
