from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from ditta_core.adaptation.batchnorm import (
    EARLY_LAYERS,
    blend_encoder_statistics,
    blend_statistics,
    mismatch_of_later_layers,
)
from ditta_core.adaptation.region import Region
from ditta_core.classes import ClassList
from ditta_core.segmentation.espnetv2 import ESPNetv2


def network() -> nn.Sequential:
    torch.manual_seed(3)
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 1), nn.BatchNorm2d(3))
    for layer in net:
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
    return net.eval()


def test_blend_of_statistics_measured_under_the_target_normalisation() -> None:
    net, x, share = network(), torch.randn(5, 2, 9, 9) * 3 + 1, 0.3
    first, second = net[1], net[4]
    before = [
        layer.clone() for layer in (first.running_mean, first.running_var, second.running_mean, second.running_var)
    ]
    with torch.no_grad():
        inner = net[0](x)
        mean, variance = inner.mean((0, 2, 3)), inner.var((0, 2, 3))
        normalised = (inner - mean.view(1, -1, 1, 1)) / (
            inner.var((0, 2, 3), correction=0).view(1, -1, 1, 1) + first.eps
        ).sqrt()
        deeper = net[3](normalised.relu())
    blend_statistics(net, lambda: net(x), share)
    torch.testing.assert_close(first.running_mean, 0.7 * before[0] + 0.3 * mean)
    torch.testing.assert_close(first.running_var, 0.7 * before[1] + 0.3 * variance)
    torch.testing.assert_close(second.running_mean, 0.7 * before[2] + 0.3 * deeper.mean((0, 2, 3)))
    torch.testing.assert_close(second.running_var, 0.7 * before[3] + 0.3 * deeper.var((0, 2, 3)))
    assert not net.training and first.momentum == 0.1 and not first.training


def test_whole_share_takes_the_statistics_of_the_frames() -> None:
    net, x = network(), torch.randn(4, 2, 7, 7)
    blend_statistics(net, lambda: net(x), 1.0)
    with torch.no_grad():
        output = net(x)
    assert output.mean((0, 2, 3)).abs().max() < 1e-2
    torch.testing.assert_close(output.std((0, 2, 3), correction=0), torch.ones(3), atol=2e-2, rtol=0)


def test_no_share_does_not_even_run() -> None:
    net = network()
    blend_statistics(net, lambda: pytest.fail("ran"), 0.0)


def test_network_is_left_in_order_even_after_an_error() -> None:
    net = network()
    before = net[1].running_mean.clone()
    with pytest.raises(RuntimeError):
        blend_statistics(net, lambda: net(torch.zeros(1, 5, 9, 9)), 0.5)
    net(torch.randn(1, 2, 9, 9))
    assert torch.equal(net[1].running_mean, before)


def test_the_first_part_of_the_layers_takes_the_same_as_in_all_and_the_others_keep_theirs() -> None:
    net, x = network(), torch.randn(5, 2, 9, 9) * 3 + 1
    whole, deeper = copy.deepcopy(net), net[4].running_mean.clone()
    blend_statistics(whole, lambda: whole(x), 0.3)
    blend_statistics(net, lambda: net(x), 0.3, part=0.4)
    assert torch.equal(net[1].running_mean, whole[1].running_mean)
    assert torch.equal(net[1].running_var, whole[1].running_var)
    assert torch.equal(net[4].running_mean, deeper)


def test_share_and_part_outside_range() -> None:
    for share, part in ((1.2, 1.0), (0.3, -0.1)):
        with pytest.raises(ValueError, match=r"0\.\.1"):
            blend_statistics(network(), lambda: None, share, part)


def test_first_layers_of_the_encoder_take_the_share_and_the_rest_keeps_the_source() -> None:
    model = ESPNetv2(ClassList.packaged("camvid11")).eval()
    before = copy.deepcopy(model.state_dict())
    assert blend_encoder_statistics(model, torch.randn(2, 3, 64, 64), 0.4) == 0.4
    statistics = [name for name in before if name.endswith(("running_mean", "running_var"))]
    changed = [name for name in statistics if not torch.equal(model.state_dict()[name], before[name])]
    encoders = [name for name in statistics if name.startswith("base_net.")]
    assert changed == encoders[: 2 * 33] and len(encoders) == 2 * 46


