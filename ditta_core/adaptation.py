"""The warm-up: from a handful of frames to an adapted decoder (method, stages A, B and C).

``run_job`` goes through the three stages. Two ways of doing it share all the code here: *parity*, the published
behaviour with its oddities, and *live*, which encodes every frame once, keeps the network in evaluation mode and says
in :class:`AdaptationConfig` what else it does differently and why.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ditta_core.adamw import AdamW
from ditta_core.fusion import TemporalSegmenter
from ditta_core.guard import (
    ANCHORED,
    WEIGHTED,
    CollapseError,
    Comparison,
    NothingShownError,
    RefusedError,
    guard_against_collapse,
    require_something_shown,
)
from ditta_core.losses import (
    FrameTarget,
    Prototypes,
    anchored,
    contrastive_loss,
    distillation_loss,
    pixel_features,
)
from ditta_core.normalisation import blend_encoder_statistics
from ditta_core.reliability import reliability
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.segmentation.registry import ModelSource, load_model
from ditta_core.teacher import TeacherConfig, build_teacher
from ditta_core.teacher.base import NoTargetError, TargetBuilder
from ditta_core.types import AdaptationReport
from ditta_core.windows import Grid

STATISTICS_FRAMES = 5
"""Frames whose statistics are taken in one batch at the most, spread evenly over the warm-up; bounds the memory, which
at 480×368 is 350 MB instead of 570 for ten. With Cityscapes weights, ten warm-up frames and a share of 30 %, five of
them instead of all give 43.01, 37.15 and 51.54 mIoU on three drives of CamVid's training part, and all ten 43.04, 37.15
and 51.81."""

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
            the encoder's first layers alone, see :func:`~ditta_core.normalisation.blend_encoder_statistics`; larger for
            a restored clip, see :meth:`after_restoration`.
        passes: over the warm-up frames, in time order.
        learning_rate, weight_decay: of AdamW.
        momentum: of the exponential moving average of the weights that makes the prototypes.
        crop: share of the area of a frame that a step trains on in all passes but the last, which sees whole frames: a
            window in another corner each time; 1 trains on whole frames always, as does whatever
            :attr:`trains_on_windows` or :class:`~ditta_core.windows.Grid` excludes. With ESPNetv2 at 480×368 a step on
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
            targets, see :func:`~ditta_core.losses.anchored`; off, uncertain pixels weigh less. On the six parts, with
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
            model, see :mod:`ditta_core.guard`; off, only a collapse into few classes is refused.
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
    seed: int = 5123

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
        """For a clip of which noise of a strength of 0..1 was taken out, see :mod:`ditta_core.restoration`.

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


@dataclass(frozen=True)
class AdaptationJob:
    """Everything a worker needs to adapt; can be pickled.

    Attributes:
        clip: RGB uint8 [n, H, W, 3], the warm-up frames in time order.
        input_size: network input (height, width).
    """

    clip: NDArray[np.uint8]
    input_size: tuple[int, int]
    model: ModelSource = field(default_factory=ModelSource)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    adaptation: AdaptationConfig = field(default_factory=AdaptationConfig)


