"""AdamW without a compiler."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw


class AdamW:
    """``torch.optim.AdamW`` by its functional form, which loads no compiler: docs/ablations.md#functional-adamw.

    Args:
        parameters: changed in place; those without a gradient stay as they are.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], learning_rate: float, weight_decay: float) -> None:
        self._parameters = parameters
        self._learning_rate, self._weight_decay = learning_rate, weight_decay
        self._state: dict[nn.Parameter, tuple[Tensor, Tensor, Tensor]] = {}

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self._parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Move along the gradients."""
        trained = [parameter for parameter in self._parameters if parameter.grad is not None]
        for parameter in trained:
            if parameter not in self._state:
                self._state[parameter] = torch.zeros_like(parameter), torch.zeros_like(parameter), torch.tensor(0.0)
        first, second, steps = ([self._state[parameter][part] for parameter in trained] for part in range(3))
        adamw(
            [*trained],
            [parameter.grad for parameter in trained if parameter.grad is not None],
            first,
            second,
            [],
            steps,
            foreach=False,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=self._learning_rate,
            weight_decay=self._weight_decay,
            eps=1e-8,
            maximize=False,
        )
