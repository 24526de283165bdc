"""Clips: consecutive frames of one stretch, the same window of all, labels and flow with them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from drives import ColourModel, PanningDrive

from ditta_core.domain.config import OfflineConfig
from ditta_core.domain.gather import gather
from ditta_core.domain.reading import read_drives
from ditta_core.domain.recipe import NothingLabelledError
from ditta_core.domain.sampling import ClipSampler, window_size

CONFIG = OfflineConfig(window=(48, 64), scales=(1.0, 1.0))


@pytest.fixture(scope="module")
def frames() -> object:
    return read_drives([PanningDrive(12), PanningDrive(12, seed=1)], (96, 128), 100)


def test_flow_carries_the_frame_before_to_the_next(frames) -> None:
    sampler = ClipSampler(frames, None, ColourModel(), CONFIG, 2, recolours=False)
    for seed in range(8):
        clip = sampler.draw(np.random.default_rng(seed))
        assert clip.frames[0] + 1 == clip.frames[1]
        grey = torch.from_numpy(clip.images.astype(np.float32).mean(3)[:, None, ::2, ::2])
        carried, inside = gather(grey[:1], clip.flows)
        known = inside & clip.confirmed
        assert known.float().mean() > 0.5
        still = (grey[0] - grey[1]).abs()[known].mean()
        assert (carried[0] - grey[1]).abs()[known].mean() < 0.5 * still


def test_no_clip_spans_two_stretches(frames) -> None:
    sampler = ClipSampler(frames, None, ColourModel(), CONFIG, 3, recolours=False)
    starts = {stretch.start for stretch in frames.stretches}
    assert not {place for start in starts for place in (start, start + 1)} & set(sampler.indices)


def test_in_turn_every_frame_comes_once_before_any_comes_twice(frames) -> None:
    sampler = ClipSampler(frames, None, ColourModel(), CONFIG, 2, recolours=False, in_turn=True)
    count = len(sampler.indices)
    random = np.random.default_rng(0)
    drawn = [sampler.draw(random, number).frames[-1] for number in range(2 * count)]
    first, second = drawn[:count], drawn[count:]
    assert sorted(first) == sorted(second) == sampler.indices
    assert first != second and first != sampler.indices
    other = ClipSampler(frames, None, ColourModel(), replace(CONFIG, seed=1), 2, recolours=False, in_turn=True)
    assert [other.draw(random, number).frames[-1] for number in range(count)] != first


def test_a_clip_depends_on_the_generator_alone(frames) -> None:
    labels = np.zeros((len(frames), 48, 64), np.uint8)
    one, other = (ClipSampler(frames, labels, ColourModel(), OfflineConfig(window=(48, 64)), 2, True) for _ in range(2))
    one.draw(np.random.default_rng(5))
    first, second = (sampler.draw(np.random.default_rng(1)) for sampler in (one, other))
    np.testing.assert_array_equal(first.images, second.images)
    assert torch.equal(first.labels, second.labels) and torch.equal(first.flows, second.flows)
    assert (first.images != first.plain).any()


def test_without_motion_a_frame_is_repeated(frames) -> None:
    clip = ClipSampler(frames, None, ColourModel(), CONFIG, 2, True, moving=False).draw(np.random.default_rng(0))
    assert clip.frames[0] == clip.frames[1] and not clip.confirmed.any() and not clip.flows.any()
    np.testing.assert_array_equal(clip.images[0], clip.images[1])


def test_frames_without_labels_are_not_drawn(frames) -> None:
    labels = np.full((len(frames), 48, 64), 255, np.uint8)
    with pytest.raises(NothingLabelledError):
        ClipSampler(frames, labels, ColourModel(), CONFIG, 1, True)
    labels[7, 5:9] = 1
    assert ClipSampler(frames, labels, ColourModel(), CONFIG, 1, True).indices == [7]


def test_windows_fit_the_network_and_the_frame() -> None:
    model = ColourModel()
    assert window_size(model, (96, 128), (250, 100)) == (96, 96)
    model.fixed_input_size = (64, 64)
    assert window_size(model, (64, 64), (250, 100)) == (64, 64)
