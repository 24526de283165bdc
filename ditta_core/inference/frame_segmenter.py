"""One frame: encoded once, decoded, smoothed with what the frame before left, and labelled.

camera image -> preprocess -> encode -> decode -> classify -> temporal branch, smoothing along optical flow -> class ids
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ditta_core.inference.compiled_network import Compiler, RuntimeStatus
from ditta_core.inference.config import InferenceConfig
from ditta_core.inference.flow_smoothing import FlowSmoother
from ditta_core.inference.labelling import LabelImage, label_frame
from ditta_core.inference.reliability import blend_branches
from ditta_core.inference.temporal_branch import NetworkOutput, TemporalMemory, TemporalSegmenter
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.types import Frame, Segmentation


@dataclass(frozen=True)
class StreamMemory:
    """What one frame leaves for the next.

    Attributes:
        temporal: Keys and logits for the temporal branch; None without it.
        probabilities: Published probabilities, float [1, C, h, w].
        image: Frame in grey at the size of the probabilities, for the optical flow, uint8 [h, w]; None without it.
        stamp: Capture time in nanoseconds.
        input_size: Network input (height, width) that it was made with.
    """

    temporal: TemporalMemory | None
    probabilities: Tensor
    image: NDArray[np.uint8] | None
    stamp: int
    input_size: tuple[int, int]


@torch.inference_mode()
def segment_frame(
    model: SegmentationModel, image: NDArray[np.uint8], input_size: tuple[int, int]
) -> tuple[LabelImage, NDArray[np.uint8]]:
    """Class ids [H, W] and confidence uint8 [H, W] of one RGB image uint8 [H, W, 3] alone, by the unadapted model.

    ``input_size`` is that of the network input (height, width).
    """
    logits = model(model.preprocess(image[None], input_size, model.mean.device))
    logits = F.interpolate(logits, image.shape[:2], mode="bilinear", align_corners=False)
    return label_frame(model, logits.softmax(1), (image.shape[0], image.shape[1]))


class FrameSegmenter:
    """Segments consecutive frames with one model, carrying the temporal memory from each to the next.

    Args:
        segmenter: the model; must not change any more where it is compiled.
        config: how the stream is segmented.
        temporal_branch: whether the add-on was trained and may be used.
        compiler: has the network compiled and answers with that once it is there; None for eager torch throughout.
    """

    def __init__(
        self,
        segmenter: TemporalSegmenter,
        config: InferenceConfig,
        temporal_branch: bool,
        compiler: Compiler | None = None,
    ) -> None:
        self.segmenter = segmenter
        self.compiler = compiler
        self.trained_branch = temporal_branch
        self.smoother = FlowSmoother()
        self.memory: StreamMemory | None = None
        self._input_size: tuple[int, int] | None = None  # of the last frame, or of the one to come
        self.configure(config)

    def configure(self, config: InferenceConfig) -> None:
        """Use these settings from the next frame on."""
        self.config = config
        self.temporal_branch = self.trained_branch and config.reliability_threshold > 0
        self.network = None if self.compiler is None else self.compiler.network(self.segmenter, self.temporal_branch)

    def prepare(self, frame: Frame, input_size: tuple[int, int]) -> None:
        """Have the network compiled for frames like this one. Does not wait; :attr:`runtime` tells when it is."""
        self._input_size = input_size
        if self.network is not None:
            model = self.segmenter.model
            self.network.begin(model.preprocess(frame.image[None], input_size, model.mean.device))

    @property
    def runtime(self) -> RuntimeStatus:
        """What runs the network at the moment."""
        if self.network is None:
            return RuntimeStatus("torch")
        return self.network.status if self._input_size is None else self.network.status_at(self._input_size)

    def _run_network(self, pixels: Tensor, clock: StageClock) -> NetworkOutput:
        """The network's output for normalised pixels [1, 3, H, W]."""
        output = None if self.network is None else self.network(pixels)
        if output is not None:
            clock.stop("network")
            return output
        model = self.segmenter.model
        features = model.encode(pixels)
        clock.stop("encode")
        embedding = model.decode(features)
        logits = model.classify(embedding)
        output = self.segmenter.forward_heads(embedding, logits) if self.temporal_branch else NetworkOutput(logits)
        clock.stop("decode")
        return output

    @torch.inference_mode()
    def segment(self, frame: Frame, input_size: tuple[int, int], generation: int) -> Segmentation:
        """Segment a frame and keep what the next one needs of it."""
        clock = StageClock()
        model, memory, self._input_size = self.segmenter.model, self.memory, input_size
        if memory is not None and frame.stamp - memory.stamp > self.config.max_fusion_gap * 1e9:
            memory = None  # too long ago to carry anything over
        if memory is not None and memory.input_size != input_size:
            memory = None  # maps of another size
        carrying = None
        if self.config.smoothing > 0 and memory is not None and memory.image is not None:
            carrying = self.smoother.begin(frame.image, memory.image, memory.probabilities)
        pixels = model.preprocess(frame.image[None], input_size, model.mean.device)
        clock.stop("preprocess")
        output = self._run_network(pixels, clock)
        size = frame.size if self.config.exact else (output.logits.shape[-2], output.logits.shape[-1])

        def probabilities_of(branch: Tensor) -> Tensor:
            if self.config.exact:
                branch = model.enlarge_logits(branch, input_size)
            if tuple(branch.shape[-2:]) != size:
                branch = F.interpolate(branch, size, mode="bilinear", align_corners=False)
            return branch.softmax(1)

        probabilities, temporal_share = probabilities_of(output.logits), 0.0
        if output.query is not None and memory is not None and memory.temporal is not None:
            temporal = probabilities_of(self.segmenter.attend(output.query, memory.temporal))
            probabilities, blended = blend_branches(
                probabilities, temporal, self.config.reliability_threshold, only_if_better=not self.config.exact
            )
            temporal_share = float(blended.float().mean())
        image = None
        if self.config.smoothing > 0:
            carried = None if carrying is None else carrying.result()
            if carried is not None and carried.image.shape == size:
                image = carried.image
                probabilities = self.smoother.smooth(probabilities, carried, self.config.smoothing)
            else:
                image = self.smoother.grey(frame.image, size)
        self.memory = StreamMemory(output.memory, probabilities, image, frame.stamp, input_size)
        clock.stop("fuse")
        class_ids, confidence = label_frame(model, probabilities, frame.size)
        clock.stop("label")
        return Segmentation(class_ids, confidence, generation, temporal_share, clock.stages)


class StageClock:
    """Milliseconds between successive stops, by stage."""

    def __init__(self) -> None:
        self.stages: dict[str, float] = {}
        self.last = time.perf_counter()

    def stop(self, stage: str) -> None:
        """End the stage that began at the last stop."""
        now = time.perf_counter()
        self.stages[stage] = (now - self.last) * 1e3
        self.last = now
