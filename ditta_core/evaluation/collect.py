"""From finished trials to the result of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from ditta_core.evaluation.plan import EvaluationOptions, PlannedResult
from ditta_core.evaluation.scores import EvaluationResult, MethodResult, MethodRun, method_result
from ditta_core.evaluation.store import TrialStore
from ditta_core.evaluation.trial import Trial, TrialRecord
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.versions import software_versions


@dataclass(frozen=True)
class FinishedEvaluation:
    """The numbers of all rows, the trials of each in the same order, and the masks they were measured on."""

    result: EvaluationResult
    planned: Sequence[PlannedResult]
    store: TrialStore

    def mask(self, result: MethodResult, video: str, index: int) -> NDArray[Any] | None:
        """The mask of a frame in the first repeat; None where there is none."""
        row = next(row for row, own in zip(self.planned, self.result.results, strict=True) if own is result)
        trial = next(trial for trial, _ in row.trials[0] if trial.sequence.name == video)
        return self.store.mask(trial, index)


def unfinished(planned: Sequence[PlannedResult], store: TrialStore) -> list[Trial]:
    """The trials that have no record yet, each once, all of one video together."""
    trials = {trial.key: trial for row in planned for repeat in row.trials for trial, _ in repeat}
    return sorted((trial for trial in trials.values() if not store.has(trial)), key=lambda trial: trial.sequence.name)


def collect(
    options: EvaluationOptions,
    planned: Sequence[PlannedResult],
    store: TrialStore,
    model: SegmentationModel,
    config: Mapping[str, Any],
) -> FinishedEvaluation:
    """Pool the records of all trials into the table."""
    results = tuple(
        method_result(
            row.method,
            row.warmup_ratio,
            "whole" if options.whole_video else "w2f",
            None if row.corruption is None else str(row.corruption),
            model.classes,
            [_run_of([(store.get(trial), trial, first) for trial, first in repeat]) for repeat in row.trials],
        )
        for row in planned
    )
    return FinishedEvaluation(EvaluationResult(results, model.classes, config, software_versions()), planned, store)


def _run_of(records: Sequence[tuple[TrialRecord, Trial, int]]) -> MethodRun:
    """One method in one repeat, over all videos, each with the beginning of its measured frames."""
    memory = [record.peak_memory_mb for record, _, _ in records if record.peak_memory_mb is not None]
    of_node = [(record.latencies, trial, first) for record, trial, first in records if record.latencies is not None]
    latencies = [value for values, _, first in of_node for index, value in values.items() if index >= first]
    return MethodRun(
        measurements=[record.measurements[trial.firsts.index(first)] for record, trial, first in records],
        seconds=sum(
            seconds for record, _, first in records for index, seconds in record.seconds.items() if index >= first
        ),
        adaptation_seconds=[
            record.report.seconds
            for record, trial, _ in records
            if trial.warmup_frames and record.report is not None and record.report.succeeded
        ],
        reports=[record.report for record, _, _ in records if record.report is not None],
        peak_memory_mb=max(memory, default=None),
        latencies=latencies if of_node else None,
        input_sizes={trial.sequence.name: (record.input_size, record.size_agreement) for record, trial, _ in records},
        dropped=sum(len(trial.sequence) - first for _, trial, first in of_node) - len(latencies) if of_node else None,
    )
