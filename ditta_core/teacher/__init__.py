"""Teachers: how the targets of the warm-up are made."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ditta_core.teacher.base import TargetBuilder


@dataclass(frozen=True)
class TeacherConfig:
    """Which teacher.

    Attributes:
        name: ``flow`` for dense propagation along optical flow (runs anywhere), ``object_vote:flow`` for the published
            object vote over regions tracked by flow.
    """

    name: str = "flow"


def build_teacher(config: TeacherConfig, device: torch.device) -> TargetBuilder:
    """The teacher of a configuration, on ``device`` where it runs a network.

    Raises:
        ValueError: there is no such teacher.
    """
    if config.name == "flow":
        from ditta_core.teacher.dense_flow import DenseFlow

        return DenseFlow()
    if config.name == "object_vote:flow":
        from ditta_core.teacher.flow_tracker import FlowTracker
        from ditta_core.teacher.object_vote import ObjectVote

        return ObjectVote(FlowTracker())
    raise ValueError(f"expected the teacher 'flow' or 'object_vote:flow', but got {config.name!r}")
