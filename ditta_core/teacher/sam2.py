"""Objects followed by SAM 2, the teacher of the paper, through the network of the package ``sam2``.

The package's own tracker reads its videos from files; this one goes below it, to the network itself.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, cast

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ditta_core.segmentation.base import IMAGENET_MEAN, IMAGENET_STD
from ditta_core.teacher.base import Mask, MaskTracker
from ditta_core.teacher.sam2_network import load_network


def network_input(image: NDArray[np.uint8], size: int, device: torch.device) -> Tensor:
    """Image RGB uint8 [H, W, 3] -> float32 [1, 3, size, size], regardless of its aspect, normalised.

    By Pillow's bicubic filter, as in the package; torch's differs by up to 25 levels on noise.
    """
    resized = np.array(import_module("PIL.Image").fromarray(np.ascontiguousarray(image)).resize((size, size)))
    pixels = torch.from_numpy(resized).to(device).permute(2, 0, 1)[None]
    mean, deviation = (torch.tensor(each, device=device).view(3, 1, 1) for each in (IMAGENET_MEAN, IMAGENET_STD))
    return (pixels / 255 - mean) / deviation


def fill_holes(scores: Tensor, area: int) -> Tensor:
    """Regions of background (score <= 0) of at most ``area`` pixels become foreground, by the small score of 0.1.

    The package's post-processing of mask logits, float [B, 1, h, w], which it skips where its CUDA kernel was not
    built. Neighbours over corners are of one region.
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


@dataclass(frozen=True)
class Sam2TrackerConfig:
    """Settings of :class:`Sam2Tracker`.

    Attributes:
        hole_area: Largest area of holes in masks that are filled, in pixels at a quarter of the network's image size.
        objects_at_once: Number of objects that go through the network as one batch, for GPUs, which one object leaves
            idle.
        frames_kept: Number of frames whose image features are kept; those of a longer clip are computed again on the
            way back. What a frame takes: docs/ablations.md#cost-of-sam-2.

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
    """Objects that were prompted on the same frame: their memories are of the same frames, so they are one batch.

    Attributes:
        object_ids: Ids of the objects in the order of the batch.
        prompted_frame: Frame that they were prompted on.
        scores: Logits of their masks there, float32 [B, 1, h, w].
        appearance: Logits that the objects are visible there, float32 [B, 1].
        pointer: Appearance of the objects there as the network's decoder sums it up, [B, C].
        memory: Memory of every frame in the network's own form; empty before the first propagation.
    """

    object_ids: list[int]
    prompted_frame: int
    scores: Tensor
    appearance: Tensor
    pointer: Tensor
    memory: dict[int, dict[str, Any]] = field(default_factory=dict)

    def forget_beyond(self, frame: int, reach: int) -> None:
        """Keep the prompted frame and those within ``reach`` frames of ``frame``."""
        first = self.prompted_frame
        self.memory = {key: value for key, value in self.memory.items() if key == first or abs(key - frame) <= reach}

    def network_memory(self) -> dict[str, dict[int, dict[str, Any]]]:
        """The memory as the network takes it: the prompted frame apart from the tracked ones."""
        tracked = dict(self.memory)
        prompted = {self.prompted_frame: tracked.pop(self.prompted_frame)}
        return {"cond_frame_outputs": prompted, "non_cond_frame_outputs": tracked}


def as_sequence(feature_map: Tensor, objects: int) -> Tensor:
    """Features [1, C, h, w] of an image -> view [h·w, objects, C], as the network wants them."""
    return feature_map.expand(objects, -1, -1, -1).flatten(2).permute(2, 0, 1)


class Sam2Tracker(MaskTracker):
    """Follows objects by SAM 2.

    Equal to the package's own video predictor, except for the order of the work: objects prompted on the same frame are
    a batch, and image features are computed once for all objects and both directions.

    Memory, besides the network and the clip: image features of ``frames_kept`` frames, and for every object the memory
    of the prompted frame and the 15 nearest ones. It does not grow with the clip beyond that, and ``close`` gives all
    of it back; the network lives as long as the tracker.

    Args:
        network: of :func:`~ditta_core.teacher.sam2_network.load_network` or ``build_network``.
        dtype: of the computation. bfloat16 or float16 is done by autocast: weights stay float32. None: bfloat16 on
            CUDA, as published, and float32 elsewhere.
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

    def reset(self) -> None:
        super().reset()
        self._object_ids: list[int] = []
        self._prompts: dict[int, tuple[int, int] | Mask] = {}
        self._batches: list[ObjectBatch] = []
        self._masks: dict[int, Mask] = {}

    def close(self) -> None:
        super().close()
        self._features: OrderedDict[int, list[Tensor]] = OrderedDict()
        self._image_positions: Tensor | None = None
        self._memory_positions: Tensor | None = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()  # for the others on this device: what torch has cached is lost to them

    def _add(self, frame: int, object_id: int, prompt: tuple[int, int] | Mask) -> None:
        """Keep the prompt: the network sees the prompts of a frame together, when a mask is needed."""
        self._prompts[object_id] = prompt if isinstance(prompt, tuple) else prompt.copy()
        if object_id not in self._object_ids:
            self._object_ids.append(object_id)

    def _current_masks(self) -> dict[int, Mask]:
        self._prompt()
        return {object_id: self._masks[object_id] for object_id in self._object_ids}

    @torch.inference_mode()
    def _advance(self, frame: int, goal: int) -> None:
        self._prompt()
        with self._computation():
            for batch in self._batches:
                if not batch.memory:
                    batch.memory[frame] = self._memorise_prompted(batch)
                self._track(batch, goal, reverse=goal < frame)

    def _computation(self) -> torch.autocast:
        """In the tracker's number format, whatever that of the caller."""
        half = self._dtype != torch.float32
        return torch.autocast(self._device.type, self._dtype if half else None, enabled=half)

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
        if frame not in self._features:
            network = self._network
            output = network.forward_image(network_input(self._clip[frame], network.image_size, self._device))
            self._image_positions = output["vision_pos_enc"][-1]
            if len(self._features) >= self.config.frames_kept:
                self._features.popitem(last=False)
            self._features[frame] = output["backbone_fpn"][-network.num_feature_levels :]
        self._features.move_to_end(frame)  # an LRU cache
        return self._features[frame]

    def _keep_masks(self, batch: ObjectBatch, scores: Tensor) -> None:
        """Scores [B, 1, h, w] -> masks of the size of the clip."""
        size = self._clip.shape[1:3]
        masks = (F.interpolate(scores.float(), size, mode="bilinear", align_corners=False) > 0)[:, 0].cpu().numpy()
        self._masks.update(zip(batch.object_ids, masks, strict=True))