@dataclass(frozen=True)
class AdaptedState:
    """What an adaptation changed: the tensors of a :class:`TemporalSegmenter` that differ from the base model's.

    Attributes:
        tensors: by name; parameters of decoder and add-on, BatchNorm statistics.
        temporal_branch: whether the add-on was trained; an untrained one is random and must not be blended in.
    """

    tensors: dict[str, NDArray[np.float32]]
    temporal_branch: bool

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
        with torch.no_grad():
            state = adapted.state_dict()
            for name, value in self.tensors.items():
                state[name].copy_(torch.from_numpy(value))
        return adapted

    def towards(self, other: AdaptedState, share: float, base: TemporalSegmenter) -> AdaptedState:
        """The weighted mean of two states of one base model, tensor by tensor.

        Statistics and decoders of several adaptations from one base may be averaged, as they lie in one basin of the
        loss (Wortsman et al., "Model soups", ICML 2022).

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
        return AdaptedState(mean, self.temporal_branch and other.temporal_branch)


def own_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers themselves, by name; those of a state dict are others that share their memory."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


@dataclass(frozen=True)
class AdaptationProgress:
    """News of a running adaptation: share done (0..1) and mean total loss of every finished pass."""

    fraction: float
    losses: tuple[float, ...] = ()


@dataclass(frozen=True)
class AdaptationResult:
    """The end of an adaptation; ``state`` is None where it did not succeed."""

    state: AdaptedState | None
    report: AdaptationReport


class Cancelled(Exception):
    """The adaptation was cancelled."""


class NonFiniteLossError(ArithmeticError):
    """A loss is NaN or infinite; nothing of this adaptation may go live."""


# --- optimisation (stage C) ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StepLosses:
    """Losses of one step: distillation of both branches and contrast; None where a term does not apply."""

    frame: float
    temporal: float | None
    contrastive: float | None

    @property
    def total(self) -> float:
        """Their sum; all weights are 1."""
        return self.frame + (self.temporal or 0.0) + (self.contrastive or 0.0)


class DistillationTrainer:
    """The live model, its moving average, the prototypes and the optimiser of one adaptation.

    Args:
        segmenter: trained in place; the encoder is left alone.
        resize: sizes to which logits are resized one after the other, bilinearly, before the losses; empty for none.
        objects: whether any target has objects, whose prototypes are all that the moving average is for.
    """

    def __init__(
        self,
        segmenter: TemporalSegmenter,
        config: AdaptationConfig,
        resize: Sequence[tuple[int, int]] = (),
        objects: bool = True,
    ) -> None:
        self.live = segmenter
        self.config = config
        self.resize = resize
        self.averaged = copy.deepcopy(segmenter).requires_grad_(False) if objects and config.contrastive else None
        self.prototypes = Prototypes()
        self.past: tuple[Tensor, Tensor] | None = None
        segmenter.requires_grad_(False)
        # Those that a loss does not reach stay as they are: without temporal branch and objects, all of the add-on.
        self.parameters = [*segmenter.model.decoder_parameters(), *segmenter.add_on_parameters()]
        for parameter in self.parameters:
            parameter.requires_grad_(True)
        self.optimizer = AdamW(self.parameters, config.learning_rate, config.weight_decay)
        for model in (self.live, self.averaged):
            if model is not None:
                model.train(config.train_mode)

    def step(
        self, features: Sequence[Tensor], target: FrameTarget, averaged: Sequence[Tensor] | None = None
    ) -> StepLosses:
        """One optimisation step on a clip of one or two frames, oldest first.

        Args:
            features: encoder features of the clip; of one frame where the temporal branch is not trained.
            target: of the last frame, at the size the logits are resized to.
            averaged: encoder features made by the averaged model, where they differ.

        Raises:
            NonFiniteLossError: the loss is NaN or infinite; no step was made.
        """
        if self.config.past_gradients or not self.config.temporal_branch:
            frame, temporal, embedding = self.live.decode_clip(features)
        else:
            frame, temporal, embedding = self.decode_after_past(features)
        frame_loss = distillation_loss(self.scores(frame), target)
        temporal_loss = contrast = None
        if temporal is not None:
            temporal_loss = distillation_loss(self.scores(temporal, frame), target)
        if self.averaged is not None and target.object_ids is not None:
            # The averaged model runs for the prototypes alone, but in training mode its forward also moves its
            # statistics, so it runs whether or not this frame has an object.
            with torch.no_grad():
                past_free = features if self.config.past_gradients else tuple(level[-1:] for level in features)
                averaged_frame, _, averaged_embedding = self.averaged.decode_clip(averaged or past_free)
            if bool((target.object_ids > 0).any()):
                size = target.object_ids.shape
                contrast = contrastive_loss(
                    pixel_features(self.live, embedding[-1:], size),
                    pixel_features(self.averaged, averaged_embedding[-1:], size).detach(),
                    self.probabilities(averaged_frame)[0],
                    target.object_ids,
                    self.prototypes,
                    self.config.temperature,
                )
        loss = sum((term for term in (temporal_loss, contrast) if term is not None), frame_loss)
        losses = StepLosses(
            frame_loss.item(),
            None if temporal_loss is None else temporal_loss.item(),
            None if contrast is None else contrast.item(),
        )
        if not np.isfinite(losses.total):
            raise NonFiniteLossError(f"expected a finite loss, but got {losses}")
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.average()
        return losses

    def decode_after_past(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor | None, Tensor]:
        """As ``decode_clip`` for the last frame, with what the step before made of the frame before, if it is of one.

        Args:
            features: of one frame where the clip begins, and else of two.
        """
        past, last = self.past, tuple(level[-1:] for level in features)
        frame, _, embedding = self.live.decode_clip(last)
        self.past = embedding.detach(), frame.detach()
        if past is None or len(features[0]) == 1:
            return frame, None, embedding
        return frame, self.live.recall(embedding, self.live.remember(*past)), embedding

    def enlarge(self, logits: Tensor, size: Sequence[int]) -> Tensor:
        """Logits at the size of the losses; where nothing is resized, at ``size``."""
        return enlarge(self.live.model, logits, self.resize, size)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Softmax of the logits at the size of the losses."""
        return self.enlarge(logits, logits.shape[-2:]).softmax(1)

    def scores(self, logits: Tensor, like: Tensor | None = None) -> Tensor:
        """What the cross-entropy takes for logits: the logits, or their softmax in the published form."""
        enlarged = self.enlarge(logits, (logits if like is None else like).shape[-2:])
        return enlarged.softmax(1) if self.config.probability_loss else enlarged

    def average(self) -> None:
        """θ̄ ← m·θ̄ + (1 − m)·θ over all trained parameters, buffers excepted."""
        if self.averaged is None:
            return
        with torch.no_grad():
            for mean, value in zip(self.averaged.parameters(), self.live.parameters(), strict=True):
                if value.requires_grad:
                    mean.lerp_(value, 1 - self.config.momentum)


