"""FDA: source pictures with the low amplitudes of target pictures, and robust certainty on the target.

Yang & Soatto, "FDA: Fourier Domain Adaptation for Semantic Segmentation", CVPR 2020. One model in place of three: every
step draws one of the three widths. The second stage learns from pseudo-labels besides, without starting over.
"""

from __future__ import annotations

from torch import Tensor

from ditta_core.domain.frames import DriveFrames
from ditta_core.domain.labelling import ViewPredictor, label_drive
from ditta_core.domain.recipe import Batch, Losses, PseudoLabels, label_loss, normalised_entropy
from ditta_core.domain.recipes.source_only import SourceOnly, source_of
from ditta_core.domain.styles import as_image, fourier_style

WIDTHS = (0.01, 0.05, 0.09)
"""Half the side of the square of low frequencies, as a share of the shorter side."""
ENTROPY_WEIGHT = 0.005
LABELLED, CAP = 0.34, 0.9
"""Share of every class that is labelled in the second stage, and the confidence from which a pixel always is."""


def robust_entropy(probabilities: Tensor) -> Tensor:
    """(H² + 1e-8)² of the normalised entropy H, which is mild to the certain: float [N, C, h, w] -> [N, h, w]."""
    return (normalised_entropy(probabilities).square() + 1e-8).square()


class FDA(SourceOnly):
    """Cross-entropy on the restyled source, robust entropy of the target; from half of the schedule on also labels."""

    rounds = 2

    def label(self, drive: DriveFrames, number: int) -> PseudoLabels | None:
        if number == 0:
            return None
        return label_drive(drive, ViewPredictor(self.model), LABELLED, by_margin=False, cap=CAP)

    def loss(self, batch: Batch) -> Losses:
        clip = batch.target
        width = float(batch.random.choice(WIDTHS))
        styled = as_image(fourier_style(source_of(batch).plain[-1], clip.plain[-1], width))
        scores = self.predict(clip.plain[-1], clip)
        losses = {
            "source": self.supervised(batch, styled),
            "entropy": ENTROPY_WEIGHT * robust_entropy(scores.softmax(1)).mean(),
        }
        if clip.labels is not None:
            losses["labels"] = label_loss(scores, clip.labels[-1:])
        return losses
