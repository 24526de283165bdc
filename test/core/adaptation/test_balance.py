"""Classes that are kept: no class loses most of its mean probability to the training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ditta_core.adaptation.balance import add_offsets, class_offsets
from ditta_core.classes import ClassList, ClassMap
from ditta_core.segmentation.espnetv2 import ESPNetv2

SHARE = 0.8


def random_logits(seed: int, classes: int = 4) -> torch.Tensor:
    return 3 * torch.randn((2, classes, 12, 16), generator=torch.Generator().manual_seed(seed))


@given(st.integers(0, 10**6), st.floats(0.1, 0.9), st.floats(-6, 6))
def test_every_class_keeps_its_share(seed: int, share: float, pushed: float) -> None:
    before = random_logits(seed).softmax(1)
    after = random_logits(seed + 1)
    after[:, 0] += pushed
    offsets = class_offsets(before, after, share)
    kept = (after + offsets[None, :, None, None]).softmax(1).mean((0, 2, 3)) / before.mean((0, 2, 3))
    assert float(kept.min()) > 0.95 * share
    assert float(offsets.min()) >= 0


def test_nothing_is_added_where_nothing_is_lost() -> None:
    logits = random_logits(3)
    assert torch.equal(class_offsets(logits.softmax(1), logits, SHARE), torch.zeros(4))
    assert torch.equal(class_offsets(random_logits(4).softmax(1), logits, 0.0), torch.zeros(4))


def test_a_class_of_two_is_raised_to_its_share_exactly() -> None:
    before = torch.tensor([0.6, 0.4])[None, :, None, None].expand(1, 2, 3, 3)
    after = torch.tensor([0.9, 0.1]).log()[None, :, None, None].expand(1, 2, 3, 3)
    raised = (after + class_offsets(before, after, 0.5)[None, :, None, None]).softmax(1)[0, :, 0, 0]
    np.testing.assert_allclose(raised, [0.8, 0.2], atol=1e-3)


@pytest.mark.parametrize("classes", ["", "merged"])
def test_offsets_of_published_classes_by_the_bias_of_the_outputs(classes: str) -> None:
    torch.manual_seed(1)
    model = ESPNetv2(ClassList.of_names(["road", "car", "truck", "tree"]), outputs=5).eval()
    if classes:  # tree belongs to none, and has a channel of its own
        model.set_classes(
            ClassMap.between(model.outputs, ClassList.from_yaml_value({"road": ["road"], "vehicle": ["car", "truck"]}))
        )
    embedding = torch.randn(1, model.embedding_dim, 8, 8)
    with torch.no_grad():
        before = model.classify(embedding)
        offsets = torch.arange(before.shape[1]) + 0.5
        add_offsets(model, offsets)
        torch.testing.assert_close(model.classify(embedding), before + offsets[None, :, None, None])


def test_a_model_without_such_a_bias_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ESPNetv2(ClassList.of_names(["a", "b"]))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with monkeypatch.context() as patch:
        patch.setattr(ESPNetv2, "output_bias", None)
        add_offsets(model, torch.ones(2))
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
