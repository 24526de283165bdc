"""The running node as a method of the evaluation."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from ditta_core.datasets.base import VideoSequence
from ditta_core.evaluation.corruptions import CorruptedSequence
from ditta_core.evaluation.trial import Trial, TrialRecord, encode_mask, measure_masks
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.types import AdaptationReport
from ditta_ros.evaluation.live import LiveOptions, LiveProgress, LiveRecording, run_live
from ditta_ros.parameters import Value


def run_node(
    trial: Trial,
    model: SegmentationModel,
    folder: Path,
    threads: int,
    rate: float,
    lockstep: bool,
    step: Callable[[], object],
) -> TrialRecord:
    """Replay a video to the node, as a trial.

    The node has its default parameters, apart from those that the setup of the methods decides on.

    Args:
        trial: what is measured.
        model: publishes the classes.
        folder: for the recording; gone afterwards.
        threads: of the node's inference and of its adaptation, the same as of the methods beside it, so that the last
            digits are the same too.
        rate: how many times as fast as recorded.
        lockstep: every frame waits for the mask of the last.
        step: called once for every frame that was answered or passed over, and for every measured frame.

    Raises:
        ReplayError: the replay did not come to its end.
    """
    sequence: VideoSequence = trial.sequence
    if trial.corruption is not None:
        sequence = CorruptedSequence(sequence, trial.corruption, trial.corruption_seed)
    setup = trial.setup
    height, width = setup.input_size or (0, 0)
    parameters: dict[str, Value] = {
        "model": setup.source.name,
        "classes": setup.source.classes,
        "device": setup.source.device,
        "allow_download": setup.source.allow_download,
        "allow_pickle": setup.source.allow_pickle,
        "teacher": setup.teacher.name,
        "teacher_checkpoint": setup.teacher.checkpoint,
        "teacher_image_size": setup.teacher.image_size,
        "long_side": setup.long_side,
        "input_width": width,
        "input_height": height,
        "seed": setup.seed,
        "threads": threads,
        "adaptation_threads": threads,
    }
    options = LiveOptions(
        folder,
        parameters,
        warmup_frames=trial.warmup_frames,
        protocol="whole" if trial.firsts == (0,) else "w2f",
        rate=rate,
        lockstep=lockstep,
    )
    sent = 0

    def on_progress(progress: LiveProgress) -> None:
        nonlocal sent
        for _ in range(sent, progress.sent):
            step()
        sent = max(sent, progress.sent)

    try:
        return record_of(trial, model, run_live(options, sequence, on_progress), step)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def record_of(trial: Trial, model: SegmentationModel, live: LiveRecording, step: Callable[[], object]) -> TrialRecord:
    """What came of a replay, measured as any other trial."""
    masks = {}
    for index in range(min(trial.firsts), len(trial.sequence)):
        mask = live.mask(index)
        if mask is not None:
            masks[index] = encode_mask(mask)
    arrivals = {mask.stamp: mask.time for mask in live.recording.masks()}
    answered = [index for index, latency in enumerate(live.latency_ms) if latency is not None]
    report = AdaptationReport(
        succeeded=live.adaptation_seconds is not None and not live.failure,
        reason=live.failure or f"the node says: {live.states[-1].message}",
        frames=trial.warmup_frames,
        seconds=live.adaptation_seconds or 0.0,
    )
    return TrialRecord(
        measure_masks(trial, model, masks, step),
        # A mask takes the time since the one before; across the hold after the warm-up that says nothing.
        {
            later: arrivals[live.stamps[later]] - arrivals[live.stamps[earlier]]
            for earlier, later in pairwise(answered)
            if earlier >= min(trial.firsts)
        },
        masks,
        report,
        latencies={index: latency for index, latency in enumerate(live.latency_ms) if latency is not None},
    )
