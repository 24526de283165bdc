"""HCL: what the model was, kept beside what it is; features that agree with the past, labels that the past agrees with.

Huang et al., "Model Adaptation: Historical Contrastive Learning for Unsupervised Domain Adaptation without Source
Data", NeurIPS 2021, in the form of the paper, not of its code: the source model is never overwritten.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor

from ditta_core.domain.config import OfflineConfig
from ditta_core.domain.contrast import contrast_loss
from ditta_core.domain.frames import DriveFrames
from ditta_core.domain.recipe import (
    Batch,
    Losses,
    PseudoLabels,
    label_loss,
    normalised_entropy,
    projection_head,
    resized,
)
from ditta_core.domain.recipes.self_training import SelfTraining
from ditta_core.segmentation.base import SegmentationModel

INSTANCE_WEIGHT, TEMPERATURE = 0.05, 0.07
POSITIONS = 1024
"""Number of pixels that a step contrasts with their own past and with that of the others."""


def agreement(present: Tensor, past: Tensor) -> Tensor:
    """h = 1 − sigmoid(‖p − q‖₁) of probabilities [N, C, h, w], float [N, h, w]: ½ where both agree."""
    return 1 - torch.sigmoid((present - past).abs().sum(1))


def past_reliability(probabilities: Tensor) -> Tensor:
    """r = 1.1 − H, at least 0.9 and at most 1.1, H the normalised entropy: float [N, C, h, w] -> [N, h, w]."""
    return (1.1 - normalised_entropy(probabilities)).clamp(0.9, 1.1)


class HCL(SelfTraining):
    """Historical contrast: labels weighed by the agreement with two earlier models, features contrasted with one's.

    The earlier models are the source and that at the beginning of the round. There is one round: labels made anew,
    halfway, cost 2 mIoU on a drive.
    """

    def __init__(self, model: SegmentationModel, config: OfflineConfig, generator: torch.Generator) -> None:
        super().__init__(model, config, generator)
        self.projection = projection_head(model.embedding_dim, generator)
        self.source = copy.deepcopy(model).requires_grad_(False)
        self.past = copy.deepcopy(model).requires_grad_(False)
        self.past_projection = copy.deepcopy(self.projection).requires_grad_(False)

    def train(self, mode: bool = True) -> HCL:
        super().train(mode)
        self.source.eval()
        self.past.eval()
        return self

    def label(self, drive: DriveFrames, number: int) -> PseudoLabels | None:
        self.past.load_state_dict(self.model.state_dict())
        self.past_projection.load_state_dict(self.projection.state_dict())
        return super().label(drive, number)

    def loss(self, batch: Batch) -> Losses:
        clip = batch.target
        labels = clip.labels
        assert labels is not None
        size = labels.shape[-2:]
        embedding = self.embed(clip.images[-1:])
        scores = self.scores(embedding, size)
        plain = self.model.preprocess(clip.plain[-1:], clip.window.size, self.device)
        with torch.no_grad():
            before = self.past.decode(self.past.encode(plain))
            past = resized(self.past.classify(before), size).softmax(1)
            source = resized(self.source(plain), size).softmax(1)
            present = scores.softmax(1)
            weights = agreement(present, past) + agreement(present, source)
        return {
            "category": label_loss(scores, labels[-1:], weights),
            "instance": INSTANCE_WEIGHT * self.contrast(embedding, before, past, batch),
        }

    def contrast(self, embedding: Tensor, before: Tensor, past: Tensor, batch: Batch) -> Tensor:
        """InfoNCE of pixels with their own in the plain view of the earlier model, keys weighed by its certainty.

        Args:
            embedding, before: of the model and of the earlier one, float [1, D, h, w].
            past: probabilities of the earlier model, float [1, C, h', w'].
        """
        size = embedding.shape[-2], embedding.shape[-1]
        count = min(POSITIONS, size[0] * size[1])
        chosen = torch.from_numpy(batch.random.choice(size[0] * size[1], count, replace=False)).to(embedding.device)
        reliability = past_reliability(resized(past, size)).flatten()[chosen]
        queries = F.normalize(self.projection(embedding)[0].flatten(1).T[chosen], dim=1)
        with torch.no_grad():
            keys = F.normalize(self.past_projection(before)[0].flatten(1).T[chosen], dim=1)
        same = torch.eye(count, dtype=torch.bool, device=queries.device)
        return contrast_loss(queries, keys, same, ~same, TEMPERATURE, reliability, all_below=True)
