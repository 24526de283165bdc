"""The contrast of pixels in feature space by their labels: one class together, others apart.

Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020; the form in which the other positives are left out of
the denominator is that of Wang et al., "Exploring Cross-Image Pixel Contrast", ICCV 2021.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ditta_core.types import UNLABELLED


def log_shares(
    anchors: Tensor,
    keys: Tensor,
    positives: Tensor,
    negatives: Tensor,
    temperature: float,
    reliability: Tensor | None = None,
    all_below: bool = False,
) -> Tensor:
    """log( r_j e^{s_ij} / (r_j e^{s_ij} + Σ_{n ∈ N_i} r_n e^{s_in}) ) with s_ij = ⟨anchor_i, key_j⟩ / τ.

    Args:
        anchors: unit features, float [A, D].
        keys: unit features, float [K, D].
        positives: which keys are of the anchor's kind, bool [A, K].
        negatives: which keys are of another, bool [A, K]; a key that is neither, as the anchor itself, has no say.
        temperature: τ.
        reliability: r > 0 of every key, float [K]; 1 by default.
        all_below: whether all positives stand below the bar, in place of the one that is above it.

    Returns:
        float [A, K], of meaning only where ``positives`` is true.
    """
    scores = anchors @ keys.T / temperature
    if reliability is not None:
        scores = scores + reliability.log()
    lowest = torch.finfo(scores.dtype).min
    if all_below:
        below = scores.masked_fill(~(positives | negatives), lowest).logsumexp(1, keepdim=True)
    else:
        others = scores.masked_fill(~negatives, lowest).logsumexp(1, keepdim=True)
        below = torch.logaddexp(scores, others)
    return scores - below


def contrast_loss(
    anchors: Tensor,
    keys: Tensor,
    positives: Tensor,
    negatives: Tensor,
    temperature: float,
    reliability: Tensor | None = None,
    all_below: bool = False,
) -> Tensor:
    """mean_i −(1/|P_i|) Σ_{j ∈ P_i} of :func:`log_shares`, over the anchors that have a positive; 0 without any."""
    shares = log_shares(anchors, keys, positives, negatives, temperature, reliability, all_below)
    counts = positives.sum(1)
    losses = -shares.masked_fill(~positives, 0).sum(1) / counts.clamp_min(1)
    return losses.sum() / (counts > 0).sum().clamp_min(1)


def masks_of_labels(anchors: Tensor, keys: Tensor, same: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Positives and negatives, bool [A, K], of labels int64 [A] and [K].

    Args:
        same: which key is the anchor itself and thus neither, bool [A, K]; None where none is.
    """
    equal = anchors[:, None] == keys
    return (equal if same is None else equal & ~same), ~equal


def sample_anchors(labels: Tensor, most: int, preferred: Tensor | None, generator: torch.Generator) -> Tensor:
    """Places of at most ``most`` pixels of every class, half of them preferred ones where there are as many.

    Args:
        labels: int64 [P], 255 for none.
        most: Number of pixels of a class.
        preferred: bool [P], such as those where student and label disagree.
        generator: of the choice, on the CPU.

    Returns:
        int64 [A], places in ``labels``.
    """
    order = torch.randperm(len(labels), generator=generator).to(labels.device)
    chosen = []
    for index in labels.unique().tolist():
        if index == UNLABELLED:
            continue
        places = order[labels[order] == index]
        if preferred is not None:
            hard = preferred[places]
            first = places[hard][: most // 2]
            places = torch.cat([first, places[~hard], places[hard][most // 2 :]])
        chosen.append(places[:most])
    return torch.cat(chosen) if chosen else labels.new_zeros(0)
