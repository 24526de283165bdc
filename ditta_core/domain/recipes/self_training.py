"""Plain self-training: the model's own labels, as many of every class. The row that the other methods must beat."""

from __future__ import annotations

from ditta_core.domain.frames import DriveFrames
from ditta_core.domain.labelling import ViewPredictor, label_drive
from ditta_core.domain.recipe import Batch, Losses, PseudoLabels, Recipe, label_loss


class SelfTraining(Recipe):
    """Cross-entropy with class-balanced pseudo-labels of single frames; "CRST" (ICCV 2019) without its terms."""

    def label(self, drive: DriveFrames, number: int) -> PseudoLabels | None:
        portion = min(self.config.portion + number * self.config.portion_step, 1.0)
        return label_drive(drive, ViewPredictor(self.model), portion, by_margin=True)

    def loss(self, batch: Batch) -> Losses:
        labels = batch.target.labels
        assert labels is not None
        scores = self.scores(self.embed(batch.target.images[-1:]), labels.shape[-2:])
        return {"labels": label_loss(scores, labels[-1:])}


class StrongerView(SelfTraining):
    """Self-training with labels from the best size of the network input, and the mirrored image, for a smaller one.

    What a robot has no time for when it drives, it can learn from when it stands.
    """

    stronger_view = True
