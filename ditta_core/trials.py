"""Running an evaluation: trials, where they run, and what is kept of them.

A trial is one run of one method over one video. It needs nothing of any other, so that trials run in this process or
spread over a Ray cluster with the same numbers, and those that are done need not run again after an interruption.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from ditta_core.corruptions import CorruptedSequence, Corruption
from ditta_core.datasets.base import VideoSequence
from ditta_core.engine_config import warmup_length
from ditta_core.evaluation import (
    WINDOWS,
    EvaluationResult,
    GroundTruth,
    Measurement,
    MethodResult,
    Run,
    measure,
    method_result,
)
from ditta_core.methods.base import Method, MethodSetup
from ditta_core.methods.registry import METHODS, build_method
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.segmentation.registry import load_model
from ditta_core.types import AdaptationReport
from ditta_core.versions import software_versions

# --- what is asked for ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EvaluationOptions:
    """What is compared.

    Attributes:
        methods: by name.
        setup: what they are built from; its seed is that of the first repeat.
        warmup_ratios: percent of each video's frames.
        whole_video: measure all frames, the unadapted method serving those of the warm-up, instead of the rest alone.
        corruptions: of the videos; None for the clean ones.
        repeats: runs with successive seeds.
        windows: lengths of the windows of video consistency that every evaluation must be able to fill.
        threads: of torch in each process; the last digits of a result depend on it.
    """

    methods: tuple[str, ...]
    setup: MethodSetup = field(default_factory=MethodSetup)
    warmup_ratios: tuple[int, ...] = (10,)
    whole_video: bool = False
    corruptions: tuple[Corruption | None, ...] = (None,)
    repeats: int = 1
    windows: tuple[int, ...] = WINDOWS
    threads: int = 1

    def __post_init__(self) -> None:
        for name in ("methods", "warmup_ratios", "corruptions"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"expected {name.replace('_', ' ')}, each once, but got {list(map(str, values))}")
        wrong = [ratio for ratio in self.warmup_ratios if not 1 <= ratio <= 99]
        if wrong:
            raise ValueError(f"expected warm-up ratios of 1 to 99 %, which leave frames to measure, but got {wrong}")
        if self.repeats < 1 or self.threads < 1:
            raise ValueError(f"expected repeats and threads of at least 1, but got {self.repeats} and {self.threads}")
        if not set(self.windows) <= set(WINDOWS):
            raise ValueError(f"expected windows of {WINDOWS} frames, but got {self.windows}")


@dataclass(frozen=True)
class Trial:
    """One run of a method over a video.

    Attributes:
        sequence: the clean video; can be pickled.
        method: its name.
        setup: what it is built from.
        warmup_frames: frames to prepare with; 0 for a method without a warm-up.
        firsts: beginnings of the measured frames; several where one run serves several warm-up ratios.
        corruption: of what the method sees; None for the clean video.
        corruption_seed: makes the corruption of this repeat.
    """

    sequence: VideoSequence
    method: str
    setup: MethodSetup
    warmup_frames: int
    firsts: tuple[int, ...]
    corruption: Corruption | None
    corruption_seed: int

    @property
    def steps(self) -> int:
        """How often ``step`` is called while it runs: for each observed and for each measured frame."""
        measured = len(self.sequence) - min(self.firsts)
        return measured + (measured if self.warmup_frames else len(self.sequence))

    @property
    def key(self) -> str:
        """Names the trial among those of one evaluation, as a relative path."""
        condition = "clean" if self.corruption is None else f"{self.corruption.name}-{self.corruption.severity}"
        return f"{self.sequence.name}/{self.method}_w{self.warmup_frames}_{condition}_s{self.setup.seed}"


@dataclass(frozen=True)
class TrialRecord:
    """What came of a trial.

    Attributes:
        measurements: one per beginning.
        seconds: that the method took for each frame of the video, by index; those it was not shown are missing.
        masks: label images by frame index, as PNG.
        report: of the adaptation; None without one.
        peak_memory_mb: of the process at its highest, or on CUDA of the device; None where it cannot be known.
        latencies: milliseconds by frame index; of a live node only, as is that masks may be missing.
    """

    measurements: tuple[Measurement, ...]
    seconds: Mapping[int, float]
    masks: Mapping[int, bytes] = field(repr=False)
    report: AdaptationReport | None = None
    peak_memory_mb: float | None = None
    latencies: Mapping[int, float] | None = None


TrialRunner = Callable[[Trial, SegmentationModel, Callable[[], object]], TrialRecord]
"""Runs one trial with the model loaded already; the last argument is called after every frame."""


# --- one trial -----------------------------------------------------------------------------------------------------


class PeakMemory:
    """The highest memory of a ``with`` block in ``megabytes`` (10⁶ bytes), afterwards; None where it cannot be known.

    On a CUDA device that of torch there; else the resident memory of the process, which Linux lets us count anew.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.megabytes: float | None = None

    def __enter__(self) -> PeakMemory:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        elif CLEAR_REFS.exists():
            CLEAR_REFS.write_text("5")
        return self

    def __exit__(self, *error: object) -> None:
        if self.device.type == "cuda":
            self.megabytes = torch.cuda.max_memory_allocated(self.device) / 1e6
        elif CLEAR_REFS.exists():
            lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
            peak = next((line for line in lines if line.startswith("VmHWM:")), None)
            self.megabytes = None if peak is None else int(peak.split()[1]) * 1024 / 1e6


