"""Sam2Tracker against the package's own video predictor, and what is its own: checkpoints, versions, memory."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import weakref
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from moving_scenes import Scene
from numpy.typing import NDArray
from scipy.ndimage import label

from ditta_core.adaptation.config import AdaptationConfig
from ditta_core.adaptation.job import AdaptationJob
from ditta_core.datasets.camvid import CamVidSequence
from ditta_core.domain.warmup_job import run_job
from ditta_core.segmentation.source import ModelSource
from ditta_core.teacher.base import Mask
from ditta_core.teacher.build import build_teacher, check_teacher
from ditta_core.teacher.config import TeacherConfig
from ditta_core.teacher.object_vote import ObjectVote
from ditta_core.teacher.sam2 import Sam2Tracker, Sam2TrackerConfig, fill_holes, network_input
from ditta_core.teacher.sam2_network import (
    load_network,
)

pytest.importorskip("sam2", reason="sam2 is not installed")

from sam2_models import CPU, FRAMES, IMAGE_SIZE, random_network, small_configuration, small_sam2_tracker


@pytest.fixture(autouse=True)
def few_threads() -> None:
    """One thread: for networks of this size a second one is only waited for."""
    torch.set_num_threads(1)


# --- against the package --------------------------------------------------------------------------------------------


class PackagePredictor:
    """The documented use of the package: a folder of frames, prompts, propagation."""

    def __init__(self, predictor: Any, clip: NDArray[np.uint8], folder: Path) -> None:
        for index, image in enumerate(clip):
            # Pillow goes by the content: PNG under the name that the package asks for is read without loss.
            _, content = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
            (folder / f"{index}.jpg").write_bytes(content.tobytes())
        self.predictor = predictor
        self.state = predictor.init_state(str(folder))

    def add(self, frame: int, object_id: int, prompt: tuple[int, int] | Mask) -> dict[int, Mask]:
        if isinstance(prompt, tuple):
            points, labels = np.array([prompt[::-1]], np.float32), np.array([1], np.int32)
            answer = self.predictor.add_new_points_or_box(self.state, frame, object_id, points=points, labels=labels)
        else:
            answer = self.predictor.add_new_mask(self.state, frame, object_id, prompt)
        return self.masks(answer)

    def follow(self, start: int, frames: int, reverse: bool = False) -> list[dict[int, Mask]]:
        """Masks on ``start`` and the ``frames`` frames that follow."""
        return [self.masks(answer) for answer in self.predictor.propagate_in_video(self.state, start, frames, reverse)]

    @staticmethod
    def masks(answer: tuple[int, Sequence[int], torch.Tensor]) -> dict[int, Mask]:
        _, object_ids, scores = answer
        return dict(zip(list(object_ids), (scores[:, 0] > 0).numpy(), strict=True))


def assert_same(ours: dict[int, Mask], theirs: dict[int, Mask]) -> None:
    assert list(ours) == list(theirs)
    for object_id, mask in ours.items():
        assert mask.any() and not mask.all()  # or there would be nothing to compare
        assert np.mean(mask != theirs[object_id]) < 1e-4


@pytest.fixture(scope="module")
def pair(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> tuple[Sam2Tracker, PackagePredictor]:
    """Ours and theirs, on the same small network and clip."""
    tracker = small_sam2_tracker(Sam2TrackerConfig(hole_area=0))
    network = random_network(small_configuration())
    predictor = import_module("sam2.sam2_video_predictor").SAM2VideoPredictor
    network.__class__ = predictor
    network.fill_hole_area = 0  # holes are filled by a CUDA kernel alone
    network.non_overlap_masks = network.clear_non_cond_mem_around_input = False
    network.add_all_frames_to_correct_as_cond = False
    tracker.start(scene.clip)
    return tracker, PackagePredictor(network, scene.clip, tmp_path_factory.mktemp("frames"))


def test_forward_with_late_objects_equals_the_package(scene: Scene, pair: tuple[Sam2Tracker, PackagePredictor]) -> None:
    tracker, package = pair
    tracker.reset()
    package.predictor.reset_state(package.state)
    for object_id, prompt in ((3, (60, 50)), (1, scene.mask[0]), (2, (15, 140))):
        if isinstance(prompt, tuple):
            tracker.add_object(0, object_id, point=prompt)
        else:
            tracker.add_object(0, object_id, mask=prompt)
        theirs = package.add(0, object_id, prompt)
    assert_same(tracker.masks(0), theirs)
    for frame, theirs in enumerate(package.follow(0, 2)):
        if frame:
            assert_same(tracker.propagate(frame - 1), theirs)
    tracker.add_object(2, 4, point=(100, 20))
    assert_same(tracker.masks(2), package.add(2, 4, (100, 20)))
    for frame, theirs in enumerate(package.follow(2, FRAMES), 2):
        if frame > 2:
            assert_same(tracker.propagate(frame - 1), theirs)
    assert frame == FRAMES - 1


def test_backward_with_late_objects_equals_the_package(
    scene: Scene, pair: tuple[Sam2Tracker, PackagePredictor]
) -> None:
    tracker, package = pair
    tracker.reset()
    package.predictor.reset_state(package.state)
    last, middle = FRAMES - 1, 10
    tracker.add_object(last, 1, mask=scene.mask[last])
    assert_same(tracker.masks(last), package.add(last, 1, scene.mask[last]))
    for frame, theirs in zip(range(last, -1, -1), package.follow(last, last - middle, reverse=True), strict=False):
        if frame < last:
            assert_same(tracker.propagate(frame + 1, reverse=True), theirs)
    tracker.add_object(middle, 2, point=(60, 60))
    assert_same(tracker.masks(middle), package.add(middle, 2, (60, 60)))
    for frame, theirs in zip(range(middle, -1, -1), package.follow(middle, middle, reverse=True), strict=True):
        if frame < middle:
            assert_same(tracker.propagate(frame + 1, reverse=True), theirs)


def test_a_checkpoint_works_as_in_the_package(scene: Scene, checkpoint: Path, tmp_path: Path) -> None:
    build = import_module("sam2.build_sam").build_sam2_video_predictor
    overrides = [f"++model.image_size={IMAGE_SIZE}"]
    predictor = build("configs/sam2.1/sam2.1_hiera_t.yaml", str(checkpoint), "cpu", hydra_overrides_extra=overrides)
    predictor.fill_hole_area = 0
    clip = scene.clip[:3]
    package = PackagePredictor(predictor, clip, tmp_path)
    tracker = Sam2Tracker(load_network(str(checkpoint), CPU, IMAGE_SIZE), config=Sam2TrackerConfig(hole_area=0))
    tracker.start(clip)
    tracker.add_object(0, 1, point=(60, 50))
    assert_same(tracker.masks(0), package.add(0, 1, (60, 50)))
    for frame, theirs in enumerate(package.follow(0, 2)):
        if frame:
            assert_same(tracker.propagate(frame - 1), theirs)


@pytest.mark.parametrize("size", [(480, 640), (90, 70), (IMAGE_SIZE, IMAGE_SIZE)])
def test_frames_are_prepared_as_by_pillow(size: tuple[int, int], tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    _, content = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    (tmp_path / "0.jpg").write_bytes(content.tobytes())
    load = import_module("sam2.utils.misc").load_video_frames
    expected, height, width = load(str(tmp_path), IMAGE_SIZE, False, compute_device=CPU)
    assert (height, width) == size
    torch.testing.assert_close(network_input(image, IMAGE_SIZE, CPU), expected)


# --- what is its own ------------------------------------------------------------------------------------------------


def test_image_features_are_computed_once(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = small_sam2_tracker(Sam2TrackerConfig(frames_kept=6))
    seen = []
    encode = tracker._network.forward_image
    monkeypatch.setattr(tracker._network, "forward_image", lambda pixels: seen.append(pixels) or encode(pixels))

    def there_and_back(frames: int) -> None:
        tracker.start(scene.clip[:frames])
        for object_id in range(10):
            tracker.add_object(0, object_id, point=(60, 50))
        for frame in range(frames - 1):
            tracker.propagate(frame)
        tracker.reset()
        tracker.add_object(frames - 1, 1, mask=scene.mask[frames - 1])
        for frame in range(frames - 1, 0, -1):
            tracker.propagate(frame, reverse=True)

    there_and_back(6)
    assert len(seen) == 6
    seen.clear()
    there_and_back(9)  # three more than are kept
    assert len(seen) == 9 + 3


def test_how_many_objects_go_at_once_changes_nothing(scene: Scene) -> None:
    tracks = []
    for at_once in (1, 3, 8):
        tracker = small_sam2_tracker(Sam2TrackerConfig(objects_at_once=at_once))
        tracker.start(scene.clip[:3])
        for object_id in range(7):
            tracker.add_object(0, object_id, point=(15 * object_id, 20 * object_id))
        tracker.propagate(0)
        tracks.append(tracker.propagate(1))
    for track in tracks[1:]:
        assert_same(track, tracks[0])


def test_bfloat16_is_near(scene: Scene) -> None:
    network = small_sam2_tracker()._network
    tracks = []
    for dtype in (torch.float32, torch.bfloat16):
        tracker = Sam2Tracker(network, dtype)
        tracker.start(scene.clip[:3])
        tracker.add_object(0, 1, mask=scene.mask[0])
        tracker.add_object(0, 2, point=(60, 50))
        tracks.append([tracker.masks(0), tracker.propagate(0)])
        assert tracker._features[0][0].dtype == dtype
    for exact, rounded in zip(*tracks, strict=True):
        for object_id, mask in exact.items():
            assert np.mean(mask != rounded[object_id]) < 0.1


def test_the_precision_is_the_trackers_own(scene: Scene) -> None:
    tracker = small_sam2_tracker()
    tracker.start(scene.clip[:2])
    with torch.autocast("cpu", torch.bfloat16):
        tracker.add_object(0, 1, point=(60, 50))
        tracker.propagate(0)
    assert tracker._features[0][0].dtype == torch.float32


@pytest.mark.parametrize("area", [0, 1, 8])
def test_filled_holes_equal_scipy(area: int) -> None:
    scores = torch.randn(3, 1, 24, 30, generator=torch.Generator().manual_seed(area)) + 0.3
    expected = scores.clone()
    for mask in expected:
        regions, count = label((mask[0] <= 0).numpy(), np.ones((3, 3)))
        for region in range(1, count + 1):
            if (regions == region).sum() <= area:
                mask[0][torch.from_numpy(regions == region)] = 0.1
    assert torch.equal(fill_holes(scores, area), expected)
    assert bool((expected != scores).any()) == bool(area)


# --- the teacher ----------------------------------------------------------------------------------------------------


def test_the_teacher_is_built_as_configured(checkpoint: Path) -> None:
    config = TeacherConfig("object_vote:sam2", str(checkpoint), image_size=64, dtype="bfloat16")
    check_teacher(config)
    teacher = build_teacher(config, CPU)
    assert isinstance(teacher, ObjectVote) and isinstance(teacher.tracker, Sam2Tracker)
    assert teacher.tracker._network.image_size == 64
    assert teacher.tracker._dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        (
            TeacherConfig("oracle"),
            ValueError,
            "expected the teacher flow, .* or object_vote:sam2_transformers, but got",
        ),
        (TeacherConfig("object_vote:sam2"), FileNotFoundError, "expected the file of a SAM 2 checkpoint"),
        (TeacherConfig("object_vote:sam2_transformers"), ValueError, "expected a checkpoint"),
        (
            TeacherConfig(dtype="int8"),
            ValueError,
            "expected the dtype float32, bfloat16, float16 or '', but got 'int8'",
        ),
        (TeacherConfig(device="cuda:99"), ValueError, "expected a torch device that is there, but got 'cuda:99'"),
    ],
)
def test_what_cannot_be_built_is_known_beforehand(config: TeacherConfig, error: type[Exception], message: str) -> None:
    for build in (check_teacher, lambda config: build_teacher(config, CPU)):
        with pytest.raises(error, match=message):
            build(config)


@pytest.mark.parametrize("mode", ["live", "parity"])
def test_adaptation_with_sam2_finishes(mode: str, checkpoint: Path, camvid_clip: Path) -> None:
    """Random weights teach nothing; what counts is that every stage works on what they say."""
    sequence = CamVidSequence(camvid_clip)
    clip = np.stack([cv2.resize(sequence.image(index), (160, 120)) for index in range(8)])
    teacher = TeacherConfig("object_vote:sam2", str(checkpoint), image_size=64)
    settings = {"passes": 1, "learning_rate": 1e-5}  # not so fast that the guard against a collapse finds one
    config = AdaptationConfig(**settings) if mode == "live" else AdaptationConfig.parity(**settings)
    result = run_job(AdaptationJob(clip, (96, 128), ModelSource(), teacher, config))
    assert result.report.succeeded, result.report.reason
    assert result.report.steps == 8
    assert result.report.objects > 0


# --- memory ---------------------------------------------------------------------------------------------------------


def test_close_forgets_everything_of_the_clip(scene: Scene) -> None:
    tracker = small_sam2_tracker()
    tracker.start(scene.clip.copy())
    tracker.add_object(0, 1, point=(60, 50))
    tracker.propagate(0)
    held = [weakref.ref(tracker._clip), *map(weakref.ref, tracker._features[0])]
    held += [weakref.ref(memory["maskmem_features"]) for memory in tracker._batches[0].memory.values()]
    assert all(each() is not None for each in held)
    tracker.close()
    gc.collect()
    assert all(each() is None for each in held)


def test_memory_is_bounded(scene: Scene) -> None:
    tracker = small_sam2_tracker(Sam2TrackerConfig(frames_kept=5))
    tracker.start(np.concatenate([scene.clip] * 2))
    tracker.add_object(0, 1, point=(60, 50))
    for frame in range(2 * FRAMES - 1):
        tracker.propagate(frame)
    assert len(tracker._features) == 5
    assert sorted(tracker._batches[0].memory) == [0, *range(24, 40)]


MEASURED = """
import ctypes, gc, json, os, sys
from pathlib import Path
import torch
from moving_scenes import moving_square
from sam2_models import small_sam2_tracker
from ditta_core.teacher.sam2 import Sam2Tracker

