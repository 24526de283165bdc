"""A warm-up as a drive: the network learns by its own labels from the frames whose statistics it has taken.

The decoder alone learns little from a second of video: what a mirrored view sees better lies in the features, which
the encoder makes. So the scales and shifts of all BatchNorm layers take some steps of uncertainty reduction (UR), as on
recorded drives, and a small part of the way is deployed. The convolutions stay: trained too, they give no more, and
lose more where they lose. Nothing is trained where the model is at home: it has little to gain there, and its certainty
is right; nor where it is unsure, as its labels are wrong. What it gives, and where:
docs/ablations.md#self-training-on-a-warm-up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ditta_core.adaptation.adapt import statistics_pixels
from ditta_core.adaptation.batchnorm import shift_of_later_layers
from ditta_core.adaptation.config import AdaptationConfig
from ditta_core.adaptation.guard import DecoderCheck, Limits, objection_to_lost_classes, objection_to_trained
from ditta_core.adaptation.job import AdaptationProgress
from ditta_core.adaptation.region import Region
from ditta_core.domain.config import OfflineConfig
from ditta_core.domain.driver import OfflineProgress, OfflineReport, adapt_offline
from ditta_core.domain.frames import DriveFrames, resize_image
from ditta_core.domain.recipes.ur import UR
from ditta_core.domain.recipes.vst import VST
from ditta_core.segmentation.adapted import put_tensors
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.types import AdaptationFailed

SMALLEST_LESSON = 3
FULL_LESSON = 6
LARGEST_SHARE = 0.0625
"""Numbers of warm-up frames from which on the network is trained, and all of ``LARGEST_SHARE`` of the way is deployed:
docs/ablations.md#deployed-share-of-a-warm-up."""
AT_HOME = 0.2
"""Shift of the statistics (:func:`~ditta_core.adaptation.batchnorm.shift_of_later_layers`) below which a model is at
home: docs/ablations.md#self-training-on-a-warm-up."""
LEAST_CONFIDENCE = 0.7
FULL_CONFIDENCE = 0.85
"""Mean confidence of the model below which it knows too little of what it sees to learn from its own labels, and from
which on they count in full: docs/ablations.md#deployed-share-of-a-warm-up."""
LIMITS = Limits(sure=0.9, contradicted=0.02, least_entropy_ratio=0.5)
"""Of the guard. Where the frames show little else than one class, certainty makes it the answer to everything:
docs/ablations.md#deployed-share-of-a-warm-up."""
CHECKED_FRAMES = 5
"""Largest number of frames, evenly spread, that the guard sees."""
SETTINGS = OfflineConfig(train="normalisation", statistics_share=0.0, rounds=1, guarded=False)
"""Of the training, but for steps, seed and share; the guard is asked here, as it sees the frames themselves."""


def deployed_share(frames: int, confidence: float = 1.0) -> float:
    """Position of the weights that serve between those before (0) and after (1) a training.

    Few frames show little, and the labels of an unsure model are wrong more often: both take from it.

    Args:
        frames: Number of warm-up frames.
        confidence: Mean confidence of the model in them, 0..1, before the training.
    """
    sure = (confidence - LEAST_CONFIDENCE) / (FULL_CONFIDENCE - LEAST_CONFIDENCE)
    return LARGEST_SHARE * min(frames / FULL_LESSON, 1.0) ** 2 * min(max(sure, 0.0), 1.0)


def objection_to_training(
    model: SegmentationModel, clip: NDArray[np.uint8], input_size: tuple[int, int], region: Region = Region()
) -> str:
    """Why not to train on a clip, RGB uint8 [n, H, W, 3], at all; empty where nothing speaks against it.

    Args:
        model: with the statistics of before, in evaluation mode.
        input_size: network input (height, width).
        region: pixels that count.
    """
    pixels = statistics_pixels(model, clip, input_size)
    shift = shift_of_later_layers(model, pixels, region)
    if shift >= AT_HOME:
        return ""
    return (
        f"the model is at home here, with statistics shifted by {shift:.2f} deviations (at least {AT_HOME} asked for), "
        f"and training would cost more than it gives"
    )


