from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ditta_core.adaptation.crops import Crop, CropGrid
from ditta_core.adaptation.losses import FrameTarget, distillation_loss
from ditta_core.classes import ClassList
from ditta_core.segmentation.base import SegmentationModel


class OnePixel(SegmentationModel):
    """Logits from two maps at strides 2 and 4, every pixel on its own; nothing is encoded."""

    decodes_crops = True
    embedding_dim = 5

    def __init__(self) -> None:
        super().__init__(ClassList.of_names(["road", "sky", "car"]))
        self.backbone = nn.Identity()
        self.fine, self.coarse = nn.Conv2d(3, 5, 1), nn.Conv2d(4, 5, 1)
        self.classifier = nn.Conv2d(5, 3, 1)

    @property
    def encoder(self) -> nn.Module:
        return self.backbone

    def encode(self, pixels: Tensor) -> tuple[Tensor, ...]:
        fine = F.avg_pool2d(pixels, 2)
        coarse = F.avg_pool2d(fine, 2)
        return fine, torch.cat([coarse, coarse[:, :1]], 1)

    def decode(self, features: Sequence[Tensor]) -> Tensor:
        return torch.relu(self.fine(features[0]) + F.interpolate(self.coarse(features[1]), scale_factor=2.0))

    def classify_outputs(self, embedding: Tensor) -> Tensor:
        return self.classifier(embedding)


def frame_of(rows: int, columns: int) -> tuple[tuple[Tensor, ...], FrameTarget]:
    """Random maps at strides 2 and 4 with so many cells, and a target with all it can have at stride 2."""
    generator = torch.Generator().manual_seed(1)
    fine = torch.randn(1, 3, 2 * rows, 2 * columns, generator=generator)
    coarse = torch.randn(1, 4, rows, columns, generator=generator)
    probabilities = torch.randn(3, 2 * rows, 2 * columns, generator=generator).softmax(0)
    weights = torch.rand(2 * rows, 2 * columns, generator=generator)
    return (fine, coarse), FrameTarget(probabilities.argmax(0), probabilities, weights, (weights > 0.5).long())


@pytest.mark.parametrize("turn", range(4))
def test_a_window_of_features_and_target_is_the_frame_with_the_rest_masked(turn: int) -> None:
    """Where a model sees every pixel on its own, the two have the same gradients."""
    torch.manual_seed(0)
    model = OnePixel()
    features, target = frame_of(4, 6)
    grid = CropGrid.of(model, features, target)
    assert grid == CropGrid(4, 6)
    crop = grid.corner(turn, 0.25)
    assert target.weights is not None
    mask = torch.zeros_like(target.weights)
    crop.of(mask)[:] = 1
    assert mask.sum() == mask.numel() / 4
    masked = replace(target, weights=target.weights * mask)
    gradients = []
    for maps, goal in ((features, masked), (tuple(map(crop.of, features)), crop.of_target(target))):
        loss = distillation_loss(model.classify(model.decode(maps)), goal)
        gradients.append(torch.autograd.grad(loss, model.decoder_parameters()))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_four_corners_cover_the_frame() -> None:
    for (rows, columns), area in (((4, 6), 0.25), ((5, 7), 0.25), ((23, 30), 0.5), ((1, 1), 0.25), ((3, 2), 1.0)):
        covered = torch.zeros(rows, columns)
        for turn in range(4):
            crop = CropGrid(rows, columns).corner(turn, area).of(covered)
            assert crop.numel() >= area * rows * columns
            crop += 1
        assert covered.min() >= 1
        assert (rows, columns) != (4, 6) or covered.max() == 1


def test_a_target_keeps_what_it_lacks() -> None:
    target = Crop(CropGrid(2, 2), 1, 0, 1, 2).of_target(FrameTarget(torch.arange(16).view(4, 4), None, None, None))
    assert target.labels.tolist() == [[8, 9, 10, 11], [12, 13, 14, 15]]
    assert target.probabilities is target.weights is target.object_ids is None


@pytest.mark.parametrize(
    "shapes",
    [
        [(1, 24, 8), (1, 8, 4, 6)],  # tokens
        [(1, 8, 9, 12), (1, 8, 4, 6)],  # no whole multiples
        [(1, 4, 6, 8), (1, 2, 3, 8)],  # channels last
        [(1, 8, 6, 9), (1, 8, 3, 4)],
    ],
)
def test_what_has_no_common_cells_is_trained_whole(shapes: list[tuple[int, ...]]) -> None:
    target = FrameTarget(torch.zeros(8, 12, dtype=torch.long), None, None, None)
    assert CropGrid.of(OnePixel(), [torch.zeros(shape) for shape in shapes], target) is None


def test_a_model_that_decodes_no_crops_is_trained_whole() -> None:
    features, target = frame_of(4, 6)
    model = OnePixel()
    model.decodes_crops = False
    assert CropGrid.of(model, features, target) is None
