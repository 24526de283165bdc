"""The annotated frames of sequences of which few are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ditta_core.datasets.base import SequenceView, VideoSequence


class Selection(SequenceView):
    """Some frames of a sequence, by their indices in order; their stamps stay."""

    def __init__(self, original: VideoSequence, indices: Sequence[int]) -> None:
        super().__init__(original)
        self.indices = indices

    def __len__(self) -> int:
        return len(self.indices)

    def image(self, index: int) -> NDArray[np.uint8]:
        return super().image(self.indices[index])

    def labels(self, index: int) -> NDArray[np.uint8] | None:
        return super().labels(self.indices[index])

    def is_labelled(self, index: int) -> bool:
        return super().is_labelled(self.indices[index])

    def stamp(self, index: int) -> int:
        return super().stamp(self.indices[index])

    def origin(self, index: int) -> str:
        return super().origin(self.indices[index])


def annotated_frames(sequences: Sequence[VideoSequence]) -> list[VideoSequence]:
    """The frames that have labels, each with the frame before it; sequences without any are left out.

    Raises:
        ValueError: no frame has labels.
    """
    found: list[VideoSequence] = []
    for sequence in sequences:
        labelled = [index for index in range(len(sequence)) if sequence.is_labelled(index)]
        if labelled:
            found.append(Selection(sequence, sorted({each for at in labelled for each in (max(at - 1, 0), at)})))
    if not found:
        raise ValueError(f"expected annotated frames in {[each.name for each in sequences]}, but got none")
    return found
