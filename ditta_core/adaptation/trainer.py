"""The training of an adaptation (method, stage C): its steps, and the passes over the warm-up clip."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ditta_core.adaptation.adamw import AdamW
from ditta_core.adaptation.averaging import average_
from ditta_core.adaptation.config import AdaptationConfig
from ditta_core.adaptation.crops import CropGrid
from ditta_core.adaptation.job import AdaptationProgress, Cancelled
from ditta_core.adaptation.losses import (
    FrameTarget,
    Prototypes,
    contrastive_loss,
    distillation_loss,
    pixel_features,
)
from ditta_core.adaptation.views import EncodedView
from ditta_core.inference.temporal_branch import TemporalSegmenter
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.teacher.base import DistillationTarget
from ditta_core.types import AdaptationFailed

FrameFeatures = tuple[Tensor, ...]
"""Encoder features of one frame, float [1, ...] each."""


class NonFiniteLossError(AdaptationFailed):
    """A loss is NaN or infinite; nothing of this adaptation may serve."""


@dataclass(frozen=True)
class StepLosses:
    """Losses of one step: distillation of both branches and contrast; None where a term does not apply.

    That of the frame branch is the sum of frame and view.
    """

    frame: float
    temporal: float | None
    contrastive: float | None

    @property
    def total(self) -> float:
        """Their sum; all weights are 1."""
        return self.frame + (self.temporal or 0.0) + (self.contrastive or 0.0)


@dataclass(frozen=True)
class EncodedClip:
    """The warm-up clip as the network takes it, and its features under the blended statistics.

    The features of the frames stay apart: putting those of ten at 480×368 together would take another 155 MB.

    Attributes:
        pixels: Normalised pixels, float [n, 3, H, W].
        features: Encoder features by frame.
    """

    pixels: Tensor
    features: list[FrameFeatures]

    @classmethod
    def of(cls, model: SegmentationModel, pixels: Tensor) -> EncodedClip:
        """Encode the frames one at a time, which bounds the memory."""
        return cls(pixels, [model.encode(frame[None]) for frame in pixels])


class DistillationTrainer:
    """The student, its moving average, the prototypes and the optimiser of one adaptation.

    Args:
        segmenter: trained in place; the encoder is left alone.
        resize: sizes to which logits are resized one after the other, bilinearly, before the losses; empty for none.
        objects: whether any target has objects, whose prototypes are all that the moving average is for.
    """

    def __init__(
        self,
        segmenter: TemporalSegmenter,
        config: AdaptationConfig,
        resize: Sequence[tuple[int, int]] = (),
        objects: bool = True,
    ) -> None:
        self.student = segmenter
        self.config = config
        self.resize = resize
        self.ema_model = copy.deepcopy(segmenter).requires_grad_(False) if objects and config.contrastive else None
        self.prototypes = Prototypes()
        self.past: tuple[Tensor, Tensor] | None = None
        segmenter.requires_grad_(False)
        # Those that a loss does not reach stay as they are: without temporal branch and objects, all of the add-on.
        self.parameters = [*segmenter.model.decoder_parameters(), *segmenter.add_on_parameters()]
        for parameter in self.parameters:
            parameter.requires_grad_(True)
        self.optimizer = AdamW(self.parameters, config.learning_rate, config.weight_decay)
        for model in (self.student, self.ema_model):
            if model is not None:
                model.train(config.train_mode)

    def train(
        self,
        clip: EncodedClip,
        target: DistillationTarget,
        progress: Callable[[AdaptationProgress], None] = lambda _: None,
        cancelled: Callable[[], bool] = lambda: False,
        views: Sequence[EncodedView] = (),
    ) -> tuple[float, ...]:
        """Pass over the frames of the clip in time order, ``config.passes`` times, one step a frame.

        Args:
            clip: the warm-up.
            target: of all of its frames, at the size of the losses.
            views: of its frames; every step takes the next one too.
            progress: told after every step.
            cancelled: asked before every step.

        Returns:
            Mean total loss of every pass.

        Raises:
            NonFiniteLossError: a loss was NaN or infinite.
            Cancelled: ``cancelled`` said so.
        """
        frames, passes, device = len(clip.features), self.config.passes, clip.pixels.device
        grid = None
        if self.config.trains_on_crops:
            grid = CropGrid.of(self.student.model, clip.features[0], FrameTarget.of(target, 0, device))
        losses: list[float] = []
        view: EncodedView | None = None
        for epoch in range(passes):
            total = 0.0
            for index in range(frames):
                if cancelled():
                    raise Cancelled("the adaptation was cancelled")
                features, ema_features = self._step_features(clip, index)
                frame_target = FrameTarget.of(target, index, device)
                if grid is not None and epoch < passes - 1:
                    crop = grid.corner(index + epoch, self.config.crop)  # in every pass another one of the same frame
                    features, frame_target = tuple(map(crop.of, features)), crop.of_target(frame_target)
                if views:
                    turn = epoch * frames + index
                    view = views[turn % len(views)]
                    if grid is not None:
                        crop = grid.corner(turn + turn // len(views), self.config.crop)
                        view = EncodedView(tuple(map(crop.of, view.features)), crop.of_target(view.target))
                total += self.step(features, frame_target, ema_features, view).total
                progress(AdaptationProgress((epoch * frames + index + 1) / (passes * frames), tuple(losses)))
            losses.append(total / frames)
        return tuple(losses)

    def _step_features(self, clip: EncodedClip, index: int) -> tuple[FrameFeatures, FrameFeatures | None]:
        """Features of a frame, after those of the frame before where the temporal branch is trained.

        In training mode the student and the EMA model encode the frames in every step, each with its own statistics.
        """
        first = max(index - 1, 0) if self.config.temporal_branch else index
        if self.config.train_mode:
            frames = clip.pixels[first : index + 1]
            with torch.no_grad():
                features = self.student.model.encode(frames)
                return features, None if self.ema_model is None else self.ema_model.model.encode(frames)
        features = clip.features[index]
        if first < index:
            features = tuple(torch.cat(pair) for pair in zip(clip.features[first], features, strict=True))
        return features, None

    def step(
        self,
        features: Sequence[Tensor],
        target: FrameTarget,
        ema_features: Sequence[Tensor] | None = None,
        view: EncodedView | None = None,
    ) -> StepLosses:
        """One optimisation step on a clip of one or two frames, oldest first.

        Args:
            features: encoder features of the clip; of one frame where the temporal branch is not trained.
            target: of the last frame, at the size the logits are resized to.
            ema_features: encoder features made by the EMA model, where they differ.
            view: another view of a frame, which is trained on like the last frame of the clip.

        Raises:
            NonFiniteLossError: the loss is NaN or infinite; no step was made.
        """
        if self.config.past_gradients or not self.config.temporal_branch:
            frame, temporal, embedding = self.student.decode_clip(features)
        else:
            frame, temporal, embedding = self.decode_after_past(features)
        frame_loss = distillation_loss(self.scores(frame), target)
        if view is not None:
            seen = self.student.decode_clip(view.features)[0]
            frame_loss = frame_loss + distillation_loss(self.scores(seen), view.target)
        temporal_loss = contrast = None
        if temporal is not None:
            temporal_loss = distillation_loss(self.scores(temporal, frame), target)
        if self.ema_model is not None and target.object_ids is not None:
            # The EMA model runs for the prototypes alone, but in training mode its forward also moves its statistics,
            # so it runs whether or not this frame has an object.
            with torch.no_grad():
                past_free = features if self.config.past_gradients else tuple(level[-1:] for level in features)
                ema_frame, _, ema_embedding = self.ema_model.decode_clip(ema_features or past_free)
            if bool((target.object_ids > 0).any()):
                size = target.object_ids.shape
                contrast = contrastive_loss(
                    pixel_features(self.student, embedding[-1:], size),
                    pixel_features(self.ema_model, ema_embedding[-1:], size).detach(),
                    enlarge(self.student.model, ema_frame, self.resize, ema_frame.shape[-2:]).softmax(1)[0],
                    target.object_ids,
                    self.prototypes,
                    self.config.temperature,
                )
        loss = sum((term for term in (temporal_loss, contrast) if term is not None), frame_loss)
        optional = (None if term is None else term.item() for term in (temporal_loss, contrast))
        losses = StepLosses(frame_loss.item(), *optional)
        if not np.isfinite(losses.total):
            raise NonFiniteLossError(f"expected a finite loss, but got {losses}")
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.update_ema()
        return losses

    def decode_after_past(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor | None, Tensor]:
        """As ``decode_clip`` for the last frame, with what the step before made of the frame before, if it is of one.

        Args:
            features: of one frame where the clip begins, and else of two.
        """
        past, last = self.past, tuple(level[-1:] for level in features)
        frame, _, embedding = self.student.decode_clip(last)
        self.past = embedding.detach(), frame.detach()
        if past is None or len(features[0]) == 1:
            return frame, None, embedding
        return frame, self.student.temporal_logits(embedding, self.student.make_memory(*past)), embedding

    def scores(self, logits: Tensor, like: Tensor | None = None) -> Tensor:
        """What the cross-entropy takes for logits: the logits, or their softmax in the published form."""
        enlarged = enlarge(self.student.model, logits, self.resize, (logits if like is None else like).shape[-2:])
        return enlarged.softmax(1) if self.config.probability_loss else enlarged

    def update_ema(self) -> None:
        """θ̄ ← m·θ̄ + (1 − m)·θ over all trained parameters, buffers excepted."""
        if self.ema_model is not None:
            average_(self.ema_model, self.student, self.config.momentum)


def enlarge(model: SegmentationModel, logits: Tensor, resize: Sequence[tuple[int, int]], size: Sequence[int]) -> Tensor:
    """Logits resized bilinearly to one size after the other; where there is none, to ``size``."""
    if resize:
        logits = model.enlarge_logits(logits, resize[0])
    for step in resize[1:] if resize else (tuple(size),):
        if tuple(logits.shape[-2:]) != step:
            logits = F.interpolate(logits, step, mode="bilinear", align_corners=False)
    return logits
