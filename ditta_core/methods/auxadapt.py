"""AuxAdapt: a frozen network and a small one beside it that learns from the decision of both.

Zhang et al., "AuxAdapt: Stable and Efficient Test-Time Adaptation for Temporally Consistent Video Semantic
Segmentation", WACV 2022.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ditta_core.methods.cotta import scaled_size
from ditta_core.methods.learning import FrameLearner, LearningMethod, Lesson, descend
from ditta_core.methods.outputs import network_input, own_outputs
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.types import Frame


@dataclass(frozen=True)
class AuxAdaptConfig:
    """Settings of AuxAdapt.

    Attributes:
        scale: of the auxiliary network's input relative to the main one's.
        learning_rate, momentum: of stochastic gradient descent.
    """

    scale: float = 0.5
    learning_rate: float = 1e-3
    momentum: float = 0.9


class AuxAdaptLearner(FrameLearner):
    """The main network, and an auxiliary one whose logits are added to its own.

    Args:
        model: the main network; shared and not changed. The auxiliary one shares its encoder.
    """

    def __init__(self, model: SegmentationModel, config: AuxAdaptConfig) -> None:
        self.config = config
        self.main = model
        self.auxiliary = copy.deepcopy(model, {id(model.encoder): model.encoder}).eval()
        parameters = self.auxiliary.decoder_parameters()
        for parameter in parameters:
            parameter.requires_grad_(True)
        self.optimizer = torch.optim.SGD(parameters, lr=config.learning_rate, momentum=config.momentum)

    def learn(self, frame: Frame, input_size: tuple[int, int]) -> Lesson:
        outputs = self.outputs(frame, input_size)
        loss = descend(F.cross_entropy(outputs, outputs.argmax(1)), self.optimizer)
        return Lesson(outputs.detach(), loss)

    def outputs(self, frame: Frame, input_size: tuple[int, int]) -> Tensor:
        """Sum of the logits of both networks, float [1, C, h, w] at the size of the main one's logits."""
        with torch.no_grad():
            main = own_outputs(self.main, network_input(self.main, frame, input_size))
            small = scaled_size(input_size, self.config.scale, self.auxiliary.size_multiple)
            features = self.auxiliary.encode(network_input(self.auxiliary, frame, small))
        auxiliary = self.auxiliary.classify_outputs(self.auxiliary.decode(features))
        return main + self.auxiliary.enlarge_logits(auxiliary, (main.shape[-2], main.shape[-1]))


class AuxAdapt(LearningMethod):
    """Frozen main network and a learning auxiliary one, with one step per warm-up frame, then frozen.

    As published: the logits of both networks are added up, their joint decision is the mask of the frame and the label
    that the auxiliary network is trained towards by cross-entropy, one step per frame.

    Ours: the paper takes a small network that was trained for the same classes. There is none for an arbitrary model,
    so the auxiliary network is the model itself at half the input size, a quarter of the work, with its decoder
    trained and its encoder frozen; it is there from the first frame, as a second opinion from another scale. The
    decision is made at the size of the logits, of which a mask is enlarged. Stochastic gradient descent with momentum
    and its learning rate are ours: the paper's depend on the network trained.
    """

    uses_warmup = True
    config = AuxAdaptConfig()

    def new_learner(self) -> AuxAdaptLearner:
        return AuxAdaptLearner(self.model, self.config)


class AuxAdaptOnline(AuxAdapt):
    """AuxAdapt as published: one step at every frame from the first on, never frozen."""

    uses_warmup = False
