"""The running node as a method of the evaluation."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from ditta_core.evaluation.methods.base import MethodSetup
from ditta_core.evaluation.trial import Trial, TrialRecord, encode_mask, measure_masks
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.types import AdaptationReport
from ditta_ros.evaluation.node_replay import NodeReplayOptions, NodeReplayProgress, NodeReplayRecording, run_node_replay
from ditta_ros.parameters import Value


@dataclass(frozen=True)
class NodeRunner:
    """Replays videos to the node, as trials; a :data:`~ditta_core.evaluation.trial.TrialRunner`.

    The node has its default parameters, apart from those that the setup of the methods decides on.

    Attributes:
        folder: Folder for the recording; gone after each trial.
        threads: Number of threads of the node's inference and of its adaptation, the same as of the methods beside it,
            so that the last digits are the same too.
        rate: Factor by which videos are played faster than recorded.
        lockstep: Whether every frame waits for the mask of the last.
    """

    folder: Path
    threads: int
    rate: float
    lockstep: bool

    def __call__(self, trial: Trial, model: SegmentationModel, step: Callable[[], object]) -> TrialRecord:
        """Run a trial; ``step`` is called for every frame that was answered or passed over, and every measured one.

        Raises:
            ReplayError: the replay did not come to its end.
        """
        options = NodeReplayOptions(
            self.folder,
            self._parameters(trial.setup),
            warmup_frames=trial.warmup_frames,
            protocol="whole" if trial.firsts == (0,) else "w2f",
            rate=self.rate,
            lockstep=self.lockstep,
        )
        sent = 0

        def on_progress(progress: NodeReplayProgress) -> None:
            nonlocal sent
            for _ in range(sent, progress.sent):
                step()
            sent = max(sent, progress.sent)

        try:
            return _record_of(trial, model, run_node_replay(options, trial.seen, on_progress), step)
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _parameters(self, setup: MethodSetup) -> dict[str, Value]:
        height, width = setup.input_size or (0, 0)
        return {
            "model": setup.source.name,
            "classes": setup.source.classes,
            "device": setup.source.device,
            "allow_download": setup.source.allow_download,
            "allow_pickle": setup.source.allow_pickle,
            "teacher": setup.teacher.name,
            "teacher_checkpoint": setup.teacher.checkpoint,
            "teacher_image_size": setup.teacher.image_size,
            "long_side": setup.long_side,
            "target_rate": 0.0,
            "input_width": width,
            "input_height": height,
            "seed": setup.seed,
            "threads": self.threads,
            "adaptation_threads": self.threads,
        }


def _record_of(
    trial: Trial, model: SegmentationModel, replayed: NodeReplayRecording, step: Callable[[], object]
) -> TrialRecord:
    """What came of a replay, measured as any other trial."""
    masks = {}
    for index in range(min(trial.firsts), len(trial.sequence)):
        mask = replayed.mask(index)
        if mask is not None:
            masks[index] = encode_mask(mask)
    arrivals = {mask.stamp: mask.time for mask in replayed.recording.masks()}
    latencies = {index: latency for index, latency in enumerate(replayed.latency_ms) if latency is not None}
    report = AdaptationReport(
        succeeded=replayed.adaptation_seconds is not None and not replayed.failure,
        reason=replayed.failure or replayed.adaptation_reason or f"the node says: {replayed.states[-1].message}",
        frames=trial.warmup_frames,
        seconds=replayed.adaptation_seconds or 0.0,
        deployed_share=replayed.deployed_share,
        refused=replayed.adaptation_reason if replayed.deployed_share == 0 else "",
    )
    return TrialRecord(
        measure_masks(trial, model, masks, step),
        # A mask takes the time since the one before; across the hold after the warm-up that says nothing.
        {
            later: arrivals[replayed.stamps[later]] - arrivals[replayed.stamps[earlier]]
            for earlier, later in pairwise(latencies)
            if earlier >= min(trial.firsts)
        },
        masks,
        report,
        latencies=latencies,
        input_size=trial.setup.network_input(model, trial.sequence.frame(0).size),
        size_agreement=trial.size_agreement,
    )
