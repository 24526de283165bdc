"""The warm-up: from a handful of frames to an adapted decoder (method, stages A, B and C).

:func:`adapt` blends the statistics, has the teacher make targets, trains the decoder, and checks it. Two ways of doing
it share all the code here: *parity*, the published behaviour with its oddities, and *live*, which encodes every frame
once, keeps the network in evaluation mode, and does what :class:`AdaptationConfig` says besides.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ditta_core.adaptation.balance import add_offsets, class_offsets
from ditta_core.adaptation.batchnorm import blend_encoder_statistics
from ditta_core.adaptation.config import AdaptationConfig
from ditta_core.adaptation.guard import (
    ANCHORED_LIMITS,
    WEIGHTED_LIMITS,
    DecoderCheck,
    Limits,
    RefusedError,
    guard_against_collapse,
    objection_to_length,
    objection_to_targets,
    require_something_shown,
)
from ditta_core.adaptation.job import AdaptationProgress
from ditta_core.adaptation.losses import anchor_targets
from ditta_core.adaptation.region import Region
from ditta_core.adaptation.trainer import DistillationTrainer, EncodedClip, enlarge
from ditta_core.adaptation.views import EncodedView, encode_views
from ditta_core.inference.reliability import reliability
from ditta_core.inference.temporal_branch import TemporalSegmenter
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.teacher.base import DistillationTarget, TargetBuilder
from ditta_core.types import AdaptationReport

STATISTICS_FRAMES = 5
"""Largest number of frames, spread evenly over the warm-up, whose statistics are taken in one batch; it bounds the
memory: docs/ablations.md#frames-of-the-statistics."""


def statistics_pixels(model: SegmentationModel, clip: NDArray[np.uint8], input_size: tuple[int, int]) -> Tensor:
    """The frames of a clip, RGB uint8 [n, H, W, 3], that statistics are taken of, as one batch."""
    chosen = np.unique(np.linspace(0, len(clip) - 1, min(len(clip), STATISTICS_FRAMES)).round().astype(int))
    return model.preprocess(clip[chosen], input_size, model.mean.device)


@torch.no_grad()
def blend(
    segmenter: TemporalSegmenter,
    clip: NDArray[np.uint8],
    input_size: tuple[int, int],
    share: float,
    region: Region = Region(),
) -> float:
    """Blend the warm-up's statistics into the encoder's (stage A); returns the share of them that was taken."""
    pixels = statistics_pixels(segmenter.model, clip, input_size)
    return blend_encoder_statistics(segmenter.model, pixels, share, region, judged=True)


@torch.no_grad()
def encode(segmenter: TemporalSegmenter, clip: NDArray[np.uint8], input_size: tuple[int, int]) -> EncodedClip:
    """The clip under the statistics that the encoder has by now."""
    pixels = segmenter.model.preprocess(clip, input_size, next(segmenter.parameters()).device)
    return EncodedClip.of(segmenter.model, pixels)


@torch.no_grad()
def predict(segmenter: TemporalSegmenter, clip: EncodedClip, resize: Sequence[tuple[int, int]]) -> Tensor:
    """Probabilities of the frame branch for all frames of the clip, float [n, C, h, w] at the size of the losses."""
    logits = (segmenter.decode_clip(frame)[0] for frame in clip.features)
    return torch.cat([enlarge(segmenter.model, each, resize, each.shape[-2:]).softmax(1) for each in logits])


def teach(
    teacher: TargetBuilder,
    clip: NDArray[np.uint8],
    probabilities: Tensor,
    config: AdaptationConfig,
    region: Region = Region(),
) -> tuple[DistillationTarget, Limits]:
    """What the teacher makes of the model's probabilities (stage B), and what a decoder trained on it may contradict.

    Raises:
        NoTargetError: the teacher found nothing to learn from.
    """
    prediction = probabilities.cpu().numpy()
    target = teacher.build(clip, prediction, region.silence(reliability(probabilities).cpu().numpy()))
    anchored = anchor_targets(target, prediction) if config.anchor_targets else target
    limits = WEIGHTED_LIMITS if anchored is target else ANCHORED_LIMITS
    return region.ask_nothing(anchored), limits


