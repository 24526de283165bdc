"""The unadapted model, every frame on its own: what every other method has to beat."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor

from ditta_core.classes import ClassMap
from ditta_core.evaluation.methods.base import Method, MethodSetup
from ditta_core.evaluation.methods.outputs import enlarge_to_frame, network_input
from ditta_core.inference.labelling import label_frame
from ditta_core.inference.temporal_branch import TemporalSegmenter
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.types import Frame, Segmentation


class Source(Method):
    """Unadapted model, every frame on its own: the likeliest of its outputs, then the class of that output.

    Pixels whose likeliest output belongs to no published class are unlabelled, however likely the classes are together;
    :class:`SourceMerged` is the other way round. The confidence is the probability of the likeliest output.
    """

    uses_warmup = False

    def __init__(self, setup: MethodSetup, model: SegmentationModel) -> None:
        super().__init__(setup, model)
        self.served = self.served_model()
        segmenter = TemporalSegmenter(self.served)
        self.network = None if self.compiler is None else self.compiler.network(segmenter, temporal_branch=False)

    def served_model(self) -> SegmentationModel:
        """The model, which publishes its own outputs; the weights are shared."""
        own = copy.copy(self.model)
        own.class_map = ClassMap.identity(self.model.outputs)
        return own

    @torch.inference_mode()
    def ready(self, frame: Frame) -> None:
        if self.network is not None:
            self.network(network_input(self.served, frame, self.input_size(frame)))

    def logits(self, frame: Frame) -> Tensor:
        """What the served model says of a frame, float [1, C, h, w]."""
        pixels = network_input(self.served, frame, self.input_size(frame))
        output = None if self.network is None else self.network(pixels)
        return self.served.classify(self.served.decode(self.served.encode(pixels))) if output is None else output.logits

    @torch.inference_mode()
    def observe(self, frame: Frame) -> Segmentation:
        outputs = enlarge_to_frame(self.model, self.logits(frame), self.input_size(frame), frame.size)
        confidence, winner = outputs.softmax(1)[0].max(0)
        channels = np.array(self.model.class_map.output_channels)
        return Segmentation(
            self.model.class_map.label_image(channels[winner.cpu().numpy()]),
            confidence.mul(255).round_().to(torch.uint8).cpu().numpy(),
            generation=0,
        )

    def reset(self) -> None:
        """Nothing is kept of any frame."""


class SourceMerged(Source):
    """Unadapted model, every frame on its own, its outputs merged into classes before the argmax.

    What merging alone is worth, beside :class:`Source`; the same where the classes are the model's own.
    """

    def served_model(self) -> SegmentationModel:
        return self.model

    @torch.inference_mode()
    def observe(self, frame: Frame) -> Segmentation:
        logits = enlarge_to_frame(self.model, self.logits(frame), self.input_size(frame), frame.size)
        class_ids, confidence = label_frame(self.model, logits.softmax(1), frame.size)
        return Segmentation(class_ids, confidence, generation=0)
