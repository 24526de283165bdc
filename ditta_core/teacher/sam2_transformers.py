"""SAM 2 and EdgeTAM as trackers, by transformers, whose inference sessions take frames from memory one at a time.

What leans on the inside of those sessions, beyond their documented methods, is in :class:`SharedFeatures`,
:func:`open_session`, :func:`forget_old_frames` and :func:`forget_positions`.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ditta_core.segmentation.base import IMAGENET_MEAN, IMAGENET_STD
from ditta_core.segmentation.huggingface import first_line, quiet_unless
from ditta_core.teacher.base import Mask, MaskTracker

INSTALL = "pip install 'transformers>=5.20'"
INSTALL_TIMM = (
    "the image encoder of EdgeTAM is one of the package timm, which needs torchvision: 'pip install timm' beside torch "
    "for CUDA; beside torch for the CPU alone, PyPI's torchvision breaks other packages. SAM 2 needs neither"
)


@dataclass(frozen=True)
class Architecture:
    """A family of trackers in transformers.

    Attributes:
        model, session: Names of its classes there.
        since: First release, (major, minor), that it works with.
    """

    model: str
    session: str
    since: tuple[int, int]


ARCHITECTURES = {
    "sam2_video": Architecture("Sam2VideoModel", "Sam2VideoInferenceSession", (4, 57)),
    # Earlier releases look its image encoder up on the hub, asked or not.
    "edgetam_video": Architecture("EdgeTamVideoModel", "EdgeTamVideoInferenceSession", (5, 20)),
}
"""By ``model_type`` of ``config.json``. Proven with transformers 4.57.1 and 5.1.0 (SAM 2), 5.20.2 and 5.23.0 (both)."""


# --- loading ----------------------------------------------------------------------------------------------------------


def import_transformers(since: tuple[int, int] = (0, 0)) -> Any:
    """The package transformers; an ImportError where it is not there, or older than ``since``."""
    try:
        import transformers
    except ImportError as error:
        raise ImportError(f"expected the package transformers, but got: {error}; {INSTALL}") from error
    if tuple(int(number) for number in transformers.__version__.split(".")[:2]) < since:
        raise ImportError(
            f"expected transformers {since[0]}.{since[1]} or later, but got {transformers.__version__}; {INSTALL}"
        )
    return transformers


def load_video_model(checkpoint: str, image_size: int, allow_download: bool) -> tuple[Any, Architecture]:
    """Load a SAM 2 or EdgeTAM video model in evaluation mode, on the CPU, with float32 weights.

    Arguments are those of :class:`Sam2VideoTracker`. A checkpoint serves any size: its weights do not depend on it.

    Raises:
        FileNotFoundError: there is no such model, or it has no safetensors.
        ImportError: transformers, or what the model needs beside it, is missing or too old.
        ValueError: the model is of another kind, lacks weights, or does not admit the size.
    """
    remedy = "give the folder of a checkpoint, or fetch it once by 'hf download ID' or with allow_download"
    local = {"local_files_only": not allow_download, "trust_remote_code": False}
    transformers = import_transformers()
    try:
        with quiet_unless(allow_download):
            settings, _ = transformers.PretrainedConfig.get_config_dict(checkpoint, **local)
            if not settings:
                raise FileNotFoundError("no config.json")
            architecture = architecture_of(settings, checkpoint)
            import_transformers(architecture.since)
            config = transformers.AutoConfig.from_pretrained(checkpoint, **local)
            set_image_size(config, image_size)
            model, loading = getattr(transformers, architecture.model).from_pretrained(
                checkpoint, config=config, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **local
            )
    except OSError as error:
        raise FileNotFoundError(
            f"expected config.json and model.safetensors in {checkpoint!r}, but got: {first_line(error)}; {remedy}"
        ) from error
    except ImportError as error:
        if "timm" not in str(error) and "torchvision" not in str(error):
            raise
        raise ImportError(
            f"expected all packages that {checkpoint!r} needs, but got: {first_line(error)}; {INSTALL_TIMM}"
        ) from error
    # transformers fills what a file lacks with random numbers and a warning.
    if missing := sorted(loading["missing_keys"]):
        raise ValueError(
            f"expected all weights in {checkpoint!r}, but got none for {missing[:3]} and {len(missing)} in all"
        )
    return model.eval().requires_grad_(False), architecture


def architecture_of(settings: Mapping[str, Any], checkpoint: str) -> Architecture:
    """The family that a checkpoint belongs to by its ``config.json``; a ValueError where it is none."""
    model_type = settings.get("model_type")
    if model_type not in ARCHITECTURES:
        raise ValueError(
            f"expected a model of type {' or '.join(ARCHITECTURES)}, but got {model_type!r} in {checkpoint!r}; take a "
            "video checkpoint, such as facebook/sam2.1-hiera-tiny or yonigozlan/EdgeTAM-hf"
        )
    return ARCHITECTURES[model_type]


def set_image_size(config: Any, image_size: int) -> None:
    """Set the side of the network input, and what follows from it; a ValueError where the model does not admit it."""
    if image_size == config.image_size:
        return
    multiple = 32  # the coarsest map is that of stride 32
    if config.model_type == "edgetam_video":  # the map of stride 16 is divided into a square of windows
        multiple = 16 * math.isqrt(config.perceiver_resampler_num_latents_2d)
    if image_size < multiple or image_size % multiple:
        raise ValueError(f"expected an image_size that is a multiple of {multiple}, but got {image_size}")
    config.image_size = config.prompt_encoder_config.image_size = image_size
    config.vision_config.backbone_feature_sizes = [[image_size // stride] * 2 for stride in (4, 8, 16)]
    config.memory_attention_rope_feat_sizes = [image_size // 16] * 2
    if hasattr(config.vision_config.backbone_config, "image_size"):
        config.vision_config.backbone_config.image_size = [image_size] * 2


# --- images, prompts and masks at the network's size ------------------------------------------------------------------


def prepare_image(image: NDArray[np.uint8], size: int, device: torch.device) -> Tensor:
    """RGB uint8 [H, W, 3] -> normalised float32 [3, size, size], whatever the aspect ratio, as in training."""
    pixels = torch.tensor(image, device=device).permute(2, 0, 1)[None].float()
    pixels = F.interpolate(pixels, (size, size), mode="bilinear", antialias=True) / 255
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (pixels[0] - mean) / std


def prepare_mask(mask: Mask, size: int) -> Tensor:
    """Bool [H, W] -> float32 [1, 1, size, size] of zeros and ones."""
    covered = torch.tensor(mask, dtype=torch.float32)[None, None]
    return (F.interpolate(covered, (size, size), mode="bilinear", antialias=True) >= 0.5).float()


def prepare_point(point: tuple[int, int], frame_size: tuple[int, int], size: int) -> dict[str, Tensor]:
    """One positive point (row, column) of a frame [H, W] -> its (x, y) in the network input, and its label 1."""
    (row, column), (height, width) = point, frame_size
    return {
        "point_coords": torch.tensor([[[[column * size / width, row * size / height]]]]),
        "point_labels": torch.ones(1, 1, 1, dtype=torch.int32),
    }


class PreparedFrames:
    """The frames of a clip as the model takes them, prepared when asked for: once each, for their features are kept."""

    def __init__(self, clip: NDArray[np.uint8], size: int, device: torch.device) -> None:
        self._clip, self._size, self.device = clip, size, device

    def __len__(self) -> int:
        return len(self._clip)

    def __getitem__(self, frame: int) -> Tensor:
        return prepare_image(self._clip[frame], self._size, self.device)


class SharedFeatures:
    """Features of the frames of a clip, for all objects and both directions; stands in for a session's own cache.

    The position encodings, five times as large as the features, are the same for every frame: one stays, that of the
    coarsest level, which alone is used. An LRU cache: beyond ``capacity`` frames one is dropped, and encoded again
    when needed.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._features: OrderedDict[int, dict[str, Any]] = OrderedDict()
        self._positions: list[Tensor] | None = None

    def cache_vision_features(self, frame_idx: int, features: dict[str, Any]) -> None:
        if self._positions is None:
            self._positions = features["vision_pos_embeds"][-1:]
        if len(self._features) >= self.capacity:
            self._features.popitem(last=False)
        self._features[frame_idx] = {**features, "vision_pos_embeds": self._positions}

    def get_vision_features(self, frame_idx: int) -> dict[str, Any] | None:
        if frame_idx in self._features:
            self._features.move_to_end(frame_idx)
        return self._features.get(frame_idx)

    def __len__(self) -> int:
        return len(self._features)


