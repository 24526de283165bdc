"""What a method of adaptation is to the driver: what its steps minimise, and towards which labels.

A recipe is a ``torch.nn.Module``: what it registers (the model, heads, projections, histories, discriminators) moves to
the device with it, and is saved and resumed by the driver. Everything else, such as frames, windows, flow, schedule,
optimiser, guard and files, belongs to the driver.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ditta_core.adaptation.batchnorm import scales_and_shifts
from ditta_core.domain.config import OfflineConfig, Trained
from ditta_core.domain.frames import DriveFrames
from ditta_core.domain.windows import Window
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.types import UNLABELLED, AdaptationFailed

Losses = Mapping[str, Tensor]
"""Weighted terms by name; a step minimises their sum, and the report shows each."""


class NothingLabelledError(AdaptationFailed):
    """The drives offer nothing to learn from; the message says why."""


@dataclass(frozen=True)
class Clip:
    """The same window of T consecutive frames, oldest first; h×w is H/2×W/2, the size of label maps and flow.

    Attributes:
        images: Frames as the student is to see them, in another light, RGB uint8 [T, H, W, 3].
        plain: The same as they were recorded, RGB uint8 [T, H, W, 3].
        labels: Channel ids of the published classes, 255 for none, int64 [T, h, w]: pseudo-labels of a target, true
            ones of a source; None where the recipe makes none.
        flows: Flow of each frame but the first to the one before, float [T − 1, h, w, 2] in pixels of the label map:
            ``gather(maps[:-1], flows)`` are the maps of the frames before, at the places of ``maps[1:]``.
        confirmed: Pixels whose flow the forward-backward check confirms, bool [T − 1, h, w].
        frames: Indices of the frames in their :class:`DriveFrames`.
        window: The window; cuts anything else that a recipe keeps by frame.
        counted: Pixels that are learned from, bool [h, w]; None for all. The others have no label.
    """

    images: NDArray[np.uint8]
    plain: NDArray[np.uint8]
    labels: Tensor | None
    flows: Tensor
    confirmed: Tensor
    frames: tuple[int, ...]
    window: Window
    counted: Tensor | None = None


@dataclass(frozen=True)
class Batch:
    """What one step, or a share of it, learns from.

    Attributes:
        target: Clip of the unlabelled drives.
        source: Labelled clip of the source; None for recipes that need none.
        step: Number of steps made before this one.
        done: Share of the schedule that is done, 0..1; :func:`poly` of it is the factor on learning rates.
        random: Of whatever the recipe draws; it depends on seed, step and place in the batch alone.
    """

    target: Clip
    source: Clip | None
    step: int
    done: float
    random: np.random.Generator


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters with a common learning rate: ``factor`` times that of the settings."""

    parameters: Sequence[nn.Parameter]
    factor: float = 1.0


@dataclass(frozen=True)
class PseudoLabels:
    """Labels of all frames of the drives.

    Attributes:
        labels: Channel ids of the published classes, 255 for none, uint8 [n, h, w].
        thresholds: Confidence from which a pixel of each class was kept, float [C].
    """

    labels: NDArray[np.uint8]
    thresholds: tuple[float, ...]

    @property
    def share(self) -> float:
        """Share of the pixels that have a label."""
        return float((self.labels != UNLABELLED).mean())


def trained_parameters(model: SegmentationModel, train: Trained) -> list[nn.Parameter]:
    """What a training of this extent changes.

    Raises:
        ValueError: the model has none of it.
    """
    if train == "normalisation":
        if parameters := scales_and_shifts(model):
            return parameters
        raise ValueError(
            "expected a model whose BatchNorm has scales and shifts to train, but got one without; train all of it, or "
            "the decoder"
        )
    return model.decoder_parameters() if train == "decoder" else list(model.parameters())


