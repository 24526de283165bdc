"""The frames of recorded drives that an adaptation learns from, and the clips that its steps see of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from ditta_core.domain.windows import STRIDE
from ditta_core.flow import FlowEstimator
from ditta_core.teacher.dense_flow import Link


def resize_image(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """RGB uint8 [H, W, 3] at another size (height, width), as ``SegmentationModel.preprocess`` resizes on a CPU."""
    if image.shape[:2] == tuple(size):
        return image
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
    pixels = F.interpolate(pixels, size, mode="bilinear", align_corners=False, antialias=True)
    return np.ascontiguousarray(pixels[0].permute(1, 2, 0).numpy())


@dataclass
class DriveFrames:
    """Frames in memory; those of a stretch follow each other in time.

    Attributes:
        images: RGB uint8 [H, W, 3] each, at the size of the network input or larger.
        input_size: Network input (height, width).
        stretches: Ranges of indices, which together are all frames.
        labels: True labels of a source as channels of the published classes, uint8 [n, h, w] at the size of label maps;
            None for targets.
        held_out: Frames that are not trained on, RGB uint8 like ``images``.
        ignored: Pixels of every frame that are not learned from, bool [h, w] at the size of label maps; None for none.
    """

    images: list[NDArray[np.uint8]]
    input_size: tuple[int, int]
    stretches: list[range]
    labels: NDArray[np.uint8] | None = None
    held_out: list[NDArray[np.uint8]] = field(default_factory=list)
    ignored: NDArray[np.bool_] | None = None
    _links: dict[tuple[int, int], Link] = field(default_factory=dict, repr=False)
    _estimator: FlowEstimator = field(default_factory=FlowEstimator, repr=False)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def map_size(self) -> tuple[int, int]:
        """Height and width of label maps and flow."""
        return self.input_size[0] // STRIDE, self.input_size[1] // STRIDE

    def digest(self) -> bytes:
        """A checksum of all that is learned from: sizes, stretches, images and true labels; 32 bytes."""
        digest = hashlib.sha256(repr((self.input_size, self.stretches)).encode())
        for array in (*self.images, *(() if self.labels is None else self.labels)):
            digest.update(repr(array.shape).encode() + array.tobytes())
        return digest.digest()

    def image(self, index: int) -> NDArray[np.uint8]:
        """Frame ``index`` at the size of the network input."""
        return resize_image(self.images[index], self.input_size)

    def link(self, index: int, neighbour: int) -> Link:
        """How the pixels of a frame continue in the one before or after it of its stretch, at the size of label maps.

        Computed once, both ways, and kept in half precision: exact to a 32nd of a pixel up to 64 pixels.
        """
        if (index, neighbour) not in self._links:
            one, other = (self._estimator.prepare(self.image(each)) for each in (index, neighbour))
            there = self._estimator.flow(other, one, self.map_size)
            back = self._estimator.flow(one, other, self.map_size)
            for key, flow, opposite in (((index, neighbour), there, back), ((neighbour, index), back, there)):
                link = Link.between(flow, opposite)
                self._links[key] = Link(link.flow.astype(np.float16), link.consistent)
        link = self._links[index, neighbour]
        return Link(link.flow.astype(np.float32), link.consistent)

    def pairs(self) -> Iterator[tuple[int, int]]:
        """All frames that have a predecessor, each with it."""
        for stretch in self.stretches:
            yield from zip(stretch[1:], stretch[:-1], strict=True)

    def confirmed_share(self, most: int = 20) -> float:
        """Share of the pixels whose flow the check confirms, over evenly spread pairs; 0 where there are none."""
        pairs = list(self.pairs())
        if not pairs:
            return 0.0
        places = np.unique(np.linspace(0, len(pairs) - 1, most).round().astype(int))
        return float(np.mean([self.link(*pairs[place]).consistent.mean() for place in places]))
