"""Objects followed by SAM 2, the teacher of the paper, through the package ``sam2``.

The package reads its videos from files and keeps what it tracks in a dictionary that its methods share. This file goes
below that, to the network itself: image features, one step of tracking, encoding of memory. It is the only one that
knows them, and refuses a package in which they take other arguments.

Method: Ravi et al., SAM 2: Segment Anything in Images and Videos, 2024. The file reads from the package, over the
checkpoint, to the tracker.
"""

from __future__ import annotations

import contextlib
import inspect
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ditta_core.segmentation.base import IMAGENET_MEAN, IMAGENET_STD
from ditta_core.teacher.base import Mask, MaskTracker, check_clip, check_frame, check_prompt

# --- the package ----------------------------------------------------------------------------------------------------

DISTRIBUTIONS = ("sam2", "rf-sam-2", "SAM-2")
"""What installs the Python package ``sam2``: two uploads of it to PyPI, and the authors' own repository."""

MAJOR_VERSION = "1"
"""Of all three. Proven: sam2 1.1.0 and rf-sam-2 1.0.3."""

INSTALL = (
    "install it by 'pip install sam2==1.1.0', or beside a CPU build of torch, which torchvision would break, by 'pip "
    "install hydra-core iopath tqdm pillow setuptools' and then 'SAM2_BUILD_CUDA=0 pip install --no-deps "
    "--no-build-isolation sam2==1.1.0'"
)

INTERFACE = {
    "forward_image": ("img_batch",),
    "track_step": (
        "frame_idx",
        "is_init_cond_frame",
        "current_vision_feats",
        "current_vision_pos_embeds",
        "feat_sizes",
        "point_inputs",
        "mask_inputs",
        "output_dict",
        "num_frames",
        "track_in_reverse",
        "run_mem_encoder",
        "prev_sam_mask_logits",
    ),
    "_encode_new_memory": (
        "current_vision_feats",
        "feat_sizes",
        "pred_masks_high_res",
        "object_score_logits",
        "is_mask_from_pts",
    ),
}
"""Every method of the network that is called here, with its arguments. Releases before December 2024 differ."""


def installed_package() -> tuple[str, str]:
    """Name and version of what provides ``sam2``; ("sam2", "") where it lies on the path without being installed."""
    for name in DISTRIBUTIONS:
        with contextlib.suppress(metadata.PackageNotFoundError):
            return name, metadata.version(name)
    return "sam2", ""


def require_sam2() -> type[nn.Module]:
    """The class of the network, ``sam2.modeling.sam2_base.SAM2Base``.

    Raises:
        ImportError: the package is not there, lacks something, or is of a version that works differently.
    """
    try:
        network: type[nn.Module] = import_module("sam2.modeling.sam2_base").SAM2Base
        import_module("sam2.modeling.backbones.hieradet")
        import_module("hydra.utils")
        import_module("PIL.Image")
    except ImportError as error:
        raise ImportError(f"expected the package sam2, but got: {error}; {INSTALL}") from error
    name, version = installed_package()
    if version and version.split(".")[0] != MAJOR_VERSION:
        raise ImportError(f"expected sam2 or rf-sam-2 in version {MAJOR_VERSION}, but got {name} {version}; {INSTALL}")
    for method, expected in INTERFACE.items():
        found = tuple(inspect.signature(getattr(network, method)).parameters)[1:] if hasattr(network, method) else ()
        if found != expected:
            raise ImportError(
                f"expected sam2 1.1 or rf-sam-2 1.0.3, where {method} takes {', '.join(expected)}, but got {name} "
                f"{version}, where it takes {', '.join(found)}; {INSTALL}"
            )
    return network


# --- the network ----------------------------------------------------------------------------------------------------

SIZES = {(96, 12): "t", (96, 16): "s", (112, 24): "b+", (144, 48): "l"}
"""Suffix of the package's configurations (tiny, small, base plus, large) by width and blocks of the image encoder."""

