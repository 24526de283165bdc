"""Probabilities at the size of the network's output -> the label image and the confidence at the size of the camera's.

A class that is the largest at all four corners of a cell is the largest throughout, as bilinear interpolation averages
the corners. So only the borders between classes are interpolated: docs/ablations.md#labels-from-small-maps.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ditta_core.segmentation.base import SegmentationModel
from ditta_core.types import Segmentation

BORDER_PIXELS = 1 << 16
"""Pixels at borders that are interpolated at a time; bounds the memory where nearly every pixel is one, as in noise."""

LabelImage = NDArray[np.uint8] | NDArray[np.uint16]


def label_frame(
    model: SegmentationModel, probabilities: Tensor, size: tuple[int, int]
) -> tuple[LabelImage, NDArray[np.uint8]]:
    """Class ids [H, W], uint8 or uint16, and confidence uint8 [H, W], 255 for a probability of 1, of a frame.

    Args:
        probabilities: float [1, C', h, w], of the channels of the model's class map.
        size: of the frame (H, W).
    """
    if tuple(probabilities.shape[-2:]) == size or probabilities.device.type != "cpu":
        if tuple(probabilities.shape[-2:]) != size:
            probabilities = model.enlarge_logits(probabilities, size)
        confidence, winners = probabilities[0].max(0)
        winner: NDArray[np.integer] = winners.cpu().numpy()
    else:
        confidence, winner = largest(model.prepare_enlargement(probabilities)[0], size, model.logits_align_corners)
    return model.class_map.label_image(winner), confidence.mul(255).round_().to(torch.uint8).cpu().numpy()


def take_labels(
    segmentation: Segmentation, unlabelled: int, min_confidence: float, ignored: NDArray[np.bool_] | None
) -> None:
    """Take the class of pixels that are to have none, in place; the confidence of a pixel without a class becomes 0.

    Args:
        unlabelled: id of pixels without a class.
        min_confidence: 0..1; pixels below it have no class.
        ignored: bool [H, W], further pixels that have none.
    """
    class_ids, confidence = segmentation.class_ids, segmentation.confidence
    if min_confidence > 0:
        class_ids[confidence < math.ceil(255 * min_confidence)] = unlabelled
    if ignored is not None:
        class_ids[ignored] = unlabelled
    confidence[class_ids == unlabelled] = 0


def largest(maps: Tensor, size: tuple[int, int], align_corners: bool) -> tuple[Tensor, NDArray[np.int16]]:
    """Largest value over the channels and its channel, float32 and int16 [H, W], of ``F.interpolate(maps, ...)``.

    Maps float32 [C, h, w] are interpolated bilinearly to ``size`` (H, W).
    """
    values, winners = maps.max(0)
    # Exact in a cell with one winner; at borders it is replaced.
    value = F.interpolate(values[None, None], size, mode="bilinear", align_corners=align_corners)[0, 0]

    height, width = winners.shape
    top, bottom, down = cells(height, size[0], align_corners)
    left, right, along = cells(width, size[1], align_corners)
    corner = winners.to(torch.int16).numpy()
    after = np.pad(corner, ((0, 1), (0, 1)), mode="edge")
    border = (corner != after[1:, :-1]) | (corner != after[:-1, 1:]) | (corner != after[1:, 1:])
    winner = np.take(np.where(border, np.int16(-1), corner)[top], left, axis=1)

    at_border = np.flatnonzero(winner == -1)
    pixels = maps.flatten(1).numpy()
    flat_winner, flat_value = winner.reshape(-1), value.view(-1).numpy()
    for begin in range(0, len(at_border), BORDER_PIXELS):
        chosen = at_border[begin : begin + BORDER_PIXELS]
        row, column = np.divmod(chosen, size[1])
        above, below = top[row] * width, bottom[row] * width
        near, far, share = left[column], right[column], along[column]
        upper = between(np.take(pixels, above + near, 1), np.take(pixels, above + far, 1), share)
        lower = between(np.take(pixels, below + near, 1), np.take(pixels, below + far, 1), share)
        best, index = torch.from_numpy(between(upper, lower, down[row])).max(0)
        flat_winner[chosen], flat_value[chosen] = index.numpy(), best.numpy()
    return value, winner


def cells(
    length: int, enlarged: int, align_corners: bool
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Where each of ``enlarged`` positions lies among ``length``: the ones before and after it, and how far between."""
    position = np.arange(enlarged)
    if align_corners:
        place = position * ((length - 1) / max(enlarged - 1, 1))
    else:
        place = np.maximum((position + 0.5) * (length / enlarged) - 0.5, 0)
    before = np.minimum(place.astype(np.intp), length - 1)
    return before, np.minimum(before + 1, length - 1), (place - before).astype(np.float32)


def between(one: NDArray[np.float32], other: NDArray[np.float32], share: NDArray[np.float32]) -> NDArray[np.float32]:
    """``one`` + share·(``other`` − ``one``), in the place of ``other``."""
    other -= one
    other *= share
    other += one
    return other
