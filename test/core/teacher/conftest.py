"""A scene for the trackers, and a checkpoint of SAM 2 with random weights."""

from __future__ import annotations

from pathlib import Path

import pytest
from moving_scenes import Scene, moving_square
from sam2_models import FRAMES, save_random_checkpoint


@pytest.fixture(scope="module")
def scene() -> Scene:
    """A moving square in more frames than SAM 2 looks back at."""
    return moving_square(frames=FRAMES, step=(1, 3), pan=1)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest SAM 2.1 with random weights."""
    return save_random_checkpoint(tmp_path_factory.mktemp("weights") / "sam2.1_hiera_tiny.pt")
