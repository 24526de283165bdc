from __future__ import annotations

import numpy as np
import pytest
import torch
from core_models import REFERENCE, HeadOnly, golden_features, golden_segmenter
from torch import Tensor

from ditta_core.inference.temporal_branch import TemporalSegmenter, local_attention


def dense_attention(query: Tensor, key: Tensor, value: Tensor, radius: int) -> Tensor:
    """All pixels against all pixels, masked to the window: the published formulation."""
    count, _, height, width = query.shape
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    place = torch.stack([rows.flatten(), columns.flatten()], 1)
    distance = (place[:, None] - place[None]).abs().amax(-1)
    scores = query.flatten(2).transpose(1, 2) @ key.flatten(2)
    scores = scores.masked_fill(distance > radius, -torch.inf)
    return (scores.softmax(-1) @ value.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(count, -1, height, width)


@pytest.mark.parametrize(
    ("height", "width", "radius"), [(6, 7, 2), (1, 1, 5), (8, 16, 5), (19, 33, 5), (40, 3, 3), (9, 9, 0)]
)
def test_window_equals_dense(height: int, width: int, radius: int) -> None:
    torch.manual_seed(height * width)
    query, key = torch.randn(2, 2, 5, height, width)
    value = torch.randn(2, 3, height, width)
    expected = dense_attention(query, key, value, radius)
    torch.testing.assert_close(local_attention(query, key, value, radius), expected, atol=1e-5, rtol=0)


def test_gradients_equal_dense() -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(1, channels, 11, 13, requires_grad=True) for channels in (4, 4, 3)]
    weights = torch.randn(1, 3, 11, 13)
    ours = torch.autograd.grad((local_attention(*inputs, 3) * weights).sum(), inputs)
    dense = torch.autograd.grad((dense_attention(*inputs, 3) * weights).sum(), inputs)
    for mine, theirs in zip(ours, dense, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


def test_zero_query_is_the_box_mean() -> None:
    value = torch.rand(1, 2, 6, 7)
    ones = torch.nn.functional.avg_pool2d(torch.ones_like(value), 5, 1, 2, divisor_override=1)
    expected = torch.nn.functional.avg_pool2d(value, 5, 1, 2, divisor_override=1) / ones
    result = local_attention(torch.zeros(1, 4, 6, 7), torch.randn(1, 4, 6, 7), value, 2)
    torch.testing.assert_close(result, expected)


def test_constant_value_stays_whatever_the_keys() -> None:
    value = torch.tensor([1.0, -2.0]).view(1, 2, 1, 1).expand(1, 2, 9, 10)
    result = local_attention(torch.randn(1, 4, 9, 10) * 30, torch.randn(1, 4, 9, 10) * 30, value, 5)
    torch.testing.assert_close(result, value.contiguous())


def test_golden_head() -> None:
    golden = np.load(REFERENCE / "head_forward.npz")
    segmenter = golden_segmenter(golden, "head.", classes=6, radius=2).eval()
    with torch.no_grad():
        frame, temporal, embedding = segmenter.decode_clip(golden_features(golden, "in.c"))
        projected = segmenter.proj_feat(embedding)
    assert temporal is not None
    np.testing.assert_allclose(frame[0], golden["out.logits"][0], atol=1e-5)
    np.testing.assert_allclose(temporal[0], golden["out.logits"][1], atol=1e-5)
    np.testing.assert_allclose(projected, golden["out.feat"], atol=1e-5)


def test_streaming_equals_pairwise() -> None:
    """Keys and logits kept from the frame before give what encoding both frames again gives."""
    torch.manual_seed(1)
    segmenter = TemporalSegmenter(HeadOnly(6), radius=3).eval()
    levels = [torch.randn(4, channels, 16 // 2**k, 24 // 2**k) for k, channels in enumerate((8, 12, 16, 24))]
    memory = None
    with torch.no_grad():
        for index in range(4):
            embedding = segmenter.model.decode([level[index : index + 1] for level in levels])
            logits = segmenter.model.classify(embedding)
            if memory is not None:
                frame, temporal, _ = segmenter.decode_clip([level[index - 1 : index + 1] for level in levels])
                torch.testing.assert_close(logits, frame, atol=1e-4, rtol=0)
                torch.testing.assert_close(segmenter.temporal_logits(embedding, memory), temporal, atol=1e-4, rtol=0)
            memory = segmenter.make_memory(embedding, logits)


def test_one_frame_has_no_temporal_branch() -> None:
    segmenter = TemporalSegmenter(HeadOnly(3)).eval()
    features = [torch.randn(1, channels, 8, 8) for channels in (8, 12, 16, 24)]
    assert segmenter.decode_clip(features)[1] is None


def test_same_seed_same_start() -> None:
    first, second = TemporalSegmenter(HeadOnly(3)), TemporalSegmenter(HeadOnly(3))
    assert torch.equal(first.query_layer[0].weight, second.query_layer[0].weight)
    assert first.query_layer[0].weight.abs().max() <= 16**-0.5, "fan-in uniform, as published"
    third = TemporalSegmenter(HeadOnly(3), seed=1)
    assert not torch.equal(first.query_layer[0].weight, third.query_layer[0].weight)
