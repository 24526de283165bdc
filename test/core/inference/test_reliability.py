from __future__ import annotations

import numpy as np
import scipy.stats
import torch
from core_models import REFERENCE

from ditta_core.inference.reliability import blend_branches, reliability


def test_golden() -> None:
    golden = np.load(REFERENCE / "reliability_fusion.npz")
    probabilities = torch.from_numpy(golden["prob"])
    np.testing.assert_allclose(reliability(probabilities[:1])[0], golden["iss_reliability"], atol=1e-6)
    np.testing.assert_array_equal(probabilities[0].argmax(0), golden["iss_pred"])
    blended, _ = blend_branches(probabilities[:1], probabilities[1:], float(golden["tau"]))
    np.testing.assert_array_equal(blended[0].argmax(0), golden["pred"])
    assert (golden["pred"] != golden["iss_pred"]).any(), "the golden blend must change something to prove anything"


def test_entropy_is_scipys() -> None:
    probabilities = torch.rand(2, 5, 4, 3).softmax(1)
    entropy = scipy.stats.entropy(probabilities.numpy(), axis=1)
    expected = 1 - entropy / entropy.max((1, 2), keepdims=True)
    np.testing.assert_allclose(reliability(probabilities), expected, atol=1e-5)


def test_uniform_is_unreliable_and_certain_is_reliable() -> None:
    assert reliability(torch.full((1, 4, 3, 3), 0.25)).abs().max() < 1e-6
    certain = torch.zeros(1, 4, 3, 3)
    certain[:, 2] = 1
    assert (reliability(certain) == 1).all()


def test_underflowing_probability_is_no_nan() -> None:
    logits = torch.tensor([0.0, 200.0]).view(1, 2, 1, 1).repeat(1, 1, 2, 2)
    logits[0, :, 0, 0] = 0
    assert reliability(logits.softmax(1)).isfinite().all()


def test_blend_where_neither_branch_knows_is_half_and_half() -> None:
    uniform = torch.full((1, 2, 2, 2), 0.5)
    blended, unreliable = blend_branches(uniform, uniform, 0.8)
    assert blended.isfinite().all() and unreliable.all()
    assert torch.allclose(blended, uniform)


def test_threshold_zero_leaves_the_frame_branch_alone() -> None:
    frame, temporal = torch.rand(2, 1, 3, 4, 4).softmax(2)
    blended, unreliable = blend_branches(frame, temporal, 0.0)
    assert torch.equal(blended, frame) and not unreliable.any()
