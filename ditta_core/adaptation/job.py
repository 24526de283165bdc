"""What an adaptation is given, what it reports on the way, and what it ends with."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ditta_core.adaptation.config import AdaptationConfig
from ditta_core.adaptation.state import AdaptedState
from ditta_core.segmentation.source import ModelSource
from ditta_core.teacher.config import TeacherConfig
from ditta_core.types import AdaptationFailed, AdaptationReport


@dataclass(frozen=True)
class AdaptationJob:
    """Everything a worker needs to adapt; can be pickled.

    Attributes:
        clip: Warm-up frames in time order, RGB uint8 [n, H, W, 3].
        input_size: Network input (height, width), also where none is found.
        model: Base model.
        teacher: Teacher that builds the targets.
        adaptation: Settings of the training.
        largest_side: Where it is given, the adaptation finds the longest side of the network input by itself, and takes
            none that is longer than these pixels.
        ignored: Pixels of the frames that take no part, bool [H, W]; None where all do.
    """

    clip: NDArray[np.uint8]
    input_size: tuple[int, int]
    model: ModelSource = field(default_factory=ModelSource)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    adaptation: AdaptationConfig = field(default_factory=AdaptationConfig)
    largest_side: int | None = None
    ignored: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class AdaptationProgress:
    """Progress of a running adaptation: share done (0..1), and loss of every finished step, or mean of every pass."""

    fraction: float
    losses: tuple[float, ...] = ()


@dataclass(frozen=True)
class AdaptationResult:
    """What came of an adaptation.

    Attributes:
        state: What serves; None where it did not succeed.
        report: How it went.
        final: Whether the adaptation has ended. One that is not final is sound and may serve, while the job trains on.
    """

    state: AdaptedState | None
    report: AdaptationReport
    final: bool = True


News = AdaptationProgress | AdaptationResult
"""What a running adaptation tells."""


class Cancelled(AdaptationFailed):
    """The adaptation was cancelled."""
