"""What limits distillation: live DiTTA with a teacher that is told the truth, wholly or in part.

These are no methods, since they read the labels of the warm-up; they say how much a better teacher could gain at all.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ditta_core.adaptation.adapt import adapt
from ditta_core.datasets.base import VideoSequence
from ditta_core.evaluation.collect import collect, unfinished
from ditta_core.evaluation.measurement import GroundTruth
from ditta_core.evaluation.methods.base import MethodSetup
from ditta_core.evaluation.methods.ditta import DiTTA
from ditta_core.evaluation.plan import EvaluationOptions, plan
from ditta_core.evaluation.runners import run_here
from ditta_core.evaluation.store import TrialStore
from ditta_core.evaluation.trial import Trial, TrialRecord, run_trial
from ditta_core.report.results import to_json
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.segmentation.registry import load_model
from ditta_core.teacher.base import DistillationTarget, TargetBuilder
from ditta_core.teacher.flow_tracker import FlowTracker
from ditta_core.teacher.object_vote import ObjectVote
from ditta_core.types import UNLABELLED, AdaptationReport, Frame

Labels = NDArray[np.uint8]
"""Published class ids of the warm-up clip, uint8 [n, H, W], 255 = unlabelled."""


def resized(labels: Labels, size: tuple[int, int]) -> NDArray[np.int64]:
    """Labels at (height, width), by nearest neighbour."""
    return np.stack([cv2.resize(each, size[::-1], interpolation=cv2.INTER_NEAREST) for each in labels]).astype(np.int64)


class Told(TargetBuilder):
    """A teacher that is told the labels of the clip."""

    def __init__(self, labels: Labels) -> None:
        self.labels = labels


class TrueLabels(Told):
    """True objects with true classes: the labels themselves."""

    def build(
        self, clip: NDArray[np.uint8], probabilities: NDArray[np.float32], reliabilities: NDArray[np.float32]
    ) -> DistillationTarget:
        labels = resized(self.labels, probabilities.shape[2:])
        return DistillationTarget(labels, weights=(labels != UNLABELLED).astype(np.float32))


class TrueObjects(Told):
    """True objects with predicted classes.

    What is of one class and hangs together in space and time is an object; its class is the one that the model finds
    likeliest, by reliability, over all of its pixels.
    """

    def build(
        self, clip: NDArray[np.uint8], probabilities: NDArray[np.float32], reliabilities: NDArray[np.float32]
    ) -> DistillationTarget:
        truth = resized(self.labels, probabilities.shape[2:])
        target = np.full(truth.shape, UNLABELLED, np.int64)
        votes = (probabilities * reliabilities[:, None]).transpose(0, 2, 3, 1)
        for label in np.unique(truth[truth != UNLABELLED]):
            objects, count = ndimage.label(truth == label, structure=np.ones((3, 3, 3)))
            for number in range(1, count + 1):
                inside = objects == number
                target[inside] = votes[inside].sum(0).argmax()
        return DistillationTarget(target, weights=(target != UNLABELLED).astype(np.float32))


class TrueClasses(Told):
    """Tracked objects with true classes: the vote over the flow tracker's regions, held among the labels."""

    def build(
        self, clip: NDArray[np.uint8], probabilities: NDArray[np.float32], reliabilities: NDArray[np.float32]
    ) -> DistillationTarget:
        truth = resized(self.labels, probabilities.shape[2:])
        certain = np.zeros_like(probabilities)
        np.put_along_axis(certain, np.where(truth == UNLABELLED, 0, truth)[:, None], 1.0, axis=1)
        certain[np.broadcast_to((truth == UNLABELLED)[:, None], certain.shape)] = 1 / probabilities.shape[1]
        return ObjectVote(FlowTracker()).build(clip, certain, reliabilities)


ORACLES: dict[str, Callable[[Labels], TargetBuilder]] = {
    "oracle_labels": TrueLabels,
    "oracle_objects": TrueObjects,
    "oracle_classes": TrueClasses,
}
"""By their names in the tables of the study."""


class OracleDiTTA(DiTTA):
    """Live DiTTA whose teacher is told the labels of the warm-up; the guard, which knows less, does not judge it."""

    def __init__(
        self, setup: MethodSetup, model: SegmentationModel, truth: GroundTruth, told: Callable[[Labels], TargetBuilder]
    ) -> None:
        super().__init__(setup, model)
        self.truth = truth
        self.told = told

    def prepare(self, warmup: Sequence[Frame]) -> AdaptationReport:
        self.reset()
        clip = np.stack([self.restored(frame).image for frame in warmup])
        labels = [self.truth.of(index) for index in range(len(warmup))]
        teacher = self.told(np.stack([each for each in labels if each is not None]))
        segmenter = copy.deepcopy(self.base)
        config = replace(self.adaptation, guarded=False).after_restoration(self.restorer.noisiness)
        report = adapt(segmenter, clip, self.input_size(warmup[-1]), teacher, config)
        self.serve(segmenter, generation=1)
        return report


def run_oracle(trial: Trial, model: SegmentationModel, step: Callable[[], object] = lambda: None) -> TrialRecord:
    """Run the trial of an oracle; see :func:`ditta_core.evaluation.trial.run_trial`."""
    truth = GroundTruth(trial.sequence, model.classes)
    return run_trial(trial, model, step, lambda name, setup, model: OracleDiTTA(setup, model, truth, ORACLES[name]))


def evaluate_oracles(options: EvaluationOptions, sequence: VideoSequence, work: Path) -> dict[str, Any]:
    """The results of oracles, named by ``options.methods``, as ``ditta evaluate --json`` writes them.

    Args:
        work: folder of the trials that are done; of this code and these options alone.
    """
    model = load_model(options.setup.source)
    planned = plan(options, [sequence], lambda _: True)
    store = TrialStore(work)
    for trial, record in run_here(unfinished(planned, store), model, options.threads, run_oracle):
        store.put(trial, record)
        print(trial.key, flush=True)
    results: dict[str, Any] = json.loads(to_json(collect(options, planned, store, model, {}).result))
    store.remove()
    return results
