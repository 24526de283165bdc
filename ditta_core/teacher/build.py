"""From a teacher configuration to a teacher."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch

from ditta_core.segmentation.base import available_device
from ditta_core.teacher.base import MaskTracker, TargetBuilder
from ditta_core.teacher.config import TEACHERS, TeacherConfig

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def check_teacher(config: TeacherConfig) -> None:
    """Find out, without loading anything large, whether a teacher can be built here.

    Raises:
        FileNotFoundError: there is no such checkpoint file.
        ValueError: there is no such teacher, device or dtype, or no checkpoint is named.
        ImportError: a package is missing; the message says how to install it.
    """
    if config.name not in TEACHERS:
        raise ValueError(f"expected the teacher {', '.join(TEACHERS[:-1])} or {TEACHERS[-1]}, but got {config.name!r}")
    if config.dtype not in ("", *DTYPES):
        raise ValueError(f"expected the dtype {', '.join(DTYPES)} or '', but got {config.dtype!r}")
    if config.device:
        available_device(config.device)
    if config.name == "object_vote:sam2":
        from ditta_core.teacher.sam2_network import require_checkpoint, require_sam2

        require_sam2()
        require_checkpoint(Path(config.checkpoint))
    if config.name == "object_vote:sam2_transformers":
        if not config.checkpoint:
            raise ValueError("expected a checkpoint for the teacher 'object_vote:sam2_transformers', but got none")
        if find_spec("transformers") is None:
            raise ImportError("expected the package transformers, but got none; pip install transformers")


def build_teacher(config: TeacherConfig, device: torch.device) -> TargetBuilder:
    """The teacher of a configuration, on ``device`` where it runs a network and the configuration names none.

    Raises:
        FileNotFoundError, ImportError, ValueError: see :func:`check_teacher`; ValueError also for a checkpoint that is
            none of the tracker's.
    """
    check_teacher(config)
    if config.name == "flow":
        from ditta_core.teacher.dense_flow import DenseFlow

        return DenseFlow()
    from ditta_core.teacher.object_vote import ObjectVote

    return ObjectVote(build_tracker(config, torch.device(config.device) if config.device else device))


def build_tracker(config: TeacherConfig, device: torch.device) -> MaskTracker:
    """The tracker that the object vote of a checked configuration is held over, on a device."""
    dtype = DTYPES.get(config.dtype)
    if config.name == "object_vote:sam2":
        from ditta_core.teacher.sam2 import Sam2Tracker

        return Sam2Tracker.from_checkpoint(config.checkpoint, device, dtype, config.image_size)
    if config.name == "object_vote:sam2_transformers":
        from ditta_core.teacher.sam2_transformers import Sam2VideoTracker

        return Sam2VideoTracker(config.checkpoint, device, dtype, config.image_size, config.allow_download)
    from ditta_core.teacher.flow_tracker import FlowTracker

    return FlowTracker()
