"""Pseudo-labels: what is predicted for them, and how often."""

from __future__ import annotations

import pytest
import torch
from drives import ColourModel, PanningDrive

from ditta_core.domain import labelling
from ditta_core.domain.labelling import ViewPredictor, label_drive
from ditta_core.domain.reading import read_drives

SIZE = (48, 64)


class CountingModel(ColourModel):
    """Counts the images that it has encoded."""

    encoded = 0

    def encode(self, pixels):
        self.encoded += len(pixels)
        return super().encode(pixels)


@pytest.mark.parametrize("kept", [0, 2, 10])
def test_frames_of_the_thresholds_are_predicted_once_as_far_as_they_fit(
    kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    drive = read_drives([PanningDrive(10, SIZE)], SIZE, 100)
    expected = label_drive(drive, ViewPredictor(ColourModel()), 0.5, by_margin=True)
    frame = torch.zeros(1, 3, *drive.map_size)
    monkeypatch.setattr(labelling, "LARGEST_MEMORY", kept * frame.numel() * frame.element_size())
    model = CountingModel()
    found = label_drive(drive, ViewPredictor(model), 0.5, by_margin=True)
    kept = min(kept, len(drive))
    assert model.encoded == 2 * (2 * len(drive) - kept)  # twice a frame, as it is and mirrored, for either pass
    assert (found.labels == expected.labels).all() and found.thresholds == expected.thresholds
