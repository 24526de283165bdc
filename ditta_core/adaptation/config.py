"""Settings of an adaptation; nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

DEFAULT_SEED = 5123
"""Seed of everything random, where nothing else is asked for."""

RESTORED_SHARE = 2.0
"""By how much the share of the warm-up's statistics grows where the clip was full of noise. On CamVid's training part,
restored, mIoU with 0.3 → 0.6: with the packaged model 56.7 → 60.1 under noise and 58.3 → 59.6 in darkness of severity
3, with Cityscapes weights 39.5 → 41.4 in that darkness; 0.8 there gives 58.6 and 40.3."""


@dataclass(frozen=True)
class AdaptationConfig:
    """How the decoder is trained on the warm-up clip. The defaults are *live* mode; see :meth:`parity`.

    Attributes:
        train_mode: run the whole network in training mode while adapting, the frozen backbone included: BatchNorm by
            the clip's statistics (overwriting the running ones), dropout and drop-path active. Off, the backbone is
            deterministic and every warm-up frame is encoded once instead of in each pass.
        probability_loss: cross-entropy on probabilities as if they were logits, as published; off, on logits.
        full_resolution: losses and targets at the size of the frame; off, at the size of the logits.
        statistics_share: share of the warm-up's BatchNorm statistics blended into the source's before anything else, in
            the encoder's first layers alone, see :func:`~ditta_core.adaptation.batchnorm.blend_encoder_statistics`; larger for
            a restored clip, see :meth:`after_restoration`.
        passes: over the warm-up frames, in time order.
        learning_rate, weight_decay: of AdamW.
        momentum: of the exponential moving average of the weights that makes the prototypes.
        crop: share of the area of a frame that a step trains on in all passes but the last, which sees whole frames: a
            window in another corner each time; 1 trains on whole frames always, as does whatever
            :attr:`trains_on_windows` or :class:`~ditta_core.adaptation.crops.Grid` excludes. With ESPNetv2 at 480×368 a step on
            one core takes 147 ms on the whole, 84 on a half, 49 on a fourth. See ``deployed_share`` for what it costs.
        deployed_share: how far the decoder that goes live lies from the base model's (0) to the trained one's (1).
            What is trained on one view knows that view best (Wortsman et al., "Robust fine-tuning of zero-shot
            models", CVPR 2022, interpolate for the same reason). Against no training, nine warm-ups on six parts of
            CamVid's training drives, mIoU one to five seconds later / VC8 of the second after the warm-up:

            ===========================  ==================  ==============
            trained on, deployed         Cityscapes weights  packaged model
            ===========================  ==================  ==============
            whole frames, 0.5            +0.3 / +0.6         +0.6 / +0.3
            whole frames, 0.75           +0.3 / +0.8         +0.7 / +0.4
            whole frames, 1              +0.2 / +1.0         +0.9 / +0.4
            fourths, then whole, 0.75    +0.1 / +0.8         +0.9 / +0.3
            fourths, then whole, 1       −0.2 / +0.9         +1.1 / +0.3
            thirds, 0.75                 −0.5 / +0.6         +0.6 / +0.1
            halves, 0.75                 −0.1 / +0.9         +0.7 / +0.3
            whole, three passes, 0.75    +0.5 / +0.7         +0.6 / +0.3
            ===========================  ==================  ==============

            In either half of the warm-ups, differences between the rows below 0.5 come out the other way round.
        anchored: train uncertain pixels towards what the model says of them already, and certain ones towards sharper
            targets, see :func:`~ditta_core.adaptation.losses.anchored`; off, uncertain pixels weigh less. On the six parts, with
            the windows and the share above, against no training:

            ====================================  ==================  ==============
            target Q with certainty w             Cityscapes weights  packaged model
            ====================================  ==================  ==============
            Q, weighted by w                      +0.5 / +0.7         +1.0 / +0.3
            Q, all pixels alike                   +0.7 / +0.7         +1.1 / +0.3
            w · Q + (1 − w) · own                 +0.7 / +0.5         +0.6 / +0.2
            w · sharp(Q) + (1 − w) · own          +1.0 / +1.0         +1.2 / +0.5
            ====================================  ==================  ==============

            With Cityscapes weights signs lose 2 IoU with the last and 5 with the first.
        guarded: adapt to frames only that show something, and refuse a trained decoder that speaks against the base
            model, see :mod:`ditta_core.adaptation.guard`; off, only a collapse into few classes is refused.
        temperature: of the contrastive loss.
        contrastive: whether the contrastive loss is used where the targets have objects.
        temporal_branch: whether the temporal branch is trained beside the frame's own. Off, the decoder alone is, and
            the adapted model segments every frame on its own.
        past_gradients: decode the frame before anew in every step and train the decoder through it too, as published;
            off, the temporal branch looks at what the step before left of that frame, which halves the time of a step.
        seed: of dropout and drop-path; set anew for every adaptation, so that one does not depend on those before it.
    """

    train_mode: bool = False
    probability_loss: bool = False
    full_resolution: bool = False
    statistics_share: float = 0.3
    passes: int = 5
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    momentum: float = 0.99
    crop: float = 0.25
    deployed_share: float = 0.75
    anchored: bool = True
    guarded: bool = True
    temperature: float = 1.0
    contrastive: bool = True
    temporal_branch: bool = False
    past_gradients: bool = False
    seed: int = DEFAULT_SEED

    def __post_init__(self) -> None:
        if self.passes < 0 or self.learning_rate <= 0:
            raise ValueError(
                f"expected passes >= 0 and a learning rate > 0, but got {self.passes} and {self.learning_rate}"
            )
        if self.train_mode and not self.past_gradients:
            raise ValueError("expected past_gradients with train_mode, which takes its statistics from both frames")
        if not 0 <= self.statistics_share <= 1:
            raise ValueError(f"expected a statistics share in 0..1, but got {self.statistics_share}")
        if not 0 < self.crop <= 1:
            raise ValueError(f"expected a crop of more than 0 and at most 1 of the area, but got {self.crop}")
        if not 0 <= self.deployed_share <= 1:
            raise ValueError(f"expected a deployed share in 0..1, but got {self.deployed_share}")

    @property
    def trains_on_windows(self) -> bool:
        """Whether steps may take a part of the frame.

        Not where the temporal branch compares two frames at the same place, where statistics are taken of what is
        trained on, and where losses have another size than the logits.
        """
        return self.crop < 1 and not (self.temporal_branch or self.train_mode or self.full_resolution)

    def after_restoration(self, noisiness: float) -> AdaptationConfig:
        """For a clip of which noise of a strength of 0..1 was taken out, see :mod:`ditta_core.inference.restoration`.

        What restoration leaves of noise and darkness is still far from the training data, whose statistics are then
        worth less: the share grows with the noisiness, up to ``RESTORED_SHARE`` times. Mere flatness, as fog has it, is
        no reason: there, with the packaged model, 0.54 gives 62.3 and 0.3 gives 64.1.
        """
        share = min(self.statistics_share * (1 + noisiness * (RESTORED_SHARE - 1)), 1.0)
        return self if share == self.statistics_share else replace(self, statistics_share=share)

    @classmethod
    def parity(cls, **settings: Any) -> AdaptationConfig:
        """The published behaviour, with ``settings`` of one's own."""
        published = {
            "train_mode": True,
            "probability_loss": True,
            "full_resolution": True,
            "statistics_share": 0.0,
            "crop": 1.0,
            "deployed_share": 1.0,
            "anchored": False,
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
