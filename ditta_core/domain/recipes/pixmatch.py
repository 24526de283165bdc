"""PixMatch: what the model says of a target picture, it is to say of perturbed ones too.

Melas-Kyriazi & Manrai, "PixMatch: Unsupervised Domain Adaptation via Pixelwise Consistency Training", CVPR 2021.
Picture and label are cut by one draw; the published code draws twice for its second head, which we do not have. The
source is seen in the target's colours, as TPS sees it. Published it is seen as it is (``OfflineConfig.published``):
where the target is in bad weather, consistency alone makes the model sure of its own wrong labels, and nothing that it
sees of that weather is right.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ditta_core.domain.photometric import Photometric, PhotometricRange
from ditta_core.domain.recipe import Batch, Losses, label_loss
from ditta_core.domain.recipes.source_only import SourceOnly, source_of
from ditta_core.domain.styles import as_image, fourier_style, match_histograms
from ditta_core.domain.windows import STRIDE

WEIGHT = 0.1
"""Of each of the three perturbations."""
LIGHT = PhotometricRange(0.2, 0.2, 0.3, 0.1, jittered=0.8, blurred=0.5, grey=0.2, kernels=(5,))
SMALLEST_PART = 0.2
"""Share of the picture's area that a part of it has at least."""
FOURIER_WIDTH = 0.01

Part = tuple[slice, slice]
"""Rows and columns."""


def draw_part(random: np.random.Generator, map_size: tuple[int, int], smallest: float, largest: float = 1.0) -> Part:
    """Rows and columns of a label map that a part of the same shape takes, of an area between two shares."""
    side = float(np.sqrt(random.uniform(smallest, largest)))
    height, width = (max(1, round(side * whole)) for whole in map_size)
    top, left = (int(random.integers(whole - part + 1)) for whole, part in zip(map_size, (height, width), strict=True))
    return slice(top, top + height), slice(left, left + width)


def in_pixels(part: Part) -> Part:
    """The same part of the image of a label map."""
    rows, columns = (slice(STRIDE * each.start, STRIDE * each.stop) for each in part)
    return rows, columns


class PixMatch(SourceOnly):
    """Cross-entropy on the recoloured source, and with the plain picture's labels on three perturbed ones."""

    published_faults = True

    def loss(self, batch: Batch) -> Losses:
        clip, source = batch.target, source_of(batch)
        assert source.labels is not None
        picture, random = clip.plain[-1], batch.random
        shown = source.plain[-1] if self.config.published else match_histograms(source.plain[-1], picture)
        with torch.no_grad():
            labels = self.predict(picture, clip).argmax(1)
        zoomed, zoomed_labels = zoom(picture, labels, draw_part(random, clip.window.map_size, SMALLEST_PART))
        lit = Photometric.draw(random, LIGHT).image(zoomed)
        styled = as_image(fourier_style(picture, source.plain[-1], FOURIER_WIDTH))
        share = float(random.uniform())  # Beta(1, 1)
        part = draw_part(random, clip.window.map_size, share, share)
        below, above = (picture, labels), (shown, source.labels[-1:])
        if random.random() < 0.5:
            below, above = above, below
        mixed = cut_in(below[0], above[0], part), cut_in_labels(below[1], above[1], part)
        pairs = {"light": (lit, zoomed_labels), "fourier": (styled, labels), "mixed": mixed}
        consistency = {
            name: WEIGHT * label_loss(self.predict(seen, clip), wanted) for name, (seen, wanted) in pairs.items()
        }
        return {"source": self.supervised(batch, shown), **consistency}


def zoom(image: NDArray[np.uint8], labels: Tensor, part: Part) -> tuple[NDArray[np.uint8], Tensor]:
    """A part of an image uint8 [H, W, 3] and its labels int64 [1, h, w], enlarged to the size of the whole."""
    height, width = image.shape[:2]
    seen = cv2.resize(image[in_pixels(part)], (width, height), interpolation=cv2.INTER_LINEAR)
    rows, columns = (
        (torch.arange(whole, device=labels.device) + 0.5).mul((each.stop - each.start) / whole).long() + each.start
        for whole, each in zip(labels.shape[-2:], part, strict=True)
    )
    return np.asarray(seen, np.uint8), labels[:, rows][:, :, columns]


def cut_in(below: NDArray[np.uint8], above: NDArray[np.uint8], part: Part) -> NDArray[np.uint8]:
    """An image with a part of another."""
    mixed = below.copy()
    mixed[in_pixels(part)] = above[in_pixels(part)]
    return mixed


def cut_in_labels(below: Tensor, above: Tensor, part: Part) -> Tensor:
    """Labels int64 [1, h, w] with a part of others."""
    mixed = below.clone()
    mixed[:, part[0], part[1]] = above[:, part[0], part[1]]
    return mixed
