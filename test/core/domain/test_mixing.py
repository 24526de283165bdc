"""Mixed clips: the same mask for image, label and flow, so that flow still leads from picture to picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from drives import ColourModel, PanningDrive

from ditta_core.domain.config import OfflineConfig
from ditta_core.domain.gather import gather
from ditta_core.domain.mixing import class_mask, draw_classes, paste
from ditta_core.domain.reading import read_drives
from ditta_core.domain.recipe import Clip
from ditta_core.domain.sampling import ClipSampler
from ditta_core.domain.windows import Window
from ditta_core.types import UNLABELLED

SIZE = (96, 128)


def pan(step: int, seed: int) -> Clip:
    """Two frames of a camera that slides by a whole number of pixels of label maps; the flow is exact."""
    drive = PanningDrive(2, SIZE, step=2 * abs(step), seed=seed)
    order = (0, 1) if step > 0 else (1, 0)  # the other way is the same in reverse
    images = np.stack([drive.image(index) for index in order])
    labels = torch.from_numpy(np.stack([drive.labels(index)[::2, ::2] for index in order]).astype(np.int64))
    flows = torch.zeros(1, 48, 64, 2)
    flows[..., 0] = step  # what is seen at x was at x + step before
    columns = torch.arange(64) + step
    confirmed = ((columns >= 0) & (columns <= 63)).expand(1, 48, 64).clone()
    return Clip(images, images, labels, flows, confirmed, (0, 1), Window(np.eye(3), SIZE))


def test_the_mixed_frame_before_warped_by_the_mixed_flow_is_the_mixed_frame() -> None:
    onto, patch = pan(3, 1), pan(-2, 2)
    assert patch.labels is not None
    mask = class_mask(patch.labels, [0])
    mixed = paste(onto, patch, mask)
    pictures = torch.from_numpy(mixed.plain[:, ::2, ::2].astype(np.float32)).permute(0, 3, 1, 2)
    carried, _ = gather(pictures[:1], mixed.flows)
    apart = (carried - pictures[1:]).abs().amax(1)
    assert mixed.confirmed.float().mean() > 0.6
    assert apart[mixed.confirmed].max() < 1e-3
    assert apart[~mixed.confirmed].mean() > 20, "what is covered or comes into view is not confirmed"
    assert mixed.labels is not None
    carried_labels, _ = gather(mixed.labels[:1, None].float(), mixed.flows)
    assert (carried_labels[:, 0].round().long() == mixed.labels[1:])[mixed.confirmed].all()


def test_inside_the_mask_is_the_one_clip_and_outside_the_other() -> None:
    onto, patch = pan(3, 1), pan(-2, 2)
    assert patch.labels is not None and onto.labels is not None
    mask = class_mask(patch.labels, [1, 2])
    mixed = paste(onto, patch, mask)
    assert mixed.labels is not None
    assert torch.equal(mixed.labels[mask], patch.labels[mask]) and torch.equal(mixed.labels[~mask], onto.labels[~mask])
    assert torch.equal(mixed.flows[mask[1:]], patch.flows[mask[1:]])
    large = mask.numpy().repeat(2, 1).repeat(2, 2)
    assert np.array_equal(mixed.plain[large], patch.plain[large])
    assert np.array_equal(mixed.images[~large], onto.images[~large])


def test_nothing_and_everything() -> None:
    onto, patch = pan(3, 1), pan(-2, 2)
    for value, whole in ((False, onto), (True, patch)):
        mixed = paste(onto, patch, torch.full((2, 48, 64), value))
        assert np.array_equal(mixed.plain, whole.plain) and torch.equal(mixed.flows, whole.flows)
        assert torch.equal(mixed.confirmed, whole.confirmed)


def test_clips_without_labels_are_not_mixed() -> None:
    drive = read_drives([PanningDrive(12)], (48, 64), 100)
    clip = ClipSampler(drive, None, ColourModel(), OfflineConfig(window=(32, 32)), 2, False).draw(
        np.random.default_rng(0)
    )
    with pytest.raises(ValueError, match="two clips with labels"):
        paste(clip, clip, torch.zeros(2, 16, 16, dtype=torch.bool))


def test_drawn_classes() -> None:
    labels = torch.full((2, 8, 8), UNLABELLED)
    labels[0, :4], labels[0, 4:], labels[1, :4], labels[1, 4, :3] = 0, 1, 2, 3  # the last with too few pixels
    random = np.random.default_rng(0)
    draws = [draw_classes(labels, 2, random) for _ in range(20)]
    assert all(len(each) == 2 for each in draws) and {index for each in draws for index in each} == {0, 1, 2}
    assert draw_classes(labels, 0, random, always=[1, 3, 7]) == [1]
    assert draw_classes(labels, 3, random, never=[0, 2]) == [1]
    assert draw_classes(torch.full((1, 4, 4), UNLABELLED), 2, random) == []
