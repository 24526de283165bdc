"""What the camera plays is plain data, and the same frames at the same times, wherever they come from."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from bag_harness import numbered

from ditta_core.datasets.base import VideoSequence
from ditta_core.datasets.excerpt import Excerpt
from ditta_core.datasets.open import open_sequences, open_video
from ditta_core.evaluation.corruptions import CorruptedSequence, Corruption
from ditta_ros.bags.sequence import BagSequence
from ditta_ros.bags.writer import make_bag
from ditta_ros.replay.recording import Recording
from ditta_ros.replay.sequence import SequenceFile


def sequence_of(kind: str, folder: Path) -> VideoSequence:
    frames = numbered(6, height=32, width=48)
    if kind == "memory":
        return frames
    if kind == "bag":
        make_bag(frames, folder / "bag")
        return BagSequence(folder / "bag")
    if kind == "video":
        path = folder / "film.avi"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 5, (48, 32))
        for index in range(6):
            writer.write(frames.image(index))
        writer.release()
        return open_video(path)
    for part in ("images", "labels"):
        (folder / part).mkdir()
        for index in range(6):
            picture = frames.image(index)[:, :, 0]
            cv2.imwrite(str(folder / part / f"17000000{index}0.500.png"), picture)
    return open_video(folder / "images" if kind == "images" else folder)


@pytest.mark.parametrize("kind", ["memory", "bag", "video", "images", "labelled"])
@pytest.mark.parametrize("view", ["whole", "excerpt", "corrupted"])
def test_what_is_played_is_what_was_given(tmp_path: Path, kind: str, view: str) -> None:
    sequence = sequence_of(kind, tmp_path)
    if view == "excerpt":
        sequence = Excerpt(sequence, 4)
    elif view == "corrupted":
        sequence = Excerpt(CorruptedSequence(sequence, Corruption("noise", 3), 7), 5)
    recording = Recording(tmp_path / "recording")
    recording.write_sequence(sequence)
    played = recording.read_sequence()
    assert (played.name, played.frame_rate, len(played)) == (sequence.name, sequence.frame_rate, len(sequence))
    for index in range(len(sequence)):
        assert played.stamp(index) == sequence.stamp(index)
        np.testing.assert_array_equal(played.image(index), sequence.image(index))
    assert recording.images_folder.exists() == (kind == "memory" or view == "corrupted")
    json.loads(recording.sequence_file.read_text())
    recording.clear()
    assert not any(path.is_file() for path in recording.folder.rglob("*"))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"name": "a", "code": "b"}', "\x80\x04K\x01."])
def test_what_is_no_sequence_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected what the camera plays as JSON, but got"):
        SequenceFile.from_json(text)


@pytest.mark.parametrize("kind", ["cut", "scaled"])
def test_frames_that_are_not_as_in_their_files_are_played_as_they_are(tmp_path: Path, kind: str) -> None:
    """SYNTHIA's last rows are cut off, and images of 12 bits are scaled."""
    inside = "RGB/Stereo_Left/Omni_F" if kind == "cut" else ""
    (tmp_path / "drive" / inside).mkdir(parents=True)
    values = np.random.default_rng(2).integers(0, 4096, (19, 24, 3)).astype(np.uint16)
    for index in range(2):
        picture = values if kind == "scaled" else (values >> 4).astype(np.uint8)
        cv2.imwrite(str(tmp_path / "drive" / inside / f"{index}.png"), np.roll(picture, index, 1))
    (sequence,) = open_sequences(tmp_path / "drive", frame_rate=5)
    recording = Recording(tmp_path / "recording")
    recording.write_sequence(sequence)
    played = recording.read_sequence()
    assert played.image(0).max() > 250
    for index in range(2):
        np.testing.assert_array_equal(played.image(index), sequence.image(index))
