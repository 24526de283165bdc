"""Which teacher; nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass

TEACHERS = ("flow", "object_vote:flow", "object_vote:sam2", "object_vote:sam2_transformers")


@dataclass(frozen=True)
class TeacherConfig:
    """Which teacher.

    Attributes:
        name: ``flow`` for dense propagation along optical flow (runs anywhere); ``object_vote:`` and a tracker for the
            published object vote: ``flow`` for regions tracked by flow, ``sam2`` for SAM 2 by the package ``sam2``,
            ``sam2_transformers`` for SAM 2 or EdgeTAM by transformers. What follows is for these two alone.
        checkpoint: ``sam2``: path of a file; ``sam2_transformers``: path of a folder, or an id on the hub.
        image_size: side in pixels of the square that frames are resized to.
        device: of the network; "" for the model's.
        dtype: ``float32``, or ``bfloat16`` or ``float16`` by autocast; "" for bfloat16 on CUDA and float32 elsewhere.
        allow_download: whether a checkpoint may be downloaded.
    """

    name: str = "flow"
    checkpoint: str = ""
    image_size: int = 1024
    device: str = ""
    dtype: str = ""
    allow_download: bool = False
