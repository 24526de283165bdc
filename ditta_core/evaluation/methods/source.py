"""The unadapted model, every frame on its own: what every other method has to beat."""

from __future__ import annotations

import numpy as np
import torch

from ditta_core.evaluation.methods.base import Method
from ditta_core.evaluation.methods.outputs import enlarge_to_frame, network_input, own_outputs
from ditta_core.inference.frame_segmenter import segment_frame
from ditta_core.types import Frame, Segmentation


class Source(Method):
    """Unadapted model, every frame on its own: the likeliest of its outputs, then the class of that output.

    Pixels whose likeliest output belongs to no published class are unlabelled, however likely the classes are together;
    :class:`SourceMerged` is the other way round. The confidence is the probability of the likeliest output.
    """

    uses_warmup = False

    @torch.inference_mode()
    def observe(self, frame: Frame) -> Segmentation:
        model, input_size = self.model, self.input_size(frame)
        outputs = own_outputs(model, network_input(model, frame, input_size))
        probabilities = enlarge_to_frame(model, outputs, input_size, frame.size).softmax(1)
        confidence, winner = probabilities[0].max(0)
        channels = np.array(model.class_map.output_channels)
        return Segmentation(
            model.class_map.label_image(channels[winner.cpu().numpy()]),
            confidence.mul(255).round_().to(torch.uint8).cpu().numpy(),
            generation=0,
        )

    def reset(self) -> None:
        """Nothing is kept of any frame."""


class SourceMerged(Source):
    """Unadapted model, every frame on its own, its outputs merged into classes before the argmax.

    What merging alone is worth, beside :class:`Source`; the same where the classes are the model's own.
    """

    def observe(self, frame: Frame) -> Segmentation:
        class_ids, confidence = segment_frame(self.model, frame.image, self.input_size(frame))
        return Segmentation(class_ids, confidence, generation=0)
