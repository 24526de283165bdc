"""One small evaluation and its report, made once for all tests."""

from __future__ import annotations

import pytest
from evaluated_scenes import Evaluated, WrittenReport, evaluated

from ditta_core.report.evaluation_page import write_evaluation_report


@pytest.fixture(scope="session")
def streets() -> Evaluated:
    """Two streets, four methods, two warm-up ratios, clean and in fog."""
    return evaluated()


@pytest.fixture(scope="session")
def report(streets: Evaluated, tmp_path_factory: pytest.TempPathFactory) -> WrittenReport:
    """The report of the streets."""
    folder = tmp_path_factory.mktemp("evaluation") / "report"
    steps: list[None] = []
    write_evaluation_report(streets.result, streets.sequences, streets.mask, folder, lambda: steps.append(None))
    return WrittenReport(folder, len(steps))
