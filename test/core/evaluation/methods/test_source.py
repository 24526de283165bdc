from __future__ import annotations

import numpy as np
import torch
from method_models import OUTPUTS, PUBLISHED, TinyModel, moving_frames

from ditta_core.evaluation.methods.base import MethodSetup
from ditta_core.evaluation.methods.source import Source, SourceMerged
from ditta_core.types import UNLABELLED

FRAME = moving_frames(1)[0]


def full_resolution_probabilities(model: TinyModel) -> torch.Tensor:
    """[len(OUTPUTS), H, W], resized step by step with torch alone."""
    pixels = torch.from_numpy(FRAME.image).permute(2, 0, 1)[None] / 255.0
    pixels = (pixels - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[
        :, None, None
    ]
    logits = model.classifier(model.head(model.backbone(pixels)))
    return torch.nn.functional.interpolate(logits, FRAME.size, mode="bilinear").softmax(1)[0]


def test_source_takes_the_likeliest_output_and_then_its_class() -> None:
    model = TinyModel()
    probabilities = full_resolution_probabilities(model).numpy()
    expected = np.full(FRAME.size, UNLABELLED)
    winner = probabilities.argmax(0)
    for output, name in enumerate(OUTPUTS.names):
        for class_id, members in enumerate(PUBLISHED.members):
            if name in members:
                expected[winner == output] = class_id
    segmentation = Source(MethodSetup(long_side=0), model).observe(FRAME)
    np.testing.assert_array_equal(segmentation.class_ids, expected)
    assert np.abs(segmentation.confidence / 255 - probabilities.max(0)).max() < 0.003
    assert set(np.unique(expected)) == {0, 1, UNLABELLED}


def test_source_merged_adds_up_first() -> None:
    model = TinyModel()
    road, grass, car, truck, sky = full_resolution_probabilities(model).numpy()
    merged = np.stack([road + grass, car + truck, sky])
    expected = np.array([0, 1, UNLABELLED])[merged.argmax(0)]
    ours = SourceMerged(MethodSetup(long_side=0), model).observe(FRAME)
    # Merging the logits before they are enlarged differs at the borders of the classes.
    assert np.mean(ours.class_ids != expected) < 0.02
    first_then_class = Source(MethodSetup(long_side=0), model).observe(FRAME).class_ids
    assert np.mean(first_then_class != expected) > 0.05


def test_both_are_the_same_where_the_classes_are_the_outputs() -> None:
    model = TinyModel(merged=False)
    one, other = (
        Source(MethodSetup(long_side=0), model).observe(FRAME),
        SourceMerged(MethodSetup(long_side=0), model).observe(FRAME),
    )
    np.testing.assert_array_equal(one.class_ids, other.class_ids)
    np.testing.assert_array_equal(one.confidence, other.confidence)
    assert len(np.unique(one.class_ids)) > 2
