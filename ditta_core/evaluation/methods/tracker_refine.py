"""Zero-shot refinement: the tracker runs during inference, and its objects name the pixels of every frame."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ditta_core.evaluation.methods.base import Method, MethodSetup
from ditta_core.evaluation.methods.outputs import enlarge_to_frame, network_input
from ditta_core.inference.reliability import reliability
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.teacher.base import NoTargetError
from ditta_core.teacher.build import build_teacher
from ditta_core.teacher.flow_tracker import FlowTracker
from ditta_core.teacher.object_vote import ObjectVote
from ditta_core.types import Frame, Segmentation

WINDOW = 4
"""Frames that vote on a mask, the newest included. Every frame pays for tracking through all of them, both ways."""

LARGEST_GAP = 0.5
"""Seconds between two frames above which the window starts over."""


@dataclass(frozen=True)
class _WindowFrame:
    """A frame of the window, with probabilities [C, H, W] and reliabilities [H, W] at its size."""

    frame: Frame
    probabilities: NDArray[np.float32]
    reliabilities: NDArray[np.float32]


class TrackerRefine(Method):
    """Class votes of tracked objects over a sliding window, with the unadapted model; nothing is learned.

    What DiTTA does once, during the warm-up, is done here for every frame: objects are prompted where the model is
    sure, tracked both ways through the last ``WINDOW`` frames, named by the vote over them, and drawn; elsewhere the
    model's own label stays. The tracker is that of ``setup.teacher``, optical flow where that tracks no objects.
    """

    uses_warmup = False
    uses_teacher = True

    def __init__(self, setup: MethodSetup, model: SegmentationModel) -> None:
        super().__init__(setup, model)
        teacher = build_teacher(setup.teacher, model.mean.device)
        self.vote = teacher if isinstance(teacher, ObjectVote) else ObjectVote(FlowTracker())
        self.reset()

    @torch.inference_mode()
    def observe(self, frame: Frame) -> Segmentation:
        model, input_size = self.model, self.input_size(frame)
        logits = model.classify(model.decode(model.encode(network_input(model, frame, input_size))))
        probabilities = enlarge_to_frame(model, logits, input_size, frame.size).softmax(1)
        self.make_memory(frame, probabilities)
        newest = self.window[-1].probabilities
        labels, share = newest.argmax(0), 0.0
        try:
            target = self.vote.build(
                np.stack([entry.frame.image for entry in self.window]),
                np.stack([entry.probabilities for entry in self.window]),
                np.stack([entry.reliabilities for entry in self.window]),
            )
        except NoTargetError:  # nothing to track: the model's own labels stay
            pass
        else:
            assert target.object_ids is not None
            labels, share = target.labels[-1], float((target.object_ids[-1] > 0).mean())
        confidence = np.take_along_axis(newest, labels[None], 0)[0]
        return Segmentation(
            model.class_map.label_image(labels), (confidence * 255).round().astype(np.uint8), 0, fused_share=share
        )

    def make_memory(self, frame: Frame, probabilities: Tensor) -> None:
        """Add a frame to the window, or start over where the frame cannot follow the last one."""
        if self.window:
            last = self.window[-1].frame
            if last.size != frame.size or not 0 <= frame.stamp - last.stamp <= LARGEST_GAP * 1e9:
                self.window.clear()
        trust = reliability(probabilities)[0]
        self.window.append(_WindowFrame(frame, probabilities[0].cpu().numpy(), trust.cpu().numpy()))

    def reset(self) -> None:
        self.window: deque[_WindowFrame] = deque(maxlen=WINDOW)
