"""The size at which the network sees the camera's images, found on a few of them without labels.

A size that is too small misses what is thin or far, one that is too large takes apart what the network knows as a
whole; both say something else than the sizes between them. So every size is compared with the mean of the others, and
the largest of those that agree with it most is taken: docs/ablations.md#choice-of-the-size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ditta_core.adaptation.region import Region
from ditta_core.inference.config import DEFAULT_LONG_SIDE
from ditta_core.segmentation.base import SegmentationModel

LONG_SIDES = (320, 400, 480, 560, 640, 720, 800, 960)
"""Longest sides of the network input in pixels that are compared."""

SEARCH_FRAMES = 3
"""Largest number of frames, spread evenly over the warm-up, on which they are compared."""

TOLERANCE = 0.006
"""Share of the pixels by which a size may agree less than the best to be taken because it is larger."""

LARGEST_NOISINESS = 0.5
"""Noise that restoration took out of a clip (0..1) above which no larger size is chosen: what is fine went with it."""

UNSURE_LONG_SIDE = 400
LEAST_CONFIDENCE = 0.7
"""Longest side that is taken of such a clip where the mean confidence of the model at the default size is less than
this: what it still knows there is coarse."""

GRID_SIDE = 240
"""Longest side in pixels of the maps that are compared; it bounds time and memory where there are many classes."""


@dataclass(frozen=True)
class InputSizeChoice:
    """What the comparison of the sizes found.

    Attributes:
        long_side: Longest side in pixels that is taken.
        agreement: Share (0..1) of the pixels in which it gives the class of the mean of the other sizes'
            probabilities.
        agreements: The same of all sizes that were compared, by their longest side.
    """

    long_side: int
    agreement: float
    agreements: dict[int, float]


def compared_sides(model: SegmentationModel, image_size: tuple[int, int]) -> tuple[int, ...]:
    """Longest sides to compare for images of a size (H, W): one for each network input that the model takes."""
    inputs = {model.input_size(image_size, side): side for side in reversed(LONG_SIDES)}
    return tuple(sorted(inputs.values()))


def largest_side(
    model: SegmentationModel,
    image_size: tuple[int, int],
    noisiness: float = 0.0,
    fast_enough: Callable[[tuple[int, int]], bool] = lambda _: True,
) -> int | None:
    """The longest side to be chosen at most for images of a size (H, W); None where nothing is left to choose.

    That of a noisy clip is ``DEFAULT_LONG_SIDE``, or a smaller one.

    Args:
        noisiness: noise that restoration took out of them, 0..1.
        fast_enough: whether the network serves fast enough with an input (height, width).
    """
    if noisiness > LARGEST_NOISINESS:
        return DEFAULT_LONG_SIDE
    sides = (side for side in compared_sides(model, image_size) if side > DEFAULT_LONG_SIDE)
    return max((side for side in sides if fast_enough(model.input_size(image_size, side))), default=None)


def agreement_with_others(probabilities: Sequence[Tensor]) -> tuple[float, ...]:
    """Share (0..1) of the pixels in which each size gives the class of the mean of the other sizes' probabilities.

    Args:
        probabilities: of the same frames at two sizes or more, each float [N, C, h, w].
    """
    total = torch.stack(tuple(probabilities)).sum(0)
    return tuple(float((each.argmax(1) == (total - each).argmax(1)).float().mean()) for each in probabilities)


def choose_long_side(agreements: dict[int, float], largest: int = max(LONG_SIDES)) -> int:
    """The longest side within ``TOLERANCE`` of the best agreement; from ``DEFAULT_LONG_SIDE`` up to ``largest``.

    A size counts with half of the weight of its neighbours, as the agreement on a few frames is uneven.

    Args:
        agreements: share of the pixels (0..1) of each longest side, see :func:`agreement_with_others`.
        largest: longest side that the rate allows.
    """
    sides = sorted(agreements)
    padded = np.pad([agreements[side] for side in sides], 1, mode="edge")
    even = dict(zip(sides, (padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4, strict=True))
    allowed = {side: share for side, share in even.items() if DEFAULT_LONG_SIDE <= side <= largest}
    best = max(allowed.values(), default=0.0)
    return max((side for side, share in allowed.items() if share >= best - TOLERANCE), default=DEFAULT_LONG_SIDE)


def searched_frames(count: int) -> list[int]:
    """Of ``count`` frames, those on which the sizes are compared: at most ``SEARCH_FRAMES``, evenly spread."""
    return [int(each) for each in np.unique(np.linspace(0, count - 1, min(count, SEARCH_FRAMES)).round())]


@torch.no_grad()
def find_long_side(
    model: SegmentationModel,
    clip: NDArray[np.uint8],
    largest: int = max(LONG_SIDES),
    step: Callable[[], object] = lambda: None,
    region: Region = Region(),
) -> InputSizeChoice | None:
    """Compare the sizes on a clip, RGB uint8 [n, H, W, 3], and choose one.

    Args:
        largest: longest side that may be chosen; larger ones are compared all the same, as the mean needs them. With
            ``DEFAULT_LONG_SIDE``, that of a noisy clip, the model's confidence chooses between that and
            ``UNSURE_LONG_SIDE``.
        step: called before each run of the network; may raise.
        region: pixels that are compared.

    Returns:
        The choice; None where there is nothing to choose: the model has one size, or no larger one is allowed.
    """
    image_size = clip.shape[1], clip.shape[2]
    sides, noisy = compared_sides(model, image_size), largest == DEFAULT_LONG_SIDE
    if noisy:
        sides = tuple(side for side in sides if side in (UNSURE_LONG_SIDE, DEFAULT_LONG_SIDE))
    if len(sides) < 2 or not (noisy or any(DEFAULT_LONG_SIDE < side <= largest for side in sides)):
        return None
    scale = min(1.0, GRID_SIDE / max(image_size))
    grid = max(1, round(image_size[0] * scale)), max(1, round(image_size[1] * scale))
    chosen = searched_frames(len(clip))
    shares, confidence = np.zeros(len(sides)), 0.0
    for index in chosen:
        maps = []
        for side in sides:
            step()
            input_size = model.input_size(image_size, side)
            logits = model(model.preprocess(clip[index : index + 1], input_size, model.mean.device))
            if side == DEFAULT_LONG_SIDE:
                confidence += float(region.of(logits.softmax(1)).max(1).values.mean()) / len(chosen)
            maps.append(region.of(F.interpolate(logits, grid, mode="bilinear", align_corners=False).softmax(1)))
        shares += agreement_with_others(maps)
    agreements = dict(zip(sides, (shares / len(chosen)).tolist(), strict=True))
    if noisy:
        side = DEFAULT_LONG_SIDE if confidence >= LEAST_CONFIDENCE else UNSURE_LONG_SIDE
    else:
        side = choose_long_side(agreements, largest)
    return InputSizeChoice(side, agreements[side], agreements)
