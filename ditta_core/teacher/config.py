"""The settings of the teacher; nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass

TEACHERS = ("flow", "object_vote:flow", "object_vote:sam2", "object_vote:sam2_transformers")


@dataclass(frozen=True)
class TeacherConfig:
    """The teacher of an adaptation, and the network that it tracks objects with.

    Attributes:
        name: Name of the teacher: ``flow`` for dense propagation along optical flow (runs anywhere); ``object_vote:``
            and a tracker for the published object vote: ``flow`` for regions tracked by flow, ``sam2`` for SAM 2 by the
            package ``sam2``, ``sam2_transformers`` for SAM 2 or EdgeTAM by transformers. The other settings are for
            these two alone.
        checkpoint: Checkpoint of the tracker. ``sam2``: path of a file; ``sam2_transformers``: path of a folder, or an
            id on the hub.
        image_size: Side in pixels of the square that frames are resized to.
        device: Device of the tracker's network; "" for the model's.
        dtype: Number format of the tracker: ``float32``, or ``bfloat16`` or ``float16`` by autocast; "" for bfloat16 on
            CUDA and float32 elsewhere.
        allow_download: Whether a checkpoint may be downloaded.
    """

    name: str = "flow"
    checkpoint: str = ""
    image_size: int = 1024
    device: str = ""
    dtype: str = ""
    allow_download: bool = False
