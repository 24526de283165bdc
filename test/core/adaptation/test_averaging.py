"""The moving average of weights."""

from __future__ import annotations

import copy

import torch
from torch import nn

from ditta_core.adaptation.averaging import average_


def test_trained_parameters_are_averaged_and_nothing_else() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    mean = copy.deepcopy(model)
    before = copy.deepcopy(mean.state_dict())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    model[1].running_mean.fill_(5)
    model[0].bias.requires_grad_(False)
    average_(mean, model, 0.9)
    after = mean.state_dict()
    torch.testing.assert_close(after["0.weight"], before["0.weight"] + 0.1)
    torch.testing.assert_close(after["0.bias"], before["0.bias"])
    torch.testing.assert_close(after["1.weight"], before["1.weight"] + 0.1)
    torch.testing.assert_close(after["1.running_mean"], before["1.running_mean"])


def test_without_momentum_it_is_a_copy() -> None:
    model, mean = nn.Linear(2, 3), nn.Linear(2, 3)
    average_(mean, model, 0.0)
    assert torch.equal(mean.weight, model.weight)