class Recipe(nn.Module, ABC):
    """One method of adaptation.

    A recipe calls ``model.encode``, ``decode`` and ``classify`` and nothing that one architecture alone has.

    Args:
        model: with blended statistics, in evaluation mode, where it stays; trained in place.
        config: settings of the driver; a recipe has its own constants besides.
        generator: of initial weights, on the CPU.

    Class attributes:
        needs_source: Whether every batch must have a labelled source clip; the driver refuses to begin without one.
        frames: Number of consecutive frames of a clip: 1 image, 2 for a pair, 3 and more where labels come from earlier
            ones.
        rounds: Number of times that pseudo-labels are made, evenly spread over the schedule.
        recolours: Whether the student's images are to be seen in another light.
        in_turn: Whether every frame is drawn once before any is drawn twice.
        stronger_view: Whether labels come from the best size of the network input in any case, see
            :attr:`OfflineConfig.stronger_view`.
        deployed_share: Position of the deployed weights, see :attr:`OfflineConfig.deployed_share`; chosen in
            docs/ablations.md#what-drives-cost.
        most_contradicted: Share of the pixels that the model was sure of, 0..1, that may get another class.
        published_faults: Whether :attr:`OfflineConfig.published` makes a difference.

    Attributes:
        extent: What is trained: as :attr:`OfflineConfig.train` says, else as the class does, or all of a model that has
            nothing of that.
    """

    needs_source: ClassVar[bool] = False
    frames: ClassVar[int] = 1
    rounds: ClassVar[int] = 1
    recolours: ClassVar[bool] = True
    in_turn: ClassVar[bool] = False
    stronger_view: ClassVar[bool] = False
    deployed_share: ClassVar[float] = 0.3
    most_contradicted: ClassVar[float] = 0.05
    published_faults: ClassVar[bool] = False
    extent: Trained = "all"

    def __init__(self, model: SegmentationModel, config: OfflineConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.generator = generator
        lacking = self.extent == "normalisation" and not scales_and_shifts(model)
        self.extent = config.train or ("all" if lacking else self.extent)

    # --- what a recipe implements -------------------------------------------------------------------------------------

    @abstractmethod
    def loss(self, batch: Batch) -> Losses:
        """The terms of a batch, weighted, each a scalar with gradient. The driver adds them up."""

    def label(self, drive: DriveFrames, number: int) -> PseudoLabels | None:
        """Pseudo-labels for round ``number`` = 0, 1, …; None where the recipe learns from none.

        Called before the first step of a round, in ``torch.no_grad``; histories are renewed here too.

        Raises:
            NothingLabelledError: there is nothing to learn from.
        """
        return None

    def after_step(self, batch: Batch) -> None:
        """Whatever follows a step of the driver's optimiser: moving averages, a step of discriminators."""

    def parameter_groups(self) -> list[ParameterGroup]:
        """What the driver's optimiser trains: the network or its decoder by default, and all heads of the recipe.

        A recipe with discriminators leaves them out here, and steps their optimisers itself.
        """
        own = trained_parameters(self.model, self.extent)
        network = {id(parameter) for parameter in self.model.parameters()}
        heads = [each for each in self.parameters() if id(each) not in network and each.requires_grad]
        groups = [ParameterGroup(own)]
        return [*groups, ParameterGroup(heads, self.config.head_factor)] if heads else groups

    def optimizers(self) -> Iterable[torch.optim.Optimizer]:
        """The recipe's own optimisers, whose state the driver saves and resumes."""
        return ()

    # --- what every recipe shares -------------------------------------------------------------------------------------

    def forward(self, batch: Batch) -> Losses:
        """The same as :meth:`loss`: torch's parallel wrappers call a module."""
        return self.loss(batch)

    def train(self, mode: bool = True) -> Recipe:
        """Never the model: its BatchNorm normalises by the blended statistics throughout, not by those of a batch."""
        super().train(mode)
        self.model.eval()
        return self

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.mean.device

    def embed(self, images: NDArray[np.uint8]) -> Tensor:
        """RGB uint8 [N, H, W, 3] -> embedding, float [N, D, h', w'] at the model's own stride."""
        pixels = self.model.preprocess(images, (images.shape[1], images.shape[2]), self.device)
        if self.extent == "decoder":
            with torch.no_grad():
                features = self.model.encode(pixels)
            return self.model.decode(features)
        return self.model.decode(self.model.encode(pixels))

    @property
    def channels(self) -> int:
        """Number of channels of :meth:`scores`: the published classes, and one for outputs that belong to none."""
        return self.model.class_map.channels

    def scores(self, embedding: Tensor, size: Sequence[int]) -> Tensor:
        """Embedding -> logits of the published classes, float [N, C, *size]; for label maps of that size."""
        return resized(self.model.classify(embedding), size)


@torch.no_grad()
def draw_weights_(module: nn.Module, generator: torch.Generator) -> None:
    """Initial weights of convolutions, as torch's own, but from a generator: uniform within 1/√inputs."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            bound = layer.weight[0].numel() ** -0.5
            for parameter in layer.parameters(recurse=False):
                parameter.copy_(torch.rand(parameter.shape, generator=generator) * 2 * bound - bound)


def projection_head(channels: int, generator: torch.Generator, width: int = 128) -> nn.Module:
    """What features are contrasted behind: 1×1, ReLU, 1×1, float [N, channels, h, w] -> [N, width, h, w]."""
    head = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.ReLU(), nn.Conv2d(channels, width, 1))
    draw_weights_(head, generator)
    return head


def poly(done: float) -> float:
    """Factor on the learning rate after a share of the schedule, 0..1: (1 − share)^0.9, as published.

    >>> round(2.5e-4 * poly(20_000 / 250_000), 10), round(2.5e-4 * poly(40_000 / 250_000), 10)
    (0.0002319258, 0.0002136935)
    """
    return float((1 - min(done, 1.0)) ** 0.9)


def resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Maps [N, C, h, w] -> [N, C, *size], bilinearly; as they are where they have that size."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps, tuple(size), mode="bilinear", align_corners=False)


def label_loss(scores: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Cross-entropy of logits [N, C, h, w] with labels int64 [N, h, w], over the pixels that have one; 0 without any.

    Args:
        weights: of the pixels, float [N, h, w]; they count as they are, and their sum does not divide.
    """
    loss = F.cross_entropy(scores, labels, ignore_index=UNLABELLED, reduction="none")
    if weights is not None:
        loss = loss * weights
    return loss.sum() / (labels != UNLABELLED).sum().clamp_min(1)


def normalised_entropy(probabilities: Tensor) -> Tensor:
    """Entropy over that of the uniform distribution, 0..1: float [N, C, h, w] -> [N, h, w]."""
    # Not torch.special.entr, whose gradient is infinite at 0, which softmax rounds to where a model is sure.
    logarithms = probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()
    entropy = -(probabilities * logarithms).sum(1)
    return entropy / torch.tensor(float(probabilities.shape[1])).log().clamp_min(1e-6).to(entropy)
