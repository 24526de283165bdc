"""What is kept of trials."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from small_evaluations import SETUP, THREADS, Street, evaluation, numbers

from ditta_core.evaluation.collect import unfinished
from ditta_core.evaluation.corruptions import Corruption
from ditta_core.evaluation.plan import EvaluationOptions, plan
from ditta_core.evaluation.runners import run_here
from ditta_core.evaluation.scores import Scores
from ditta_core.evaluation.store import TrialStore
from ditta_core.evaluation.trial import decode_mask, run_trial
from ditta_core.segmentation.base import SegmentationModel


@pytest.mark.slow
def test_an_interrupted_evaluation_loses_nothing(model: SegmentationModel, tmp_path: Path) -> None:
    options = EvaluationOptions(("source", "bn_blend"), SETUP, corruptions=(None, Corruption("noise", 3)))
    streets = [Street("a", 20), Street("b", 18)]
    whole = evaluation(options, streets, model, tmp_path / "whole")

    store = TrialStore(tmp_path / "interrupted")
    planned = plan(
        options,
        streets,
    )
    waiting = unfinished(planned, store)
    assert len(waiting) == 8 == len({trial.key for trial in waiting})
    for trial, record in run_here(waiting[:3], model, THREADS):
        store.put(trial, record)
    (store.folder / waiting[3].key / "masks").mkdir(parents=True)  # broken off while this one was written down
    again = TrialStore(store.folder)
    assert [trial.key for trial in unfinished(planned, again)] == [trial.key for trial in waiting[3:]]
    resumed = evaluation(options, streets, model, store.folder)
    assert numbers(resumed.result) == numbers(whole.result)
    again.remove()
    assert not store.folder.exists()


def test_record_survives_the_store(model: SegmentationModel, tmp_path: Path) -> None:
    options = EvaluationOptions(("bn_blend",), SETUP)
    ((trial,),) = [[trial for trial, _ in row.trials[0]] for row in plan(options, [Street()])]
    record = run_trial(trial, model)
    store = TrialStore(tmp_path)
    store.put(trial, record)
    read = store.get(trial)
    assert json.loads((tmp_path / trial.key / "record.json").read_text())["report"]["succeeded"]
    assert (read.report, read.seconds, read.peak_memory_mb) == (record.report, record.seconds, record.peak_memory_mb)
    assert Scores.of(read.measurements) == Scores.of(record.measurements)
    np.testing.assert_array_equal(store.mask(trial, 20), decode_mask(record.masks[20]))


def test_a_store_in_use_is_left_alone(tmp_path: Path) -> None:
    first = TrialStore.claim(tmp_path, "run")
    second = TrialStore.claim(tmp_path, "run")
    assert (first.folder.name, second.folder.name) == ("run", "run-2")
    (first.folder / "street" / "trial").mkdir(parents=True)
    second.remove()
    assert (first.folder / "street" / "trial").is_dir()
    first.close()
    again = TrialStore.claim(tmp_path, "run")
    assert again.folder == first.folder
    assert (again.folder / "street" / "trial").is_dir(), "what was done is kept"
    again.clear()
    assert not (again.folder / "street").exists()
    assert TrialStore.claim(tmp_path, "run").folder.name == "run-2", "cleared, and still in use"
    again.remove()
    assert [path.name for path in tmp_path.iterdir()] == ["run-2"]


def test_stores_claimed_and_removed_at_once(tmp_path: Path) -> None:
    """Whatever the order, every process has a folder of its own for as long as it holds it."""

    def use(number: int) -> None:
        for turn in range(40):
            store = TrialStore.claim(tmp_path, "run")
            mark = store.folder / "mark"
            mark.mkdir()
            (mark / f"{number}-{turn}").touch()
            assert [path.name for path in mark.iterdir()] == [f"{number}-{turn}"]
            store.remove()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(use, range(4)))
    assert not any(tmp_path.iterdir())