def enlarge(model: SegmentationModel, logits: Tensor, resize: Sequence[tuple[int, int]], size: Sequence[int]) -> Tensor:
    """Logits resized bilinearly to one size after the other; where there is none, to ``size``."""
    if resize:
        logits = model.enlarge_logits(logits, resize[0])
    for step in resize[1:] if resize else (tuple(size),):
        if tuple(logits.shape[-2:]) != step:
            logits = F.interpolate(logits, step, mode="bilinear", align_corners=False)
    return logits


# --- the three stages ----------------------------------------------------------------------------------------------


FrameFeatures = tuple[Tensor, ...]
"""What the encoder says of one frame, float [1, ...] each."""


def clip_features(segmenter: TemporalSegmenter, pixels: Tensor) -> list[FrameFeatures]:
    """Features of all frames, encoded one at a time to bound the memory.

    They stay apart: to put those of ten frames at 480×368 together would take another 155 MB for a moment.
    """
    return [segmenter.model.encode(frame[None]) for frame in pixels]


def predict(
    segmenter: TemporalSegmenter, features: Sequence[FrameFeatures], resize: Sequence[tuple[int, int]]
) -> Tensor:
    """Probabilities of the frame branch for all frames of the clip, float [n, C, h, w] at the size of the losses."""
    logits = (segmenter.decode_clip(frame)[0] for frame in features)
    return torch.cat([enlarge(segmenter.model, each, resize, each.shape[-2:]).softmax(1) for each in logits])


