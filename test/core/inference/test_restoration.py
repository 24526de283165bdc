from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from moving_scenes import texture
from numpy.typing import NDArray
from stream_settings import stream_config

from ditta_core.adaptation.config import RESTORED_SHARE, AdaptationConfig
from ditta_core.adaptation.job import AdaptationJob
from ditta_core.datasets.camvid import CamVidSequence
from ditta_core.evaluation.corruptions import Corruption, Corruptor
from ditta_core.evaluation.methods.base import MethodSetup
from ditta_core.evaluation.methods.bn_blend import BNBlend, BNBlendEMA
from ditta_core.evaluation.methods.ditta import DiTTA, DiTTANoDistillation, DiTTAParity
from ditta_core.evaluation.methods.ema_smoothing import EMASmoothing
from ditta_core.inference.config import InferenceConfig
from ditta_core.inference.denoising import LARGEST_GAP, Denoiser
from ditta_core.inference.frame_segmenter import FrameSegmenter
from ditta_core.inference.restoration import (
    NOISE_RAMP,
    RANGE_RAMP,
    SMALLEST_GAMMA,
    Exposure,
    ImageRestorer,
    estimate_noise,
    noise_rows,
    ramp,
)
from ditta_core.inference.temporal_branch import TemporalSegmenter
from ditta_core.segmentation.registry import load_model
from ditta_core.segmentation.source import ModelSource
from ditta_core.stream.config import WarmupTrigger
from ditta_core.stream.runner import InlineRunner
from ditta_core.stream.video_segmenter import VideoSegmenter
from ditta_core.types import Frame, State

FRAME_TIME = 66_666_667
Image = NDArray[np.uint8]


@pytest.fixture(autouse=True)
def one_thread(few_threads: None) -> Iterator[None]:
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    yield
    cv2.setNumThreads(threads)


def scene(size: tuple[int, int] = (120, 160), pan: int = 0) -> Image:
    """A smooth coloured texture with a few hard edges, of 10 to 240."""
    height, width = size
    wide = np.stack([cv2.GaussianBlur(texture((height, width + 40), seed), (0, 0), 3) for seed in range(3)], 2)
    wide = (wide - wide.min()) / (wide.max() - wide.min())
    wide[height // 3 :, width // 4 :: 40] = 1
    wide[: height // 4] = 0
    return np.asarray(10 + 230 * wide[:, pan : pan + width], np.uint8)


def noisy(image: Image, sigma: float, seed: int) -> Image:
    noise = np.random.default_rng(seed).normal(0, sigma, image.shape)
    return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)


def clip_of(folder: Path, count: int, step: int = 1) -> list[Image]:
    sequence = CamVidSequence(folder)
    return [sequence.image(index) for index in range(0, count * step, step)]


def restore(images: Sequence[Image], restorer: ImageRestorer | None = None) -> list[Image]:
    restorer = restorer or ImageRestorer()
    return [restorer(Frame(image, index * FRAME_TIME)).image for index, image in enumerate(images)]


def psnr(image: Image, reference: Image) -> float:
    return 10 * float(np.log10(255**2 / np.mean((image.astype(float) - reference) ** 2)))


# --- estimates -------------------------------------------------------------------------------------------------------


@given(st.floats(2, 30), st.integers(0, 1000))
def test_noise_of_a_known_deviation(sigma: float, seed: int) -> None:
    grey = np.full((90, 120, 3), 128, np.uint8)
    assert estimate_noise(noise_rows(noisy(grey, sigma, seed))) == pytest.approx(sigma, rel=0.1, abs=0.3)


@pytest.mark.parametrize("sigma", [10, 20, 30])
def test_noise_of_a_known_deviation_on_real_images(camvid_clip: Path, sigma: float) -> None:
    for image in clip_of(camvid_clip, 3, 40):
        moderate = np.asarray(60 + image // 2, np.uint8)  # no noise clips
        assert estimate_noise(noise_rows(noisy(moderate, sigma, 0))) == pytest.approx(sigma, rel=0.08)


def test_noise_does_not_see_slopes_and_edges() -> None:
    slope = np.tile(np.arange(200, dtype=np.uint8)[None, :, None], (100, 1, 3))
    slope[:, 90:] //= 2
    assert estimate_noise(noise_rows(slope)) < 0.3


@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))))
def test_estimates_of_anything_are_in_range(image: Image) -> None:
    assert 0 <= estimate_noise(noise_rows(image)) < 1000
    exposure = Exposure.of(image)
    assert 0 <= exposure.black <= exposure.white <= 255 and 0 < exposure.gamma <= 1
    table = exposure.table()
    assert table.dtype == np.uint8 and (np.diff(table.astype(int)) >= 0).all()


