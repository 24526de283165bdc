from __future__ import annotations

import pytest
import torch
from torch import nn

from ditta_core.classes import ClassList
from ditta_core.normalisation import blend_encoder_statistics, blend_statistics, blended_share, statistics_shift
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


def test_share_outside_range() -> None:
    with pytest.raises(ValueError, match=r"0\.\.1"):
        blend_statistics(network(), lambda: None, 1.2)


def test_shift_is_in_variances_of_the_source() -> None:
    source = [(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 4.0])), (torch.tensor([2.0]), torch.tensor([1.0]))]
    target = [(torch.tensor([1.0, 1.0]), torch.tensor([1.0, 16.0])), (torch.tensor([2.0]), torch.tensor([1.0]))]
    # Channels of the first layer: a mean one deviation away; a deviation of 4 in place of 2. The second did not move.
    assert statistics_shift(source, target) == pytest.approx((1 + 1) / 2 / 2, rel=1e-4)
    assert statistics_shift([], []) == 0


def test_dead_channels_do_not_decide_the_shift() -> None:
    dead = [(torch.tensor([0.0]), torch.tensor([1e-42]))]
    assert statistics_shift(dead, [(torch.tensor([1e3]), torch.tensor([1e3]))]) == 100


def test_share_shrinks_with_the_shift() -> None:
    assert blended_share(0.4, 0.02, 0.02) == pytest.approx(0.2)
    assert blended_share(0.4, 0.04, 0.02) == pytest.approx(0.4 * 16 / 17)
    assert blended_share(0.4, 0.004, 0.02) < 0.001
    assert blended_share(0.4, 0.0, 0.0) == 0.4


def test_blend_of_unchanged_statistics_changes_nothing_and_of_others_takes_the_share() -> None:
    net, x = network(), torch.randn(64, 2, 9, 9)
    assert blend_statistics(net, lambda: net(x), 1.0) == 1.0  # now at home on x
    at_home = blend_statistics(net, lambda: net(x), 0.4, natural_shift=0.02)
    assert at_home < 0.001
    far = blend_statistics(net, lambda: net(x * 4 + 2), 0.4, natural_shift=0.02)
    assert 0.39 < far < 0.4


def test_natural_shift_outside_range() -> None:
    with pytest.raises(ValueError, match="natural shift"):
        blend_statistics(network(), lambda: None, 0.3, natural_shift=-1.0)


def test_encoder_takes_the_share_and_the_decoder_keeps_the_source() -> None:
    model = ESPNetv2(ClassList.packaged("camvid11")).eval()
    inner, outer = model.base_net.level1.bn, model.bu_br_l4[0]
    before = inner.running_mean.clone(), outer.running_mean.clone()
    assert blend_encoder_statistics(model, torch.randn(2, 3, 64, 64), 0.4) == 0.4
    assert not torch.equal(inner.running_mean, before[0])
    assert torch.equal(outer.running_mean, before[1])


def test_decoder_takes_its_share_by_the_shift_where_the_encoder_has_no_statistics() -> None:
    model = ESPNetv2(ClassList.packaged("camvid11")).eval()
    replaced = [name for name, layer in model.base_net.named_modules() if isinstance(layer, nn.BatchNorm2d)]
    for name in replaced:
        model.base_net.set_submodule(name, nn.Identity())
    outer = model.bu_br_l4[0]
    before = outer.running_mean.clone()
    share = blend_encoder_statistics(model, torch.randn(2, 3, 64, 64), 0.4, natural_shift=0.5)
    assert 0 < share < 0.4
    assert not torch.equal(outer.running_mean, before)