def adapt(
    segmenter: TemporalSegmenter,
    clip: NDArray[np.uint8],
    input_size: tuple[int, int],
    teacher: TargetBuilder,
    config: AdaptationConfig,
    progress: Callable[[AdaptationProgress], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> AdaptationReport:
    """Adapt ``segmenter`` in place to the clip: statistics, targets, optimisation.

    Args:
        clip: RGB uint8 [n, H, W, 3].
        input_size: network input (height, width).
        progress: told after every step; may be called often.
        cancelled: asked before every step.

    Raises:
        NoTargetError: the teacher found nothing to learn from.
        NonFiniteLossError: a loss was NaN or infinite.
        Cancelled: ``cancelled`` said so.
        CollapseError: the adapted model lost most of the classes.
        NothingShownError: most of the frames show nothing.
        RefusedError: the trained decoder was refused, and the statistics stayed as they were, too.
    """
    start = time.perf_counter()
    if config.guarded:
        require_something_shown(clip)
    torch.manual_seed(config.seed)
    device = next(segmenter.parameters()).device
    size = (clip.shape[1], clip.shape[2])
    resize = (input_size, size) if config.full_resolution else ()
    segmenter.eval()

    with torch.no_grad():
        pixels = segmenter.model.preprocess(clip, input_size, device)
        chosen = np.unique(np.linspace(0, len(clip) - 1, min(len(clip), STATISTICS_FRAMES)).round().astype(int))
        statistics_share = blend_encoder_statistics(segmenter.model, pixels[chosen], config.statistics_share)
        features = clip_features(segmenter, pixels)

    # Stages A and B: what the model says of the clip, and what the teacher makes of it.
    with torch.no_grad():
        probabilities = predict(segmenter, features, resize)
        trust = reliability(probabilities)
        own = probabilities.cpu().numpy()
    taught = teacher.build(clip, own, trust.cpu().numpy())
    target = anchored(taught, own) if config.anchored else taught
    limits = WEIGHTED if target is taught else ANCHORED
    target_seconds = time.perf_counter() - start

    # Stage C.
    trainer = DistillationTrainer(segmenter, config, resize, objects=target.object_ids is not None)
    untrained = [parameter.detach().clone() for parameter in trainer.parameters]
    losses: list[float] = []
    steps = config.passes * len(clip)
    grid = None
    if config.trains_on_windows:
        grid = Grid.of(segmenter.model, features[0], FrameTarget.of(target, 0, device))
    for epoch in range(config.passes):
        total = 0.0
        for index in range(len(clip)):
            if cancelled():
                raise Cancelled("the adaptation was cancelled")
            first = max(index - 1, 0) if config.temporal_branch else index
            if config.train_mode:
                frames = pixels[first : index + 1]
                with torch.no_grad():
                    live = trainer.live.model.encode(frames)
                    # The averaged model serves the prototypes alone; without objects there are none.
                    averaged = None if trainer.averaged is None else trainer.averaged.model.encode(frames)
            else:
                live = features[index]
                if first < index:
                    live = tuple(torch.cat(pair) for pair in zip(features[first], live, strict=True))
                averaged = None
            frame_target = FrameTarget.of(target, index, device)
            if grid is not None and epoch < config.passes - 1:
                window = grid.corner(index + epoch, config.crop)  # in every pass another one of the same frame
                live, frame_target = tuple(map(window.of, live)), window.of_target(frame_target)
            total += trainer.step(live, frame_target, averaged).total
            progress(AdaptationProgress((epoch * len(clip) + index + 1) / steps, tuple(losses)))
        losses.append(total / len(clip))
    segmenter.eval().requires_grad_(False)
    deployed_share, reason = config.deployed_share if steps else 0.0, "adapted"
    with torch.no_grad():
        for trained, before in zip(segmenter.model.decoder_parameters(), untrained, strict=False):
            trained.copy_(before.lerp(trained, config.deployed_share))
        if config.train_mode:  # the statistics of the encoder moved
            features = clip_features(segmenter, pixels)
        adapted = predict(segmenter, features, resize)
        objection = Comparison.of(probabilities, adapted, limits).objection if config.guarded else ""
        if objection:
            refusal = f"the trained decoder was refused: on the warm-up frames, {objection}"
            if statistics_share == 0:
                raise RefusedError(f"{refusal}; the base model stays")
            reason = f"{refusal}; the base decoder stays, with {statistics_share:.0%} of the warm-up's statistics"
            deployed_share = 0.0
            for trained, before in zip(trainer.parameters, untrained, strict=True):
                trained.copy_(before)
        else:
            guard_against_collapse(probabilities.argmax(1), adapted.argmax(1))
    return AdaptationReport(
        succeeded=True,
        reason=reason,
        frames=len(clip),
        steps=steps,
        seconds=time.perf_counter() - start,
        target_seconds=target_seconds,
        losses=tuple(losses),
        objects=target.objects,
        statistics_share=statistics_share,
        deployed_share=deployed_share,
    )


def changed_tensors(segmenter: TemporalSegmenter, base: TemporalSegmenter) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Floating-point tensors of ``segmenter`` that differ from those of ``base``."""
    for (name, value), original in zip(segmenter.state_dict().items(), base.state_dict().values(), strict=True):
        if value.is_floating_point() and not torch.equal(value, original):
            yield name, value.detach().cpu().float().numpy()


def run_job(
    job: AdaptationJob,
    progress: Callable[[AdaptationProgress], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> AdaptationResult:
    """Load the base model, adapt it, return what changed. Whatever goes wrong ends in the report, not in a raise."""
    start = time.perf_counter()

    def failed(reason: str) -> AdaptationResult:
        seconds = time.perf_counter() - start
        return AdaptationResult(None, AdaptationReport(False, reason, frames=len(job.clip), seconds=seconds))

    try:
        base = TemporalSegmenter(load_model(job.model))
        adapted = copy.deepcopy(base)
        teacher = build_teacher(job.teacher, torch.device(job.model.device))
        report = adapt(adapted, job.clip, job.input_size, teacher, job.adaptation, progress, cancelled)
        tensors = dict(changed_tensors(adapted, base))
    except (NoTargetError, NonFiniteLossError, NothingShownError, RefusedError, CollapseError, Cancelled) as reason:
        return failed(str(reason))
    except Exception as error:  # a worker must answer, whatever a driver, a file or an allocator came up with
        return failed(f"{type(error).__name__}: {error}")
    broken = [name for name, value in tensors.items() if not np.isfinite(value).all()]
    if broken:
        return failed(f"expected finite weights, but got NaN or infinity in {broken[:3]}")
    trained_branch = job.adaptation.temporal_branch and len(job.clip) > 1 and bool(report.deployed_share)
    return AdaptationResult(AdaptedState(tensors, trained_branch), report)
