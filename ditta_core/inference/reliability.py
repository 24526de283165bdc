"""How reliable a prediction is, and the blend of the two branches that rests on it (method, stages A and D)."""

from __future__ import annotations

import torch
from torch import Tensor


def reliability(probabilities: Tensor) -> Tensor:
    """One minus the entropy relative to the frame's largest: R(x) = 1 − E(x) / max E, E = −Σ_c P_c ln P_c.

    Args:
        probabilities: float [N, C, h, w], each pixel summing to 1.

    Returns:
        float [N, h, w] in 0..1; 0 at the least certain pixel of every frame, 1 everywhere in a frame without any
        uncertainty. ``entr`` takes 0 ln 0 as 0, so a probability that underflows does no harm.
    """
    entropy = torch.special.entr(probabilities).sum(1)
    largest = entropy.amax((1, 2), keepdim=True)
    return torch.where(largest > 0, 1 - entropy / largest.clamp_min(torch.finfo(entropy.dtype).tiny), 1.0)


def blend_branches(
    frame: Tensor, temporal: Tensor, threshold: float, only_if_better: bool = False
) -> tuple[Tensor, Tensor]:
    """Mix the temporal branch in where the frame branch is unreliable.

    On {x : R_f(x) < τ}: P = w·P_f + (1 − w)·P_t with w = R_f / (R_f + R_t), elsewhere P = P_f.

    Args:
        frame, temporal: probabilities of the two branches, float [N, C, h, w].
        threshold: τ in 0..1; 0 leaves the frame branch alone.
        only_if_better: blend only where R_t > R_f besides, as the paper's text has it and the published code has not.

    Returns:
        Blended probabilities [N, C, h, w] and where the temporal branch had a say, bool [N, h, w].
    """
    frame_reliability, temporal_reliability = reliability(frame), reliability(temporal)
    total = frame_reliability + temporal_reliability
    share = torch.where(total > 0, frame_reliability / total.clamp_min(1e-12), 0.5)
    unreliable = frame_reliability < threshold
    if only_if_better:
        unreliable &= temporal_reliability > frame_reliability
    share = torch.where(unreliable, share, 1.0).unsqueeze(1)
    return torch.lerp(temporal, frame, share), unreliable
