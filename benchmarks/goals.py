"""Figures that were to be reached: how they are noted, and their table in docs/benchmarks.md.

``python benchmarks/goals.py`` writes the table of the files of results there.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ditta_core.report.tables import Table

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"
RESULTS = ("bench.json", "soak_20min.json", "soak_faults.json")
"""What the table shows, in this order."""
BEGIN, END = "<!-- benchmarks -->\n", "<!-- end of benchmarks -->"


@dataclass(frozen=True)
class Goal:
    """A figure that was reached, and what it was to be.

    Attributes:
        name: What it is of.
        value: The figure; None where it could not be measured.
        comparison: ``>=`` or ``<=``; empty for a figure without a goal, such as one that holds on one machine only.
        goal: What it was to be; None without a goal.
        unit: Unit of both.
        failure: Why it could not be measured.
    """

    name: str
    value: float | None
    comparison: str = ""
    goal: float | None = None
    unit: str = ""
    failure: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None without one, or without a figure."""
        if self.value is None or self.goal is None:
            return None
        return self.value >= self.goal if self.comparison == ">=" else self.value <= self.goal

    @property
    def verdict(self) -> str:
        """In a word."""
        if self.failure:
            return "not measured"
        return {True: "met", False: "missed", None: ""}[self.met]

    @property
    def reached(self) -> str:
        """The figure with its unit, or why there is none."""
        return self.failure if self.value is None else quantity(self.value, self.unit)

    @classmethod
    def of(cls, noted: dict[str, Any]) -> Goal:
        """As noted by :meth:`json`."""
        return cls(**{name: value for name, value in noted.items() if name != "met"})

    def json(self) -> dict[str, Any]:
        """As in the files of results."""
        return {**asdict(self), "met": self.met}


def text_table(goals: Sequence[Goal]) -> str:
    """For a terminal."""
    rows = ((each.name, each.reached, wanted(each), each.verdict) for each in goals)
    return Table(("what", "reached", "goal", ""), tuple(rows)).to_text()


def markdown_table(goals: Sequence[Goal]) -> str:
    """For the page."""
    rows = (f"| {each.name} | {each.reached} | {wanted(each)} | {each.verdict} |" for each in goals)
    return "\n".join(["| | reached | goal | |", "|---|---|---|---|", *rows]) + "\n"


def quantity(value: float, unit: str) -> str:
    """A value of three digits, with its unit.

    >>> quantity(0.6321, "×"), quantity(59.53, ""), quantity(1234.5, "MB")
    ('0.63×', '59.5', '1234 MB')
    """
    digits = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:.{digits}f}{unit if unit in ('', '×', '%') else ' ' + unit}"


def wanted(goal: Goal) -> str:
    """What it was to be."""
    if goal.goal is None:
        return ""
    unit = goal.unit if goal.unit in ("", "×", "%") else f" {goal.unit}"
    return f"{'≥' if goal.comparison == '>=' else '≤'} {goal.goal:g}{unit}"


def read_goals(folder: Path) -> list[Goal]:
    """Those of the files of results that are there."""
    goals = []
    for name in RESULTS:
        if (folder / name).exists():
            goals += [Goal.of(each) for each in json.loads((folder / name).read_text(encoding="utf-8"))["goals"]]
    return goals


def with_table(page: str, goals: Sequence[Goal]) -> str:
    """The page with the table in its place."""
    before, rest = page.split(BEGIN)
    return before + BEGIN + markdown_table(goals) + END + rest.split(END)[1]


def main() -> None:
    """Write the table into the page."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(with_table(page, read_goals(ROOT / "benchmarks" / "results")), encoding="utf-8")


if __name__ == "__main__":
    main()
