"""Shots of a video, each played to and fro as a scene of its own, with a few frames labelled by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ditta_core.classes import ClassList
from ditta_core.datasets.base import SequenceView, VideoSequence
from ditta_core.datasets.video import VideoFile
from ditta_core.evaluation.corruptions import Corruption, Corruptor
from ditta_core.types import UNLABELLED


@dataclass(frozen=True)
class Scene:
    """A shot, once to and fro: the frames of a :class:`SceneSequence` from ``first`` on, before ``end``.

    Attributes:
        corruption: What is done to its images before anybody sees them; None where they are as they were filmed.
    """

    name: str
    first: int
    end: int
    corruption: Corruption | None


class SceneSequence(VideoSequence):
    """The shots of a video one after another, each forth and back, so that it can be played again without a cut.

    The images are those that were filmed, and are held in memory once they are read.

    Args:
        video: File of the video.
        description: JSON file: ``name``; ``shots`` with name, ``first``, ``end`` and, if there is one, ``corruption``;
            ``labels`` of frames of the video by number and class, as polygons x, y, x, y, … in pixels, the later ones
            on top, around what is sure alone; ``synonyms``: other names of its classes.
        classes: Classes in which the labels are given. What is none of them is unlabelled.

    Attributes:
        scenes: Scenes in order.

    Raises:
        FileNotFoundError, ValueError: see :class:`VideoFile`; ValueError also where the video is shorter than the
            shots.
    """

    def __init__(self, video: Path, description: Path, classes: ClassList) -> None:
        values = json.loads(description.read_text(encoding="utf-8"))
        self._video = VideoFile(video)
        self._description = description
        self._classes = classes
        self._polygons: dict[int, dict[str, list[list[int]]]] = {
            int(index): polygons for index, polygons in values["labels"].items()
        }
        self._synonyms: dict[str, list[str]] = values["synonyms"]
        self.name = values["name"]
        self.frame_rate = self._video.frame_rate
        end = max(shot["end"] for shot in values["shots"])
        if end > len(self._video):
            raise ValueError(
                f"expected a video of at least {end} frames, but {video} has {len(self._video)}; install the package "
                f"that it comes with again"
            )
        scenes = []
        self._places: list[int] = []
        for shot in values["shots"]:
            begin = len(self._places)
            self._places += [*range(shot["first"], shot["end"]), *range(shot["end"] - 2, shot["first"], -1)]
            corruption = Corruption.parse(shot["corruption"]) if "corruption" in shot else None
            scenes.append(Scene(shot["name"], begin, len(self._places), corruption))
        self.scenes = tuple(scenes)
        self._images: dict[int, NDArray[np.uint8]] = {}

    def __len__(self) -> int:
        return len(self._places)

    @property
    def classes(self) -> ClassList:
        return self._classes

    def image(self, index: int) -> NDArray[np.uint8]:
        if not self._images:  # all at once and in order, since a video cannot be read backwards in good time
            self._images = {place: self._video.image(place) for place in sorted(set(self._places))}
        return self._images[self._places[index]]

    def labels(self, index: int) -> NDArray[np.uint8] | None:
        polygons = self._polygons.get(self._places[index])
        if polygons is None:
            return None
        labels = np.full(self.image(index).shape[:2], UNLABELLED, np.uint8)
        for name, outlines in polygons.items():
            known = [each for each in (name, *self._synonyms.get(name, ())) if each in self._classes.names]
            value = self._classes.names.index(known[0]) if known else UNLABELLED
            for outline in outlines:
                cv2.fillPoly(labels, [np.reshape(outline, (-1, 2)).astype(np.int32)], value)
        return labels

    def origin(self, index: int) -> str:
        return f"frame {self._places[index]} of {self.name}"

    def source_paths(self) -> Sequence[Path]:
        return [*self._video.source_paths(), self._description]


class SeenScenes(SequenceView):
    """What a camera sees of scenes: the images corrupted where their scene says so, always in the same way."""

    def __init__(self, scenes: SceneSequence) -> None:
        super().__init__(scenes)
        self._corruptors = [
            (scene, None if scene.corruption is None else Corruptor(scene.corruption, seed=0))
            for scene in scenes.scenes
        ]
        self._corrupted: dict[int, NDArray[np.uint8]] = {}  # 25 ms each time, and each is asked for ten times

    def image(self, index: int) -> NDArray[np.uint8]:
        if index in self._corrupted:
            return self._corrupted[index]
        image = super().image(index)
        for scene, corruptor in self._corruptors:
            if corruptor is not None and scene.first <= index < scene.end:
                image = self._corrupted[index] = corruptor(image, index)
        return image
