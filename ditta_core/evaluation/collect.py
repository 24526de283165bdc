"""From finished trials to the result of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from ditta_core.evaluation.measurement import (
    EvaluationResult,
    MethodResult,
    Run,
    method_result,
)
from ditta_core.evaluation.plan import EvaluationOptions, PlannedResult
from ditta_core.evaluation.store import TrialStore
from ditta_core.evaluation.trial import Trial, TrialRecord
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.versions import software_versions


@dataclass(frozen=True)
class FinishedEvaluation:
    """The numbers, and the masks they were measured on.

    Attributes:
        result: the numbers.
        planned: what each of its rows was made of, in the same order.
        store: has the masks.
    """

    result: EvaluationResult
    planned: Sequence[PlannedResult]
    store: TrialStore

    def mask(self, result: MethodResult, video: str, index: int) -> NDArray[Any] | None:
        """The mask of a frame in the first repeat; None where there is none."""
        number = next(number for number, own in enumerate(self.result.results) if own is result)
        trial = next(trial for trial, _ in self.planned[number].trials[0] if trial.sequence.name == video)
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
    results = []
    for row in planned:
        runs = [run_of([(store.get(trial), trial, first) for trial, first in repeat]) for repeat in row.trials]
        results.append(
            method_result(
                row.method,
                row.warmup_ratio,
                "whole" if options.whole_video else "w2f",
                None if row.corruption is None else str(row.corruption),
                model.classes,
                runs,
            )
        )
    return FinishedEvaluation(
        EvaluationResult(tuple(results), model.classes, config, software_versions()), planned, store
    )


def run_of(records: Sequence[tuple[TrialRecord, Trial, int]]) -> Run:
    """One method in one repeat, over all videos, each with the beginning of its measured frames."""
    reports = [record.report for record, _, _ in records if record.report is not None]
    memory = [record.peak_memory_mb for record, _, _ in records if record.peak_memory_mb is not None]
    live = [(record, trial, first) for record, trial, first in records if record.latencies is not None]
    latencies = [
        latency for record, _, first in live for index, latency in (record.latencies or {}).items() if index >= first
    ]
    return Run(
        measurements=[record.measurements[trial.firsts.index(first)] for record, trial, first in records],
        seconds=sum(
            seconds for record, _, first in records for index, seconds in record.seconds.items() if index >= first
        ),
        adaptation_seconds=[report.seconds for report in reports if report.succeeded],
        failed_adaptations=sum(not report.succeeded for report in reports),
        peak_memory_mb=max(memory) if memory else None,
        latencies=latencies if live else None,
        dropped=sum(len(trial.sequence) - first for _, trial, first in live) - len(latencies) if live else None,
    )
