from __future__ import annotations

import pytest
import torch
from small_evaluations import SETUP, THREADS

from ditta_core.segmentation.base import SegmentationModel
from ditta_core.segmentation.registry import load_model


@pytest.fixture(autouse=True)
def one_thread(few_threads: None) -> None:
    """The last digits depend on the number of threads: the same here as in the trials."""
    torch.set_num_threads(THREADS)


@pytest.fixture(scope="session")
def model() -> SegmentationModel:
    return load_model(SETUP.source)
