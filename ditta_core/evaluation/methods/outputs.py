"""From a frame to the model's own outputs, which methods learn on, and from those to a mask of published classes."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ditta_core.inference.labelling import label_frame
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.types import Frame, Segmentation


def network_input(model: SegmentationModel, frame: Frame, input_size: tuple[int, int]) -> Tensor:
    """Normalised pixels float [1, 3, *input_size] of a frame, on the model's device."""
    return model.preprocess(frame.image[None], input_size, model.mean.device)


def own_outputs(model: SegmentationModel, pixels: Tensor) -> Tensor:
    """Normalised pixels [N, 3, H, W] -> logits of the model's own outputs, float [N, len(outputs), h, w]."""
    return model.classify_outputs(model.decode(model.encode(pixels)))


def enlarge_to_frame(
    model: SegmentationModel, logits: Tensor, input_size: tuple[int, int], frame_size: tuple[int, int]
) -> Tensor:
    """Logits [N, C, h, w] -> [N, C, *frame_size] by way of the network input, as the unadapted model's are."""
    logits = model.enlarge_logits(logits, input_size)
    return F.interpolate(logits, frame_size, mode="bilinear", align_corners=False)


def mask_of_outputs(
    model: SegmentationModel, outputs: Tensor, input_size: tuple[int, int], frame: Frame, generation: int
) -> Segmentation:
    """The mask of a frame in the published classes, from the model's own outputs, logits [1, len(outputs), h, w]."""
    logits = enlarge_to_frame(model, model.class_map.merge_logits(outputs), input_size, frame.size)
    class_ids, confidence = label_frame(model, logits.softmax(1), frame.size)
    return Segmentation(class_ids, confidence, generation)