CLEAR_REFS = Path("/proc/self/clear_refs")


def encode_mask(class_ids: NDArray[Any]) -> bytes:
    """A label image as PNG, lossless."""
    return cv2.imencode(".png", class_ids, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()


def decode_mask(content: bytes) -> NDArray[Any]:
    """A label image, uint8 or uint16 [H, W], from PNG."""
    return np.asarray(cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED))


def run_trial(
    trial: Trial,
    model: SegmentationModel,
    step: Callable[[], object] = lambda: None,
    build: Callable[[str, MethodSetup, SegmentationModel], Method] = build_method,
) -> TrialRecord:
    """Run a method over a video and measure it.

    Args:
        build: makes the method by its name.

    Raises:
        ValueError: the video, its labels or the masks are not what they should be; the message names the frame.
    """
    sequence = trial.sequence
    seen: VideoSequence = sequence
    if trial.corruption is not None:
        seen = CorruptedSequence(sequence, trial.corruption, trial.corruption_seed)
    method = build(trial.method, trial.setup, model)
    masks: dict[int, bytes] = {}
    seconds: dict[int, float] = {}

    def observe(begin: int, end: int) -> None:
        for index in range(begin, end):
            frame = seen.frame(index)
            start = time.perf_counter()
            segmentation = method.observe(frame)
            seconds[index] = time.perf_counter() - start
            masks[index] = encode_mask(segmentation.class_ids)
            step()

    report = None
    with PeakMemory(model.mean.device) as memory:
        first = min(trial.firsts)
        if method.uses_warmup:
            observe(first, trial.warmup_frames)  # nothing, where the warm-up is not measured
            report = method.prepare([seen.frame(index) for index in range(trial.warmup_frames)])
            observe(trial.warmup_frames, len(seen))
        else:
            observe(0, len(seen))
    measurements = measure_masks(trial, model, masks, step)
    return TrialRecord(measurements, seconds, masks, report, memory.megabytes)


def measure_masks(
    trial: Trial, model: SegmentationModel, masks: Mapping[int, bytes], step: Callable[[], object] = lambda: None
) -> tuple[Measurement, ...]:
    """Measure the masks of a trial, wherever they were made."""

    def mask(index: int) -> NDArray[Any] | None:
        content = masks.get(index)
        return None if content is None else decode_mask(content)

    truth = GroundTruth(trial.sequence, model.classes)
    return tuple(measure(trial.sequence, truth, mask, trial.firsts, len(model.classes), step))


# --- what is kept --------------------------------------------------------------------------------------------------