class Distillation:
    """The training of a decoder in place, and what is done with the result.

    Args:
        segmenter: with blended statistics, in evaluation mode.
        resize: sizes of the losses, see :class:`DistillationTrainer`.
        probabilities: of the model before the training, float [n, C, h, w].
        target: of the same frames.
        region: pixels that the result is judged by.
    """

    def __init__(
        self,
        segmenter: TemporalSegmenter,
        config: AdaptationConfig,
        resize: Sequence[tuple[int, int]],
        probabilities: Tensor,
        target: DistillationTarget,
        region: Region,
    ) -> None:
        self.segmenter = segmenter
        self.config = config
        self.resize = resize
        self.probabilities = region.of(probabilities)
        self.target = target
        self.region = region
        self.trainer = DistillationTrainer(segmenter, config, resize, objects=target.object_ids is not None)
        self.untrained = [parameter.detach().clone() for parameter in self.trainer.parameters]

    def train(
        self,
        encoded: EncodedClip,
        clip: NDArray[np.uint8],
        input_size: tuple[int, int],
        progress: Callable[[AdaptationProgress], None],
        cancelled: Callable[[], bool],
    ) -> tuple[float, ...]:
        """Train on the clip and its views, deploy a share of it, and keep what every class had; the losses by pass."""
        config, segmenter = self.config, self.segmenter
        views: list[EncodedView] = []
        if config.trains_frames_apart:
            count = min(config.views, config.passes * len(clip))
            views = encode_views(segmenter.model, clip, self.target, input_size, count, config.seed)
        losses = self.trainer.train(encoded, self.target, progress, cancelled, views)
        segmenter.eval().requires_grad_(False)
        with torch.no_grad():
            for trained, before in zip(segmenter.model.decoder_parameters(), self.untrained, strict=False):
                trained.copy_(before.lerp(trained, config.deployed_share))
            if config.kept_share and losses and config.deployed_share:
                logits = torch.cat([segmenter.decode_clip(frame)[0] for frame in encoded.features])
                offsets = class_offsets(self.probabilities, self.region.of(logits), config.kept_share)
                add_offsets(segmenter.model, offsets)
        return losses

    @torch.no_grad()
    def check(self, encoded: EncodedClip, limits: Limits) -> str:
        """Compare the probabilities before and after the training, and undo it where it is refused.

        Returns:
            Why the trained decoder is refused; empty where it is not.

        Raises:
            CollapseError: the adapted model lost most of the classes.
        """
        if self.config.train_mode:  # the statistics of the encoder moved
            encoded = EncodedClip.of(self.segmenter.model, encoded.pixels)
        adapted = self.region.of(predict(self.segmenter, encoded, self.resize))
        objection = DecoderCheck.of(self.probabilities, adapted, limits).objection if self.config.guarded else ""
        if not objection:
            guard_against_collapse(self.probabilities.argmax(1), adapted.argmax(1))
            return ""
        for trained, before in zip(self.trainer.parameters, self.untrained, strict=True):
            trained.copy_(before)
        return f"on the warm-up frames, {objection}"


def adapt(
    segmenter: TemporalSegmenter,
    clip: NDArray[np.uint8],
    input_size: tuple[int, int],
    teacher: TargetBuilder,
    config: AdaptationConfig,
    progress: Callable[[AdaptationProgress], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
    region: Region = Region(),
) -> AdaptationReport:
    """Adapt ``segmenter`` in place to the clip: blend the statistics, make targets, train, check.

    Args:
        clip: RGB uint8 [n, H, W, 3].
        input_size: network input (height, width).
        progress: told after every step; may be called often.
        cancelled: asked before every step.
        region: pixels that take part. In training mode the statistics are those of whole frames all the same.

    Raises:
        NoTargetError: the teacher found nothing to learn from.
        NonFiniteLossError: a loss was NaN or infinite.
        Cancelled: ``cancelled`` said so.
        CollapseError: the adapted model lost most of the classes.
        NothingShownError: most of the frames show nothing.
        RefusedError: the decoder was not trained or refused, and the statistics stayed as they were, too.
    """
    start = time.perf_counter()
    if config.guarded:
        require_something_shown(clip)
    torch.manual_seed(config.seed)
    resize = (input_size, (clip.shape[1], clip.shape[2])) if config.full_resolution else ()
    segmenter.eval()

    statistics_share = blend(segmenter, clip, input_size, config.statistics_share, region)
    losses: tuple[float, ...] = ()
    objects, target_seconds, judged = 0, 0.0, config.guarded and config.passes > 0
    # Asked before the targets are made: they take most of the time that is left where nothing is trained.
    refused = objection_to_length(len(clip)) if judged and config.anchor_targets and teacher.soft else ""
    reason = f"the decoder was not trained: {refused}" if refused else "adapted"
    if config.passes and not refused:
        encoded = encode(segmenter, clip, input_size)
        probabilities = predict(segmenter, encoded, resize)
        target, limits = teach(teacher, clip, probabilities, config, region)
        objects = target.objects
        refused = objection_to_targets(probabilities, target, region) if judged else ""
        reason = f"the decoder was not trained: {refused}"
        target_seconds = time.perf_counter() - start
    if config.passes and not refused:
        decoder = Distillation(segmenter, config, resize, probabilities, target, region)
        losses = decoder.train(encoded, clip, input_size, progress, cancelled)
        refused = decoder.check(encoded, limits)
        reason = f"the trained decoder was refused: {refused}" if refused else "adapted"
    if refused:
        if statistics_share == 0:
            raise RefusedError(reason, refused)
        reason += f"; the base decoder stays, with {statistics_share:.0%} of the warm-up's statistics"
    return AdaptationReport(
        succeeded=True,
        reason=reason,
        frames=len(clip),
        steps=len(losses) * len(clip),
        seconds=time.perf_counter() - start,
        target_seconds=target_seconds,
        losses=losses,
        objects=objects,
        statistics_share=statistics_share,
        deployed_share=config.deployed_share if losses and not refused else 0.0,
        refused=refused,
    )