def test_exposure_of_a_known_range() -> None:
    image = np.asarray(40 + scene().astype(float) * 60 / 255, np.uint8)
    exposure = Exposure.of(image)
    assert exposure.black == pytest.approx(42, abs=3) and exposure.white == pytest.approx(97, abs=8)
    assert exposure.flatness == 1
    stretched = exposure.table()[image]
    assert np.percentile(stretched, 99) > 240 and np.percentile(stretched, 1) < 12
    assert 0.4 < stretched.mean() / 255 < 0.65


def test_darkness_is_lifted_by_no_more_than_the_square_root() -> None:
    exposure = Exposure.of(np.asarray(scene().astype(float) ** 4 * 60 / 255**4, np.uint8))
    assert exposure.gamma == SMALLEST_GAMMA == 0.5
    stretched = np.clip((np.arange(256) - exposure.black) / (exposure.white - exposure.black), 0, 1)
    np.testing.assert_allclose(exposure.table(), 255 * np.sqrt(stretched), atol=0.51)


def test_table_of_the_full_range_is_the_identity() -> None:
    np.testing.assert_array_equal(Exposure(5.0, 250.0, 0.4).table(), np.arange(256))


@given(st.floats(40, 255), st.floats(SMALLEST_GAMMA, 1))
def test_table_changes_smoothly(white: float, gamma: float) -> None:
    table, next_table = (Exposure(3.0, value, gamma).table().astype(int) for value in (white, white + 0.2))
    assert np.abs(table - next_table)[20:].max() <= 6


def test_ramp_is_monotonic_and_saturates() -> None:
    values = [ramp(value, 2.0, 4.0) for value in np.linspace(0, 6, 50)]
    assert values == sorted(values) and values[0] == 0 and values[-1] == 1
    assert [ramp(value, 4.0, 2.0) for value in (5, 4, 3, 2, 1)] == [0, 0, 0.5, 1, 1]


# --- what is clean stays as it is ------------------------------------------------------------------------------------


def test_clean_video_is_left_as_it_is(camvid_clip: Path) -> None:
    restorer = ImageRestorer()
    for index, image in enumerate(clip_of(camvid_clip, 21, 5)):
        frame = Frame(image, index * FRAME_TIME)
        assert restorer(frame) is frame
        assert restorer.flatness == restorer.noisiness == 0
        assert restorer.noise < NOISE_RAMP[0] / 2
        assert restorer.exposure is not None
        assert restorer.exposure.white - restorer.exposure.black > RANGE_RAMP[0] + 20


def test_camera_image_is_never_written_to(camvid_clip: Path) -> None:
    image = noisy(clip_of(camvid_clip, 1)[0] // 3, 8, 0)
    before = image.copy()
    frame = Frame(image, 0)
    image.setflags(write=False)
    assert ImageRestorer()(frame) is not frame
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (2, 2), (3, 5), (33, 47)])
@pytest.mark.parametrize("brightest", [256, 60])
def test_any_size_keeps_its_shape_and_type(shape: tuple[int, int], brightest: int) -> None:
    generator = np.random.default_rng(1)
    images = [generator.integers(0, brightest, (*shape, 3), dtype=np.uint8) for _ in range(3)]
    for image in restore(images):
        assert image.shape == (*shape, 3) and image.dtype == np.uint8


@given(arrays.arrays(np.uint8, st.tuples(st.just(2), st.integers(1, 20), st.integers(1, 20), st.just(3))))
def test_any_pixels_keep_their_shape_and_type(images: Image) -> None:
    for image in restore(list(images)):
        assert image.shape == images.shape[1:] and image.dtype == np.uint8


@pytest.mark.parametrize("brightness", [0, 255, 90])
def test_an_even_image_stays_even(brightness: int) -> None:
    image = np.full((60, 80, 3), brightness, np.uint8)
    for restored in restore([image] * 3):
        assert (restored == restored[0, 0]).all()
        if brightness in (0, 255):
            np.testing.assert_array_equal(restored, image)


def test_grey_images_stay_grey() -> None:
    grey = np.repeat(scene()[..., :1], 3, 2)
    images = [np.repeat(noisy(grey[..., :1], 25, index), 3, 2) for index in range(3)]
    for image in restore(images):
        assert np.ptp(image, axis=2).max() <= 1


# --- what restoration wins -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("condition", "gain"), [("noise:1", 4.0), ("noise:3", 7.0), ("low_light:3", 4.0)])
def test_real_video_comes_closer_to_the_clean_one(camvid_clip: Path, condition: str, gain: float) -> None:
    clean = clip_of(camvid_clip, 6)
    corruptor = Corruptor(Corruption.parse(condition), 3)
    corrupted = [corruptor(image, index) for index, image in enumerate(clean)]
    restored = restore(corrupted)
    for index in (0, 5):
        assert psnr(restored[index], clean[index]) > psnr(corrupted[index], clean[index]) + gain


