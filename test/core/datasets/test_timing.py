"""When images were taken: what is known is read, and what is not is said."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from trees import write_image, write_labels

from ditta_core.datasets.base import VideoSequence
from ditta_core.datasets.names import DataWarning
from ditta_core.datasets.open import open_video


def opened(folder: Path, stems: list[str], frame_rate: float | None = None) -> VideoSequence:
    """A labelled folder in CamVid's layout, which must not give a warning."""
    for stem in stems:
        write_image(folder / "images" / f"{stem}.png")
        write_labels(folder / "labels" / f"{stem}.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return open_video(folder, frame_rate)


def seconds(sequence: VideoSequence) -> list[float]:
    return [sequence.stamp(index) / 1e9 for index in range(len(sequence))]


def test_the_numbers_of_camvid_tell_its_rate(tmp_path: Path) -> None:
    clip = opened(tmp_path / "clip", [f"0016E5_{7959 + 2 * index:05}" for index in range(90)])
    assert clip.frame_rate == 15
    assert [clip.stamp(index) for index in range(90)] == [round(index / 15 * 1e9) for index in range(90)]
    drive = opened(tmp_path / "drive", [f"Seq05VD_f{30 * index:05}" for index in range(4)])
    assert (drive.frame_rate, seconds(drive)) == (1, [0, 1, 2, 3])
    several = opened(tmp_path / "several", ["0001TP_006690", "0001TP_006720", "0001TP_006780", "0006R0_f00930"])
    assert (several.frame_rate, seconds(several)) == (1, [0, 1, 3, 4])


def test_times_in_names_are_the_stamps(tmp_path: Path) -> None:
    folder = opened(tmp_path, ["1403636579763555584", "1403636579813555456", "1403636579963555584"])
    assert [folder.stamp(index) for index in range(3)] == [0, 49999872, 200000000]
    assert folder.frame_rate == pytest.approx(10.0, rel=1e-4)
    assert seconds(open_video(tmp_path / "images"))[1] == pytest.approx(0.05, rel=1e-4)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "2011-09-26 13:02:25.951199337\n2011-09-26 13:02:26.054\n2011-09-26 13:02:26.3\n",
            [0, 0.102800663, 0.348800663],
        ),
        ("0.000000e+00\n1.000000e-01\n2.5e-01\n", [0, 0.1, 0.25]),
        ("# seconds\r\n1700000000\r\n1700000001\r\n\r\n1700000004\r\n", [0, 1, 4]),
        ("1700000000123\n1700000000223\n1700000000323", [0, 0.1, 0.2]),
        ("1700000000123456\n1700000000123556\n1700000000123656", [0, 1e-4, 2e-4]),
        ("1700000000123456789\n1700000000123456799\n1700000000123457789", [0, 1e-8, 1e-6]),
    ],
)
@pytest.mark.parametrize("place", ["timestamps.txt", "images/times.txt"])
def test_a_file_of_times(tmp_path: Path, text: str, expected: list[float], place: str) -> None:
    stems = ["9", "10", "11"]
    opened(tmp_path, stems, 1.0)
    (tmp_path / place).write_text(text)
    np.testing.assert_allclose(seconds(opened(tmp_path, stems)), expected, rtol=1e-12)
    assert opened(tmp_path, stems, 5.0).frame_rate == 5
    assert seconds(opened(tmp_path, stems, 5.0)) == [0, 0.2, 0.4]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1\n2\n", "for each of the 3 images in .*images, but .*times.txt has 2 times"),
        ("1\n3\n2\n", "or some that do not grow; correct it, or give --frame-rate"),
        ("1\n2\nsoon\n", "expected a time in every line of .*times.txt, .* but got 'soon'"),
        ("1\n2\nNaN\n", "but got 'NaN'"),
        ("1\n2\n1:2.x\n", "but got '1:2.x'"),
        ("1\n2\n³\n", "but got '³'"),
        ("1\n2\n2e1000000\n", "but got '2e1000000'"),
        ("1\n2\n7e11\n", "expected times within 292 years of each other, .* or give --frame-rate"),
        ("1600-01-01 00:00:00\n1601-01-01 00:00:00\n1999-01-01 00:00:00\n", "within 292 years"),
    ],
)
def test_a_file_of_times_that_does_not_fit(tmp_path: Path, text: str, message: str) -> None:
    opened(tmp_path, ["1", "2", "3"], 1.0)
    (tmp_path / "times.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        open_video(tmp_path)


@pytest.mark.parametrize(("layout", "rate"), [("camvid", 15), ("images", 10)])
def test_what_is_assumed_is_said(tmp_path: Path, layout: str, rate: float) -> None:
    opened(tmp_path, ["0001", "0002"], 1.0)
    path = tmp_path if layout == "camvid" else tmp_path / "images"
    message = rf"frame rate of the 2 images in .*images: {rate} Hz are assumed; .* depend on it; give --frame-rate"
    with pytest.warns(DataWarning, match=message):
        assert open_video(path).frame_rate == rate
