from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from ditta_core.classes import ClassList
from ditta_core.datasets.video import VideoFile
from ditta_core.evaluation.corruptions import Corruption, Corruptor
from ditta_core.evaluation.scenes import SceneSequence, SeenScenes
from ditta_core.types import UNLABELLED

CLASSES = ClassList.of_names(["road", "sidewalk"])
SIZE = 48, 64
DESCRIPTION = {
    "name": "two shots",
    "shots": [
        {"name": "dusk", "first": 1, "end": 4, "corruption": "low_light:1"},
        {"name": "day", "first": 5, "end": 9},
    ],
    "synonyms": {"pavement": ["sidewalk"]},
    "labels": {
        "2": {"road": [[0, 0, 31, 0, 31, 47, 0, 47]], "pavement": [[8, 8, 15, 8, 15, 15, 8, 15]]},
        "6": {"cow": [[0, 0, 63, 0, 63, 47, 0, 47]]},
    },
}


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten frames of rising brightness."""
    path = tmp_path_factory.mktemp("video") / "video.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25.0, SIZE[::-1])
    for index in range(10):
        writer.write(np.full((*SIZE, 3), 20 + 20 * index, np.uint8))
    writer.release()
    return path


def sequence(video: Path, tmp_path: Path, classes: ClassList = CLASSES, **changes: object) -> SceneSequence:
    file = tmp_path / "scenes.json"
    file.write_text(json.dumps({**DESCRIPTION, **changes}), encoding="utf-8")
    return SceneSequence(video, file, classes)


def test_each_shot_goes_forth_and_back(video: Path, tmp_path: Path) -> None:
    scenes = sequence(video, tmp_path)
    filmed = VideoFile(video)
    places = [1, 2, 3, 2, 5, 6, 7, 8, 7, 6]
    assert [(scene.name, scene.first, scene.end) for scene in scenes.scenes] == [("dusk", 0, 4), ("day", 4, 10)]
    assert len(scenes) == len(places) and scenes.frame_rate == filmed.frame_rate
    for index in (9, *range(10)):
        np.testing.assert_array_equal(scenes.image(index), filmed.image(places[index]))
    assert "frame 8" in scenes.origin(7)


def test_labels_are_of_a_few_frames_and_of_what_is_sure(video: Path, tmp_path: Path) -> None:
    scenes = sequence(video, tmp_path)
    assert [index for index in range(10) if scenes.labels(index) is not None] == [1, 3, 5, 9]
    labels = scenes.labels(1)
    assert labels is not None and labels.dtype == np.uint8
    expected = np.full(SIZE, UNLABELLED, np.uint8)
    expected[:, :32] = 0
    expected[8:16, 8:16] = 1  # pavement is a sidewalk, and lies on top
    np.testing.assert_array_equal(labels, expected)
    of_no_class = scenes.labels(5)
    assert of_no_class is not None and (of_no_class == UNLABELLED).all()
    named = sequence(video, tmp_path, ClassList.of_names(["pavement"])).labels(3)
    assert named is not None and set(np.unique(named)) == {0, UNLABELLED}


def test_what_is_seen_is_corrupted_in_its_scene_alone_and_always_alike(video: Path, tmp_path: Path) -> None:
    scenes = sequence(video, tmp_path)
    seen = SeenScenes(scenes)
    darken = Corruptor(Corruption("low_light", 1), 0)
    for index in (2, 2, 0, 3):
        np.testing.assert_array_equal(seen.image(index), darken(scenes.image(index), index))
    for index in range(4, 10):
        np.testing.assert_array_equal(seen.image(index), scenes.image(index))
    assert seen.labels(1) is not None and seen.stamp(5) == scenes.stamp(5)


def test_a_shorter_video_is_refused(video: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected a video of at least 11 frames, but .* has 10"):
        sequence(video, tmp_path, shots=[{"name": "long", "first": 0, "end": 11}])
