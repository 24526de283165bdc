"""AdamW without a compiler."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class AdamW:
    """As ``torch.optim.AdamW``, without what that imports.

    Its first use in a process loads torch's compiler: 1.3 s and 71 MB, which the worker would bear for nothing.

    Args:
        parameters: changed in place; those without a gradient stay as they are.
    """

    DECAYS = 0.9, 0.999
    EPSILON = 1e-8

    def __init__(self, parameters: Sequence[nn.Parameter], learning_rate: float, weight_decay: float) -> None:
        self.parameters = parameters
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.moments: dict[nn.Parameter, tuple[Tensor, Tensor]] = {}
        self.steps: dict[nn.Parameter, int] = {}

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Move along the gradients."""
        for parameter in self.parameters:
            gradient = parameter.grad
            if gradient is None:
                continue
            if parameter not in self.moments:
                self.moments[parameter] = torch.zeros_like(parameter), torch.zeros_like(parameter)
            first, second = self.moments[parameter]
            count = self.steps[parameter] = self.steps.get(parameter, 0) + 1
            first.lerp_(gradient, 1 - self.DECAYS[0])
            second.mul_(self.DECAYS[1]).addcmul_(gradient, gradient, value=1 - self.DECAYS[1])
            parameter.mul_(1 - self.learning_rate * self.weight_decay)
            deviation = second.sqrt().div_(math.sqrt(1 - self.DECAYS[1] ** count)).add_(self.EPSILON)
            parameter.addcdiv_(first, deviation, value=-self.learning_rate / (1 - self.DECAYS[0] ** count))