class UnsureModelError(AdaptationFailed):
    """The model knows too little of what it sees to be its own teacher."""


class WarmupRecipe(UR):
    """UR towards labels that the frames around agree on, gathered along optical flow, as the teacher ``flow`` does.

    Frames are drawn in turn: which of a few would come often is chance, docs/ablations.md#deployed-share-of-a-warm-up.
    """

    label = VST.label
    in_turn = True


def train_on_clip(
    model: SegmentationModel,
    clip: NDArray[np.uint8],
    input_size: tuple[int, int],
    config: AdaptationConfig,
    progress: Callable[[AdaptationProgress], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
    region: Region = Region(),
) -> OfflineReport:
    """Train a model in place by its own labels of a clip; it stays as it was where the guard refuses what comes of it.

    Args:
        model: with blended statistics, in evaluation mode.
        clip: RGB uint8 [n, H, W, 3].
        input_size: network input (height, width).
        config: of which ``self_training_steps``, ``seed`` and ``guarded`` count; what is deployed follows from the
            number of frames and, ``guarded``, the model's confidence, see :func:`deployed_share`.
        progress: told after every step.
        cancelled: asked before every step.
        region: pixels that take part.

    Raises:
        NothingLabelledError: there is nothing to learn from.
        UnsureModelError: the model is too unsure, and ``guarded``.
        Cancelled: ``cancelled`` said so.
    """
    drive = drive_of_clip(clip, input_size, region)

    losses: list[float] = []

    def tell(news: OfflineProgress) -> None:
        if news.losses:
            losses.append(sum(news.losses.values()))
        progress(AdaptationProgress(news.done, tuple(losses)))

    before = {name: value.clone() for name, value in model.state_dict().items()}
    expected = region.of(_probabilities(model, drive))
    confidence = float(expected.max(1).values.mean())
    if config.guarded and confidence < LEAST_CONFIDENCE:
        raise UnsureModelError(
            f"the model is unsure of what it sees here, with a confidence of {confidence:.2f} in the mean (at least "
            f"{LEAST_CONFIDENCE} asked for), and would learn its own mistakes"
        )
    share = deployed_share(len(clip), confidence if config.guarded else 1.0)
    settings = replace(SETTINGS, steps=config.self_training_steps, seed=config.seed, deployed_share=share)
    result = adapt_offline(model, WarmupRecipe, drive, settings, progress=tell, cancelled=cancelled)
    put_tensors(model, result.tensors)
    found = region.of(_probabilities(model, drive))
    check = DecoderCheck.of(expected, found, LIMITS)
    refused = objection_to_trained(check, expected, found, config.guarded)
    if config.guarded and not refused:
        refused = objection_to_lost_classes(expected, found)
    if result.report.steps < config.self_training_steps:  # losses or gradients were not finite
        refused = result.report.reason
    report = replace(result.report, contradicted=check.contradicted, entropy_ratio=check.entropy_ratio)
    if refused:
        model.load_state_dict(before)
        report = replace(report, refused=refused, deployed_share=0.0)
    return report


def drive_of_clip(clip: NDArray[np.uint8], input_size: tuple[int, int], region: Region = Region()) -> DriveFrames:
    """The frames of a clip, RGB uint8 [n, H, W, 3], as one stretch of a drive."""
    images = [resize_image(image, input_size) for image in clip]
    drive = DriveFrames(images, input_size, [range(len(images))])
    inside = region.inside(drive.map_size)
    drive.ignored = None if inside is None else ~inside
    return drive


@torch.no_grad()
def _probabilities(model: SegmentationModel, drive: DriveFrames) -> Tensor:
    """Of the frames that the guard sees, float [n, C, h, w] at the model's own size."""
    found = []
    for index in np.unique(np.linspace(0, len(drive) - 1, CHECKED_FRAMES).round().astype(int)):
        pixels = model.preprocess(drive.image(index)[None], drive.input_size, model.mean.device)
        found.append(model.classify(model.decode(model.encode(pixels))))
    return torch.cat(found).softmax(1)
