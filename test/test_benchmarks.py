"""What docs/benchmarks.md says of the benchmarks, against what they noted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

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

    def run(*arguments: str) -> tuple[int, list[dict[str, Any]]]:
        options = ["-q", "-p", "no:cacheprovider", "--results", str(out), *arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "pytest", *options, str(tmp_path)]
        ran = subprocess.run(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, timeout=55)
        return ran.returncode, json.loads(out.read_text(encoding="utf-8"))["goals"]

    code, goals = run()
    assert code == 1
    assert [goal["name"] for goal in goals] == ["first", "test_broken: A row.", "test_slow: Another row.", "last"]
    assert [goal["met"] for goal in goals] == [True, None, None, None]
    assert "it / never came" in goals[1]["failure"] and "Timeout" in goals[2]["failure"]

    mended = ROWS.replace('raise KeyError("it | never came")', 'results.note("mended", 2.0)').replace("3.0", "4.0")
    (tmp_path / "test_rows.py").write_text(mended, encoding="utf-8")
    code, goals = run("-k", "broken or last", "--keep")
    assert code == 0
    assert {goal["name"]: goal["value"] for goal in goals} == {
        "first": 1.0, "test_slow: Another row.": None, "last": 4.0, "mended": 2.0
    }  # fmt: skip
