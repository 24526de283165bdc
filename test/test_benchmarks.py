"""What docs/benchmarks.md says of the benchmarks, against what they noted."""

from __future__ import annotations

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
    assert {goal.verdict for goal in goals} <= {"met", "missed"}
