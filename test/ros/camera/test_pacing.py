"""Which images are segmented."""

from __future__ import annotations

import numpy as np
import pytest

from ditta_ros.camera.pacing import Pacing


def passed(camera: float, rate: float, jitter: float = 0.0, seconds: float = 20.0) -> list[float]:
    """When the images of a camera pass, which has so many per second and is late or early by so many seconds."""
    late = np.random.default_rng(1).uniform(-jitter, jitter, int(seconds * camera))
    times = np.arange(len(late)) / camera + late
    pacing = Pacing()
    return [time for time in times.tolist() if pacing.passes(time, rate)]


@pytest.mark.parametrize(("camera", "rate"), [(30, 20), (30, 10), (30, 7.5), (15, 14), (60, 1)])
def test_the_mean_rate_is_the_largest_one(camera: float, rate: float) -> None:
    assert len(passed(camera, rate)) / 20 == pytest.approx(rate, rel=0.06)


@pytest.mark.parametrize("rate", [0, 10, 11])
def test_all_images_of_a_camera_that_is_no_faster_pass_though_some_are_early(rate: float) -> None:
    assert len(passed(10, rate, jitter=0.02)) == 200


def test_never_more_than_one_too_many_however_unevenly_they_come() -> None:
    times = passed(100, 10, jitter=0.5)
    for begin in (0.0, 5.0, 12.3):
        assert sum(begin <= time < begin + 1 for time in times) <= 11


def test_after_a_gap_nothing_is_made_up_for() -> None:
    pacing = Pacing()
    assert pacing.passes(0.0, 10)
    burst = [time for time in np.arange(100.0, 101.0, 0.01).tolist() if pacing.passes(time, 10)]
    assert 10 <= len(burst) <= 11


def test_none_passes_while_it_is_paused() -> None:
    pacing = Pacing()
    pacing.paused = True
    assert not pacing.passes(0.0, 0) and not pacing.passes(1.0, 5)
    pacing.paused = False
    assert pacing.passes(1.1, 5)
