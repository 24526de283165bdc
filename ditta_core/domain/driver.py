"""The adaptation of a model to recorded drives: everything but what a step minimises, which is the recipe's.

Statistics first; then steps on windows of clips, with a schedule, in rounds of pseudo-labels; at the end a share of the
training is deployed, unless the guard refuses it on frames that were kept out. BatchNorm stays in evaluation mode
throughout. Where a process group of torch.distributed is there, its processes train together.
"""

from __future__ import annotations

import copy
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ditta_core.adaptation.adapt import STATISTICS_FRAMES
from ditta_core.adaptation.batchnorm import blend_encoder_statistics
from ditta_core.adaptation.guard import DecoderCheck, Limits, objection_to_trained
from ditta_core.adaptation.job import Cancelled
from ditta_core.adaptation.trainer import NonFiniteLossError
from ditta_core.domain.config import LEARNING_RATE, OfflineConfig, Trained
from ditta_core.domain.frames import DriveFrames, resize_image
from ditta_core.domain.processes import Processes
from ditta_core.domain.recipe import Batch, Losses, PseudoLabels, Recipe, poly, resized, trained_parameters
from ditta_core.domain.sampling import ClipSampler
from ditta_core.domain.training_state import Position, keep_training, load_training, save_training
from ditta_core.segmentation.adapted import weights_fingerprint
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.teacher.dense_flow import SMALLEST_LINK

LIMITS = Limits(sure=0.9, contradicted=0.05)
"""What a model that was trained on drives may contradict of itself before, on frames that were kept out; how much of it
is the recipe's to say."""
LARGEST_GRADIENT = 10.0
"""Norm that gradients are clipped to: a rare window of one odd class must not undo a hundred steps."""
SAVE_EVERY = 60.0
"""Seconds between two saves of a training under way."""


@dataclass(frozen=True)
class OfflineProgress:
    """Where an adaptation is.

    Attributes:
        phase: ``labels`` while pseudo-labels are made, ``steps`` else.
        step: Number of steps made.
        done: Share of the schedule that is done, 0..1.
        losses: Named terms of the last step.
    """

    phase: str
    step: int
    done: float
    losses: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class OfflineReport:
    """What came of an adaptation.

    Attributes:
        recipe: Name of the recipe.
        reason: One sentence: "adapted", or what is deployed in its place, and why; also where losses were not finite.
        refused: Why the training was refused; empty where it was not.
        frames, held_out: Number of frames learned from, and kept out.
        steps: Number of steps made.
        seconds: Duration of the training.
        losses: Means of the named terms over the steps of every part of the schedule, by the step at its end.
        labelled: Share of the pixels, 0..1, that every round labelled.
        thresholds: Thresholds of every round, by channel of the published classes.
        confirmed: Share of the pixels, 0..1, whose flow is confirmed between neighbouring frames; None where no flow
            was asked for.
        moving: Whether clips had frames before; not where flow confirms too little.
        statistics_share: Share of the drives' statistics that was blended in.
        trained: What the training changed.
        deployed_share: Share of the training that was deployed; 0 where it was refused.
        contradicted: Share of the pixels, 0..1, that the model was sure of before and that get another class after.
        entropy_ratio: Mean entropy after, as a multiple of that before.
    """

    recipe: str
    reason: str
    refused: str
    frames: int
    held_out: int
    steps: int
    seconds: float
    losses: tuple[tuple[int, Mapping[str, float]], ...]
    labelled: tuple[float, ...]
    thresholds: tuple[tuple[float, ...], ...]
    confirmed: float | None
    moving: bool
    statistics_share: float
    trained: Trained
    deployed_share: float
    contradicted: float | None = None
    entropy_ratio: float | None = None


@dataclass(frozen=True)
class OfflineResult:
    """An adapted model: the tensors that differ from the base model's by name, float32; and the report."""

    tensors: dict[str, NDArray[np.float32]]
    report: OfflineReport


