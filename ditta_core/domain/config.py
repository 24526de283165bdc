"""Settings of an adaptation to recorded drives; nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ditta_core.inference.config import DEFAULT_SEED

Trained = Literal["all", "decoder", "normalisation"]
TRAINED: Mapping[Trained, str] = {
    "all": "the whole network",
    "decoder": "the decoder",
    "normalisation": "the scales and shifts of BatchNorm",
}
"""What may be trained, in words."""
LEARNING_RATE: Mapping[Trained, float] = {"all": 1e-4, "decoder": 1e-4, "normalisation": 1e-3}


@dataclass(frozen=True)
class OfflineConfig:
    """How a model is adapted to recorded drives, whatever the recipe.

    Attributes:
        steps: Number of steps; where ``minutes`` is given, the largest.
        minutes: Minutes of training after which the schedule ends; None for ``steps`` alone.
        batch: Number of windows of a step, over all processes that train together.
        learning_rate: Learning rate of Adam at the start, which falls with (1 − share done)^0.9; None for that of
            ``LEARNING_RATE`` for what is trained.
        head_factor: Factor on it for layers that begin untrained.
        train: ``all`` for the whole network, ``decoder`` to leave the encoder as it is, ``normalisation`` for the
            scales and shifts of BatchNorm alone; None for the recipe's own.
        statistics_share: Share in 0..1 of the drives' BatchNorm statistics that is blended in before the training.
        window: Height and width of the windows that steps see; reduced to the network input where they are larger.
        scales: Smallest and largest scale of a window.
        portion: Share of every class's pixels, 0..1, that gets a pseudo-label in the first round.
        portion_step: What every further round adds to it.
        rounds: Number of times that pseudo-labels are made; None for the recipe's own.
        stronger_view: Whether pseudo-labels come from the best input size instead of that of the network input.
        deployed_share: Position of the deployed weights between those before (0) and after (1) the training; None for
            the recipe's own, which is three tenths of the way without a source (docs/adapt.md) and all of it with one.
        guarded: Whether an adaptation that contradicts the model on frames kept out of it is refused.
        most_frames: Largest number of frames that are taken of all drives, in continuous stretches.
        published: Whether faults of the published code that can matter are kept: see the recipes that name it.
        seed: Seed of everything random.

    Raises:
        ValueError: a value is out of its range.
    """

    steps: int = 1000
    minutes: float | None = None
    batch: int = 1
    learning_rate: float | None = None
    head_factor: float = 10.0
    train: Trained | None = None
    statistics_share: float = 0.3
    window: tuple[int, int] = (256, 320)
    scales: tuple[float, float] = (0.8, 1.25)
    portion: float = 0.5
    portion_step: float = 0.1
    rounds: int | None = None
    stronger_view: bool = False
    deployed_share: float | None = None
    guarded: bool = True
    most_frames: int = 300
    published: bool = False
    seed: int = DEFAULT_SEED

    def __post_init__(self) -> None:
        if self.train not in (None, *TRAINED):
            raise ValueError(f"expected one of {list(TRAINED)} to train, but got {self.train!r}")
        rate = self.learning_rate
        if self.steps < 0 or self.batch < 1 or self.most_frames < 1 or not (rate is None or rate > 0):
            raise ValueError(
                f"expected steps >= 0, batch and most_frames >= 1 and a learning rate > 0, but got {self.steps}, "
                f"{self.batch}, {self.most_frames} and {rate}"
            )
        if self.minutes is not None and not 0 < self.minutes < float("inf"):
            raise ValueError(f"expected minutes above 0, but got {self.minutes}")
        if self.rounds is not None and self.rounds < 1:
            raise ValueError(f"expected at least one round, but got {self.rounds}")
        for name in ("statistics_share", "portion", "portion_step", "deployed_share"):
            if not 0 <= (getattr(self, name) or 0) <= 1:
                raise ValueError(f"expected {name} in 0..1, but got {getattr(self, name)}")
        if min(self.window) < 1 or not 0 < self.scales[0] <= self.scales[1]:
            raise ValueError(f"expected a window with pixels and growing scales, but got {self.window}, {self.scales}")