CONFIGURATIONS = tuple(f"{release}_hiera_{size}" for release in ("sam2", "sam2.1") for size in SIZES.values())
"""The package's own configurations, by the names of their files."""


def load_configuration(name: str) -> Any:
    """One of the package's own configurations, an omegaconf ``DictConfig``.

    Raises:
        ValueError: there is no such configuration.
    """
    require_sam2()
    if name not in CONFIGURATIONS:
        raise ValueError(f"expected a configuration of {', '.join(CONFIGURATIONS)}, but got {name!r}")
    (folder,) = import_module("sam2").__path__
    return import_module("omegaconf").OmegaConf.load(Path(folder, "configs", name.split("_")[0], f"{name}.yaml"))


def configuration_name(weights: Mapping[str, Tensor]) -> str:
    """Which of the package's configurations a checkpoint was made with, from the names and shapes of its tensors.

    Raises:
        ValueError: it is none of SAM 2, or of a size that the package does not have.
    """
    first = weights.get("image_encoder.trunk.patch_embed.proj.weight")
    if first is None:
        raise ValueError(
            f"expected a checkpoint of SAM 2 in its authors' layout, but got tensors such as {sorted(weights)[:3]}; a "
            "checkpoint in the layout of transformers is for the teacher 'object_vote:sam2_transformers'"
        )
    prefix = "image_encoder.trunk.blocks."
    blocks = {name.removeprefix(prefix).split(".")[0] for name in weights if name.startswith(prefix)}
    size = SIZES.get((len(first), len(blocks)))
    if size is None:
        raise ValueError(
            f"expected an image encoder of (width, blocks) {', '.join(map(str, SIZES))}, but got "
            f"{(len(first), len(blocks))}; name the configuration if it is one of the package's"
        )
    release = "sam2.1" if "no_obj_embed_spatial" in weights else "sam2"
    return f"{release}_hiera_{size}"


SIZE_MULTIPLE = 32
"""Of the image size: the positions within a window of 8×8 tokens, 4 pixels each, are laid side by side."""


