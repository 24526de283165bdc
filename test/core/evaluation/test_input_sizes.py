from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sized_models import SizedModel, bands
from small_evaluations import evaluation

from ditta_core.adaptation.input_size import LONG_SIDES, SEARCH_FRAMES
from ditta_core.datasets.base import VideoSequence
from ditta_core.evaluation.corruptions import Corruption
from ditta_core.evaluation.input_sizes import InputSizes
from ditta_core.evaluation.methods.base import MethodSetup
from ditta_core.evaluation.plan import EvaluationOptions, plan
from ditta_core.evaluation.trial import Trial
from ditta_core.inference.config import AUTO_LONG_SIDE, DEFAULT_LONG_SIDE
from ditta_core.report.results import to_json

AUTO = MethodSetup(long_side=AUTO_LONG_SIDE)


class Bands(VideoSequence):
    """Bands that move, without labels."""

    name, frame_rate = "bands", 10.0

    def __len__(self) -> int:
        return 30

    def image(self, index: int) -> NDArray[np.uint8]:
        return bands((90, 120), index)


BANDS = Bands()


@pytest.fixture(autouse=True)
def one_thread(few_threads: None) -> None:
    """Small maps on two threads wait for each other on a busy machine."""
    torch.set_num_threads(1)


def trials(*methods: str, setup: MethodSetup = AUTO, corruption: Corruption | None = None) -> list[Trial]:
    options = EvaluationOptions(methods, setup, warmup_ratios=(10, 50), corruptions=(corruption,))
    return [trial for row in plan(options, [BANDS], lambda _: True) for trial, _ in row.trials[0]]


def test_all_methods_and_warmups_have_one_size_that_is_found_once() -> None:
    model, sizes = SizedModel(640), InputSizes()
    settled = [sizes.settle(trial, model) for trial in trials("source", "bn_blend", "ditta", "node")]
    assert len({trial.setup.long_side for trial in settled}) == 1
    assert settled[0].setup.long_side > DEFAULT_LONG_SIDE
    assert all(trial.size_agreement is not None for trial in settled)
    assert len(model.widths) == SEARCH_FRAMES * len(LONG_SIDES)
    assert {trial.sizing_frames for trial in settled} == {3}, "the shortest warm-up"


def test_the_published_method_keeps_its_size() -> None:
    (trial, _) = trials("ditta_parity")
    model = SizedModel(800)
    settled = InputSizes().settle(trial, model)
    assert settled.setup.long_side == DEFAULT_LONG_SIDE and settled.size_agreement is None
    assert not model.widths


@pytest.mark.parametrize("setup", [MethodSetup(long_side=320), MethodSetup(input_size=(96, 160))])
@pytest.mark.parametrize("method", ["source", "ditta_parity"])
def test_a_given_size_is_for_all(method: str, setup: MethodSetup) -> None:
    trial = trials(method, setup=setup)[0]
    assert InputSizes().settle(trial, SizedModel(640)) is trial


def test_a_noisy_video_keeps_the_default() -> None:
    """As an adaptation does where restoration took noise out of the warm-up."""
    model, sizes = SizedModel(800), InputSizes()
    (noisy, *_), (clean, *_) = trials("ditta", corruption=Corruption("noise", 5)), trials("ditta")
    assert sizes.settle(noisy, model).setup.long_side == DEFAULT_LONG_SIDE
    assert sizes.settle(clean, model).setup.long_side > DEFAULT_LONG_SIDE, "another condition, another size"


def test_a_method_alone_takes_the_default() -> None:
    assert AUTO.network_input(SizedModel(640), (360, 480)) == (368, 480)
    assert replace(AUTO, input_size=(96, 160)).network_input(SizedModel(640), (360, 480)) == (96, 160)


def test_the_results_say_the_size(tmp_path: Path) -> None:
    options = EvaluationOptions(("source_merged",), AUTO, windows=())
    finished = evaluation(options, [BANDS], SizedModel(640), tmp_path)
    (row,) = json.loads(to_json(finished.result))["results"]
    (video,) = row["videos"]
    assert video["input_size"][1] in (560, 640, 720) and 0.5 < video["size_agreement"] <= 1
