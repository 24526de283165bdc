from __future__ import annotations

import pytest
import torch
from method_models import SIZE, TinyModel, changed, copied, moving_frames

from ditta_core.evaluation.methods.auxadapt import AuxAdaptLearner

FRAMES = moving_frames(2)


def outputs_of(model: TinyModel) -> torch.Tensor:
    pixels = model.preprocess(FRAMES[0].image[None], SIZE, torch.device("cpu"))
    return model.classifier(model.head(model.backbone(pixels)))


def test_logits_of_both_networks_add_up() -> None:
    model, other = TinyModel(), TinyModel()
    learner = AuxAdaptLearner(model)
    torch.testing.assert_close(learner.outputs(FRAMES[0], SIZE), 2 * outputs_of(model))
    for mine, theirs in zip(learner.auxiliary.decoder_parameters(), other.decoder_parameters(), strict=True):
        mine.data += 0.1
        theirs.data += 0.1
    torch.testing.assert_close(learner.outputs(FRAMES[0], SIZE), outputs_of(model) + outputs_of(other))


def test_only_the_decoder_of_the_auxiliary_network_learns() -> None:
    model = TinyModel()
    learner = AuxAdaptLearner(model, learning_rate=0.05)
    assert learner.main is model and learner.auxiliary.encoder is model.encoder
    before = copied(model)
    losses = [learner.learn(FRAMES[0], SIZE).loss for _ in range(10)]
    assert losses[-1] < 0.9 * losses[0]
    assert not changed(before, copied(model))
    assert changed(before, copied(learner.auxiliary)) == {
        f"{layer}.{part}" for layer in ("head.0", "head.1", "classifier") for part in ("weight", "bias")
    }


def test_learns_from_the_joint_decision_by_momentum() -> None:
    model = TinyModel()
    learning_rate, momentum = 0.1, 0.5
    learner = AuxAdaptLearner(model, learning_rate, momentum)
    weights = copied(learner.auxiliary)["classifier.bias"]
    velocity = torch.zeros_like(weights)
    for _ in range(2):
        bias = weights.clone().requires_grad_(True)
        shift = bias - learner.auxiliary.classifier.bias.detach()
        joint = learner.outputs(FRAMES[0], SIZE).detach() + shift[:, None, None]
        joint.log_softmax(1).amax(1).mean().neg().backward()
        assert bias.grad is not None
        velocity = momentum * velocity + bias.grad
        weights = weights - learning_rate * velocity
        result = learner.learn(FRAMES[0], SIZE)
        assert result.loss == pytest.approx(-joint.log_softmax(1).amax(1).mean().item(), rel=1e-5)
        torch.testing.assert_close(learner.auxiliary.classifier.bias.detach(), weights)