# --- sessions ---------------------------------------------------------------------------------------------------------


def open_session(
    architecture: Architecture, frames: PreparedFrames, features: SharedFeatures, size: tuple[int, int]
) -> Any:
    """An inference session for one object over frames and features that all objects share.

    One each, because the model follows every object by itself, but a session does not keep them apart: when one is
    prompted, it runs all of them again, and some releases then encode what all remember as if it had been prompted.
    """
    places = ("inference_device", "inference_state_device", "video_storage_device")
    session = getattr(import_transformers(), architecture.session)(
        video_height=size[0], video_width=size[1], dtype=torch.float32, **dict.fromkeys(places, frames.device)
    )
    for name in ("processed_frames", "cache", "output_dict_per_obj", "obj_with_new_inputs"):
        if not hasattr(session, name):
            version = import_transformers().__version__
            raise ImportError(
                f"expected an inference session with {name}, but that of transformers {version} has none; "
                "pip install transformers==5.23.0"
            )
    session.processed_frames = frames
    session.cache = features
    return session


def forget_old_frames(session: Any, frame: int, memories: int, pointers: int) -> None:
    """Drop from a session what the model will not attend to when it goes on from ``frame`` to a neighbour.

    It attends to the ``memories`` - 1 frames before, and to the small pointers of the ``pointers`` - 1 before. The
    prompted frame stays. Masks at the size of the network input were for the memory encoder alone.
    """
    for outputs in session.output_dict_per_obj.values():
        tracked = outputs["non_cond_frame_outputs"]
        for seen in list(tracked):
            distance = abs(seen - frame) + 1
            if distance >= max(memories, pointers):
                del tracked[seen]
            elif distance >= memories:
                tracked[seen] = {"object_pointer": tracked[seen]["object_pointer"]}
        for output in (*outputs["cond_frame_outputs"].values(), *tracked.values()):
            output.pop("high_res_masks", None)


