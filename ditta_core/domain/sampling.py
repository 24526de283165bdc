"""Clips drawn from drives: the same window of consecutive frames, with their labels and flow."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from ditta_core.domain.config import OfflineConfig
from ditta_core.domain.frames import DriveFrames
from ditta_core.domain.photometric import Photometric
from ditta_core.domain.recipe import Clip, NothingLabelledError
from ditta_core.domain.windows import Window
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.types import UNLABELLED


def window_size(model: SegmentationModel, input_size: tuple[int, int], wanted: tuple[int, int]) -> tuple[int, int]:
    """Size (height, width) of the windows: as wanted where that fits, in multiples that the model takes."""
    if model.fixed_input_size is not None:
        return model.fixed_input_size
    multiple = model.size_multiple
    height, width = (
        max(multiple, min(side, whole) // multiple * multiple) for side, whole in zip(wanted, input_size, strict=True)
    )
    return height, width


class ClipSampler:
    """Draws clips of frames that have labels, or of any where there are none.

    Args:
        drive: frames to draw from.
        labels: of all frames, uint8 [n, h, w]; None where nothing is labelled.
        model: whose device and whose sizes of input count.
        length: Number of frames of a clip, T.
        recolours: Whether the student's images get another light.
        in_turn: Whether every frame is drawn once before any is drawn twice.
        moving: Whether the frames before a frame are taken; off, it is repeated, and no flow is confirmed.

    Raises:
        NothingLabelledError: no frame has a label.
    """

    def __init__(
        self,
        drive: DriveFrames,
        labels: NDArray[np.uint8] | None,
        model: SegmentationModel,
        config: OfflineConfig,
        length: int,
        recolours: bool,
        in_turn: bool = False,
        moving: bool = True,
    ) -> None:
        self.drive, self.labels, self.config = drive, labels, config
        self.length, self.recolours, self.in_turn = length, recolours, in_turn
        self.device = model.mean.device
        self.size = window_size(model, drive.input_size, config.window)
        every = [index for stretch in drive.stretches for index in stretch[length - 1 :]]
        self.moving = moving and length > 1 and bool(every)
        indices = every if self.moving else list(range(len(drive)))
        if labels is not None:
            indices = [index for index in indices if bool((labels[index] != UNLABELLED).any())]
            if not indices:
                raise NothingLabelledError("expected a pixel with a label in some frame, but got none")
        self.indices = indices

    def draw(self, random: np.random.Generator, number: int = 0) -> Clip:
        """A clip; ``random`` decides on all of it, but for the frames where they come in turn.

        Args:
            random: Of this clip alone.
            number: That of the clip, counted from 0 over all steps of a training.
        """
        last = self._frame(random, number)
        window = Window.draw(random, self.drive.input_size, self.size, self.config.scales)
        light = Photometric.draw(random) if self.recolours else Photometric()
        frames = tuple(range(last - self.length + 1, last + 1)) if self.moving else (last,) * self.length
        plain = np.stack([window.image(self.drive.image(index)) for index in dict.fromkeys(frames)])
        images = np.stack([light.image(each) for each in plain])
        if len(plain) < self.length:
            plain, images = (np.repeat(each, self.length, 0) for each in (plain, images))
        height, width = window.map_size
        flows = np.zeros((self.length - 1, height, width, 2), np.float32)
        confirmed = np.zeros((self.length - 1, height, width), np.bool_)
        if self.moving:
            for place, (before, index) in enumerate(pairwise(frames)):
                link = self.drive.link(index, before)
                flows[place] = window.flow(link.flow)
                confirmed[place] = window.mask(link.consistent)
        labels = None
        if self.labels is not None:
            cut = np.stack([window.labels(self.labels[index]) for index in frames])
            labels = torch.from_numpy(cut.astype(np.int64)).to(self.device)
        counted = None
        if self.drive.ignored is not None:
            counted = torch.from_numpy(window.mask(~self.drive.ignored)).to(self.device)
        return Clip(
            images,
            plain,
            labels,
            torch.from_numpy(flows).to(self.device),
            torch.from_numpy(confirmed).to(self.device),
            frames,
            window,
            counted,
        )

    def _frame(self, random: np.random.Generator, number: int) -> int:
        """Index of the last frame of a clip."""
        if not self.in_turn:
            return self.indices[int(random.integers(len(self.indices)))]
        turn, place = divmod(number, len(self.indices))
        order = np.random.default_rng((self.config.seed, turn)).permutation(len(self.indices))
        return self.indices[order[place]]