def test_averaging_over_time_takes_out_more() -> None:
    still = [scene()] * 8
    moving = [scene(pan=3 * index) for index in range(8)]
    for clean in (still, moving):
        restored = restore([noisy(image, 30, index) for index, image in enumerate(clean)])
        assert psnr(restored[7], clean[7]) > psnr(restored[0], clean[0]) + 0.4


def test_what_appears_is_not_averaged_with_what_it_hides() -> None:
    behind = scene()
    before = behind.copy()
    before[70:100, 20:60] = (220, 40, 40)
    restored = restore([noisy(before, 20, index) for index in range(6)] + [noisy(behind, 20, 6)])
    inside = np.s_[78:92, 28:52]
    gone = np.abs(restored[-1][inside].astype(float).mean((0, 1)) - behind[inside].mean((0, 1))).mean()
    ghost = np.abs(before[inside].astype(float).mean((0, 1)) - behind[inside].mean((0, 1))).mean()
    assert gone < 0.15 * ghost


# --- over time -------------------------------------------------------------------------------------------------------


def test_noise_about_the_threshold_does_not_flicker() -> None:
    clean = scene()
    generator = np.random.default_rng(0)
    restorer = ImageRestorer()
    strengths = []
    for index in range(60):
        image = noisy(clean, sum(NOISE_RAMP) / 2 + generator.normal(0, 1), index)
        restorer(Frame(image, index * FRAME_TIME))
        strengths.append(restorer.noisiness)
    settled = np.array(strengths[15:])
    assert 0.2 < settled.mean() < 0.8
    assert np.abs(np.diff(settled)).max() < 0.1 and settled.std() < 0.1


def test_light_that_goes_out_is_followed_smoothly() -> None:
    bright = scene()
    images = [bright] * 5 + [np.asarray(bright * 0.3, np.uint8)] * 40
    restorer = ImageRestorer()
    restored = restore(images, restorer)
    assert restored[4] is images[4]
    assert restorer.flatness == 1
    means = np.array([image.mean() for image in restored[5:]])
    assert np.abs(np.diff(means)).max() < 30
    assert means[-1] > 3 * images[-1].mean()


@pytest.mark.parametrize("rate", [1.0, 15.0])
@pytest.mark.parametrize("odd", ["dark", "noisy"])
def test_one_odd_image_is_no_scene(rate: float, odd: str) -> None:
    bright = scene()
    other = np.asarray(bright * 0.3, np.uint8) if odd == "dark" else noisy(bright, 40, 3)
    images = [bright] * 6 + [other] + [bright] * 6
    restorer = ImageRestorer()
    for index, image in enumerate(images):
        assert restorer(Frame(image, round(index / rate * 1e9))).image is image
    assert restorer.flatness == restorer.noisiness == 0


def test_a_scene_that_stays_dark_is_restored_at_any_rate() -> None:
    bright = scene()
    dark = np.asarray(bright * 0.3, np.uint8)
    restorer = ImageRestorer()
    restored = [restorer(Frame(image, index * 10**9)).image for index, image in enumerate([bright] * 6 + [dark] * 8)]
    assert restored[-1].mean() > 2.5 * dark.mean()


@pytest.mark.parametrize("pause", [-1.0, 0.0, LARGEST_GAP * 1.1, 3600.0])
def test_average_starts_anew_where_frames_do_not_follow(pause: float) -> None:
    images = [noisy(scene(), 30, index) for index in range(3)]
    denoiser = Denoiser()
    for index, image in enumerate(images[:2]):
        denoiser(image, index * FRAME_TIME, 30.0)
    stamp = FRAME_TIME + int(pause * 1e9)
    np.testing.assert_array_equal(denoiser(images[2], stamp, 30.0), Denoiser()(images[2], stamp, 30.0))


def test_another_size_starts_anew() -> None:
    restorer = ImageRestorer()
    for index, size in enumerate([(60, 80), (90, 120), (60, 80)]):
        image = noisy(scene(size), 30, index)
        assert restorer(Frame(image, index * FRAME_TIME)).image.shape == image.shape


