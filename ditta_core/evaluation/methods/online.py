"""Methods that learn by one step per frame: of the warm-up in time order, then frozen; or online, as published.

Online, they learn from every frame from the first on, indefinitely and without a warm-up.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ditta_core.adaptation.trainer import NonFiniteLossError
from ditta_core.evaluation.methods.base import Method, MethodSetup
from ditta_core.evaluation.methods.outputs import mask_of_outputs, network_input, own_outputs
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.types import AdaptationReport, Frame, Segmentation

LEARNING_RATE = 6e-5 / 8
"""Of Adam, for segmentation models fed one frame at a time: Wang et al., "Continual Test-Time Domain Adaptation", CVPR
2022, for their own method and for Tent on Cityscapes → ACDC. Tent's own rule, 1e-3 for batches of 128 and lowered in
proportion to the batch, comes to nearly the same, 7.8e-6."""


class NothingToLearnError(RuntimeError):
    """The model has no parameter of the kind that the method trains; the unadapted model goes on."""


@dataclass(frozen=True)
class StepResult:
    """What came of one frame.

    Attributes:
        outputs: Logits of the model's own outputs that the frame's mask is made of, float [1, len(outputs), h, w].
        loss: Loss before the step.
    """

    outputs: Tensor
    loss: float


class OnlineAdapter(ABC):
    """One or more copies of a model that learn from frames."""

    @abstractmethod
    def learn(self, frame: Frame, input_size: tuple[int, int]) -> StepResult:
        """Segment a frame and take one step on it.

        Raises:
            NonFiniteLossError: the loss or its gradient is NaN or infinite; nothing was changed.
        """

    @abstractmethod
    def outputs(self, frame: Frame, input_size: tuple[int, int]) -> Tensor:
        """Segment a frame and change nothing; see :attr:`StepResult.outputs`."""


def optimizer_step(loss: Tensor, optimizer: torch.optim.Optimizer) -> float:
    """Take one step and return the loss before it.

    Raises:
        NonFiniteLossError: the loss or its gradient is NaN or infinite; no step was made.
    """
    value = loss.item()
    if not np.isfinite(value):
        raise NonFiniteLossError(f"expected a finite loss, but got {value}")
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
    norm = torch.stack([parameter.grad.norm() for parameter in parameters if parameter.grad is not None]).norm().item()
    if not np.isfinite(norm):
        raise NonFiniteLossError(f"expected a finite gradient, but got one of norm {norm} for a loss of {value:g}")
    optimizer.step()
    return value


class OnlineMethod(Method):
    """A method of one step per frame: frozen after the warm-up, or online where ``uses_warmup`` is off.

    Before a warm-up, and after one that failed, it is the unadapted model. Online, it leaves out the steps whose loss
    is not finite, of which :meth:`learned` tells, and its generation is the number of steps made before the frame.
    """

    def __init__(self, setup: MethodSetup, model: SegmentationModel) -> None:
        super().__init__(setup, model)
        self.learner: OnlineAdapter | None = None
        self.generation, self.left_out, self.first_failure = 0, 0, ""

    @abstractmethod
    def new_learner(self) -> OnlineAdapter:
        """A learner that has seen no frame yet.

        Raises:
            NothingToLearnError: the model has no parameter of the kind that the method trains.
        """

    def prepare(self, warmup: Sequence[Frame]) -> AdaptationReport | None:
        if not self.uses_warmup:
            return None
        self.reset()
        start = time.perf_counter()
        losses: list[float] = []
        try:
            learner = self.new_learner()
            for frame in warmup:
                losses.append(learner.learn(frame, self.input_size(frame)).loss)  # noqa: PERF401 (kept when one raises)
            self.learner, self.generation, reason = learner, 1, "adapted"
        except (NothingToLearnError, NonFiniteLossError) as error:
            reason = str(error)
        return AdaptationReport(
            succeeded=self.learner is not None,
            reason=reason,
            frames=len(warmup),
            steps=len(losses),
            seconds=time.perf_counter() - start,
            losses=(float(np.mean(losses)),) if losses else (),
        )

    def observe(self, frame: Frame) -> Segmentation:
        input_size, generation = self.input_size(frame), self.generation
        outputs = self._frozen_outputs(frame, input_size) if self.uses_warmup else self._step(frame, input_size)
        return mask_of_outputs(self.model, outputs, input_size, frame, generation)

    @torch.inference_mode()
    def _frozen_outputs(self, frame: Frame, input_size: tuple[int, int]) -> Tensor:
        """Outputs of the learner, or of the unadapted model where there is none."""
        if self.learner is None:
            return own_outputs(self.model, network_input(self.model, frame, input_size))
        return self.learner.outputs(frame, input_size)

    def _step(self, frame: Frame, input_size: tuple[int, int]) -> Tensor:
        """Outputs for a frame, and one step on it."""
        try:
            if self.learner is None:
                self.learner = self.new_learner()
            result = self.learner.learn(frame, input_size)
        except (NothingToLearnError, NonFiniteLossError) as error:
            self.left_out += 1
            self.first_failure = self.first_failure or str(error)
            return self._frozen_outputs(frame, input_size)
        self.generation += 1
        return result.outputs

    def learned(self) -> AdaptationReport | None:
        if self.uses_warmup:
            return None
        frames = self.generation + self.left_out
        reason = (
            f"{self.left_out} of {frames} steps were left out: {self.first_failure}" if self.left_out else "adapted"
        )
        return AdaptationReport(
            succeeded=self.generation > 0,
            reason=reason,
            frames=frames,
            steps=self.generation,
            refused=self.first_failure,
        )

    def reset(self) -> None:
        self.learner = None
        self.generation, self.left_out, self.first_failure = 0, 0, ""
