"""TPS: a frame in another light is to show what the frame before it showed, carried along optical flow.

Xing et al., "Domain Adaptive Video Segmentation via Temporal Pseudo Supervision", ECCV 2022. Our networks have no
fusion of two frames, so that the label is of the frame before alone. Two faults of the published code are mended: a
pair that is mirrored to be labelled is mirrored back before its labels are carried, and labels are only taken where the
flow is confirmed; ``OfflineConfig.published`` brings them back.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ditta_core.domain.frames import resize_image
from ditta_core.domain.gather import gather
from ditta_core.domain.photometric import Photometric, PhotometricRange
from ditta_core.domain.recipe import Batch, Clip, Losses, label_loss
from ditta_core.domain.recipes.source_only import SourceOnly, source_of
from ditta_core.domain.styles import match_histograms
from ditta_core.types import UNLABELLED

LIGHT = PhotometricRange(0.8, 0.8, 0.8, 0.2, jittered=0.8, blurred=0.6, grey=0.2, kernels=(5, 7, 9))
SCALES = (0.8, 1.19)


def carried_labels(probabilities: Tensor, flow: Tensor, wrongly_mirrored: bool = False) -> tuple[Tensor, Tensor]:
    """Likeliest classes of the frame before at the places of the frame, and which of them lie within it.

    Args:
        probabilities: of the frame before, float [1, C, h, w].
        flow: of the frame to the one before, float [1, h, w, 2].
        wrongly_mirrored: the published fault: carry the mirrored frame along the unmirrored flow, then mirror it back.

    Returns:
        int64 [1, h, w] and bool [1, h, w].
    """
    if wrongly_mirrored:
        carried, inside = gather(probabilities.flip(-1), flow)
        return carried.flip(-1).argmax(1), inside.flip(-1)
    carried, inside = gather(probabilities, flow)
    return carried.argmax(1), inside


class TPS(SourceOnly):
    """Source in the target's colours; target in another light and size, with labels from the frame before.

    Class attributes:
        target_weight: Weight of the target's term, as published for VIPER. At 1, as for SYNTHIA, 40 steps towards a
            dark drive are worth nothing, at 0.1 ten mIoU.
    """

    frames = 2
    published_faults = True
    target_weight: ClassVar[float] = 0.1

    def loss(self, batch: Batch) -> Losses:
        return self.temporal_losses(batch, self.label_last(batch))

    def temporal_losses(self, batch: Batch, labels: Tensor) -> dict[str, Tensor]:
        """The two terms, with labels int64 [1, h, w] of the last target frame."""
        clip = batch.target
        styled = match_histograms(source_of(batch).plain[-1], clip.plain[-1])
        seen = Photometric.draw(batch.random, LIGHT).image(clip.plain[-1])
        scores = self.predict(self.rescaled(seen, batch.random), clip)
        return {"source": self.supervised(batch, styled), "target": self.target_weight * label_loss(scores, labels)}

    @torch.no_grad()
    def label_last(self, batch: Batch) -> Tensor:
        """Labels of the last target frame from the one before, int64 [1, h, w], 255 where the flow is not confirmed."""
        clip = batch.target
        probabilities = self.predict(clip.plain[-2], clip).softmax(1)
        published = self.config.published
        labels, inside = carried_labels(probabilities, clip.flows[-1:], published and batch.random.random() < 0.5)
        return labels if published else labels.masked_fill(~(inside & followed(clip)[-1:]), UNLABELLED)

    def rescaled(self, image: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
        """An RGB image uint8 [H, W, 3] at another size that the model takes; as it is where it takes but one."""
        scale, multiple = random.uniform(*SCALES), self.model.size_multiple
        if self.model.fixed_input_size is not None:
            return image
        height, width = (max(multiple, round(side * scale / multiple) * multiple) for side in image.shape[:2])
        return resize_image(image, (height, width))


def followed(clip: Clip) -> Tensor:
    """Pixels that can be followed into the frame before, bool [T − 1, h, w]: all where it is the frame itself."""
    still = [before == after for before, after in zip(clip.frames[:-1], clip.frames[1:], strict=True)]
    return clip.confirmed | torch.tensor(still, device=clip.confirmed.device)[:, None, None]
