"""VST and STPL: labels gathered along time; and features of two frames, together by class.

VST is the second phase of Shin et al., "Unsupervised Domain Adaptation for Video Semantic Segmentation", AAAI 2022
(VAT-VST); STPL is Lo et al., "Spatio-Temporal Pixel-Level Contrastive Learning-based Source-Free Domain Adaptation for
Video Semantic Segmentation", CVPR 2023. Neither has published code; where the papers are silent, choices are our own.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ditta_core.domain.config import OfflineConfig
from ditta_core.domain.contrast import contrast_loss, masks_of_labels, sample_anchors
from ditta_core.domain.frames import DriveFrames
from ditta_core.domain.gather import gather, resize_flow
from ditta_core.domain.labelling import TimePredictor, ViewPredictor, label_drive
from ditta_core.domain.recipe import Batch, Losses, PseudoLabels, label_loss, projection_head
from ditta_core.domain.recipes.self_training import SelfTraining
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.types import UNLABELLED

CONTRAST_WEIGHT, TEMPERATURE = 0.1, 0.1
ANCHORS = 64
"""Largest number of pixels of a class that are drawn as anchors, and of each frame as keys."""


class VST(SelfTraining):
    """Self-training with labels that the frames around agree on, gathered along optical flow.

    In one round, as a second one was not worth it for other recipes: docs/adapt.md.
    """

    def label(self, drive: DriveFrames, number: int) -> PseudoLabels | None:
        portion = min(self.config.portion + number * self.config.portion_step, 1.0)
        return label_drive(drive, TimePredictor(ViewPredictor(self.model)), portion, by_margin=True)


class STPL(VST):
    """VST, and the contrast of pixels in the fused feature space of two frames: one class together, others apart.

    The classifier learns from the fused features and from the frame's own alike, since it serves single frames.
    """

    frames = 2

    def __init__(self, model: SegmentationModel, config: OfflineConfig, generator: torch.Generator) -> None:
        super().__init__(model, config, generator)
        channels = model.embedding_dim
        self.fusion = nn.Conv2d(2 * channels, channels, 1, bias=False)
        self.projection = projection_head(channels, generator)
        with torch.no_grad():
            # The first step sees the model as it is: the frame before has no say yet.
            self.fusion.weight.zero_()
            self.fusion.weight[:, :channels, 0, 0] = torch.eye(channels)

    def fuse(self, embedding: Tensor, before: Tensor, flow: Tensor, confirmed: Tensor) -> Tensor:
        """Fused features, float [1, D, h, w], of a frame and the one before it, of which the flow says where it was.

        Where the flow is not confirmed, or leads out of the frame, the frame itself stands for the one before.

        Args:
            embedding, before: float [1, D, h, w].
            flow: float [1, h', w', 2] at any size.
            confirmed: bool [1, h', w'].
        """
        size = embedding.shape[-2], embedding.shape[-1]
        carried, inside = gather(before, resize_flow(flow, size))
        known = F.interpolate(confirmed[:, None].to(carried.dtype), size, mode="nearest") > 0
        carried = torch.where(known & inside[:, None], carried, embedding)
        return self.fusion(torch.cat([embedding, carried], 1))

    def loss(self, batch: Batch) -> Losses:
        clip = batch.target
        labels = clip.labels
        assert labels is not None
        size = labels.shape[-2:]
        with torch.no_grad():
            before = self.embed(clip.images[-2:-1])
        embedding = self.embed(clip.images[-1:])
        fused = self.fuse(embedding, before, clip.flows[-1:], clip.confirmed[-1:])
        scores = self.scores(embedding, size)
        terms = {
            "labels": label_loss(scores, labels[-1:]) / 2,
            "fused labels": label_loss(self.scores(fused, size), labels[-1:]) / 2,
        }
        wrong = scores.argmax(1) != labels[-1:]
        return {**terms, "contrast": CONTRAST_WEIGHT * self.contrast(fused, before, labels[-2:], wrong, batch)}

    def contrast(self, fused: Tensor, before: Tensor, labels: Tensor, wrong: Tensor, batch: Batch) -> Tensor:
        """The contrast of pixels of the fused features with each other and with pixels of the frame before.

        Args:
            fused, before: float [1, D, h, w].
            labels: of the frame before and of the frame, int64 [2, h', w'].
            wrong: Where the prediction of the frame contradicts its label, bool [1, h', w'].
        """
        size = fused.shape[-2], fused.shape[-1]
        past, present, hard = (
            F.interpolate(maps[None, None].float(), size, mode="nearest")[0, 0].flatten().long()
            for maps in (labels[0], labels[1], wrong[0])
        )
        generator = torch.Generator().manual_seed(int(batch.random.integers(2**31)))
        anchors = sample_anchors(present, ANCHORS, hard.bool(), generator)
        others = sample_anchors(past, ANCHORS, None, generator)
        now = F.normalize(self.projection(fused)[0].flatten(1).T[anchors], dim=1)
        then = F.normalize(self.projection(before)[0].flatten(1).T[others], dim=1)
        key_labels = torch.cat([present[anchors], past[others]])
        itself = torch.eye(len(anchors), len(key_labels), dtype=torch.bool, device=now.device)
        positives, negatives = masks_of_labels(present[anchors], key_labels, itself)
        assert UNLABELLED not in key_labels
        return contrast_loss(now, torch.cat([now, then]), positives, negatives, TEMPERATURE)
