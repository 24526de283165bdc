from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from method_models import SIZE, TinyModel, changed, copied, moving_frames

from ditta_core.evaluation.methods.base import MethodSetup
from ditta_core.evaluation.methods.online import NothingToLearnError
from ditta_core.evaluation.methods.source import SourceMerged
from ditta_core.evaluation.methods.tent import Tent, TentLearner, TentOnline

FRAMES = moving_frames(4)
FAST = 1e-2


@pytest.mark.parametrize("normalisation", ["batch", "layer", "group"])
def test_entropy_falls_and_only_scale_and_shift_change(normalisation: str) -> None:
    learner = TentLearner(TinyModel(normalisation), FAST)
    before = copied(learner.model)
    losses = [learner.learn(FRAMES[0], SIZE).loss for _ in range(10)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.9 * losses[0]
    assert changed(before, learner.model.state_dict()) == {
        "backbone.1.weight",
        "backbone.1.bias",
        "head.1.weight",
        "head.1.bias",
    }


def test_loss_is_the_mean_entropy_of_the_outputs() -> None:
    result = TentLearner(TinyModel(), FAST).learn(FRAMES[0], SIZE)
    assert result.outputs.shape == (1, 5, 32, 48)
    probabilities = result.outputs[0].softmax(0).numpy().astype(float)
    assert result.loss == pytest.approx(-(probabilities * np.log(probabilities)).sum(0).mean(), rel=1e-5)


def test_first_step_is_that_of_adam_at_the_published_rate() -> None:
    learner = TentLearner(TinyModel())
    before = copied(learner.model)
    learner.learn(FRAMES[0], SIZE)
    moved = torch.cat(
        [(learner.model.state_dict()[name] - before[name]).abs() for name in ("head.1.bias", "backbone.1.bias")]
    )
    assert moved.max().item() == pytest.approx(7.5e-6, rel=1e-3)


def test_batchnorm_normalises_by_the_frame_itself() -> None:
    model = TinyModel()
    by_frame = copy.deepcopy(model).train()
    pixels = model.preprocess(FRAMES[0].image[None], SIZE, torch.device("cpu"))
    expected = by_frame.classify_outputs(by_frame.decode(by_frame.encode(pixels)))
    ours = TentLearner(model, FAST).outputs(FRAMES[0], SIZE)
    torch.testing.assert_close(ours, expected)
    assert not torch.allclose(ours, model.classify_outputs(model.decode(model.encode(pixels))), atol=0.05)


def test_layer_with_one_value_per_channel_keeps_the_source_statistics() -> None:
    model = TinyModel(pooled=True)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        copy.deepcopy(model).train()(torch.zeros(1, 3, *SIZE))
    learner = TentLearner(model, FAST)
    losses = [learner.learn(FRAMES[0], SIZE).loss for _ in range(3)]
    assert losses == sorted(losses, reverse=True)


def test_mask_comes_from_the_forward_pass_of_the_loss() -> None:
    """The online form shows every frame as the model was before it learned from that frame."""
    model = TinyModel()
    online, learner = TentOnline(MethodSetup(long_side=0), model), TentLearner(model)
    frozen = Tent(MethodSetup(long_side=0), model)
    for frame in FRAMES[:2]:
        frozen.learner = learner
        np.testing.assert_array_equal(online.observe(frame).confidence, frozen.observe(frame).confidence)
        learner.learn(frame, SIZE)


def test_model_without_normalisation_stays_as_it_is() -> None:
    model = TinyModel("none")
    with pytest.raises(NothingToLearnError, match="normalisation layers"):
        TentLearner(model, FAST)
    method = Tent(MethodSetup(long_side=0), model)
    report = method.prepare(FRAMES)
    assert report is not None and not report.succeeded and "normalisation layers" in report.reason
    for any_of_both in (method, TentOnline(MethodSetup(long_side=0), model)):
        ours, expected = (
            any_of_both.observe(FRAMES[0]),
            SourceMerged(MethodSetup(long_side=0), model).observe(FRAMES[0]),
        )
        np.testing.assert_array_equal(ours.confidence, expected.confidence)
        assert ours.generation == 0


def test_a_model_sure_of_everything_learns_on() -> None:
    """Probabilities of most outputs are too small for a float: their logarithms still have a gradient."""
    model = TinyModel()
    with torch.no_grad():
        model.classifier.weight.mul_(400)
    learner = TentLearner(model, FAST)
    assert (learner.outputs(FRAMES[1], SIZE).softmax(1) == 0).any()
    before = copied(learner.model)
    losses = [learner.learn(FRAMES[1], SIZE).loss for _ in range(2)]
    assert np.isfinite(losses).all()
    after = learner.model.state_dict()
    assert "head.1.weight" in changed(before, after)
    assert all(value.isfinite().all() for value in after.values())


def test_online_tells_of_the_steps_that_it_left_out() -> None:
    online = TentOnline(MethodSetup(long_side=0), TinyModel())
    online.observe(FRAMES[0])
    report = online.learned()
    assert report is not None and report.succeeded and not report.refused
    online.model = TinyModel("none")
    online.reset()
    for frame in FRAMES[:3]:
        online.observe(frame)
    report = online.learned()
    assert report is not None and not report.succeeded and report.steps == 0
    assert report.reason.startswith("3 of 3 steps were left out: expected a model with normalisation layers")
    assert Tent(MethodSetup(long_side=0), TinyModel()).learned() is None
