"""The warm-up: from a handful of frames to an adapted decoder (method, stages A, B and C).

``run_job`` goes through the three stages. Two ways of doing it share all the code here: *parity*, the published
behaviour with its oddities, and *live*, which encodes every frame once, keeps the network in evaluation mode and says
in :class:`AdaptationConfig` what else it does differently and why.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ditta_core.adaptation.batchnorm import blend_encoder_statistics
from ditta_core.adaptation.config import AdaptationConfig
from ditta_core.adaptation.crops import Grid
from ditta_core.adaptation.guard import (
    ANCHORED,
    WEIGHTED,
    Comparison,
    RefusedError,
    guard_against_collapse,
    require_something_shown,
)
from ditta_core.adaptation.job import AdaptationProgress, Cancelled
from ditta_core.adaptation.losses import (
    FrameTarget,
    anchored,
)
from ditta_core.adaptation.trainer import DistillationTrainer, enlarge
from ditta_core.inference.reliability import reliability
from ditta_core.inference.temporal_branch import TemporalSegmenter
from ditta_core.teacher.base import TargetBuilder
from ditta_core.types import AdaptationReport

STATISTICS_FRAMES = 5
"""Frames whose statistics are taken in one batch at the most, spread evenly over the warm-up; bounds the memory, which
at 480×368 is 350 MB instead of 570 for ten. With Cityscapes weights, ten warm-up frames and a share of 30 %, five of
them instead of all give 43.01, 37.15 and 51.54 mIoU on three drives of CamVid's training part, and all ten 43.04, 37.15
and 51.81."""


# --- the three stages ----------------------------------------------------------------------------------------------


FrameFeatures = tuple[Tensor, ...]
"""What the encoder says of one frame, float [1, ...] each."""


def clip_features(segmenter: TemporalSegmenter, pixels: Tensor) -> list[FrameFeatures]:
    """Features of all frames, encoded one at a time to bound the memory.

    They stay apart: to put those of ten frames at 480×368 together would take another 155 MB for a moment.
    """
    return [segmenter.model.encode(frame[None]) for frame in pixels]


def predict(
    segmenter: TemporalSegmenter, features: Sequence[FrameFeatures], resize: Sequence[tuple[int, int]]
) -> Tensor:
    """Probabilities of the frame branch for all frames of the clip, float [n, C, h, w] at the size of the losses."""
    logits = (segmenter.decode_clip(frame)[0] for frame in features)
    return torch.cat([enlarge(segmenter.model, each, resize, each.shape[-2:]).softmax(1) for each in logits])


def adapt(
    segmenter: TemporalSegmenter,
    clip: NDArray[np.uint8],
    input_size: tuple[int, int],
    teacher: TargetBuilder,
    config: AdaptationConfig,
    progress: Callable[[AdaptationProgress], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> AdaptationReport:
    """Adapt ``segmenter`` in place to the clip: statistics, targets, optimisation.

    Args:
        clip: RGB uint8 [n, H, W, 3].
        input_size: network input (height, width).
        progress: told after every step; may be called often.
        cancelled: asked before every step.

    Raises:
        NoTargetError: the teacher found nothing to learn from.
        NonFiniteLossError: a loss was NaN or infinite.
        Cancelled: ``cancelled`` said so.
        CollapseError: the adapted model lost most of the classes.
        NothingShownError: most of the frames show nothing.
        RefusedError: the trained decoder was refused, and the statistics stayed as they were, too.
    """
    start = time.perf_counter()
    if config.guarded:
        require_something_shown(clip)
    torch.manual_seed(config.seed)
    device = next(segmenter.parameters()).device
    size = (clip.shape[1], clip.shape[2])
    resize = (input_size, size) if config.full_resolution else ()
    segmenter.eval()

    with torch.no_grad():
        pixels = segmenter.model.preprocess(clip, input_size, device)
        chosen = np.unique(np.linspace(0, len(clip) - 1, min(len(clip), STATISTICS_FRAMES)).round().astype(int))
        statistics_share = blend_encoder_statistics(segmenter.model, pixels[chosen], config.statistics_share)
        features = clip_features(segmenter, pixels)

    # Stages A and B: what the model says of the clip, and what the teacher makes of it.
    with torch.no_grad():
        probabilities = predict(segmenter, features, resize)
        trust = reliability(probabilities)
        own = probabilities.cpu().numpy()
    taught = teacher.build(clip, own, trust.cpu().numpy())
    target = anchored(taught, own) if config.anchored else taught
    limits = WEIGHTED if target is taught else ANCHORED
    target_seconds = time.perf_counter() - start

    # Stage C.
    trainer = DistillationTrainer(segmenter, config, resize, objects=target.object_ids is not None)
    untrained = [parameter.detach().clone() for parameter in trainer.parameters]
    losses: list[float] = []
    steps = config.passes * len(clip)
    grid = None
    if config.trains_on_windows:
        grid = Grid.of(segmenter.model, features[0], FrameTarget.of(target, 0, device))
    for epoch in range(config.passes):
        total = 0.0
        for index in range(len(clip)):
            if cancelled():
                raise Cancelled("the adaptation was cancelled")
            first = max(index - 1, 0) if config.temporal_branch else index
            if config.train_mode:
                frames = pixels[first : index + 1]
                with torch.no_grad():
                    live = trainer.live.model.encode(frames)
                    # The averaged model serves the prototypes alone; without objects there are none.
                    averaged = None if trainer.averaged is None else trainer.averaged.model.encode(frames)
            else:
                live = features[index]
                if first < index:
                    live = tuple(torch.cat(pair) for pair in zip(features[first], live, strict=True))
                averaged = None
            frame_target = FrameTarget.of(target, index, device)
            if grid is not None and epoch < config.passes - 1:
                window = grid.corner(index + epoch, config.crop)  # in every pass another one of the same frame
                live, frame_target = tuple(map(window.of, live)), window.of_target(frame_target)
            total += trainer.step(live, frame_target, averaged).total
            progress(AdaptationProgress((epoch * len(clip) + index + 1) / steps, tuple(losses)))
        losses.append(total / len(clip))
    segmenter.eval().requires_grad_(False)
    deployed_share, reason = config.deployed_share if steps else 0.0, "adapted"
    with torch.no_grad():
        for trained, before in zip(segmenter.model.decoder_parameters(), untrained, strict=False):
            trained.copy_(before.lerp(trained, config.deployed_share))
        if config.train_mode:  # the statistics of the encoder moved
            features = clip_features(segmenter, pixels)
        adapted = predict(segmenter, features, resize)
        objection = Comparison.of(probabilities, adapted, limits).objection if config.guarded else ""
        if objection:
            refusal = f"the trained decoder was refused: on the warm-up frames, {objection}"
            if statistics_share == 0:
                raise RefusedError(f"{refusal}; the base model stays")
            reason = f"{refusal}; the base decoder stays, with {statistics_share:.0%} of the warm-up's statistics"
            deployed_share = 0.0
            for trained, before in zip(trainer.parameters, untrained, strict=True):
                trained.copy_(before)
        else:
            guard_against_collapse(probabilities.argmax(1), adapted.argmax(1))
    return AdaptationReport(
        succeeded=True,
        reason=reason,
        frames=len(clip),
        steps=steps,
        seconds=time.perf_counter() - start,
        target_seconds=target_seconds,
        losses=tuple(losses),
        objects=target.objects,
        statistics_share=statistics_share,
        deployed_share=deployed_share,
    )
