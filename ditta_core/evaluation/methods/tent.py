"""Tent: test entropy minimisation over the affine parameters of the normalisation layers.

Wang et al., "Tent: Fully Test-Time Adaptation by Entropy Minimization", ICLR 2021.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from ditta_core.evaluation.methods.online import (
    LEARNING_RATE,
    NothingToLearnError,
    OnlineAdapter,
    OnlineMethod,
    StepResult,
    optimizer_step,
)
from ditta_core.evaluation.methods.outputs import network_input, own_outputs
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.types import Frame

_NORMALISATIONS = (_NormBase, nn.LayerNorm, nn.GroupNorm)
"""Layers whose scale and shift are trained: BatchNorm and InstanceNorm, LayerNorm, GroupNorm."""


def _normalise_by_frame(model: nn.Module) -> None:
    """Make every BatchNorm normalise by the statistics of what it is given, and leave its running statistics alone.

    A map of a single value per channel has no variance (the pooled branch of a pyramid, for one frame): there, the
    layer goes on with the statistics of the training data.
    """

    def choose_statistics(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        layer.train(inputs[0][:, 0].numel() > 1)

    for layer in model.modules():
        if isinstance(layer, _BatchNorm):
            layer.track_running_stats = False
            layer.register_forward_pre_hook(choose_statistics)


class TentLearner(OnlineAdapter):
    """A copy of the model whose normalisation layers learn to make its predictions certain.

    Args:
        model: Unadapted model; shared and not changed.
        learning_rate: Learning rate of Adam, with the published betas (0.9, 0.999) and no weight decay.

    Raises:
        NothingToLearnError: the model has no normalisation layer with affine parameters.
    """

    def __init__(self, model: SegmentationModel, learning_rate: float = LEARNING_RATE) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        layers = [module for module in self.model.modules() if isinstance(module, _NORMALISATIONS)]
        parameters = [parameter for layer in layers for parameter in layer.parameters(recurse=False)]
        if not parameters:
            raise NothingToLearnError(
                "expected a model with normalisation layers that have a scale and a shift, but got one without any; "
                "the unadapted model goes on"
            )
        for parameter in parameters:
            parameter.requires_grad_(True)
        _normalise_by_frame(self.model)
        self.optimizer = torch.optim.Adam(parameters, lr=learning_rate)

    def learn(self, frame: Frame, input_size: tuple[int, int]) -> StepResult:
        outputs = self.outputs(frame, input_size)
        # From the logarithms: the gradient of p·log p is NaN where p is too small for a float.
        log_probabilities = outputs.log_softmax(1)
        entropy = -(log_probabilities.exp() * log_probabilities).sum(1)
        loss = optimizer_step(entropy.mean(), self.optimizer)
        return StepResult(outputs.detach(), loss)

    def outputs(self, frame: Frame, input_size: tuple[int, int]) -> Tensor:
        return own_outputs(self.model, network_input(self.model, frame, input_size))


class Tent(OnlineMethod):
    """Entropy minimisation (Tent) with one step per warm-up frame, then frozen.

    As published: BatchNorm normalises by the statistics of the frame itself, before and after freezing; scale and shift
    of all normalisation layers are trained on the mean entropy of the pixels, by Adam; a frame's mask comes from the
    forward pass that its loss is made of. Models with LayerNorm or GroupNorm have no statistics of training data to
    replace, and train the scale and shift alike.

    Ours: the entropy is taken over the model's own outputs at the size of its logits instead of the frame's, which
    saves an enlargement and differs by what it interpolates.
    """

    uses_warmup = True

    def new_learner(self) -> TentLearner:
        return TentLearner(self.model)


class TentOnline(Tent):
    """Tent as published: one step at every frame from the first on, never frozen."""

    uses_warmup = False
