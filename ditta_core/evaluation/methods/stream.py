"""What methods that segment with the stream's own frame segmenter share."""

from __future__ import annotations

from typing import ClassVar

import torch

from ditta_core.evaluation.methods.base import Method, MethodSetup
from ditta_core.evaluation.methods.outputs import network_input
from ditta_core.inference.config import InferenceConfig
from ditta_core.inference.frame_segmenter import FrameSegmenter
from ditta_core.inference.restoration import ImageRestorer
from ditta_core.inference.temporal_branch import TemporalSegmenter
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.types import Frame, Segmentation


class StreamMethod(Method):
    """Segments frame after frame with :class:`~ditta_core.inference.frame_segmenter.FrameSegmenter`, as the node does.

    Attributes:
        config: Settings of the inference; the sizes in it are not used, ``setup`` has them.
    """

    config: ClassVar[InferenceConfig]

    def __init__(self, setup: MethodSetup, model: SegmentationModel) -> None:
        super().__init__(setup, model)
        self.base = TemporalSegmenter(model)
        self.restorer = ImageRestorer()
        self.serve(self.base)

    def serve(self, segmenter: TemporalSegmenter, temporal_branch: bool = False, generation: int = 0) -> None:
        """Go on with this model from the next frame on, with nothing left of earlier frames."""
        self.stream = FrameSegmenter(segmenter, self.config, temporal_branch, self.compiler)
        self.generation = generation

    def restored(self, frame: Frame) -> Frame:
        """The next frame of the video as the network sees it."""
        return self.restorer(frame) if self.config.restoration else frame

    @torch.inference_mode()
    def ready(self, frame: Frame) -> None:
        if self.stream.network is not None:
            self.stream.network(network_input(self.stream.segmenter.model, frame, self.input_size(frame)))

    def observe(self, frame: Frame) -> Segmentation:
        return self.stream.segment(self.restored(frame), self.input_size(frame), self.generation)

    def reset(self) -> None:
        self.restorer.reset()
        self.serve(self.base)
