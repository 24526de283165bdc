"""CoTTA: an averaged teacher over augmentations, a student that follows it, and restoring at random.

Wang et al., "Continual Test-Time Domain Adaptation", CVPR 2022.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ditta_core.adaptation.averaging import average_
from ditta_core.evaluation.methods.online import LEARNING_RATE, OnlineAdapter, OnlineMethod, StepResult, optimizer_step
from ditta_core.evaluation.methods.outputs import network_input, own_outputs
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.types import Frame


@dataclass(frozen=True)
class CoTTAConfig:
    """Settings of CoTTA, with the published values for segmentation (Cityscapes → ACDC).

    Attributes:
        scales: Scales of the network input, each taken as it is and mirrored: 14 augmentations.
        confidence: Confidence of the source model above which the teacher is asked without augmentations.
        momentum: Momentum of the teacher, a moving average of the student's weights.
        restore: Probability of a weight to go back to the source's after a step.
        learning_rate: Learning rate of Adam, with the published betas (0.9, 0.999) and no weight decay.
    """

    scales: tuple[float, ...] = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
    confidence: float = 0.69
    momentum: float = 0.999
    restore: float = 0.01
    learning_rate: float = LEARNING_RATE


def scaled_size(size: tuple[int, int], scale: float, multiple: int) -> tuple[int, int]:
    """Network input (height, width) times ``scale``, each side rounded to a multiple and at least one.

    >>> scaled_size((480, 640), 0.75, 16)
    (352, 480)
    """
    height, width = (max(multiple, round(side * scale / multiple) * multiple) for side in size)
    return height, width


class CoTTALearner(OnlineAdapter):
    """Source, student and teacher; all normalise by the statistics of the training data, as published.

    Args:
        model: Source model; shared and not changed.
        seed: Seed of the choice of weights that are restored.
    """

    def __init__(self, model: SegmentationModel, config: CoTTAConfig, seed: int) -> None:
        self.config = config
        self.source = model
        self.student = copy.deepcopy(model).eval().requires_grad_(True)
        self.teacher = copy.deepcopy(model).eval().requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.student.parameters(), lr=config.learning_rate)
        self.random = torch.Generator(model.mean.device).manual_seed(seed)

    def learn(self, frame: Frame, input_size: tuple[int, int]) -> StepResult:
        with torch.no_grad():
            outputs = self.outputs(frame, input_size)
        pixels = network_input(self.student, frame, input_size)
        logits = self.student.enlarge_logits(own_outputs(self.student, pixels), input_size)
        loss = optimizer_step(F.cross_entropy(logits, outputs.argmax(1)), self.optimizer)
        average_(self.teacher, self.student, self.config.momentum)
        self.restore()
        return StepResult(outputs, loss)

    def outputs(self, frame: Frame, input_size: tuple[int, int]) -> Tensor:
        """The pseudo-label: log-probabilities of the teacher, averaged over augmentations where the source is unsure.

        The augmentations, 25 times the work of one forward pass, are left out where the source is sure of every pixel.
        """
        pixels = network_input(self.source, frame, input_size)
        sure = self.probabilities(self.source, pixels, input_size).amax(1, keepdim=True) > self.config.confidence
        single = self.probabilities(self.teacher, pixels, input_size)
        if not bool(sure.all()):
            single = torch.where(sure, single, self.augmented(frame, input_size))
        return single.clamp_min(torch.finfo(single.dtype).tiny).log()

    def augmented(self, frame: Frame, input_size: tuple[int, int]) -> Tensor:
        """Mean probabilities of the teacher over the scales and their mirror images, float [1, C, *input_size]."""
        total = torch.zeros((), device=self.teacher.mean.device)
        for scale in self.config.scales:
            size = scaled_size(input_size, scale, self.teacher.size_multiple)
            pixels = network_input(self.teacher, frame, size)
            # One after the other: a batch of two takes the CPU more than twice the time of one.
            total = total + self.probabilities(self.teacher, pixels, input_size)
            total = total + self.probabilities(self.teacher, pixels.flip(-1), input_size).flip(-1)
        return total / (2 * len(self.config.scales))

    @staticmethod
    def probabilities(model: SegmentationModel, pixels: Tensor, size: tuple[int, int]) -> Tensor:
        """Softmax of the model's own outputs at ``size``, float [1, C, *size]."""
        return model.enlarge_logits(own_outputs(model, pixels), size).softmax(1)

    @torch.no_grad()
    def restore(self) -> None:
        """Put every weight of the student back to the source's with probability p."""
        for value, original in zip(self.student.parameters(), self.source.parameters(), strict=True):
            chosen = torch.rand(value.shape, generator=self.random, device=value.device) < self.config.restore
            value.copy_(torch.where(chosen, original, value))


class CoTTA(OnlineMethod):
    """Averaged teacher and augmentations (CoTTA) with one step per warm-up frame, then frozen.

    As published for segmentation: all weights are trained, by Adam on the cross-entropy with the pseudo-label; that is,
    pixel by pixel, the teacher's prediction where the source model is surer than 0.69, and the mean of its predictions
    on 14 augmentations (scales 0.5 to 2, mirrored) elsewhere; it is the mask of the frame too, also after freezing. The
    teacher averages the student's weights with a momentum of 0.999, so that in the few steps of a warm-up it hardly
    leaves the source, and most of what CoTTA changes are the augmentations.
    """

    uses_warmup = True
    config = CoTTAConfig()

    def new_learner(self) -> CoTTALearner:
        return CoTTALearner(self.model, self.config, self.setup.seed)


class CoTTAOnline(CoTTA):
    """CoTTA as published: one step at every frame from the first on, never frozen."""

    uses_warmup = False
