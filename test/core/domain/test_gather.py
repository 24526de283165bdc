"""Carrying tensors along flow: as the one for arrays, as known by hand, and with the right gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from domain_waves import P

from ditta_core.domain.gather import gather, resize_flow
from ditta_core.flow import warp


def test_it_is_the_warp_of_arrays() -> None:
    random = np.random.default_rng(0)
    maps = random.random((3, 9, 11), np.float32)
    flow = random.normal(0, 3, (9, 11, 2)).astype(np.float32)
    expected, inside = warp(maps, flow)
    carried, valid = gather(torch.from_numpy(maps)[None], torch.from_numpy(flow)[None])
    np.testing.assert_array_equal(valid[0].numpy(), inside)
    # OpenCV interpolates in steps of a 32nd of a pixel.
    np.testing.assert_allclose(carried[0].numpy(), expected, atol=0.04)
    assert np.abs(carried[0].numpy() - expected).mean() < 0.01


def test_whole_pixels_are_exact() -> None:
    maps = torch.arange(20.0).reshape(1, 1, 4, 5)
    flow = torch.zeros(1, 4, 5, 2)
    flow[..., 0], flow[..., 1] = 1, -1
    carried, valid = gather(maps, flow)
    assert carried[0, 0, 2, 1] == maps[0, 0, 1, 2]
    assert bool(valid[0, 2, 1])
    assert not valid[0, 0].any() and not valid[0, :, 4].any()  # above, and to the right of, the frame


def test_golden_numbers() -> None:
    flow = torch.zeros(1, 4, 6, 2, dtype=torch.float64)
    flow[..., 0], flow[..., 1] = 0.5, 0.25
    carried, _ = gather(P, flow)
    assert carried[0, 2, 1, 3].item() == pytest.approx(0.379898, abs=1e-6)
    labels = "3 0 2 4 4 1 3 3 0 2 4 4 1 3 3 0 2 4 1 1 3 0 0 2"
    assert carried.argmax(1).flatten().tolist() == [int(each) for each in labels.split()]


def test_gradients_of_maps_and_flow() -> None:
    maps = torch.randn(1, 2, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    # Between pixels, where the interpolation has a gradient.
    flow = torch.full((1, 4, 5, 2), 0.3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b: gather(a, b)[0], (maps, flow))


def test_a_flow_of_another_size() -> None:
    flow = torch.ones(1, 4, 6, 2)
    larger = resize_flow(flow, (8, 18))
    assert larger.shape == (1, 8, 18, 2)
    torch.testing.assert_close(larger[..., 0], torch.full((1, 8, 18), 3.0))
    torch.testing.assert_close(larger[..., 1], torch.full((1, 8, 18), 2.0))
    assert resize_flow(flow, (4, 6)) is flow


def test_sizes_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"expected a flow \[1, 4, 5, 2\]"):
        gather(torch.zeros(1, 1, 4, 5), torch.zeros(1, 5, 4, 2))