torch.set_num_threads(1)
device = torch.device("cpu")
scene = moving_square(frames=60, size=(240, 320), step=(0, 3))

def resident():
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what the allocator keeps for later is not held
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6

def track(tracker, clip, measured=()):
    tracker.start(clip)
    for object_id in range(2):
        tracker.add_object(0, object_id, point=(60, 40 + 10 * object_id))
    sizes = {}
    for frame in range(len(clip)):
        if frame:
            tracker.propagate(frame - 1)
        if frame in measured:
            sizes[frame] = resident()
    tracker.close()
    return sizes

track(small_sam2_tracker(), scene.clip[:2])  # the code, which stays
before = resident()
sizes = track(Sam2Tracker.from_checkpoint(sys.argv[1], device, image_size=64), scene.clip, (1, 20, 30, 40, 50, 59))
print(json.dumps({"before": before, "sizes": sizes, "after": resident()}))
"""


@pytest.fixture(scope="module")
def measured(checkpoint: Path) -> dict[str, Any]:
    """Resident memory in MB of a process that tracks two objects through 60 frames."""
    command = [sys.executable, "-c", MEASURED, str(checkpoint)]
    ended = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    result: dict[str, Any] = json.loads(ended.stdout)
    return result


@pytest.mark.slow
def test_memory_is_flat_over_sixty_frames(measured: dict[str, Any]) -> None:
    first, *later = (measured["sizes"][str(frame)] for frame in (20, 30, 40, 50, 59))
    assert max(later) - first < 50


def test_all_memory_is_given_back(measured: dict[str, Any]) -> None:
    network = measured["sizes"]["1"] - measured["before"]
    assert network > 100  # 39 million weights
    assert measured["after"] - measured["before"] < 10
