"""The small inputs of the golden numbers of the domain losses, in double precision."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ditta_core.domain.thresholds import ClassConfidences


def wave(shape: tuple[int, ...], a: float, b: float, amplitude: float) -> Tensor:
    """A·sin(a·n + b), n counting in C order from 0: double of ``shape``."""
    places = torch.arange(math.prod(shape), dtype=torch.float64)
    return (amplitude * torch.sin(a * places + b)).reshape(shape)


def class_thresholds(probabilities: Tensor, portion: float, cap: float = 1.0) -> Tensor:
    """Thresholds float [C] of every pixel of probabilities [n, C, h, w]."""
    confidences = ClassConfidences(probabilities.shape[1], thinning=1)
    confidences.add(probabilities)
    return confidences.thresholds(portion, cap)


LOGITS, OTHERS = wave((1, 5, 4, 6), 0.9, 0.2, 2), wave((1, 5, 4, 6), 1.1, 0.5, 2)
"""z and u, [1, 5, 4, 6]."""
P, Q = LOGITS.softmax(1), OTHERS.softmax(1)
LABELS = P.argmax(1)
P4, Q4 = (wave((1, 5, 4, 6), a, b, 8).softmax(1) for a, b in ((0.9, 0.2), (1.1, 0.5)))
"""The same of four times the logits."""
QUERIES, KEYS = (wave((7, 24), a, b, 1) for a, b in ((0.37, 0.3), (0.41, 0.9)))
QUERIES, KEYS = (each / each.norm(dim=0) for each in (QUERIES, KEYS))
"""Unit columns, [7, 24]."""