class TrialStore:
    """Keeps records of trials in a folder, each one whole or not at all.

    Args:
        folder: is made where it does not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def has(self, trial: Trial) -> bool:
        """Whether the trial is done."""
        return (self.folder / trial.key / RECORD).is_file()

    def put(self, trial: Trial, record: TrialRecord) -> None:
        """Keep a record."""
        folder = self.folder / trial.key
        masks = folder / "masks"
        masks.mkdir(parents=True, exist_ok=True)
        for index, content in record.masks.items():
            (masks / f"{index:06}.png").write_bytes(content)
        values = asdict(replace(record, masks={}))
        for measurement in values["measurements"]:
            measurement["counts"] = measurement["counts"].tolist()
        partial = folder / f"{RECORD}.partial"
        partial.write_text(json.dumps(values), encoding="utf-8")
        partial.replace(folder / RECORD)  # last and at once: what has a record is complete

    def get(self, trial: Trial) -> TrialRecord:
        """The record of a trial that is done, without its masks."""
        values = json.loads((self.folder / trial.key / RECORD).read_text(encoding="utf-8"))
        measurements = [
            Measurement(
                **{
                    **measurement,
                    "counts": np.asarray(measurement["counts"], np.int64),
                    "consistent": {int(window): shares for window, shares in measurement["consistent"].items()},
                    "correct": {int(window): shares for window, shares in measurement["correct"].items()},
                }
            )
            for measurement in values["measurements"]
        ]
        report = values["report"]
        if report is not None:
            report = AdaptationReport(**{**report, "losses": tuple(report["losses"])})
        return TrialRecord(
            tuple(measurements),
            by_index(values["seconds"]),
            {},
            report,
            values["peak_memory_mb"],
            None if values["latencies"] is None else by_index(values["latencies"]),
        )

    def mask(self, trial: Trial, index: int) -> NDArray[Any] | None:
        """The label image of a frame; None where there is none."""
        path = self.folder / trial.key / "masks" / f"{index:06}.png"
        return decode_mask(path.read_bytes()) if path.is_file() else None

    def remove(self) -> None:
        """Forget all records."""
        shutil.rmtree(self.folder)


RECORD = "record.json"


def by_index(values: Mapping[str, float]) -> dict[int, float]:
    """JSON has no whole numbers as names."""
    return {int(index): value for index, value in values.items()}


# --- where trials run ----------------------------------------------------------------------------------------------


def run_here(
    trials: Sequence[Trial],
    model: SegmentationModel,
    threads: int,
    run: TrialRunner = run_trial,
    step: Callable[[], object] = lambda: None,
) -> Iterator[tuple[Trial, TrialRecord]]:
    """Run trials one after the other in this process."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for trial in trials:
            yield trial, run(trial, model, step)
    finally:
        torch.set_num_threads(before)


class TrialWorker:
    """Runs trials in a process of its own, with a model that is loaded once.

    Args:
        setup: names the model.
        threads: of torch.
    """

    def __init__(self, setup: MethodSetup, threads: int) -> None:
        torch.set_num_threads(threads)
        self.model = load_model(setup.source)

    def run(self, number: int, trial: Trial) -> tuple[int, TrialRecord]:
        """Run a trial; its number comes back with the record, as trials end in any order."""
        return number, run_trial(trial, self.model)


def run_on_ray(
    trials: Sequence[Trial], setup: MethodSetup, threads: int, workers: int, address: str | None = None
) -> Iterator[tuple[Trial, TrialRecord]]:
    """Run trials on a Ray cluster, in the order in which they come to their end.

    Videos and weights are opened by the workers: their paths must be the same on every machine of the cluster.

    Args:
        workers: processes to run at once; each takes ``threads`` cores, and a GPU where the model's device is one.
        address: of the cluster; None for a local one that lives as long as the run.

    Raises:
        ImportError: the package ray is missing.
    """
    import ray
    from ray.util import ActorPool

    local = address is None
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # CPU workers on a GPU machine stay as they are
    ray.init(
        address="local" if local else address,
        num_cpus=workers * threads if local else None,
        include_dashboard=False if local else None,
        log_to_driver=False,
        logging_level=logging.WARNING,
    )
    try:
        on_gpu = torch.device(setup.source.device).type == "cuda"
        worker = ray.remote(num_cpus=threads, num_gpus=1 if on_gpu else 0)(TrialWorker)
        pool = ActorPool([worker.remote(setup, threads) for _ in range(min(workers, len(trials)))])

        for number, record in pool.map_unordered(lambda actor, job: actor.run.remote(*job), list(enumerate(trials))):
            yield trials[number], record
    finally:
        ray.shutdown()


