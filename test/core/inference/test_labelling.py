"""The label image, against the interpolation of every class."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from ditta_core.inference import labelling
from ditta_core.inference.labelling import label_frame, largest, take_labels
from ditta_core.segmentation.registry import load_model
from ditta_core.segmentation.source import ModelSource
from ditta_core.types import Segmentation


def dense(maps: torch.Tensor, size: tuple[int, int], align_corners: bool) -> torch.Tensor:
    return F.interpolate(maps[None], size, mode="bilinear", align_corners=align_corners)[0]


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    channels=st.integers(1, 12),
    low=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    high=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    align_corners=st.booleans(),
    smooth=st.booleans(),
)
def test_equals_the_interpolation_of_every_class(
    seed: int, channels: int, low: tuple[int, int], high: tuple[int, int], align_corners: bool, smooth: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn((channels, *low), generator=generator)
    if smooth:  # few borders
        maps = F.interpolate(maps[None, :, :2, :2], low, mode="bilinear")[0]
    maps = maps.softmax(0)
    expected = dense(maps, high, align_corners)
    value, winner = largest(maps.clone(), high, align_corners)
    np.testing.assert_allclose(value, expected.amax(0), atol=2e-6)
    # Where two classes are equal but for rounding, either is right.
    reached = expected.gather(0, torch.from_numpy(winner.astype(np.int64))[None])[0]
    np.testing.assert_allclose(reached, expected.amax(0), atol=2e-6)


def test_many_borders_are_done_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = torch.rand(5, 12, 16)
    whole = largest(maps, (48, 64), False)
    monkeypatch.setattr(labelling, "BORDER_PIXELS", 7)
    parts = largest(maps, (48, 64), False)
    assert torch.equal(parts[0], whole[0])
    np.testing.assert_array_equal(parts[1], whole[1])


def test_the_labels_of_a_frame() -> None:
    model = load_model(ModelSource())
    probabilities = torch.randn(1, model.class_map.channels, 23, 31).softmax(1)
    size = (90, 120)
    ids, confidence = label_frame(model, probabilities, size)
    expected = model.enlarge_logits(probabilities, size)[0]
    assert (ids.dtype, ids.shape, confidence.dtype, confidence.shape) == (np.uint8, size, np.uint8, size)
    winner = expected.argmax(0).numpy()
    assert (ids == model.class_map.label_image(winner)).mean() > 0.999
    assert np.abs(confidence - expected.amax(0).mul(255).numpy()).max() <= 0.51
    same_ids, same_confidence = label_frame(model, torch.from_numpy(expected.numpy())[None], size)
    np.testing.assert_array_equal(same_ids, model.class_map.label_image(winner))
    assert np.abs(same_confidence.astype(int) - confidence).max() <= 1


@pytest.mark.parametrize(("dtype", "unlabelled"), [(np.uint8, 255), (np.uint16, 65535)])
def test_pixels_that_are_to_have_no_class(dtype: type, unlabelled: int) -> None:
    ids = np.array([[0, 1, 2, unlabelled, 3]], dtype)
    confidence = np.array([[127, 128, 255, 200, 255]], np.uint8)
    ignored = np.array([[False, False, False, False, True]])
    segmentation = Segmentation(ids.copy(), confidence.copy(), generation=0)
    take_labels(segmentation, unlabelled, 0.0, None)
    assert segmentation.class_ids.tolist() == ids.tolist()
    assert segmentation.confidence.tolist() == [[127, 128, 255, 0, 255]]
    take_labels(segmentation, unlabelled, 0.5, ignored)
    assert segmentation.class_ids.tolist() == [[unlabelled, 1, 2, unlabelled, unlabelled]]
    assert segmentation.confidence.tolist() == [[0, 128, 255, 0, 0]]
    take_labels(segmentation, unlabelled, 1.0, None)
    assert segmentation.class_ids.tolist() == [[unlabelled, unlabelled, 2, unlabelled, unlabelled]]
