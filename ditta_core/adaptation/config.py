"""Settings of an adaptation; nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ditta_core.inference.config import DEFAULT_SEED

LARGEST_SEED = 2**31 - 1
"""Seeds are whole numbers of 0 to this."""

RESTORED_SHARE = 2.0
"""Factor on the share of the warm-up's statistics where the clip was full of noise, chosen in
docs/ablations.md#share-of-the-statistics-under-noise."""


@dataclass(frozen=True)
class AdaptationConfig:
    """How a network is adapted to the warm-up clip. The defaults are *live* mode; see :meth:`parity`.

    Attributes:
        train_mode: Whether the whole network runs in training mode while adapting, the frozen backbone included:
            BatchNorm by the clip's statistics (overwriting the running ones), dropout and drop-path active. Off, every
            warm-up frame is encoded once instead of in each pass.
        probability_loss: Whether the cross-entropy takes probabilities for logits, as published.
        full_resolution: Whether losses and targets have the size of the frame; off, the size of the logits.
        statistics_share: Share in 0..1 of the warm-up's BatchNorm statistics that is blended into the source's before
            the training, in the encoder's first layers alone; up to twice that where it suits the later layers
            (docs/ablations.md#a-larger-share) or the clip was restored (:meth:`after_restoration`).
        self_training_steps: Number of steps that train the network by its own labels after the statistics
            (:mod:`ditta_core.domain.warmup`), instead of the decoder towards soft targets; 0 for none. See
            :attr:`self_trains`.
        passes: Number of passes over the warm-up frames, in time order, where the decoder is trained.
        learning_rate: Learning rate of AdamW, where the decoder is trained.
        views: Number of scaled, mirrored and recoloured views of warm-up frames that are trained on beside the frames,
            see docs/ablations.md#views-of-the-warm-up. None are where :attr:`trains_frames_apart` is false.
        weight_decay: Weight decay of AdamW.
        momentum: Momentum of the exponential moving average of the weights that makes the prototypes.
        crop: Share of a frame's area that a step trains on in all passes but the last, which sees whole frames; a crop
            lies in another corner each time, and 1 trains on whole frames always. See :attr:`trains_on_crops` and
            docs/ablations.md#deployed-share-and-crops.
        deployed_share: Position of the decoder that serves between the base model's (0) and the trained one's (1), see
            docs/ablations.md#deployed-share-and-crops.
        kept_share: Part of its mean probability on the warm-up, 0..1, that every class keeps through the training, by
            the bias of the last layer, see docs/ablations.md#classes-that-are-kept. 0 keeps nothing.
        anchor_targets: Whether uncertain pixels are trained towards what the model predicts for them already, and
            certain ones towards sharper targets, see docs/ablations.md#anchored-targets. Off, uncertain pixels weigh
            less.
        guarded: Whether frames that show nothing are not adapted to, and a trained decoder that contradicts the base
            model is refused, see docs/ablations.md#limits-of-the-guard. Off, only a collapse into few classes is.
        temperature: Temperature of the contrastive loss.
        contrastive: Whether the contrastive loss is used where the targets have objects.
        temporal_branch: Whether the temporal branch is trained beside the frame branch. Off, the decoder alone is, and
            the adapted model segments every frame on its own.
        past_gradients: Whether every step decodes the frame before once more and trains the decoder through it too, as
            published. Off, the temporal branch attends to what the step before left of that frame, in half the time.
        seed: Seed of dropout and drop-path, set at the start of every adaptation.
    """

    train_mode: bool = False
    probability_loss: bool = False
    full_resolution: bool = False
    statistics_share: float = 0.3
    self_training_steps: int = 20
    passes: int = 5
    learning_rate: float = 3e-4
    views: int = 10
    weight_decay: float = 0.01
    momentum: float = 0.99
    crop: float = 0.25
    deployed_share: float = 0.25
    kept_share: float = 0.85
    anchor_targets: bool = True
    guarded: bool = True
    temperature: float = 1.0
    contrastive: bool = True
    temporal_branch: bool = False
    past_gradients: bool = False
    seed: int = DEFAULT_SEED

    def __post_init__(self) -> None:
        if min(self.passes, self.self_training_steps) < 0 or self.learning_rate <= 0:
            raise ValueError(
                f"expected passes and self_training_steps >= 0 and a learning rate > 0, but got {self.passes}, "
                f"{self.self_training_steps} and {self.learning_rate}"
            )
        if self.train_mode and not self.past_gradients:
            raise ValueError("expected past_gradients with train_mode, which takes its statistics from both frames")
        if not 0 < self.crop <= 1:
            raise ValueError(f"expected a crop of more than 0 and at most 1 of the area, but got {self.crop}")
        if self.views < 0:
            raise ValueError(f"expected views >= 0, but got {self.views}")
        for name in ("statistics_share", "deployed_share", "kept_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"expected {name} in 0..1, but got {getattr(self, name)}")

    @property
    def trains_frames_apart(self) -> bool:
        """Whether a step may take any part or view of a frame.

        Not where the temporal branch compares two frames at the same place, where statistics are taken of what is
        trained on, and where losses have another size than the logits.
        """
        return not (self.temporal_branch or self.train_mode or self.full_resolution)

    @property
    def self_trains(self) -> bool:
        """Whether the network may be trained by its own labels: not where the temporal branch is trained beside it."""
        return self.self_training_steps > 0 and not (self.temporal_branch or self.train_mode)

    @property
    def trains_on_crops(self) -> bool:
        """Whether steps take a part of the frame."""
        return self.crop < 1 and self.trains_frames_apart

    def after_restoration(self, noisiness: float) -> AdaptationConfig:
        """The settings for a clip of which noise of a strength of 0..1 was taken out.

        The share of the statistics grows with the noisiness, up to ``RESTORED_SHARE`` times.
        """
        share = min(self.statistics_share * (1 + noisiness * (RESTORED_SHARE - 1)), 1.0)
        return self if share == self.statistics_share else replace(self, statistics_share=share)

    @classmethod
    def parity(cls, **settings: Any) -> AdaptationConfig:
        """The published behaviour, with ``settings`` of one's own."""
        published = {
            "train_mode": True,
            "learning_rate": 1e-3,
            "views": 0,
            "kept_share": 0.0,
            "probability_loss": True,
            "full_resolution": True,
            "statistics_share": 0.0,
            "self_training_steps": 0,
            "crop": 1.0,
            "deployed_share": 1.0,
            "anchor_targets": False,
            "guarded": False,
            "temporal_branch": True,
            "past_gradients": True,
        }
        return cls(**{**published, **settings})


def warmup_length(frames: int, ratio: int) -> int:
    """Warm-up frames of a video of known length: n = max(floor(N·r/100), 1), r an integer percent.

    >>> [warmup_length(n, 10) for n in (9, 19, 20, 71, 136)]
    [1, 1, 2, 7, 13]
    """
    return max(frames * ratio // 100, 1)
