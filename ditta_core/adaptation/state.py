"""What an adaptation changed: the tensors that differ from the base model."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ditta_core.inference.temporal_branch import TemporalSegmenter
from ditta_core.segmentation.adapted import put_tensors


@dataclass(frozen=True)
class AdaptedState:
    """What an adaptation changed: the tensors of a :class:`TemporalSegmenter` that differ from the base model's.

    Attributes:
        tensors: Changed tensors by name: parameters and BatchNorm statistics.
        temporal_branch: Whether the add-on was trained; an untrained one is random and must not be blended in.
        long_side: Longest side in pixels of the network input that was found for it; None where the size was given.
    """

    tensors: dict[str, NDArray[np.float32]]
    temporal_branch: bool
    long_side: int | None = None

    def apply(self, base: TemporalSegmenter) -> TemporalSegmenter:
        """``base`` with these tensors; it keeps its own, and all that did not change are shared with it.

        Of a frozen encoder that is everything but the BatchNorm statistics: another generation, or another camera,
        costs what its decoder weighs.

        Raises:
            ValueError: the tensors belong to another model.
        """
        own = base.state_dict()
        foreign = [name for name, value in self.tensors.items() if name not in own or own[name].shape != value.shape]
        if foreign:
            raise ValueError(f"expected tensors of this model, but got {len(foreign)} of another one {foreign[:3]}")
        shared: dict[int, object] = {
            id(value): value for name, value in own_tensors(base).items() if name not in self.tensors
        }
        encoder = base.model.encoder
        if all(id(value) in shared for value in own_tensors(encoder).values()):
            shared[id(encoder)] = encoder
        adapted = copy.deepcopy(base, shared)
        put_tensors(adapted, self.tensors)
        return adapted

    def towards(self, other: AdaptedState, share: float, base: TemporalSegmenter) -> AdaptedState:
        """The weighted mean of two states of one base model, tensor by tensor.

        Statistics and decoders of several adaptations from one base may be averaged, as they lie in one basin of the
        loss (Wortsman et al., "Model soups", ICML 2022). The size of the network input stays this state's.

        Args:
            share: of the other state, 0..1.
            base: the model both belong to; what a state lacks is the base model's.

        Raises:
            ValueError: share lies outside 0..1.
        """
        if not 0 <= share <= 1:
            raise ValueError(f"expected a share of the other state in 0..1, but got {share}")
        own = base.state_dict()

        def value(state: AdaptedState, name: str) -> NDArray[np.float32]:
            found = state.tensors.get(name)
            return own[name].detach().cpu().float().numpy() if found is None else found

        names = [name for name in own if name in self.tensors or name in other.tensors]
        mean = {
            name: np.asarray((1 - share) * value(self, name) + share * value(other, name), np.float32) for name in names
        }
        return AdaptedState(mean, self.temporal_branch and other.temporal_branch, self.long_side)


def own_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers themselves, by name; those of a state dict are others that share their memory."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def changed_tensors(segmenter: TemporalSegmenter, base: TemporalSegmenter) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Floating-point tensors of ``segmenter`` that differ from those of ``base``."""
    for (name, value), original in zip(segmenter.state_dict().items(), base.state_dict().values(), strict=True):
        if value.is_floating_point() and not torch.equal(value, original):
            yield name, value.detach().cpu().float().numpy()
