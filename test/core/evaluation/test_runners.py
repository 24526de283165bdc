"""Where trials run."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_evaluations import SETUP, THREADS, Street, evaluation, numbers, write_camvid

from ditta_core.evaluation.collect import collect, unfinished
from ditta_core.evaluation.plan import EvaluationOptions, plan
from ditta_core.evaluation.runners import run_on_ray
from ditta_core.evaluation.store import TrialStore
from ditta_core.segmentation.base import SegmentationModel


@pytest.mark.slow
@pytest.mark.timeout(300)  # Ray has its workers wait for whatever else runs
def test_the_same_on_ray(model: SegmentationModel, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs the extra ray")
    options = EvaluationOptions(("source", "bn_blend"), SETUP)
    # From files, as a worker has nothing else in common with this process.
    streets = [write_camvid(tmp_path / name, Street(name, frames)) for name, frames in (("a", 20), ("b", 18))]
    here = evaluation(options, streets, model, tmp_path / "here")
    store, planned = TrialStore(tmp_path / "ray"), plan(options, streets)
    for trial, record in run_on_ray(unfinished(planned, store), SETUP, THREADS, workers=2):
        store.put(trial, record)
    spread = collect(options, planned, store, model, {})
    assert numbers(spread.result) == numbers(here.result)
