"""One size of the network input for all methods on a video, so that they compare."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from ditta_core.adaptation.input_size import InputSizeChoice, find_long_side, largest_side, searched_frames
from ditta_core.evaluation.corruptions import Corruption
from ditta_core.evaluation.methods.registry import METHODS
from ditta_core.evaluation.trial import Trial
from ditta_core.inference.config import AUTO_LONG_SIDE, DEFAULT_LONG_SIDE
from ditta_core.inference.restoration import ImageRestorer
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.types import Frame


class InputSizes:
    """Finds the size for each video once, as an adaptation does, by the unadapted model and without bound on the rate.

    The frames are those of the shortest warm-up, restored as for the stream, whatever a method does with them itself.
    """

    def __init__(self) -> None:
        self._found: dict[tuple[str, Corruption | None, int], InputSizeChoice | None] = {}

    def settle(self, trial: Trial, model: SegmentationModel) -> Trial:
        """The trial with the size in its setup; the same one where that has a size already.

        Methods with a size of their own keep it: ``DEFAULT_LONG_SIDE`` for the published one.
        """
        setup = trial.setup
        if setup.input_size is not None or setup.long_side != AUTO_LONG_SIDE:
            return trial
        method = METHODS.get(trial.method)
        if method is not None and method.own_input_size:
            return replace(trial, setup=replace(setup, long_side=DEFAULT_LONG_SIDE))
        key = trial.sequence.name, trial.corruption, trial.corruption_seed
        if key not in self._found:
            warmup = map(trial.seen.frame, range(trial.sizing_frames))
            self._found[key] = found_input_size(model, warmup, trial.sizing_frames)
        choice = self._found[key]
        if choice is None:
            return replace(trial, setup=replace(setup, long_side=DEFAULT_LONG_SIDE))
        return replace(trial, setup=replace(setup, long_side=choice.long_side), size_agreement=choice.agreement)


def found_input_size(model: SegmentationModel, warmup: Iterable[Frame], count: int) -> InputSizeChoice | None:
    """What an adaptation without bound on the rate finds on ``count`` warm-up frames; None where the default is kept.

    All of them pass through the restoration; those that are compared are kept.
    """
    restorer, looked_at = ImageRestorer(), set(searched_frames(count))
    restored = enumerate(restorer(frame).image for frame in warmup)
    clip = np.stack([image for index, image in restored if index in looked_at])
    largest = largest_side(model, (clip.shape[1], clip.shape[2]), restorer.noisiness)
    return None if largest is None else find_long_side(model, clip, largest)
