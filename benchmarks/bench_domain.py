"""What a step of `ditta adapt` costs, by recipe."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from ditta_core.datasets.annotated import Selection
from ditta_core.datasets.open import open_video
from ditta_core.domain.config import OfflineConfig
from ditta_core.domain.driver import OfflineProgress, adapt_offline
from ditta_core.domain.labelling import ViewPredictor
from ditta_core.domain.reading import read_drives
from ditta_core.domain.recipes.registry import RECIPES
from ditta_core.segmentation.registry import load_model
from ditta_core.segmentation.source import ModelSource
from ditta_ros.demo.run import default_video

SIZE = (368, 480)
FRAMES = 12
STEPS, FIRST_STEPS = 15, 5
"""Steps of a recipe, and how many of them do not count: flow is made once for each pair of frames."""


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One thread for both libraries, and what they had for the benchmarks that follow."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    yield
    torch.set_num_threads(before[0])
    cv2.setNumThreads(before[1])


def test_step_of_every_recipe(results: Any, one_thread: None) -> None:
    """Seconds of one core, the median; ESPNetv2 (`street`), windows of 320×256."""
    model = load_model(ModelSource("street"))
    drive = read_drives([Selection(open_video(default_video()), range(FRAMES))], SIZE, FRAMES)
    view = ViewPredictor(model)
    labels = [view.probabilities(drive, frame).argmax(1)[0].byte().numpy() for frame in range(len(drive))]
    source = replace(drive, labels=np.stack(labels), held_out=[])
    config = OfflineConfig(steps=STEPS, guarded=False)
    for name, recipe in RECIPES.items():
        ends: list[float] = []

        def note(progress: OfflineProgress, ends: list[float] = ends) -> None:
            if progress.phase == "steps":
                ends.append(time.process_time())

        adapt_offline(model, recipe, drive, config, source if recipe.needs_source else None, progress=note)
        steps = np.diff(ends[FIRST_STEPS:]).tolist()
        results.note(f"a step of `{name}` (`ditta adapt`), one core", statistics.median(steps), "s")
