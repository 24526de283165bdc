"""A trial: one run of one method over one video.

It needs nothing of any other: trials give the same numbers here and on a Ray cluster, and none needs to run twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from ditta_core.datasets.base import VideoSequence
from ditta_core.datasets.one_size import OneSize
from ditta_core.evaluation.corruptions import CorruptedSequence, Corruption
from ditta_core.evaluation.measurement import GroundTruth, Measurement, measure_video
from ditta_core.evaluation.methods.base import Method, MethodSetup
from ditta_core.evaluation.methods.registry import build_method
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.types import AdaptationReport


@dataclass(frozen=True)
class Trial:
    """One run of a method over a video.

    Attributes:
        sequence: Clean video; can be pickled.
        method: Name of the method.
        setup: Settings that the method is built from.
        warmup_frames: Number of frames to prepare with; 0 for a method without a warm-up.
        firsts: Beginnings of the measured frames; several where one run serves several warm-up ratios.
        corruption: Corruption of the frames that the method sees; None for the clean video.
        corruption_seed: Seed of the corruption of this repeat.
        sizing_frames: Number of first frames on which the size of the network input is found where the setup has none.
        size_agreement: Agreement of the size that was found, see :class:`~ditta_core.types.AdaptationReport`.
    """

    sequence: VideoSequence
    method: str
    setup: MethodSetup
    warmup_frames: int
    firsts: tuple[int, ...]
    corruption: Corruption | None
    corruption_seed: int
    sizing_frames: int = 1
    size_agreement: float | None = None

    @property
    def seen(self) -> VideoSequence:
        """What the method sees: the corrupted video, or the clean one; of one size."""
        if self.corruption is None:
            return OneSize(self.sequence)
        return OneSize(CorruptedSequence(self.sequence, self.corruption, self.corruption_seed))

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
        measurements: Measurement of each beginning.
        seconds: Seconds that the method took for each frame of the video, by index; frames not shown are missing.
        masks: Label images by frame index, as PNG; only the node leaves some out.
        report: Report of the adaptation, or of learning while observing; None without either.
        peak_memory_mb: Highest memory of the process, or on CUDA of the device; None where it cannot be known.
        latencies: Milliseconds from the publication of a frame to the arrival of its mask, by index; of the node only.
        input_size: Network input (height, width).
        size_agreement: As in :class:`Trial`.
    """

    measurements: tuple[Measurement, ...]
    seconds: Mapping[int, float]
    masks: Mapping[int, bytes] = field(repr=False)
    report: AdaptationReport | None = None
    peak_memory_mb: float | None = None
    latencies: Mapping[int, float] | None = None
    input_size: tuple[int, int] | None = None
    size_agreement: float | None = None


TrialRunner = Callable[[Trial, SegmentationModel, Callable[[], object]], TrialRecord]
"""Runs one trial with the model loaded already; the last argument is called after every frame."""


_CLEAR_REFS = Path("/proc/self/clear_refs")


class PeakMemory:
    """The highest memory of a ``with`` block in ``megabytes`` (10⁶ bytes), afterwards; None where it cannot be known.

    On a CUDA device that of torch there; else the resident memory of the process, whose peak Linux lets us reset.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.megabytes: float | None = None

    def __enter__(self) -> PeakMemory:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        elif _CLEAR_REFS.exists():
            _CLEAR_REFS.write_text("5")
        return self

    def __exit__(self, *error: object) -> None:
        if self.device.type == "cuda":
            self.megabytes = torch.cuda.max_memory_allocated(self.device) / 1e6
        elif _CLEAR_REFS.exists():
            lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
            peak = next((line for line in lines if line.startswith("VmHWM:")), None)
            self.megabytes = None if peak is None else int(peak.split()[1]) * 1024 / 1e6


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
    seen = trial.seen
    method = build(trial.method, trial.setup, model)
    masks: dict[int, bytes] = {}
    seconds: dict[int, float] = {}

    def observe(begin: int, end: int) -> None:
        if begin < end:
            method.ready(seen.frame(begin))
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
            report = method.learned()
    measurements = measure_masks(trial, model, masks, step)
    input_size = method.input_size(seen.frame(0))
    agreement = trial.size_agreement
    return TrialRecord(
        measurements, seconds, masks, report, memory.megabytes, input_size=input_size, size_agreement=agreement
    )


def measure_masks(
    trial: Trial, model: SegmentationModel, masks: Mapping[int, bytes], step: Callable[[], object] = lambda: None
) -> tuple[Measurement, ...]:
    """Measure the masks of a trial, wherever they were made."""

    def of_frame(index: int, image: NDArray[np.uint8]) -> list[NDArray[Any]] | None:
        content = masks.get(index)
        return None if content is None else [decode_mask(content)] * len(trial.firsts)

    truth = GroundTruth(trial.sequence, model.classes)
    return tuple(measure_video(trial.sequence, truth, of_frame, trial.firsts, len(model.classes), step))