# --- all of it -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PlannedResult:
    """One row of the table to come.

    Attributes:
        method, warmup_ratio, corruption: as in :class:`MethodResult`.
        trials: by repeat, one per video, each with the beginning of the measured frames.
    """

    method: str
    warmup_ratio: int | None
    corruption: Corruption | None
    trials: tuple[tuple[tuple[Trial, int], ...], ...]


def plan(
    options: EvaluationOptions,
    sequences: Sequence[VideoSequence],
    uses_warmup: Callable[[str], bool] = lambda name: METHODS[name].uses_warmup,
) -> list[PlannedResult]:
    """Which trials make which row.

    A method without a warm-up runs once over a video, whatever the ratios.
    """
    planned = []
    ratios: tuple[int | None, ...] = options.warmup_ratios
    if options.whole_video and not any(uses_warmup(method) for method in options.methods):
        ratios = (None,)
    for corruption in options.corruptions:
        for ratio in ratios:
            for method in options.methods:
                warms = uses_warmup(method)
                repeats = tuple(
                    tuple(
                        trial_of(options, sequence, method, warms, ratio, corruption, repeat) for sequence in sequences
                    )
                    for repeat in range(options.repeats)
                )
                planned.append(PlannedResult(method, ratio, corruption, repeats))
    return planned


def trial_of(
    options: EvaluationOptions,
    sequence: VideoSequence,
    method: str,
    warms: bool,
    ratio: int | None,
    corruption: Corruption | None,
    repeat: int,
) -> tuple[Trial, int]:
    """The trial that measures a method at a ratio, and where its measured frames begin."""
    frames = len(sequence)
    seed = options.setup.seed + repeat
    warmup = 0 if ratio is None else warmup_length(frames, ratio)
    if options.whole_video:
        firsts: tuple[int, ...] = (0,)
    elif warms:
        firsts = (warmup,)
    else:
        firsts = tuple(sorted({warmup_length(frames, each) for each in options.warmup_ratios}))
    trial = Trial(sequence, method, replace(options.setup, seed=seed), warmup if warms else 0, firsts, corruption, seed)
    return trial, 0 if options.whole_video else warmup


def check_sequences(options: EvaluationOptions, sequences: Sequence[VideoSequence], model: SegmentationModel) -> None:
    """Find out before hours of work what would make it worthless.

    Raises:
        ValueError: there is no video, two have the same name, one has no frame to measure, its labels and the model
            have no classes in common, or no video is long enough for a window of video consistency.
    """
    names = [sequence.name for sequence in sequences]
    if not sequences or len(set(names)) < len(names):
        raise ValueError(f"expected videos with a name each, but got {names}")
    for sequence in sequences:
        needed = 1 if options.whole_video else 2
        if len(sequence) < needed:
            raise ValueError(
                f"expected at least {needed} frames in {sequence.name}, one of them to measure, but got {len(sequence)}"
            )
        GroundTruth(sequence, model.classes)
    labelled = [sequence for sequence in sequences if sequence.classes is not None]
    for ratio in options.warmup_ratios if labelled else ():
        longest = max(
            len(sequence) - (0 if options.whole_video else warmup_length(len(sequence), ratio)) for sequence in labelled
        )
        for window in options.windows:
            if longest <= window:
                raise ValueError(
                    f"expected a video with more than {window} measured frames for a window of video consistency, but "
                    f"got at most {longest} at a warm-up ratio of {ratio} %; leave VC{window} out with --vc-windows"
                )


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
