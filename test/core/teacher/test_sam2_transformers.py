"""Sam2VideoTracker against transformers' own way of tracking a whole video in one session, and what is its own."""

from __future__ import annotations

import gc
import json
import socket
import sys
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from moving_scenes import Scene, moving_square, overlap
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from sam2_video_models import IMAGE_SIZE, save_small_checkpoint, small_sam2_video_tracker

from ditta_core.teacher.base import Mask
from ditta_core.teacher.sam2_transformers import (
    ARCHITECTURES,
    Sam2VideoTracker,
    SharedFeatures,
    import_transformers,
    prepare_image,
    prepare_mask,
    prepare_point,
)

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

CPU = torch.device("cpu")
FRAMES = 20
"""More than the 16 frames that the model looks back at."""


@pytest.fixture(autouse=True)
def one_thread(few_threads: None) -> None:
    """One thread: for networks this small, a second one waits for the first, and on a busy machine for long."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module", params=list(ARCHITECTURES))
def tracker(request: pytest.FixtureRequest) -> Iterator[Sam2VideoTracker]:
    tracker = small_sam2_video_tracker(request.param)
    yield tracker
    tracker.close()


@pytest.fixture(scope="module")
def scene() -> Scene:
    return moving_square(frames=FRAMES, step=(1, 3), pan=1)


class WholeVideo:
    """The documented use of transformers: one session over a whole video, prompted and propagated."""

    def __init__(self, tracker: Sam2VideoTracker, clip: NDArray[np.uint8]) -> None:
        self.model, self.size, self.frame_size = tracker._model, tracker.image_size, clip.shape[1:3]
        video = torch.stack([prepare_image(image, self.size, CPU) for image in clip])
        session = getattr(transformers, tracker._architecture.session)
        self.session = session(video=video, video_height=clip.shape[1], video_width=clip.shape[2], dtype=torch.float32)
        self.masks: dict[int, dict[int, Mask]] = {}

    def prompt(self, frame: int, prompts: dict[int, tuple[int, int] | Mask]) -> None:
        for object_id, prompt in prompts.items():
            index = self.session.obj_id_to_idx(object_id)
            if isinstance(prompt, tuple):
                self.session.add_point_inputs(index, frame, prepare_point(prompt, self.frame_size, self.size))
            else:
                self.session.add_mask_inputs(index, frame, prepare_mask(prompt, self.size))
        self.session.obj_with_new_inputs = list(prompts)
        self._keep(self.model(inference_session=self.session, frame_idx=frame))

    def propagate(self, frame: int, frames: int, reverse: bool = False) -> None:
        for output in self.model.propagate_in_video_iterator(
            self.session, start_frame_idx=frame, max_frame_num_to_track=frames, reverse=reverse
        ):
            self._keep(output)

    def _keep(self, output: Any) -> None:
        logits = F.interpolate(output.pred_masks.float(), self.frame_size, mode="bilinear", align_corners=False)
        self.masks[output.frame_idx] = dict(zip(self.session.obj_ids, (logits[:, 0] > 0).numpy(), strict=True))


def assert_equal(ours: dict[int, dict[int, Mask]], reference: dict[int, dict[int, Mask]]) -> None:
    """The same objects on the same frames, with the same masks."""
    assert sorted(ours) == sorted(reference)
    for frame, masks in ours.items():
        assert list(masks) == list(reference[frame])
        for object_id, mask in masks.items():
            np.testing.assert_array_equal(mask, reference[frame][object_id], f"object {object_id} on frame {frame}")


@pytest.mark.parametrize("prompt", ["point", "mask"])
def test_masks_are_those_of_transformers(tracker: Sam2VideoTracker, scene: Scene, prompt: str) -> None:
    tracker.start(scene.clip)
    tracker.add_object(0, 4, **{prompt: (60, 50) if prompt == "point" else scene.mask[0]})
    ours = {0: tracker.masks(0)}
    for frame in range(FRAMES - 1):
        ours[frame + 1] = tracker.propagate(frame)
    reference = WholeVideo(tracker, scene.clip)
    reference.prompt(0, {4: (60, 50) if prompt == "point" else scene.mask[0]})
    reference.propagate(0, FRAMES)
    assert_equal(ours, reference.masks)
    shares = [masks[4].mean() for masks in ours.values()]
    assert 0.01 < np.median(shares) < 0.99, "masks that show nothing compare nothing"


def test_objects_in_sessions_of_their_own_are_those_of_one_session(tracker: Sam2VideoTracker, scene: Scene) -> None:
    prompts = {4: (60, 50), 9: (20, 130), 2: (100, 20)}
    tracker.start(scene.clip[:5])
    for object_id, point in prompts.items():
        tracker.add_object(0, object_id, point=point)
    reference = WholeVideo(tracker, scene.clip[:5])
    reference.prompt(0, prompts)
    reference.propagate(0, 5)
    for frame in range(4):
        masks = tracker.propagate(frame)
        assert list(masks) == list(reference.masks[frame + 1]) == [4, 9, 2]
        for object_id, mask in masks.items():  # a pixel in a hundred may differ, for one session rounds otherwise
            assert np.mean(mask != reference.masks[frame + 1][object_id]) < 0.01


def test_masks_in_reverse_and_of_late_objects_are_those_of_transformers(
    tracker: Sam2VideoTracker, scene: Scene
) -> None:
    clip = scene.clip[:8]
    tracker.start(clip)
    tracker.add_object(7, 1, point=(60, 60))
    ours = {7: tracker.masks(7)}
    for frame in (7, 6, 5):
        ours[frame - 1] = tracker.propagate(frame, reverse=True)
    tracker.add_object(4, 2, point=(20, 130))
    ours[4] = tracker.masks(4)
    for frame in (4, 3, 2, 1):
        ours[frame - 1] = tracker.propagate(frame, reverse=True)
    # Each in a video of its own: in one, the second one's prompt changes how the first is remembered.
    first, second = WholeVideo(tracker, clip), WholeVideo(tracker, clip)
    first.prompt(7, {1: (60, 60)})
    first.propagate(7, 7, reverse=True)
    second.prompt(4, {2: (20, 130)})
    second.propagate(4, 4, reverse=True)
    assert_equal(ours, {frame: masks | second.masks.get(frame, {}) for frame, masks in first.masks.items()})


def test_a_frame_is_encoded_once_for_all_objects_and_both_directions(tracker: Sam2VideoTracker, scene: Scene) -> None:
    clip = scene.clip[:4]
    encoded: list[torch.Size] = []
    hook = tracker._model.vision_encoder.register_forward_hook(lambda _, inputs, output: encoded.append(None))
    tracker.start(clip)
    for start, reverse in ((0, False), (3, True)):
        tracker.reset()
        tracker.add_object(start, 1, point=(60, 50))
        tracker.add_object(start, 2, point=(20, 20))
        for step in range(3):
            tracker.propagate(3 - step if reverse else step, reverse=reverse)
    hook.remove()
    assert len(encoded) == 4


def test_few_kept_frames_change_the_cost_alone(scene: Scene, tmp_path: Path) -> None:
    checkpoint = save_small_checkpoint(tmp_path)
    results = []
    for frames_kept in (1, 64):
        tracker = Sam2VideoTracker(checkpoint, CPU, image_size=IMAGE_SIZE, frames_kept=frames_kept)
        tracker.start(scene.clip[:4])
        tracker.add_object(3, 1, point=(60, 60))
        results.append([tracker.propagate(frame, reverse=True)[1] for frame in (3, 2, 1)])
        assert len(tracker._features) == min(frames_kept, 4)
    np.testing.assert_array_equal(results[0], results[1])
    with pytest.raises(ValueError, match=r"expected frames_kept >= 1, but got 0"):
        Sam2VideoTracker(checkpoint, CPU, image_size=IMAGE_SIZE, frames_kept=0)


def test_features_longest_unused_go_first() -> None:
    features = SharedFeatures(2)
    encodings = [torch.zeros(1), torch.ones(1), torch.full((1,), 2.0)]
    for frame in (0, 1):
        features.cache_vision_features(frame, {"vision_feats": frame, "vision_pos_embeds": [encodings[frame]]})
    features.get_vision_features(0)
    features.cache_vision_features(2, {"vision_feats": 2, "vision_pos_embeds": [encodings[2]]})
    assert features.get_vision_features(1) is None
    for frame in (0, 2):
        kept = features.get_vision_features(frame)
        assert kept is not None and kept["vision_feats"] == frame
        assert kept["vision_pos_embeds"][0] is encodings[0]


def tensor_bytes(values: Iterable[Any]) -> int:
    """Bytes that the tensors among some objects hold, each storage once."""
    tensors = [value for value in values if type(value) in (torch.Tensor, torch.nn.Parameter)]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def test_an_object_costs_the_same_however_long_the_clip(tracker: Sam2VideoTracker) -> None:
    scene = moving_square(frames=40, step=(0, 2))
    tracker.start(scene.clip)
    tracker.add_object(0, 1, point=(60, 50))
    sizes = []
    for frame in range(39):
        tracker.propagate(frame)
        (outputs,) = tracker._objects[1].session.output_dict_per_obj.values()
        kept = [entry for kind in outputs.values() for entry in kind.values()]
        sizes.append(tensor_bytes(value for entry in kept for value in entry.values()))
    assert len(set(sizes[16:])) == 1
    assert sizes[-1] < 1.2 * sizes[5]
    assert len(tracker._features) == 20


def test_closing_gives_everything_back(tracker: Sam2VideoTracker, scene: Scene) -> None:
    tracker.close()
    gc.collect()
    before = tensor_bytes(gc.get_objects())
    tracker.start(scene.clip[:3])
    tracker.add_object(0, 1, point=(60, 50))
    tracker.propagate(0)
    assert tensor_bytes(gc.get_objects()) > before + 200_000
    tracker.close()
    gc.collect()
    assert tensor_bytes(gc.get_objects()) < before + 1000
    with pytest.raises(ValueError, match=r"expected a frame of the started clip of 0 frames"):
        tracker.masks(0)
    tracker.start(scene.clip[:3])
    tracker.add_object(0, 1, point=(60, 50))


def test_objects_do_not_see_each_other(tracker: Sam2VideoTracker, scene: Scene) -> None:
    alone, together = [], []
    for others, masks in (((), alone), (((20, 20), (100, 130)), together)):
        tracker.start(scene.clip[:4])
        tracker.add_object(0, 1, point=(60, 50))
        for object_id, point in enumerate(others, 2):
            tracker.add_object(0, object_id, point=point)
        masks += [tracker.propagate(frame)[1] for frame in range(3)]
    np.testing.assert_array_equal(alone, together)


def test_an_object_registered_again_begins_anew(tracker: Sam2VideoTracker, scene: Scene) -> None:
    tracker.start(scene.clip[:4])
    tracker.add_object(0, 1, point=(20, 20))
    tracker.propagate(0)
    tracker.add_object(1, 1, mask=scene.mask[1])
    again = [tracker.masks(1)[1], tracker.propagate(1)[1]]
    tracker.reset()
    tracker.add_object(1, 1, mask=scene.mask[1])
    np.testing.assert_array_equal(again, [tracker.masks(1)[1], tracker.propagate(1)[1]])
    assert overlap(again[0], scene.mask[1]) > 0.85  # at a quarter of 128 pixels, 5 pixels of the frame wide


def test_bfloat16_autocast(scene: Scene, tmp_path: Path) -> None:
    checkpoint = save_small_checkpoint(tmp_path)
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        tracker = Sam2VideoTracker(checkpoint, CPU, dtype, image_size=IMAGE_SIZE)
        tracker.start(scene.clip[:3])
        tracker.add_object(0, 1, point=(60, 50))
        tracker.add_object(0, 2, mask=scene.mask[0])
        results.append([tracker.propagate(0), tracker.propagate(1)])
    for exact, rounded in zip(*results, strict=True):
        for object_id, mask in exact.items():
            assert overlap(mask, rounded[object_id]) > 0.8


@pytest.mark.parametrize("model_type", list(ARCHITECTURES))
def test_another_image_size_is_that_of_a_model_made_for_it(model_type: str, scene: Scene, tmp_path: Path) -> None:
    large = 192
    checkpoint = save_small_checkpoint(tmp_path / "small", model_type)
    config = json.loads((tmp_path / "small" / "config.json").read_text())
    config["image_size"] = config["prompt_encoder_config"]["image_size"] = large
    config["vision_config"]["backbone_feature_sizes"] = [[large // 4] * 2, [large // 8] * 2, [large // 16] * 2]
    config["vision_config"]["backbone_config"]["image_size"] = [large, large]
    config["memory_attention_rope_feat_sizes"] = [large // 16] * 2
    (tmp_path / "large").mkdir()
    (tmp_path / "large" / "config.json").write_text(json.dumps(config))
    (tmp_path / "large" / "model.safetensors").symlink_to(tmp_path / "small" / "model.safetensors")
    results = []
    for folder in (checkpoint, str(tmp_path / "large")):
        tracker = Sam2VideoTracker(folder, CPU, image_size=large)
        tracker.start(scene.clip[:3])
        tracker.add_object(0, 1, point=(60, 50))
        results.append([tracker.propagate(0)[1], tracker.propagate(1)[1]])
    np.testing.assert_array_equal(results[0], results[1])
    multiple = {"sam2_video": 32, "edgetam_video": 64}[model_type]
    with pytest.raises(ValueError, match=rf"expected an image_size that is a multiple of {multiple}, but got 100"):
        Sam2VideoTracker(checkpoint, CPU, image_size=100)


@pytest.mark.parametrize("size", [(90, 200), (300, 260)])
def test_images_are_resized_as_pillow_does(size: tuple[int, int]) -> None:
    pillow = pytest.importorskip("PIL.Image")
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    expected = np.float32(pillow.fromarray(image).resize((128, 128), pillow.Resampling.BILINEAR)) / 255
    expected = (expected - np.float32([0.485, 0.456, 0.406])) / np.float32([0.229, 0.224, 0.225])
    ours = prepare_image(image, 128, CPU).permute(1, 2, 0).numpy()
    np.testing.assert_allclose(ours, expected, atol=1.01 / 255 / 0.224)  # Pillow rounds to whole grey levels, twice


def test_prompts_at_the_size_of_the_network() -> None:
    prompt = prepare_point((30, 80), (120, 160), 128)
    assert prompt["point_coords"].tolist() == [[[[64.0, 32.0]]]]
    assert prompt["point_labels"].tolist() == [[[1]]]
    mask = np.zeros((120, 160), bool)
    mask[30:90, 40:80] = True
    expected = torch.zeros(1, 1, 128, 128)
    expected[..., 32:96, 32:64] = 1
    torch.testing.assert_close(prepare_mask(mask, 128), expected)


@pytest.fixture
def no_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that must not be touched."""

    def connect(*_: Any) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", connect)


