"""What decoders say is heard, and what others say is not lost."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest

from ditta_core.datasets.complaints import FFMPEG, LIBJPEG, complaints


def test_lines_of_a_decoder_are_taken_and_others_go_on(capfd: pytest.CaptureFixture[str]) -> None:
    with complaints(LIBJPEG) as said:
        os.write(2, b"another library\nCorrupt JPEG data: 3 extraneous bytes before marker 0xd9\nunfinished")
    assert said == ["Corrupt JPEG data: 3 extraneous bytes before marker 0xd9"]
    assert capfd.readouterr().err == "another library\nunfinished"
    with complaints(FFMPEG) as said:
        os.write(2, b"[mov,mp4,m4a @ 0x55e0] odd\n[ERROR:0@4.0] of OpenCV\n")
    assert said == ["[mov,mp4,m4a @ 0x55e0] odd"]
    assert capfd.readouterr().err == "[ERROR:0@4.0] of OpenCV\n"


def test_standard_error_comes_back_after_an_exception(capfd: pytest.CaptureFixture[str]) -> None:
    descriptors = len([*Path("/proc/self/fd").iterdir()])
    with pytest.raises(KeyError), complaints(LIBJPEG):
        raise KeyError
    os.write(2, b"still there\n")
    assert capfd.readouterr().err == "still there\n"
    assert len([*Path("/proc/self/fd").iterdir()]) == descriptors


def test_more_than_can_be_kept_stops_nobody(capfd: pytest.CaptureFixture[str]) -> None:
    line = b"[h264 @ 0x55e0] error while decoding MB 3 4\n"
    with complaints(FFMPEG) as said, suppress(BlockingIOError):
        for _ in range(10_000):
            os.write(2, line)
    assert len(said) > 1000
