"""The one interface of every way to segment a video."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from ditta_core.adaptation.config import DEFAULT_SEED
from ditta_core.datasets.base import VideoSequence
from ditta_core.inference.compiled_network import Compiler
from ditta_core.inference.config import AUTO_LONG_SIDE, DEFAULT_LONG_SIDE, Runtime, RuntimeConfig
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.segmentation.source import ModelSource
from ditta_core.teacher.config import TeacherConfig
from ditta_core.types import AdaptationReport, Frame, Segmentation


@dataclass(frozen=True)
class MethodSetup:
    """What every method is built from.

    Attributes:
        source: Image model, its classes and its device.
        teacher: Teacher of DiTTA's warm-up; its tracker is also the one of ``tracker_refine``.
        input_size: Network input (height, width); None for ``long_side``.
        long_side: Longest side of the network input in pixels, 0 for the image's own. ``AUTO_LONG_SIDE`` has the
            evaluation find it, see :class:`~ditta_core.evaluation.input_sizes.InputSizes`; a method by itself takes
            ``DEFAULT_LONG_SIDE`` for it.
        seed: Seed of everything random in the method.
        runtime: What runs networks whose weights do not change from frame to frame, in float32.
        labelled: Labelled drives of another world, for the methods that learn from them; can be pickled.
    """

    source: ModelSource = field(default_factory=ModelSource)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    input_size: tuple[int, int] | None = None
    long_side: int = DEFAULT_LONG_SIDE
    seed: int = DEFAULT_SEED
    runtime: Runtime = Runtime.TORCH
    labelled: tuple[VideoSequence, ...] = ()

    def network_input(self, model: SegmentationModel, frame_size: tuple[int, int]) -> tuple[int, int]:
        """Network input (height, width) for a frame of a size (H, W)."""
        side = DEFAULT_LONG_SIDE if self.long_side == AUTO_LONG_SIDE else self.long_side
        return self.input_size or model.input_size(frame_size, side)


class Method(ABC):
    """Segments one video after another.

    Before ``prepare`` it answers as it does without an adaptation; ``prepare`` adapts it to the first frames of the
    video and leaves nothing of the frames observed before, so that what follows is the same whether or not the warm-up
    frames were observed too. After it, a method that freezes changes no weight any more.

    Args:
        setup: Settings that it is built from.
        model: Loaded model that ``setup.source`` describes; shared, never to be changed in place.

    Attributes:
        compiler: Compiles the networks that do not change from frame to frame; None where eager torch runs them.
        uses_warmup: Whether ``prepare`` does anything. Where it does not, the answers of the method do not depend on
            the length of the warm-up, and ``prepare`` is not called.
        uses_teacher: Whether it needs the teacher of the setup.
        uses_labelled: Whether it needs the labelled drives of the setup.
        own_input_size: Whether it keeps its own size of the network input where one is found for the others.
    """

    uses_warmup: ClassVar[bool]
    uses_teacher: ClassVar[bool] = False
    uses_labelled: ClassVar[bool] = False
    own_input_size: ClassVar[bool] = False

    def __init__(self, setup: MethodSetup, model: SegmentationModel) -> None:
        self.setup = setup
        self.model = model
        # Every frame of a size is answered by the same network; float32, as other precisions change numbers.
        frozen = RuntimeConfig(setup.runtime, precision="float32", wait=True)
        self.compiler = None if setup.runtime is Runtime.TORCH else Compiler(frozen)

    def input_size(self, frame: Frame) -> tuple[int, int]:
        """Network input (height, width) for a frame."""
        return self.setup.network_input(self.model, frame.size)

    def prepare(self, warmup: Sequence[Frame]) -> AdaptationReport | None:
        """Adapt to the warm-up frames, at least one, in time order.

        Returns:
            How it went, ``seconds`` in any case; None where there is nothing to adapt. An adaptation that failed is
            reported as such, and the unadapted method goes on.
        """
        return None

    def ready(self, frame: Frame) -> None:
        """Compile what serves for frames like this one, as the first of them would; it is not observed."""
        return

    def learned(self) -> AdaptationReport | None:
        """What came of learning while observing, with the seconds at 0; None where nothing learns after ``prepare``."""
        return None

    @abstractmethod
    def observe(self, frame: Frame) -> Segmentation:
        """Segment the next frame."""

    @abstractmethod
    def reset(self) -> None:
        """Forget the video: back to the unadapted model, with nothing left of earlier frames."""
