"""The training steps of an adaptation (method, stage C)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ditta_core.adaptation.adamw import AdamW
from ditta_core.adaptation.config import AdaptationConfig
from ditta_core.adaptation.losses import (
    FrameTarget,
    Prototypes,
    contrastive_loss,
    distillation_loss,
    pixel_features,
)
from ditta_core.inference.temporal_branch import TemporalSegmenter
from ditta_core.segmentation.base import SegmentationModel


class NonFiniteLossError(ArithmeticError):
    """A loss is NaN or infinite; nothing of this adaptation may go live."""


@dataclass(frozen=True)
class StepLosses:
    """Losses of one step: distillation of both branches and contrast; None where a term does not apply."""

    frame: float
    temporal: float | None
    contrastive: float | None

    @property
    def total(self) -> float:
        """Their sum; all weights are 1."""
        return self.frame + (self.temporal or 0.0) + (self.contrastive or 0.0)


class DistillationTrainer:
    """The live model, its moving average, the prototypes and the optimiser of one adaptation.

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
        self.live = segmenter
        self.config = config
        self.resize = resize
        self.averaged = copy.deepcopy(segmenter).requires_grad_(False) if objects and config.contrastive else None
        self.prototypes = Prototypes()
        self.past: tuple[Tensor, Tensor] | None = None
        segmenter.requires_grad_(False)
        # Those that a loss does not reach stay as they are: without temporal branch and objects, all of the add-on.
        self.parameters = [*segmenter.model.decoder_parameters(), *segmenter.add_on_parameters()]
        for parameter in self.parameters:
            parameter.requires_grad_(True)
        self.optimizer = AdamW(self.parameters, config.learning_rate, config.weight_decay)
        for model in (self.live, self.averaged):
            if model is not None:
                model.train(config.train_mode)

    def step(
        self, features: Sequence[Tensor], target: FrameTarget, averaged: Sequence[Tensor] | None = None
    ) -> StepLosses:
        """One optimisation step on a clip of one or two frames, oldest first.

        Args:
            features: encoder features of the clip; of one frame where the temporal branch is not trained.
            target: of the last frame, at the size the logits are resized to.
            averaged: encoder features made by the averaged model, where they differ.

        Raises:
            NonFiniteLossError: the loss is NaN or infinite; no step was made.
        """
        if self.config.past_gradients or not self.config.temporal_branch:
            frame, temporal, embedding = self.live.decode_clip(features)
        else:
            frame, temporal, embedding = self.decode_after_past(features)
        frame_loss = distillation_loss(self.scores(frame), target)
        temporal_loss = contrast = None
        if temporal is not None:
            temporal_loss = distillation_loss(self.scores(temporal, frame), target)
        if self.averaged is not None and target.object_ids is not None:
            # The averaged model runs for the prototypes alone, but in training mode its forward also moves its
            # statistics, so it runs whether or not this frame has an object.
            with torch.no_grad():
                past_free = features if self.config.past_gradients else tuple(level[-1:] for level in features)
                averaged_frame, _, averaged_embedding = self.averaged.decode_clip(averaged or past_free)
            if bool((target.object_ids > 0).any()):
                size = target.object_ids.shape
                contrast = contrastive_loss(
                    pixel_features(self.live, embedding[-1:], size),
                    pixel_features(self.averaged, averaged_embedding[-1:], size).detach(),
                    self.probabilities(averaged_frame)[0],
                    target.object_ids,
                    self.prototypes,
                    self.config.temperature,
                )
        loss = sum((term for term in (temporal_loss, contrast) if term is not None), frame_loss)
        losses = StepLosses(
            frame_loss.item(),
            None if temporal_loss is None else temporal_loss.item(),
            None if contrast is None else contrast.item(),
        )
        if not np.isfinite(losses.total):
            raise NonFiniteLossError(f"expected a finite loss, but got {losses}")
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.average()
        return losses

    def decode_after_past(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor | None, Tensor]:
        """As ``decode_clip`` for the last frame, with what the step before made of the frame before, if it is of one.

        Args:
            features: of one frame where the clip begins, and else of two.
        """
        past, last = self.past, tuple(level[-1:] for level in features)
        frame, _, embedding = self.live.decode_clip(last)
        self.past = embedding.detach(), frame.detach()
        if past is None or len(features[0]) == 1:
            return frame, None, embedding
        return frame, self.live.temporal_logits(embedding, self.live.make_memory(*past)), embedding

    def enlarge(self, logits: Tensor, size: Sequence[int]) -> Tensor:
        """Logits at the size of the losses; where nothing is resized, at ``size``."""
        return enlarge(self.live.model, logits, self.resize, size)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Softmax of the logits at the size of the losses."""
        return self.enlarge(logits, logits.shape[-2:]).softmax(1)

    def scores(self, logits: Tensor, like: Tensor | None = None) -> Tensor:
        """What the cross-entropy takes for logits: the logits, or their softmax in the published form."""
        enlarged = self.enlarge(logits, (logits if like is None else like).shape[-2:])
        return enlarged.softmax(1) if self.config.probability_loss else enlarged

    def average(self) -> None:
        """θ̄ ← m·θ̄ + (1 − m)·θ over all trained parameters, buffers excepted."""
        if self.averaged is None:
            return
        with torch.no_grad():
            for mean, value in zip(self.averaged.parameters(), self.live.parameters(), strict=True):
                if value.requires_grad:
                    mean.lerp_(value, 1 - self.config.momentum)


def enlarge(model: SegmentationModel, logits: Tensor, resize: Sequence[tuple[int, int]], size: Sequence[int]) -> Tensor:
    """Logits resized bilinearly to one size after the other; where there is none, to ``size``."""
    if resize:
        logits = model.enlarge_logits(logits, resize[0])
    for step in resize[1:] if resize else (tuple(size),):
        if tuple(logits.shape[-2:]) != step:
            logits = F.interpolate(logits, step, mode="bilinear", align_corners=False)
    return logits
