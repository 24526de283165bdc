"""AuxAdapt: a frozen network and a small one beside it that learns from the decision of both.

Zhang et al., "AuxAdapt: Stable and Efficient Test-Time Adaptation for Temporally Consistent Video Semantic
Segmentation", WACV 2022.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor

from ditta_core.evaluation.methods.online import OnlineAdapter, OnlineMethod, StepResult, optimizer_step
from ditta_core.evaluation.methods.outputs import network_input
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.types import Frame


class AuxAdaptLearner(OnlineAdapter):
    """The main network, and an auxiliary one whose logits are added to its own.

    Args:
        model: Main network; shared and not changed. The auxiliary one shares its encoder.
        learning_rate: Learning rate of stochastic gradient descent, chosen in docs/ablations.md#auxadapt.
        momentum: Momentum of stochastic gradient descent.
    """

    def __init__(self, model: SegmentationModel, learning_rate: float = 0.01, momentum: float = 0.9) -> None:
        self.main = model
        self.auxiliary = copy.deepcopy(model, {id(model.encoder): model.encoder}).eval()
        parameters = self.auxiliary.decoder_parameters()
        for parameter in parameters:
            parameter.requires_grad_(True)
        self.optimizer = torch.optim.SGD(parameters, lr=learning_rate, momentum=momentum)

    def learn(self, frame: Frame, input_size: tuple[int, int]) -> StepResult:
        outputs = self.outputs(frame, input_size)
        loss = optimizer_step(F.cross_entropy(outputs, outputs.argmax(1)), self.optimizer)
        return StepResult(outputs.detach(), loss)

    def outputs(self, frame: Frame, input_size: tuple[int, int]) -> Tensor:
        """Sum of the logits of both networks, float [1, C, h, w]."""
        with torch.no_grad():
            features = self.main.encode(network_input(self.main, frame, input_size))
            main = self.main.classify_outputs(self.main.decode(features))
        return main + self.auxiliary.classify_outputs(self.auxiliary.decode(features))


class AuxAdapt(OnlineMethod):
    """Learning auxiliary network (AuxAdapt) with one step per warm-up frame, then frozen.

    As published: the logits of both networks are added up, their joint decision is the mask of the frame and the label
    that the auxiliary network is trained towards by cross-entropy, one step per frame.

    Ours: the paper takes a small second network that was trained for the same classes. There is none for an arbitrary
    model, so the auxiliary network is a copy of the model's decoder on the features of its frozen encoder (compared
    with the whole model at half the input size in docs/ablations.md#auxadapt). The decision is made at the size of the
    logits. The optimiser's settings are ours too: the paper's belong to its networks.
    """

    uses_warmup = True

    def new_learner(self) -> AuxAdaptLearner:
        return AuxAdaptLearner(self.model)


class AuxAdaptOnline(AuxAdapt):
    """AuxAdapt as published: one step at every frame from the first on, never frozen."""

    uses_warmup = False