def adapt_offline(
    base: SegmentationModel,
    recipe: type[Recipe],
    drive: DriveFrames,
    config: OfflineConfig,
    source: DriveFrames | None = None,
    state_file: Path | None = None,
    progress: Callable[[OfflineProgress], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> OfflineResult:
    """Adapt a model to drives.

    Args:
        base: in evaluation mode; not changed.
        source: labelled frames, for recipes that need them.
        state_file: where a training under way is kept, and gone on with; for whoever has written the result to remove.
            None keeps nothing.
        progress: told after every step; may be called often.
        cancelled: asked before every step.

    Raises:
        ValueError: the recipe needs a source, or the model has too many classes.
        NothingLabelledError: the drives offer nothing to learn from.
        Cancelled: ``cancelled`` said so; the same call goes on with the state file.
        TrainingStateError: the state file is of another adaptation.
    """
    if recipe.needs_source and (source is None or source.labels is None):
        raise ValueError(
            f"expected a labelled source for {recipe.__name__}, which drifts without one, but got none; give --source, "
            f"or take a method that needs none"
        )
    if base.class_map.channels >= 255:
        raise ValueError(
            f"expected less than 255 classes, as pseudo-labels have 8 bits, but got {base.class_map.channels}; give "
            f"--classes of your own"
        )
    return _Adaptation(base, recipe, drive, config, source, state_file).run(progress, cancelled)


class _Adaptation:
    """One run of :func:`adapt_offline`."""

    def __init__(
        self,
        base: SegmentationModel,
        recipe: type[Recipe],
        drive: DriveFrames,
        config: OfflineConfig,
        source: DriveFrames | None,
        state_file: Path | None,
    ) -> None:
        self.base, self.drive, self.config, self.source, self.state_file = base, drive, config, source, state_file
        self.processes = Processes.of_group(config.batch)
        self.model = copy.deepcopy(base).eval()
        self.statistics_share = self._blend_statistics()
        self.before = copy.deepcopy(self.model.state_dict())
        self.model.requires_grad_(False)
        generator = torch.Generator().manual_seed(config.seed)
        self.recipe = recipe(self.model, config, generator).to(base.mean.device).train()
        for parameter in trained_parameters(self.model, self.recipe.extent):
            parameter.requires_grad_(True)
        self.groups = self.recipe.parameter_groups()
        self.rate = config.learning_rate or LEARNING_RATE[self.recipe.extent]
        self.optimizer = torch.optim.Adam(
            [{"params": list(group.parameters), "lr": self.rate * group.factor} for group in self.groups], lr=self.rate
        )
        self.module = self.processes.wrap(self.recipe)
        self.rounds = config.rounds or recipe.rounds
        self.position = Position()
        self.labels: PseudoLabels | None = None
        self.diverged = ""
        self.confirmed = drive.confirmed_share() if recipe.frames > 1 else None
        self.moving = self.confirmed is not None and self.confirmed >= SMALLEST_LINK

    def _blend_statistics(self) -> float:
        places = np.unique(np.linspace(0, len(self.drive) - 1, STATISTICS_FRAMES).round().astype(int))
        images = np.stack([self.drive.image(int(place)) for place in places])
        pixels = self.model.preprocess(images, self.drive.input_size, self.model.mean.device)
        # Not judged: on drives a larger share costs more than it gives, docs/ablations.md#a-larger-share.
        return blend_encoder_statistics(self.model, pixels, self.config.statistics_share)

    # --- the training ---------------------------------------------------------------------------------------------

    def run(self, progress: Callable[[OfflineProgress], None], cancelled: Callable[[], bool]) -> OfflineResult:
        fingerprint = self._fingerprint() if self.state_file is not None else ""
        if self.state_file is not None and self.processes.expect_same(self.state_file):
            self.position, self.labels = load_training(self.state_file, fingerprint, self.recipe, self._optimizers())
        source = None
        if self.source is not None:
            source = ClipSampler(self.source, self.source.labels, self.model, self.config, self.recipe.frames, True)
        target: ClipSampler | None = None
        begin = time.monotonic() - self.position.seconds
        saved = time.monotonic()
        good = self._good(_Good(0, self.before))
        while (done := self.processes.agreed(self._done(time.monotonic() - begin))) < 1:
            number = min(int(done * self.rounds), self.rounds - 1)
            if number > self.position.number:
                progress(OfflineProgress("labels", self.position.step, done))
                if self.position.step:  # labels take minutes, and whoever ends meanwhile loses none of the steps
                    self._save(fingerprint, begin, keep_training)
                self._label(number)
                target = None
            if target is None:
                target = self._sampler()
            if self.processes.agreed(float(cancelled())):
                self._save(fingerprint, begin)
                raise Cancelled("the adaptation was cancelled; the same command goes on with it")
            try:
                terms = self._step(target, source, done)
            except NonFiniteLossError as error:
                self.model.load_state_dict(good.weights)
                self.diverged = f"{error}; the weights of step {good.step} are what is written"
                break
            losses = self.position.losses.after(self.position.step, done, terms)
            if len(losses.finished) > len(self.position.losses.finished):
                good = self._good(good)
            self.position = replace(self.position, losses=losses)
            made = min(1.0, self._done(time.monotonic() - begin))
            progress(OfflineProgress("steps", self.position.step, made, terms))
            if time.monotonic() - saved > SAVE_EVERY:
                self._save(fingerprint, begin, keep_training)
                saved = time.monotonic()
        losses = self.position.losses.ended(self.position.step)
        self.position = replace(self.position, losses=losses, seconds=time.monotonic() - begin)
        return self._deploy()

    def _good(self, last: _Good) -> _Good:
        """The weights of now, or the last good ones where some are not finite."""
        state = self.model.state_dict()
        if all(bool(value.isfinite().all()) for value in state.values()):
            return _Good(self.position.step, {name: value.clone() for name, value in state.items()})
        return last

    def _done(self, seconds: float) -> float:
        """Share of the schedule that is done."""
        config = self.config
        shares = [self.position.step / config.steps if config.steps else 1.0]
        if config.minutes is not None:
            shares.append(seconds / (60 * config.minutes))
        return max(shares)

    def _label(self, number: int) -> None:
        with torch.no_grad():
            self.labels = self.recipe.label(self.drive, number)
        position = replace(self.position, number=number)
        if self.labels is not None:
            position = replace(
                position,
                thresholds=(*position.thresholds, self.labels.thresholds),
                labelled=(*position.labelled, self.labels.share),
            )
        self.position = position

    def _sampler(self) -> ClipSampler:
        labels = None if self.labels is None else self.labels.labels
        recipe = self.recipe
        return ClipSampler(
            self.drive, labels, self.model, self.config, recipe.frames, recipe.recolours, recipe.in_turn, self.moving
        )

    def _step(self, target: ClipSampler, source: ClipSampler | None, done: float) -> dict[str, float]:
        """One step of the optimiser over the windows of this process and all others; the mean terms.

        Every window has a generator of its own, so that neither an interruption nor the number of processes changes
        what is drawn.
        """
        step, config = self.position.step, self.config
        for group, parameters in zip(self.optimizer.param_groups, self.groups, strict=True):
            group["lr"] = self.rate * parameters.factor * poly(done)
        self.optimizer.zero_grad(set_to_none=True)
        places, device = self.processes.places, self.recipe.device
        devices = [device] if device.type == "cuda" else []
        totals: dict[str, Tensor] = {}
        batch: Batch | None = None
        for count, place in enumerate(places, start=1):
            seed = (config.seed, step, place)
            random = np.random.default_rng(seed)
            labelled = None if source is None else source.draw(np.random.default_rng((*seed, 1)))
            batch = Batch(target.draw(random, step * config.batch + place), labelled, step, done, random)
            # Dropout takes torch's own generator, whose state outside of the step is left as it was.
            with torch.random.fork_rng(devices), self.processes.last(self.module, count == len(places)):
                torch.manual_seed(int(random.integers(2**31)))
                losses: Losses = self.module(batch)
                torch.stack(list(losses.values())).sum().div(len(places)).backward()
            for name, value in losses.items():
                totals[name] = totals.get(name, torch.zeros_like(value)) + value.detach() / len(places)
        terms = self.processes.mean(totals)
        trained = [each for group in self.groups for each in group.parameters if each.grad is not None]
        norm = float(torch.nn.utils.clip_grad_norm_(trained, LARGEST_GRADIENT)) if trained else 0.0
        if not (np.isfinite(norm) and all(map(np.isfinite, terms.values()))):
            named = ", ".join(f"{name} {value:.3g}" for name, value in terms.items())
            raise NonFiniteLossError(
                f"the training ended at step {step} with losses {named} and a gradient of norm {norm:.3g}; lower the "
                f"learning rate"
            )
        self.optimizer.step()
        assert batch is not None
        self.recipe.after_step(batch)
        self.position = replace(self.position, step=step + 1)
        return terms

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        return [self.optimizer, *self.recipe.optimizers()]

    # --- what is kept ---------------------------------------------------------------------------------------------

    def _fingerprint(self) -> str:
        """What the training depends on: model, drives, source with its labels, recipe and settings."""
        digest = hashlib.sha256(weights_fingerprint(self.base).encode())
        described = [type(self.recipe).__name__, asdict(self.config), self.base.classes.names]
        digest.update(json.dumps(described, default=str).encode())
        for frames in (self.drive, self.source):
            if frames is not None:
                digest.update(frames.digest())
        return digest.hexdigest()

    def _save(self, fingerprint: str, begin: float, save: Callable[..., None] = save_training) -> None:
        if self.state_file is not None and self.processes.first:
            position = replace(self.position, seconds=time.monotonic() - begin)
            save(self.state_file, fingerprint, position, self.recipe, self._optimizers(), self.labels)

    # --- what is deployed -----------------------------------------------------------------------------------------

    @torch.no_grad()
    def _deploy(self) -> OfflineResult:
        config = self.config
        share = self.recipe.deployed_share if config.deployed_share is None else config.deployed_share
        after = {name: value.clone() for name, value in self.model.state_dict().items()}
        for name, value in self.model.state_dict().items():
            if value.is_floating_point():
                value.copy_(self.before[name].lerp(after[name], share))
        trained = bool(self.position.step) and share > 0
        refused, check = self._check() if trained and self.drive.held_out else ("", None)
        deployed, reason = share if trained else 0.0, self.diverged or "adapted"
        if refused:
            self.model.load_state_dict(self.before)
            deployed = 0.0
            reason = f"{self.diverged}; " if self.diverged else ""
            reason += f"the training was refused: {refused}; "
            reason += (
                f"the model before it, with {self.statistics_share:.0%} of the drives' statistics, is what is written"
                if self.statistics_share
                else "the base model stays as it was"
            )
        original = self.base.state_dict()
        tensors = {
            name: value.detach().cpu().float().numpy()
            for name, value in self.model.state_dict().items()
            if value.is_floating_point() and not torch.equal(value, original[name])
        }
        position = self.position
        report = OfflineReport(
            recipe=type(self.recipe).__name__,
            reason=reason,
            refused=refused,
            frames=len(self.drive),
            held_out=len(self.drive.held_out),
            steps=position.step,
            seconds=position.seconds,
            losses=position.losses.finished,
            labelled=position.labelled,
            thresholds=position.thresholds,
            confirmed=self.confirmed,
            moving=self.moving,
            statistics_share=self.statistics_share,
            trained=self.recipe.extent,
            deployed_share=deployed,
            contradicted=None if check is None else check.contradicted,
            entropy_ratio=None if check is None else check.entropy_ratio,
        )
        return OfflineResult(tensors, report)

    def _check(self) -> tuple[str, DecoderCheck]:
        """Why the trained model may not serve, judged on the frames that were kept out; empty where nothing is."""
        after = self._held_out_probabilities()
        trained = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.model.load_state_dict(self.before)
        before = self._held_out_probabilities()
        self.model.load_state_dict(trained)
        check = DecoderCheck.of(before, after, replace(LIMITS, contradicted=self.recipe.most_contradicted))
        return objection_to_trained(check, before, after, self.config.guarded), check

    def _held_out_probabilities(self) -> Tensor:
        """Probabilities float [n, C, h, w], at half the size of label maps, which bounds the memory."""
        height, width = self.drive.map_size
        size = (max(1, height // 2), max(1, width // 2))
        found = []
        for image in self.drive.held_out:
            pixels = self.model.preprocess(
                resize_image(image, self.drive.input_size)[None], self.drive.input_size, self.model.mean.device
            )
            found.append(
                resized(self.model.classify(self.model.decode(self.model.encode(pixels))), size).softmax(1).cpu()
            )
        return torch.cat(found)


@dataclass(frozen=True)
class _Good:
    """Finite weights of a step."""

    step: int
    weights: Mapping[str, Tensor]