def test_reset_leaves_nothing() -> None:
    images = [noisy(np.asarray(scene() * 0.4, np.uint8), 12, index) for index in range(4)]
    restorer = ImageRestorer()
    restore([noisy(scene(), 60, 9)] * 3, restorer)
    restorer.reset()
    assert restorer.flatness == restorer.noise == 0 and restorer.exposure is None
    for ours, theirs in zip(restore(images, restorer), restore(images), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_stamp_and_frame_id_stay() -> None:
    frame = Frame(noisy(scene(), 40, 0), 77, "camera")
    restored = ImageRestorer()(frame)
    assert restored.image is not frame.image
    assert replace(restored, image=frame.image) == replace(frame)


# --- in the stream ---------------------------------------------------------------------------------------------------


class KeepingRunner(InlineRunner):
    """Keeps the jobs instead of running them."""

    def __init__(self) -> None:
        super().__init__()
        self.jobs: list[AdaptationJob] = []

    def submit(self, job: AdaptationJob) -> None:
        self.jobs.append(job)


@pytest.fixture(scope="module")
def base() -> TemporalSegmenter:
    """The packaged model."""
    return TemporalSegmenter(load_model(ModelSource()))


def engine(
    base: TemporalSegmenter, runner: InlineRunner, adaptation: AdaptationConfig, **settings: Any
) -> VideoSegmenter:
    steady = {"warmup_frames": 2, "warmup_on": WarmupTrigger.STARTUP, "remembered_scenes": 0, "smoothing": 0.0}
    config = stream_config(**{**steady, **settings})
    return VideoSegmenter("camvid", config, adaptation=adaptation, runner=runner, base=base)


def dark_frames(count: int) -> list[Frame]:
    images = [noisy(np.asarray(scene((64, 96), index) * 0.4, np.uint8), 8, index) for index in range(count)]
    return [Frame(image, index * FRAME_TIME) for index, image in enumerate(images)]


@pytest.mark.parametrize("settings", [{}, {"restoration": False}])
def test_clip_and_network_see_the_restored_images(base: TemporalSegmenter, settings: dict[str, bool]) -> None:
    frames = dark_frames(2)
    runner, restorer = KeepingRunner(), ImageRestorer()
    stream = engine(base, runner, AdaptationConfig(), **settings)
    masks = [stream.push(frame) for frame in frames]
    seen = frames if settings else [restorer(frame) for frame in frames]
    (job,) = runner.jobs
    np.testing.assert_array_equal(job.clip, np.stack([frame.image for frame in seen]))
    assert job.adaptation == AdaptationConfig().after_restoration(restorer.noisiness)
    assert (restorer.noisiness > 0) == (not settings)
    for mask, frame in zip(masks, seen, strict=True):
        alone = FrameSegmenter(base, stream.config.inference, False).segment(frame, stream.status.input_size, 0)
        np.testing.assert_array_equal(mask.confidence, alone.confidence)


def test_reset_of_the_stream_resets_the_restorer(base: TemporalSegmenter) -> None:
    frames = dark_frames(5)
    stream = engine(base, KeepingRunner(), AdaptationConfig(), warmup_on=WarmupTrigger.SERVICE)
    for frame in frames[:4]:
        stream.push(frame)
    stream.reset()
    fresh = engine(base, KeepingRunner(), AdaptationConfig(), warmup_on=WarmupTrigger.SERVICE)
    np.testing.assert_array_equal(stream.push(frames[4]).confidence, fresh.push(frames[4]).confidence)


def test_method_equals_the_stream_in_the_dark(base: TemporalSegmenter) -> None:
    frames = dark_frames(4)
    adaptation = AdaptationConfig(passes=0)
    stream = engine(base, InlineRunner(), adaptation, smoothing=InferenceConfig.smoothing)
    method = DiTTANoDistillation(MethodSetup(long_side=0), base.model)
    for frame in frames[:2]:
        np.testing.assert_array_equal(method.observe(frame).confidence, stream.push(frame).confidence)
    assert method.prepare(frames[:2]).succeeded and stream.status.state is State.ADAPTED
    for frame in frames[2:]:
        np.testing.assert_array_equal(method.observe(frame).confidence, stream.push(frame).confidence)


def test_methods_that_are_compared_with_see_the_camera_image() -> None:
    assert DiTTA.config.restoration
    assert not any(method.config.restoration for method in (EMASmoothing, BNBlend, BNBlendEMA, DiTTAParity))


# --- settings --------------------------------------------------------------------------------------------------------


def test_exact_streams_are_not_restored() -> None:
    assert InferenceConfig().restoration
    assert not InferenceConfig.parity().restoration


def test_share_of_the_statistics_grows_with_the_noise() -> None:
    config = AdaptationConfig()
    assert config.after_restoration(0.0) is config
    assert config.after_restoration(1.0).statistics_share == pytest.approx(RESTORED_SHARE * config.statistics_share)
    assert AdaptationConfig(statistics_share=0.0).after_restoration(1.0).statistics_share == 0
    assert AdaptationConfig(statistics_share=0.9).after_restoration(1.0).statistics_share == 1