@pytest.mark.usefixtures("no_connections")
def test_nothing_is_fetched_unless_allowed(tmp_path: Path) -> None:
    for checkpoint in ("nobody/no-model", str(tmp_path)):
        with pytest.raises(FileNotFoundError, match=r"expected config.json .* but got: .*; give the folder"):
            Sam2VideoTracker(checkpoint, CPU)
    Sam2VideoTracker(save_small_checkpoint(tmp_path), CPU, image_size=IMAGE_SIZE)


@pytest.mark.parametrize("model_type", ["segformer", "sam2", "no_such_type", None])
def test_checkpoints_of_another_kind_are_named(model_type: str | None, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(
        ValueError, match=rf"expected a model of type sam2_video or edgetam_video, but got .*{model_type}"
    ):
        Sam2VideoTracker(str(tmp_path), CPU)


def test_checkpoints_without_all_weights_or_safetensors_are_refused(tmp_path: Path) -> None:
    checkpoint = save_small_checkpoint(tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    del weights["no_object_pointer"]
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(ValueError, match=r"expected all weights in .*, but got none for \['no_object_pointer'\] and 1"):
        Sam2VideoTracker(checkpoint, CPU, image_size=IMAGE_SIZE)
    file.unlink()
    torch.save(weights, tmp_path / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match=r"expected config.json and model.safetensors in .*, but got"):
        Sam2VideoTracker(checkpoint, CPU, image_size=IMAGE_SIZE)


@pytest.mark.usefixtures("no_connections")
def test_edgetam_names_the_packages_of_its_image_encoder(tmp_path: Path) -> None:
    if find_spec("timm"):
        pytest.skip("timm is installed")
    encoder = {
        "model_type": "timm_wrapper",
        "architecture": "repvit_m1.dist_in1k",
        "model_args": {"in_chans": 3, "features_only": True, "out_indices": [0, 1, 2, 3]},
    }
    vision = {"model_type": "edgetam_vision_model", "backbone_config": encoder}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "edgetam_video", "vision_config": vision}))
    with pytest.raises(ImportError, match=r"expected all packages .*, but got: .*timm.*; the image encoder of EdgeTAM"):
        Sam2VideoTracker(str(tmp_path), CPU)


def test_a_missing_or_old_transformers_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ImportError, match=r"expected transformers 99\.2 or later, but got \d.*; pip install"):
        import_transformers((99, 2))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "edgetam_video"}))
    monkeypatch.setattr(import_transformers(), "__version__", "5.19.0.dev0")
    with pytest.raises(ImportError, match=r"expected transformers 5\.20 or later, but got 5\.19\.0"):
        Sam2VideoTracker(str(tmp_path), CPU)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"expected the package transformers, but got: .*; pip install"):
        Sam2VideoTracker(str(tmp_path), CPU)


def test_a_session_without_what_is_relied_on_is_named(
    tracker: Sam2VideoTracker, scene: Scene, monkeypatch: Any
) -> None:
    class OtherSession:
        def __init__(self, **_: Any) -> None:
            self.processed_frames = None

    monkeypatch.setattr(import_transformers(), tracker._architecture.session, OtherSession)
    tracker.start(scene.clip[:2])
    with pytest.raises(ImportError, match=r"expected an inference session with cache, but that of transformers \d"):
        tracker.add_object(0, 1, point=(60, 50))