def build_network(configuration: Any, image_size: int) -> nn.Module:
    """The network of a configuration with random weights, as the package's own video predictor sets it up.

    Args:
        configuration: of :func:`load_configuration`, or of the same form.
        image_size: side in pixels of the square that frames are resized to. The published weights were trained at
            1024; at 512 they need a quarter of the time, and see less.

    Raises:
        ImportError: see :func:`require_sam2`.
        ValueError: the network cannot work at this size.
    """
    network = require_sam2()
    if image_size < 1 or image_size % SIZE_MULTIPLE:
        raise ValueError(f"expected an image size that is a multiple of {SIZE_MULTIPLE}, but got {image_size}")
    model = import_module("omegaconf").OmegaConf.create({"settings": configuration.model}).settings
    model._target_ = f"{network.__module__}.{network.__name__}"
    model.image_size = image_size
    model.binarize_mask_from_pts_for_mem_enc = True
    model.sam_mask_decoder_extra_args = {
        "dynamic_multimask_via_stability": True,
        "dynamic_multimask_stability_delta": 0.05,
        "dynamic_multimask_stability_thresh": 0.98,
    }
    layer = model.memory_attention.layer
    for attention in (layer.self_attention, layer.cross_attention):
        attention.feat_sizes = [image_size // 16] * 2
    for part in (model.image_encoder.neck, model.memory_encoder):
        # Else tables for 1024 pixels are put on the first CUDA device, whatever device and size is used.
        part.position_encoding.warmup_cache = False
    built: nn.Module = import_module("hydra.utils").instantiate(model, _recursive_=True)
    return built.eval().requires_grad_(False)


def require_checkpoint(path: Path) -> None:
    """Raise a FileNotFoundError unless there is a file."""
    if not path.is_file():
        raise FileNotFoundError(
            f"expected the file of a SAM 2 checkpoint, but got {str(path)!r}, where there is none; they can be had at "
            "https://github.com/facebookresearch/sam2#download-checkpoints"
        )


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint, by name: ``.safetensors``, or what torch can load without running its code.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds something else than tensors.
    """
    require_checkpoint(path)
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"expected a file of nothing but tensors in {path}, but got: {error}") from error
    weights = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ValueError(f"expected tensors by name in {path}, but got {type(content).__name__}")
    return weights


def load_network(checkpoint: str, device: torch.device, image_size: int = 1024, configuration: str = "") -> nn.Module:
    """The network of a checkpoint, on a device, ready to infer.

    Args:
        checkpoint: path of a file; any size of SAM 2 and SAM 2.1, also retrained.
        device: where it runs.
        image_size: see :func:`build_network`.
        configuration: one of :data:`CONFIGURATIONS`; "" for the one that the tensors show.

    Raises:
        ImportError: see :func:`require_sam2`.
        FileNotFoundError: there is no such file.
        ValueError: it is no such checkpoint, or the image size does not fit.
    """
    require_sam2()
    weights = read_checkpoint(Path(checkpoint))
    name = configuration or configuration_name(weights)
    network = build_network(load_configuration(name), image_size)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"expected the tensors of {name} in {checkpoint}, but got others: {error}") from error
    return network.to(device)


# --- frames and masks -----------------------------------------------------------------------------------------------


def network_input(image: NDArray[np.uint8], size: int, device: torch.device) -> Tensor:
    """Image RGB uint8 [H, W, 3] -> float32 [1, 3, size, size], regardless of its aspect, normalised.

    By Pillow's bicubic filter, as in the package, which requires Pillow; torch's differ by up to 25 levels on noise.
    """
    resized = np.array(import_module("PIL.Image").fromarray(np.ascontiguousarray(image)).resize((size, size)))
    pixels = torch.from_numpy(resized).to(device).permute(2, 0, 1)[None]
    mean, deviation = (torch.tensor(each, device=device).view(3, 1, 1) for each in (IMAGENET_MEAN, IMAGENET_STD))
    return (pixels / 255 - mean) / deviation


def fill_holes(scores: Tensor, area: int) -> Tensor:
    """Regions of background (score <= 0) of at most ``area`` pixels become foreground, by the small score of 0.1.

    The package's post-processing, which it skips where its CUDA kernel was not built.

    Args:
        scores: float [B, 1, h, w], logits of masks.
        area: in pixels of the scores, neighbours over corners included; 0 for none.
    """
    if area == 0:
        return scores
    background = (scores <= 0).to("cpu", torch.uint8).numpy()
    holes = np.zeros(background.shape, np.bool_)
    for index, mask in enumerate(background[:, 0]):
        _, regions, statistics, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        small = statistics[:, cv2.CC_STAT_AREA] <= area
        small[0] = False  # the foreground
        holes[index, 0] = small[regions]
    return scores.masked_fill(torch.from_numpy(holes).to(scores.device), 0.1)


# --- the tracker ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sam2TrackerConfig:
    """Settings of :class:`Sam2Tracker`.

    Attributes:
        hole_area: holes in masks of up to this many pixels are filled, at a quarter of the network's image size.
        objects_at_once: objects that go through the network as one batch. Made for a GPU, which one object leaves idle;
            on a CPU the time an object takes is the same (0.3 s a frame on one core: tiny, 512 pixels).
        frames_kept: frames whose image features are kept; those of a longer clip are computed again on the way back.
            A frame takes 17 MB at 1024 pixels, 4 MB at 512, half of that with autocast.

    Raises:
        ValueError: a value out of its range.
    """

    hole_area: int = 8
    objects_at_once: int = 8
    frames_kept: int = 20

    def __post_init__(self) -> None:
        for name, least in (("hole_area", 0), ("objects_at_once", 1), ("frames_kept", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"expected {name} >= {least}, but got {getattr(self, name)}")


@dataclass
class ObjectBatch:
    """Objects that were prompted on the same frame: they remember the same frames, so the network takes them together.

    Attributes:
        object_ids: in the order of the network's batch.
        prompted_frame: where they were prompted.
        scores: float32 [B, 1, h, w], the logits of their masks there.
        appearance: float32 [B, 1], the network's logit that the object is visible there.
        pointer: [B, C], their appearance there as the network's decoder sums it up.
        memory: what the network remembers of every frame, in its own form; empty before the first propagation.
    """

    object_ids: list[int]
    prompted_frame: int
    scores: Tensor
    appearance: Tensor
    pointer: Tensor
    memory: dict[int, dict[str, Any]] = field(default_factory=dict)

    def forget_beyond(self, frame: int, reach: int) -> None:
        """Keep the prompted frame and those within ``reach`` frames of ``frame``."""
        kept = {key: value for key, value in self.memory.items() if abs(key - frame) <= reach}
        self.memory = {self.prompted_frame: self.memory[self.prompted_frame], **kept}

    def network_memory(self) -> dict[str, dict[int, dict[str, Any]]]:
        """The memory as the network wants it: prompted frames apart from tracked ones."""
        tracked = {key: value for key, value in self.memory.items() if key != self.prompted_frame}
        return {
            "cond_frame_outputs": {self.prompted_frame: self.memory[self.prompted_frame]},
            "non_cond_frame_outputs": tracked,
        }


def as_sequence(feature_map: Tensor, objects: int) -> Tensor:
    """Features [1, C, h, w] of an image -> view [h·w, objects, C], as the network wants them."""
    return feature_map.expand(objects, -1, -1, -1).flatten(2).permute(2, 0, 1)


class Sam2Tracker(MaskTracker):
    """Follows objects by SAM 2.

    Equal to the package's own video predictor, except for the order of the work: objects prompted on the same frame are
    a batch, and image features are computed once for all objects and both directions.

    Memory, besides the network and the clip: image features of ``frames_kept`` frames, and for every object what the
    network remembers of the prompted frame and the 15 nearest ones (8 MB at 1024 pixels, 2 MB at 512). It does not grow
    with the clip beyond that, and ``close`` gives all of it back; the network lives as long as the tracker.

    Args:
        network: of :func:`load_network` or :func:`build_network`.
        dtype: of the computation. bfloat16 or float16 is done by autocast: weights stay float32. None: bfloat16 on
            CUDA, as published, and float32 elsewhere.
        config: settings.
    """

    def __init__(
        self, network: nn.Module, dtype: torch.dtype | None = None, config: Sam2TrackerConfig | None = None
    ) -> None:
        self.config = config or Sam2TrackerConfig()
        self._network = cast(Any, network)  # its attributes are not typed
        self._device = next(network.parameters()).device
        self._dtype = dtype or (torch.bfloat16 if self._device.type == "cuda" else torch.float32)
        self._reach = max(
            (self._network.num_maskmem - 1) * self._network.memory_temporal_stride_for_eval,
            self._network.max_obj_ptrs_in_encoder - 1,
        )
        self.close()

    @classmethod
    def from_checkpoint(
        cls, checkpoint: str, device: torch.device, dtype: torch.dtype | None = None, image_size: int = 1024
    ) -> Sam2Tracker:
        """The tracker with the network of a checkpoint; see :func:`load_network`."""
        return cls(load_network(checkpoint, device, image_size), dtype)

    def start(self, clip: NDArray[np.uint8]) -> None:
        """See :meth:`MaskTracker.start`.

        Raises:
            ValueError: not a clip of RGB frames.
        """
        check_clip(clip)
        self.close()
        self._clip = clip

    def reset(self) -> None:
        self._object_ids: list[int] = []
        self._prompts: dict[int, tuple[int, int] | Mask] = {}
        self._batches: list[ObjectBatch] = []
        self._masks: dict[int, Mask] = {}
        self._frame: int | None = None

    def close(self) -> None:
        self._clip = np.zeros((0, 1, 1, 3), np.uint8)
        self._features: dict[int, list[Tensor]] = {}
        self._image_positions: Tensor | None = None
        self._memory_positions: Tensor | None = None
        self.reset()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()  # for the others on this device: what torch has cached is lost to them

    def add_object(
        self, frame: int, object_id: int, *, point: tuple[int, int] | None = None, mask: Mask | None = None
    ) -> None:
        """See :meth:`MaskTracker.add_object`. The network sees the prompts of a frame together, when a mask is needed.

        Raises:
            ValueError: also where the other objects are on another frame.
        """
        check_frame(len(self._clip), frame, self._frame)
        check_prompt((self._clip.shape[1], self._clip.shape[2]), point, mask)
        prompt = point if mask is None else mask.copy()
        assert prompt is not None
        self._prompts[object_id] = prompt
        if object_id not in self._object_ids:
            self._object_ids.append(object_id)
        self._frame = frame

    def masks(self, frame: int) -> dict[int, Mask]:
        check_frame(len(self._clip), frame, self._frame)
        self._prompt()
        return {object_id: self._masks[object_id] for object_id in self._object_ids}

    @torch.inference_mode()
    def propagate(self, frame: int, *, reverse: bool = False) -> dict[int, Mask]:
        check_frame(len(self._clip), frame, self._frame)
        goal = frame - 1 if reverse else frame + 1
        if not 0 <= goal < len(self._clip):
            raise ValueError(f"expected a frame with one {'before' if reverse else 'after'} it, but got {frame}")
        if not self._object_ids:
            return {}
        self._prompt()
        with self._computation():
            for batch in self._batches:
                if not batch.memory:
                    batch.memory[frame] = self._memorise_prompted(batch)
                self._track(batch, goal, reverse)
        self._frame = goal
        return self.masks(goal)

    # --- the network ------------------------------------------------------------------------------------------------

    def _computation(self) -> torch.autocast:
        """In the tracker's number format, whatever that of the caller."""
        if self._dtype == torch.float32:
            return torch.autocast(self._device.type, enabled=False)
        return torch.autocast(self._device.type, self._dtype)

    @torch.inference_mode()
    def _prompt(self) -> None:
        """Make objects of the prompts that wait."""
        waiting, self._prompts = self._prompts, {}
        at_once = self.config.objects_at_once
        with self._computation():
            for points in (True, False):  # the network takes them apart
                object_ids = [key for key, prompt in waiting.items() if isinstance(prompt, tuple) is points]
                for first in range(0, len(object_ids), at_once):
                    self._prompt_batch({key: waiting[key] for key in object_ids[first : first + at_once]})

    def _prompt_batch(self, prompts: Mapping[int, tuple[int, int] | Mask]) -> None:
        """Make objects of prompts on the frame, all of which are points or all masks."""
        assert self._frame is not None
        points = [prompt for prompt in prompts.values() if isinstance(prompt, tuple)]
        masks = [prompt for prompt in prompts.values() if not isinstance(prompt, tuple)]
        output = self._step(
            self._frame,
            len(prompts),
            point_inputs=self._point_inputs(points) if points else None,
            mask_inputs=self._mask_inputs(masks) if masks else None,
        )
        scores = fill_holes(output["pred_masks"], self.config.hole_area)
        batch = ObjectBatch(list(prompts), self._frame, scores, output["object_score_logits"], output["obj_ptr"])
        self._batches.append(batch)
        self._keep_masks(batch, scores)

    def _point_inputs(self, points: Sequence[tuple[int, int]]) -> dict[str, Tensor]:
        """One positive point (row, column) in the image for each object, as the network wants them."""
        height, width = self._clip.shape[1:3]
        side = self._network.image_size
        places = [[[column / width * side, row / height * side]] for row, column in points]
        return {
            "point_coords": torch.tensor(places, dtype=torch.float32, device=self._device),
            "point_labels": torch.ones((len(points), 1), dtype=torch.int32, device=self._device),
        }

    def _mask_inputs(self, masks: Sequence[Mask]) -> Tensor:
        """Masks, bool [H, W], of the image -> float32 [B, 1, side, side] of 0 and 1."""
        side = self._network.image_size
        given = torch.from_numpy(np.stack(masks)[:, None]).to(self._device).float()
        resized = F.interpolate(given, (side, side), mode="bilinear", align_corners=False, antialias=True)
        return (resized >= 0.5).float()

    def _track(self, batch: ObjectBatch, goal: int, reverse: bool) -> None:
        """Bring a batch of objects to an adjacent frame."""
        output = self._step(goal, len(batch.object_ids), memory=batch.network_memory(), reverse=reverse)
        batch.memory[goal] = self._memory(output["maskmem_features"], output["maskmem_pos_enc"], output["obj_ptr"])
        batch.forget_beyond(goal, self._reach)
        self._keep_masks(batch, fill_holes(output["pred_masks"], self.config.hole_area))

    def _step(
        self,
        frame: int,
        objects: int,
        *,
        point_inputs: dict[str, Tensor] | None = None,
        mask_inputs: Tensor | None = None,
        memory: dict[str, dict[int, dict[str, Any]]] | None = None,
        reverse: bool = False,
    ) -> dict[str, Any]:
        """The network's step on a frame: from prompts alone, or from memory alone, which it then extends."""
        levels = self._image_features(frame)
        assert self._image_positions is not None
        output: dict[str, Any] = self._network.track_step(
            frame_idx=frame,
            is_init_cond_frame=memory is None,
            current_vision_feats=[as_sequence(level, objects) for level in levels],
            current_vision_pos_embeds=[as_sequence(self._image_positions, objects)],
            feat_sizes=[tuple(level.shape[2:]) for level in levels],
            point_inputs=point_inputs,
            mask_inputs=mask_inputs,
            output_dict=memory or {},
            num_frames=len(self._clip),
            track_in_reverse=reverse,
            run_mem_encoder=memory is not None,
            prev_sam_mask_logits=None,
        )
        return output

    def _memorise_prompted(self, batch: ObjectBatch) -> dict[str, Any]:
        """What the network remembers of the frame that a batch was prompted on."""
        levels = self._image_features(batch.prompted_frame)
        side = self._network.image_size
        features, positions = self._network._encode_new_memory(
            current_vision_feats=[as_sequence(level, len(batch.object_ids)) for level in levels],
            feat_sizes=[tuple(level.shape[2:]) for level in levels],
            pred_masks_high_res=F.interpolate(batch.scores, (side, side), mode="bilinear", align_corners=False),
            object_score_logits=batch.appearance,
            is_mask_from_pts=True,
        )
        return self._memory(features, positions, batch.pointer)

    def _memory(self, features: Tensor, positions: list[Tensor], pointer: Tensor) -> dict[str, Any]:
        """A frame's memory in the network's form; bfloat16 as in the package, and one table of positions for all."""
        if self._memory_positions is None:
            self._memory_positions = positions[-1][:1].clone()
        return {
            "maskmem_features": features.to(torch.bfloat16),
            "maskmem_pos_enc": [self._memory_positions.expand(len(features), -1, -1, -1)],
            "obj_ptr": pointer,
        }

    def _image_features(self, frame: int) -> list[Tensor]:
        """Feature maps [1, C, h, w] of a frame, finest first: computed once, while no more than ``frames_kept``."""
        levels = self._features.pop(frame, None)
        if levels is None:
            network = self._network
            output = network.forward_image(network_input(self._clip[frame], network.image_size, self._device))
            levels = output["backbone_fpn"][-network.num_feature_levels :]
            self._image_positions = output["vision_pos_enc"][-1]
            if len(self._features) >= self.config.frames_kept:
                del self._features[next(iter(self._features))]  # the one not used for longest
        self._features[frame] = levels
        return levels

    def _keep_masks(self, batch: ObjectBatch, scores: Tensor) -> None:
        """Scores [B, 1, h, w] -> masks of the size of the clip."""
        size = self._clip.shape[1:3]
        masks = (F.interpolate(scores.float(), size, mode="bilinear", align_corners=False) > 0)[:, 0].cpu().numpy()
        self._masks.update(zip(batch.object_ids, masks, strict=True))
