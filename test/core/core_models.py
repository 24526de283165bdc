"""Small real models for the tests of the core."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ditta_core.classes import ClassList
from ditta_core.inference.temporal_branch import TemporalSegmenter
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.segmentation.segformer_head import SegFormerHead
from ditta_core.teacher.base import DistillationTarget, TargetBuilder

REFERENCE = Path(__file__).resolve().parents[1] / "reference"


class HeadOnly(SegmentationModel):
    """The SegFormer head on features that are given instead of encoded, as the golden files have them."""

    def __init__(self, classes: int, dropout: float = 0.0) -> None:
        super().__init__(ClassList.of_names([f"class {index}" for index in range(classes)]))
        self.backbone = nn.Identity()
        self.embedding_dim = 16
        self.head = SegFormerHead((8, 12, 16, 24), classes, dim=16, dropout=dropout)

    @property
    def encoder(self) -> nn.Module:
        return self.backbone

    def encode(self, pixels: Tensor) -> tuple[Tensor, ...]:
        raise NotImplementedError("the golden files give features, not pixels")

    def decode(self, features: Sequence[Tensor]) -> Tensor:
        return self.head.decode(features)

    def classify_outputs(self, embedding: Tensor) -> Tensor:
        return self.head.classify(embedding)


def golden_name(name: str) -> str:
    """Published parameter name -> ours."""
    return f"model.head.{name}" if name.startswith("linear_") else name


def golden_segmenter(archive: np.lib.npyio.NpzFile, prefix: str, classes: int, radius: int) -> TemporalSegmenter:
    """The golden head with the published parameters under ``prefix`` loaded strictly."""
    segmenter = TemporalSegmenter(HeadOnly(classes), radius)
    names = [key for key in archive.files if key.startswith(prefix)]
    segmenter.load_state_dict({golden_name(key.removeprefix(prefix)): torch.from_numpy(archive[key]) for key in names})
    return segmenter


def golden_features(archive: np.lib.npyio.NpzFile, prefix: str) -> list[Tensor]:
    """The four feature levels of a clip, finest first."""
    return [torch.from_numpy(archive[f"{prefix}{level}"]) for level in (1, 2, 3, 4)]


class OwnLabels(TargetBuilder):
    """The model's own predictions as targets, with two halves of the frame as objects: the smallest real teacher."""

    def build(
        self, clip: NDArray[np.uint8], probabilities: NDArray[np.float32], reliabilities: NDArray[np.float32]
    ) -> DistillationTarget:
        assert probabilities.shape[0] == len(clip) and probabilities.shape[2:] == reliabilities.shape[1:]
        np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-4)
        labels = probabilities.argmax(1)
        ids = np.ones(labels.shape, np.int64)
        ids[:, :, labels.shape[2] // 2 :] = 2
        return DistillationTarget(labels, object_ids=ids, objects=2)