def test_nothing_is_blended_where_the_encoder_has_no_statistics() -> None:
    model = ESPNetv2(ClassList.packaged("camvid11")).eval()
    for name in [name for name, layer in model.base_net.named_modules() if isinstance(layer, nn.BatchNorm2d)]:
        model.base_net.set_submodule(name, nn.Identity())
    before = copy.deepcopy(model.state_dict())
    assert blend_encoder_statistics(model, torch.randn(2, 3, 64, 64), 0.4) == 0.0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def trained_on(pixels: torch.Tensor) -> ESPNetv2:
    """A network whose running statistics are all those of these images."""
    torch.manual_seed(4)
    model = ESPNetv2(ClassList.packaged("camvid11")).eval()
    blend_statistics(model, lambda: model(pixels), 1.0)
    return model


def running_variances(model: ESPNetv2) -> list[torch.Tensor]:
    return [value.clone() for name, value in model.state_dict().items() if name.endswith("running_var")]


def test_later_layers_that_see_what_they_were_trained_with_have_hardly_a_mismatch() -> None:
    pixels = torch.randn(2, 3, 96, 96)
    model = trained_on(pixels)
    assert 5 * mismatch_of_later_layers(model, pixels) < mismatch_of_later_layers(model, 3 * pixels + 1)


def test_mismatch_of_a_layer_by_hand() -> None:
    pixels = 3 * torch.randn(2, 3, 64, 64)
    model = trained_on(torch.randn(2, 3, 64, 64))
    ratios = []
    for layer in [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)][33:]:
        layer.register_forward_hook(
            lambda layer, inputs, _: ratios.append(
                inputs[0].numpy().transpose(1, 0, 2, 3).reshape(len(layer.weight), -1).std(1, ddof=1)
                / layer.running_var.sqrt().numpy()
            )
        )
    with torch.no_grad():
        model(pixels)
    expected = np.mean([np.abs(np.log(ratio)).mean() for ratio in ratios])
    assert mismatch_of_later_layers(model, pixels) == pytest.approx(expected, rel=1e-2)


def test_pixels_that_do_not_count_do_not_change_the_mismatch() -> None:
    pixels = torch.randn(2, 3, 64, 64)
    model = trained_on(pixels)
    ignored = np.zeros((64, 64), bool)
    ignored[:, 48:] = True
    other = pixels.clone()
    other[..., 56:] *= 30
    assert mismatch_of_later_layers(model, other, Region(ignored)) < mismatch_of_later_layers(model, other)


def test_the_larger_share_is_taken_where_it_suits_the_later_layers() -> None:
    home = torch.randn(2, 3, 64, 64)
    model, shifted = trained_on(home), 3 * home + 1
    fixed = copy.deepcopy(model)
    assert blend_encoder_statistics(model, shifted, 0.25, judged=True) == 0.5
    assert blend_encoder_statistics(fixed, shifted, 0.5) == 0.5
    for one, other in zip(running_variances(model), running_variances(fixed), strict=True):
        torch.testing.assert_close(one, other)


def test_the_larger_share_is_left_where_it_does_not() -> None:
    home = torch.randn(2, 3, 64, 64)
    model, shifted = trained_on(home), 3 * home + 1
    later = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)][33:]
    for layer in later:
        layer.momentum = 1.0
        layer.train()
    with torch.no_grad():
        model(shifted)  # now they know what the first layers make of these images without their statistics
    fixed = copy.deepcopy(model.eval())
    assert blend_encoder_statistics(model, shifted, 0.25, judged=True) == 0.25
    assert blend_encoder_statistics(fixed, shifted, 0.25) == 0.25
    for one, other in zip(running_variances(model), running_variances(fixed), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(("share", "taken"), [(0.0, 0.0), (0.4, 0.6), (0.6, 0.6), (0.9, 0.9)])
def test_no_more_than_the_largest_share_is_taken(share: float, taken: float) -> None:
    home = torch.randn(2, 3, 64, 64)
    assert blend_encoder_statistics(trained_on(home), 3 * home + 1, share, judged=True) == pytest.approx(taken)


@pytest.mark.parametrize(("before", "taken"), [(0.0, 0.5), (0.3, 3 / 7), (0.5, 0.25), (0.6, 0.25), (1.0, 0.25)])
def test_the_larger_share_counts_what_earlier_adaptations_took(before: float, taken: float) -> None:
    """At most 0.6 of all statistics come from adaptations, but the plain share is always taken."""
    home = torch.randn(2, 3, 64, 64)
    model = trained_on(home)
    model.statistics_share = before
    fixed = copy.deepcopy(model)
    assert blend_encoder_statistics(model, 3 * home + 1, 0.25, judged=True) == pytest.approx(taken)
    blend_statistics(fixed.encoder, lambda: fixed.encode(3 * home + 1), taken, EARLY_LAYERS)
    for one, other in zip(running_variances(model), running_variances(fixed), strict=True):
        torch.testing.assert_close(one, other)
    assert model.statistics_share == pytest.approx(1 - (1 - before) * (1 - taken))
