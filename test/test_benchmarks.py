"""What docs/benchmarks.md says of the benchmarks, against what they noted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def test_the_page_shows_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.delitem(sys.modules, "goals", raising=False)
    from goals import PAGE, read_goals, with_table

    page = PAGE.read_text(encoding="utf-8")
    goals = read_goals(ROOT / "benchmarks" / "results")
    assert goals
    assert with_table(page, goals) == page, "python benchmarks/goals.py brings docs/benchmarks.md up to date"
    for goal in goals:  # an absolute figure of one machine is none that is met
        assert goal.verdict in ("met", "missed", "not measured") or goal.goal is None


ROWS = '''
import time
import pytest

def test_first(results):
    results.reach("first", 1.0, "<=", 2, "×")

def test_broken(results):
    """A row."""
    raise KeyError("it | never came")

@pytest.mark.timeout(1, method="signal")
def test_slow(results):
    """Another row."""
    time.sleep(60)

def test_last(results):
    results.note("last", 3.0, "Hz")
'''


def test_a_benchmark_that_fails_or_takes_too_long_leaves_the_others_standing(tmp_path: Path) -> None:
    for name in ("conftest.py", "goals.py", "notes.py"):
        (tmp_path / name).write_bytes((ROOT / "benchmarks" / name).read_bytes())
    (tmp_path / "test_rows.py").write_text(ROWS, encoding="utf-8")
    out = tmp_path / "bench.json"
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--results", str(out), str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert ran.returncode == 1, ran.stdout
    goals = json.loads(out.read_text(encoding="utf-8"))["goals"]
    assert [goal["name"] for goal in goals] == ["first", "test_broken: A row.", "test_slow: Another row.", "last"]
    assert [goal["met"] for goal in goals] == [True, None, None, None]
    assert "it / never came" in goals[1]["failure"] and "Timeout" in goals[2]["failure"]
