from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from stream_settings import stream_config

from ditta_core.adaptation.job import AdaptationJob
from ditta_core.stream.config import WarmupTrigger
from ditta_core.stream.ignore_mask import IgnoreMask
from ditta_core.stream.status import FrameRejected
from ditta_core.stream.video_segmenter import VideoSegmenter
from ditta_core.types import Frame


@pytest.fixture
def mask() -> np.ndarray:
    """White, with the lowest quarter black."""
    drawn = np.full((48, 64), 255, np.uint8)
    drawn[36:] = 0
    return drawn


@pytest.mark.parametrize("name", ["mask.png", "mask.jpg", "mask.bmp"])
def test_black_pixels_at_any_size(tmp_path: Path, mask: np.ndarray, name: str) -> None:
    cv2.imwrite(str(tmp_path / name), mask)
    ignore = IgnoreMask.read(str(tmp_path / name))
    for height, width in ((48, 64), (480, 640), (24, 32), (480, 644)):
        ignored = ignore.at((height, width))
        assert ignored is not None and ignored.shape == (height, width)
        assert ignored[height * 3 // 4 :].all() and not ignored[: height * 3 // 4].any()


def test_images_of_another_shape_are_rejected(tmp_path: Path, mask: np.ndarray) -> None:
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    ignore = IgnoreMask.read(str(tmp_path / "mask.png"))
    with pytest.raises(FrameRejected, match="64x48 pixels, but got one of 1280x720; draw an ignore_mask for this mode"):
        ignore.at((720, 1280))
    assert ignore.at((48, 64)) is not None


def test_no_mask() -> None:
    assert IgnoreMask.read("").at((720, 1280)) is None


def test_what_is_no_mask(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"expected an image file as ignore_mask, but .* does not exist"):
        IgnoreMask.read(str(tmp_path / "absent.png"))
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ValueError, match="expected a readable image"):
        IgnoreMask.read(str(tmp_path / "text.png"))
    cv2.imwrite(str(tmp_path / "labels.png"), np.ones((4, 4), np.uint8))
    with pytest.raises(ValueError, match="is black all over; draw the robot's body black on white"):
        IgnoreMask.read(str(tmp_path / "labels.png"))


class KeepingRunner:
    """Keeps the jobs and never answers."""

    def __init__(self) -> None:
        self.jobs: list[AdaptationJob] = []

    def expect(self) -> None:
        pass

    def submit(self, job: AdaptationJob) -> None:
        self.jobs.append(job)

    def poll(self) -> None:
        return None

    def cancel(self) -> None:
        pass

    def close(self) -> None:
        pass


def test_a_stream_labels_nothing_there_and_its_adaptations_know_it(mask: np.ndarray) -> None:
    runner = KeepingRunner()
    config = stream_config(warmup_frames=2, min_confidence=0.3)
    stream = VideoSegmenter("camvid", config, runner=runner, ignore_mask=IgnoreMask(mask == 0))
    images = np.random.default_rng(0).integers(0, 256, (3, 96, 128, 3), np.uint8)
    plain = VideoSegmenter("camvid", stream_config(warmup_on=WarmupTrigger.SERVICE))
    for index, image in enumerate(images):
        blurred = cv2.GaussianBlur(image, (0, 0), 3)
        ours, all_of_it = (each.push(Frame(blurred, index * 10**8)) for each in (stream, plain))
        expected = all_of_it.confidence / 255 < 0.3
        expected[72:] = True
        np.testing.assert_array_equal(ours.class_ids == 255, expected)
        np.testing.assert_array_equal(ours.class_ids[~expected], all_of_it.class_ids[~expected])
        assert not ours.confidence[expected].any() and (ours.confidence[~expected] > 76).all()
    (job,) = runner.jobs
    assert job.ignored is not None and job.ignored.shape == (96, 128) and job.ignored[72:].all()
    with pytest.raises(FrameRejected, match="expected images of the shape of the mask"):
        stream.push(Frame(np.zeros((64, 128, 3), np.uint8), 10**9))
