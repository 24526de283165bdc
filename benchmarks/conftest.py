"""Ratios for the benchmarks: ours against a reference, in turn, in one run, since machines differ and drift.

A benchmark that has a goal notes it; ``make bench`` prints them as a table and writes them as JSON.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from goals import ROOT, Goal, text_table
from notes import write_notes

from ditta_core.versions import software_versions


@dataclass
class Results:
    """What a run of the benchmarks reached.

    Attributes:
        goals: those that have a goal, in the order of the run.
        scaling: how a cost grows, by what, as rows of figures.
        ran: names of the benchmarks.
    """

    goals: list[Goal] = field(default_factory=list)
    scaling: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    ran: set[str] = field(default_factory=set)

    def reach(self, name: str, value: float, comparison: str, goal: float, unit: str = "") -> None:
        """Note a figure that has a goal."""
        self.goals.append(Goal(name, value, comparison, goal, unit))

    def note(self, name: str, value: float, unit: str = "") -> None:
        """Note a figure that has none, since it holds on this machine only."""
        self.goals.append(Goal(name, value, unit=unit))

    def fail(self, name: str, reason: str) -> None:
        """Note that a benchmark gave no figure; all others stand."""
        self.goals.append(Goal(name, None, failure=reason))

    def json(self, benchmarks: list[dict[str, Any]]) -> dict[str, Any]:
        """Everything as JSON."""
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
        return {
            "goals": [goal.json() for goal in self.goals],
            "machine": {**software_versions(), "commit": commit},
            "benchmarks": benchmarks,
            "scaling": self.scaling,
        }


RESULTS = pytest.StashKey[Results]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--results", type=Path, help="JSON file for goals and ratios")
    parser.addoption("--keep", action="store_true", help="keep what the file has of benchmarks that do not run now")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[RESULTS] = Results()


LIMIT = 600
"""Seconds that one benchmark may take, on a busy machine too."""
LONGEST_REASON = 160
"""Characters of what went wrong in the table."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each benchmark its time, after which it has failed and the next one begins."""
    for item in items:
        item.add_marker(pytest.mark.timeout(LIMIT, method="signal"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[Any]:
    """Note a benchmark that failed in the place of its figures."""
    report = yield
    item.config.stash[RESULTS].ran.add(item.name)
    if report.failed and call.excinfo is not None:
        reason = f"{call.excinfo.typename}: {call.excinfo.value}".partition("\n")[0][:LONGEST_REASON]
        what = (getattr(item.obj, "__doc__", None) or item.name).partition("\n")[0]  # type: ignore[attr-defined]
        item.config.stash[RESULTS].fail(f"{item.name}: {what}", reason.replace("|", "/"))
    return report


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """The table of goals, and the file."""
    results = config.stash[RESULTS]
    if results.goals:
        terminalreporter.section("goals")
        terminalreporter.write_line(text_table(results.goals))
    path = config.getoption("--results")
    if path is not None:
        session = getattr(config, "_benchmarksession", None)
        benchmarks = [
            {"name": each.name, "our_seconds": each.stats.median, **each.extra_info}
            for each in (session.benchmarks if session is not None else [])
        ]
        found = results.json(benchmarks)
        if config.getoption("--keep") and path.exists():
            found = merged(json.loads(path.read_text(encoding="utf-8")), found, results.ran)
        write_notes(path, found)


def merged(before: dict[str, Any], now: dict[str, Any], ran: set[str]) -> dict[str, Any]:
    """The figures of two runs, those of the later one in the place of earlier ones of the same name.

    Of benchmarks that ``ran`` in the later one, no earlier failure is left.
    """

    def rows(name: str) -> list[dict[str, Any]]:
        left = [row for row in before[name] if row["name"].partition(":")[0] not in ran]
        return list({row["name"]: row for row in (*left, *now[name])}.values())

    scaling = {**before["scaling"], **now["scaling"]}
    return {**now, "goals": rows("goals"), "benchmarks": rows("benchmarks"), "scaling": scaling}


@pytest.fixture(scope="session")
def results(pytestconfig: pytest.Config) -> Results:
    """Where goals are noted."""
    return pytestconfig.stash[RESULTS]


@dataclass(frozen=True)
class TimeComparison:
    """Times ours with pytest-benchmark and the reference beside it, and notes the ratio of the medians.

    The figures stand in the benchmark's ``extra_info`` and so in the JSON that ``make bench`` writes.
    """

    benchmark: Any

    def __call__(self, ours: Callable[[], object], reference: Callable[[], object], rounds: int) -> float:
        """Reference time over our time; above 1 we are faster."""
        reference()
        seconds = []

        def timed_reference() -> None:
            start = time.perf_counter()
            reference()
            seconds.append(time.perf_counter() - start)

        # The reference runs as the set-up of each round: the two alternate, so a drift of the machine hits both.
        self.benchmark.pedantic(ours, setup=timed_reference, rounds=rounds, warmup_rounds=0)
        ratio = statistics.median(seconds) / self.benchmark.stats.stats.median
        self.benchmark.extra_info["reference_seconds"] = statistics.median(seconds)
        self.benchmark.extra_info["ratio"] = ratio
        print(f"\n{self.benchmark.name}: {ratio:.2f} (reference time / our time)")
        return ratio


@pytest.fixture
def compare(benchmark: Any) -> TimeComparison:
    """See :class:`TimeComparison`."""
    torch.set_num_threads(2)
    return TimeComparison(benchmark)
