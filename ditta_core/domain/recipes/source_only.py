"""Training on the labelled source alone: where every method with a source begins, and the row that it must beat."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ditta_core.domain.recipe import Batch, Clip, Losses, Recipe, label_loss


class SourceOnly(Recipe):
    """Cross-entropy on the frames of the source, as they are."""

    needs_source = True
    recolours = False
    deployed_share = 1.0
    most_contradicted = 0.25  # true labels may put right what the model was sure of

    def loss(self, batch: Batch) -> Losses:
        return {"source": self.supervised(batch)}

    def supervised(self, batch: Batch, image: NDArray[np.uint8] | None = None) -> Tensor:
        """Cross-entropy on the last frame of the source clip, or on another image of the same places.

        Args:
            image: RGB uint8 [H, W, 3].
        """
        clip = source_of(batch)
        assert clip.labels is not None
        return label_loss(self.predict(clip.plain[-1] if image is None else image, clip), clip.labels[-1:])

    def predict(self, image: NDArray[np.uint8], clip: Clip) -> Tensor:
        """Logits of an RGB image uint8 [H, W, 3], float [1, C, h, w] at the size of the label maps of a clip."""
        return self.scores(self.embed(image[None]), clip.window.map_size)


def source_of(batch: Batch) -> Clip:
    """The labelled clip of a batch, which the driver provides for recipes that need a source."""
    assert batch.source is not None
    return batch.source