def forget_positions(model: Any) -> None:
    """Drop the position encodings that transformers caches, by small ones: the cache holds the last one or two.

    That cache belongs to the class, and would outlive the model.
    """
    for module in model.modules():
        if "Sine" in type(module).__name__:
            for side in (1, 2):
                module(torch.Size((1, 1, side, side)), torch.device("cpu"), torch.float32)


@dataclass
class TrackedObject:
    """An object, and bool [H, W], its mask on the current frame.

    Without a session it was registered by an empty mask: there is nothing to find again, and it stays empty.
    """

    session: Any | None
    mask: Mask


class Sam2VideoTracker(MaskTracker):
    """Follows objects by SAM 2 or EdgeTAM, whichever the checkpoint is, as published: memory of seven frames.

    The image encoder runs once per frame, for all objects and both directions. The features of ``frames_kept`` frames
    stay until ``start`` or ``close``, and for every object the memory of at most seven frames, however long the clip:
    docs/ablations.md#cost-of-sam-2. The model lives as long as the tracker.

    Masks come from a quarter of ``image_size`` by bilinear interpolation of their logits; small holes are not filled.

    Args:
        checkpoint: folder with ``config.json`` and ``model.safetensors``, or id on the hub, of a transformers
            checkpoint of type sam2_video or edgetam_video.
        device: where the model runs.
        dtype: float32, or the type of autocast; None for bfloat16 on CUDA, float32 elsewhere.
        image_size: side of the network input in pixels; a multiple of 32, for EdgeTAM of 256.
        allow_download: whether the checkpoint may be fetched from the hub. Only safetensors are read either way.
        frames_kept: frames whose features are kept; those of a longer clip are encoded again on the way back.

    Raises:
        FileNotFoundError, ImportError, ValueError: see :func:`load_video_model`.
    """

    def __init__(
        self,
        checkpoint: str,
        device: torch.device,
        dtype: torch.dtype | None = None,
        image_size: int = 1024,
        allow_download: bool = False,
        frames_kept: int = 20,
    ) -> None:
        if frames_kept < 1:
            raise ValueError(f"expected frames_kept >= 1, but got {frames_kept}")
        self.device = device
        self.dtype = dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32)
        self.image_size = image_size
        self._frames_kept = frames_kept
        model, self._architecture = load_video_model(checkpoint, image_size, allow_download)
        self._model = model.to(device)
        self.close()

    def start(self, clip: NDArray[np.uint8]) -> None:
        super().start(clip)
        self._frames = PreparedFrames(clip, self.image_size, self.device)

    def reset(self) -> None:
        super().reset()
        self._objects: dict[int, TrackedObject] = {}

    def close(self) -> None:
        super().close()
        self._frames = PreparedFrames(self._clip, self.image_size, self.device)
        self._features = SharedFeatures(self._frames_kept)
        forget_positions(self._model)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()  # for the others on this device: what torch has cached is lost to them

    def _add(self, frame: int, object_id: int, prompt: tuple[int, int] | Mask) -> None:
        size = self._clip.shape[1], self._clip.shape[2]
        if not isinstance(prompt, tuple) and not prompt.any():
            self._objects[object_id] = TrackedObject(None, np.zeros(size, np.bool_))
            return
        session = open_session(self._architecture, self._frames, self._features, size)
        index = session.obj_id_to_idx(object_id)
        if isinstance(prompt, tuple):
            session.add_point_inputs(index, frame, prepare_point(prompt, size, self.image_size))
        else:
            session.add_mask_inputs(index, frame, prepare_mask(prompt, self.image_size))
        session.obj_with_new_inputs = [object_id]
        self._objects[object_id] = TrackedObject(session, self._run(session, frame))

    def _current_masks(self) -> dict[int, Mask]:
        return {key: tracked.mask for key, tracked in self._objects.items()}

    def _advance(self, frame: int, goal: int) -> None:
        for tracked in self._objects.values():
            if tracked.session is not None:
                tracked.mask = self._run(tracked.session, goal, reverse=goal < frame)

    @torch.inference_mode()
    def _run(self, session: Any, frame: int, reverse: bool = False) -> Mask:
        """Run the model for the object of a session on a frame, and return its mask there."""
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            logits = self._model(inference_session=session, frame_idx=frame, reverse=reverse).pred_masks
        config = self._model.config
        forget_old_frames(session, frame, config.num_maskmem, config.max_object_pointers_in_encoder)
        logits = F.interpolate(logits.float(), self._clip.shape[1:3], mode="bilinear")
        return (logits[0, 0] > 0).cpu().numpy()
