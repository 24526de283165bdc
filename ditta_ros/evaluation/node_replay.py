"""The node as it really runs, evaluated: a sequence played in time to its process, its masks taken as they come.

Three processes in a ROS domain of their own: a camera that publishes the frames with their stamps, and the simulated
time that goes with them; the node with ``use_sim_time``; and a recorder. Both directions are reliable, so that a frame
without a mask is one that the node passed over, which it counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ditta_core.datasets.base import VideoSequence
from ditta_core.evaluation.scores import Protocol
from ditta_core.inference.config import Runtime
from ditta_core.stream.config import WarmupTrigger
from ditta_core.types import State
from ditta_ros.bags.writer import EPOCH
from ditta_ros.parameters import NodeParameters, Value
from ditta_ros.process.children import Processes, ReplayError
from ditta_ros.replay.control import FrameRange
from ditta_ros.replay.recording import ArrivedState, Played, Recording
from ditta_ros.replay.stream import ANSWER_SECONDS, READY_SECONDS, Stream

_REPORT_SECONDS = 2.5
"""Seconds after which the node has reported what it counted: it reports once a second."""
_DECIDED = (
    "image_topic",
    "image_reliability",
    "warmup_frames",
    "warmup_ratio",
    "warmup_seconds",
    "expected_frames",
    "autostart",
)
"""Parameters of the node that the replay decides on."""


@dataclass(frozen=True)
class NodeReplayOptions:
    """How a sequence is played to the node.

    Attributes:
        folder: Folder for the recording, the logs and the parameter file; what an earlier replay left in it is removed.
        node_parameters: Parameters of the node by name, without those that the replay decides on: the topic and its
            QoS, the length of the warm-up, ``autostart`` and ``use_sim_time``.
        warmup_frames: Length of the warm-up, at least 1.
        protocol: ``w2f``: the warm-up frames are played in lockstep, so that they are the node's warm-up clip exactly;
            then frames and simulated time are held until the node has adapted. ``whole``: nothing is held.
        rate: Factor above 0 by which the frames are played faster than their stamps say.
        lockstep: Whether frames come one by one, each after the mask of the last (and no faster than ``rate`` says), so
            that none is dropped. Otherwise they come in time, whoever can follow.
        ready_seconds: Seconds that the node may take to load its model and to find the camera.
        answer_seconds: Seconds that a frame in lockstep waits for the mask of the one before, which a frame that the
            node rejects never gets.
        adaptation_timeout: Seconds that the adaptation may take while the replay is held for it.
        silence_seconds: Seconds that the node may say nothing, or in lockstep answer nothing, before it is given up.
    """

    folder: Path
    node_parameters: Mapping[str, Value]
    warmup_frames: int
    protocol: Protocol = "w2f"
    rate: float = 1.0
    lockstep: bool = False
    ready_seconds: float = READY_SECONDS
    answer_seconds: float = ANSWER_SECONDS
    adaptation_timeout: float = 600.0
    silence_seconds: float = 60.0

    def __post_init__(self) -> None:
        if self.rate <= 0:
            raise ValueError(f"expected a rate above 0, but got {self.rate}; 1 plays as recorded")
        known = {each.name for each in fields(NodeParameters)}
        wrong = sorted(name for name in self.node_parameters if name not in known or name in _DECIDED)
        if wrong:
            raise ValueError(
                f"expected parameters of the node other than {', '.join(_DECIDED)}, which the replay decides on, but "
                f"got {', '.join(wrong)}"
            )
        self.parameters().stream_config()  # what is wrong with them is said before anything starts

    def values(self) -> dict[str, Any]:
        """The parameters of the node that are not left at their defaults, by name."""
        return {
            # One warm-up, on the frames that the protocol gives it; the rest is for whoever measures something else.
            "warmup_on": WarmupTrigger.STARTUP.value,
            "remembered_scenes": 0,
            # The network of the evaluation in one process, to the last digit.
            "runtime": Runtime.TORCH.value,
            **self.node_parameters,
            # What is counted is what the node passes over, not what the middleware loses before.
            "image_reliability": "reliable",
            "warmup_frames": self.warmup_frames,
        }

    def parameters(self) -> NodeParameters:
        """All parameters of the node.

        Raises:
            ValueError: one lies out of its range.
        """
        return NodeParameters(**self.values())


@dataclass(frozen=True)
class NodeReplayProgress:
    """How far a replay is.

    Attributes:
        sent: Number of frames published.
        masks: Number of masks that came out.
        state: State of the node.
    """

    sent: int
    masks: int
    state: State


@dataclass(frozen=True)
class NodeReplayRecording:
    """What came of a replay. Masks stay in files until they are asked for.

    Attributes:
        recording: Files of the replay.
        stamps: Stamps of the frames, by index, in nanoseconds.
        latency_ms: Milliseconds from the publication of a frame to the arrival of its mask, by index; None without one.
        states: First message of each state that the node was in, in order.
        generation: Generation of the model that served at the end, 0 for the base model.
        adaptation_seconds: Seconds of the adaptation as the node measured it; None where no adaptation ended.
        adaptation_reason: How the last adaptation ended; empty where none did.
        deployed_share: Share of the way to the trained weights that it went, 0 where refused; None without a training.
        failure: Reason why the adaptation failed; empty where it did not.
        dropped: Number of frames that the node passed over for newer ones, as it counts them.
        rejected: Number of frames that the node could not use, as it counts them.
        lost: Number of frames that did not reach the node: published, but not counted by it.
        behind_ms: Milliseconds that the camera was at most behind its own schedule, as where frames cannot be read in
            time; None in lockstep, which has no schedule.
    """

    recording: Recording
    stamps: tuple[int, ...]
    latency_ms: tuple[float | None, ...]
    states: tuple[ArrivedState, ...]
    generation: int
    adaptation_seconds: float | None
    adaptation_reason: str
    deployed_share: float | None
    failure: str
    dropped: int
    rejected: int
    lost: int
    behind_ms: float | None

    @property
    def unanswered(self) -> int:
        """Number of frames without a mask."""
        return self.latency_ms.count(None)

    def mask(self, index: int) -> NDArray[Any] | None:
        """Class ids [H, W] of a frame, uint8 or uint16; None where no mask came."""
        return None if self.latency_ms[index] is None else self.recording.read_mask(self.stamps[index])


def run_node_replay(
    options: NodeReplayOptions,
    sequence: VideoSequence,
    on_progress: Callable[[NodeReplayProgress], None] = lambda _: None,
) -> NodeReplayRecording:
    """Play a sequence to the node in another process, and record its masks.

    All processes have ended when this returns or raises.

    Args:
        options: How it is played.
        sequence: What is played.
        on_progress: Function that is called with every piece of news, several times a second while there is any.

    Raises:
        ValueError: the options do not go with the sequence.
        ReplayError: the node did not get ready, did not take the warm-up frames, did not adapt in time, or fell silent;
            or a process died. The message holds its last words.
    """
    _check_sequence(options, sequence)
    options.folder.mkdir(parents=True, exist_ok=True)
    recording = Recording(options.folder / "recording")
    with Processes(options.folder / "log") as processes:
        stream = Stream(
            processes,
            sequence,
            recording,
            options.folder / "node.yaml",
            {**options.values(), "use_sim_time": True},
            answered=options.lockstep or options.protocol == "w2f",
            clock=True,
        )
        NodeReplay(stream, options, sequence, on_progress).run()
    return _read_recording(options, sequence, recording)


def _check_sequence(options: NodeReplayOptions, sequence: VideoSequence) -> None:
    """Raise ValueError where the options do not go with the sequence."""
    frames = len(sequence)
    if options.protocol == "w2f" and options.warmup_frames >= frames:
        raise ValueError(
            f"expected a warm-up shorter than {sequence.name}, which has {frames} frames, but got "
            f"{options.warmup_frames}; choose fewer"
        )
    for earlier, later in pairwise(range(frames)):
        if sequence.stamp(later) <= sequence.stamp(earlier):
            raise ValueError(
                f"expected rising stamps in {sequence.name}, but got {sequence.stamp(earlier)} ns for frame {earlier} "
                f"and {sequence.stamp(later)} ns for frame {later}; a mask is known by the stamp of its frame: "
                f"record the frames in order, each with a stamp of its own"
            )


def _stamp_offset(sequence: VideoSequence) -> int:
    """What is added to the stamps of a sequence: nothing where they are those of a recording, else ``EPOCH``."""
    return EPOCH if sequence.stamp(0) == 0 else 0


# --- while it plays ------------------------------------------------------------------------------------------------


class NodeReplay:
    """One replay, from the start of the processes to the last mask; see :func:`run_node_replay`."""

    def __init__(
        self,
        stream: Stream,
        options: NodeReplayOptions,
        sequence: VideoSequence,
        on_progress: Callable[[NodeReplayProgress], None],
    ) -> None:
        self._stream = stream
        self._options = options
        self._frames = len(sequence)
        self._offset = _stamp_offset(sequence)
        self._on_progress = on_progress
        self._last_mask = self._last_state = time.monotonic()
        self._sent_at_last_mask = 0

    def run(self) -> None:
        """Play the sequence by the protocol, and wait for the last masks.

        Raises:
            ReplayError: see :func:`run_node_replay`.
        """
        options, first = self._options, 0
        self._stream.wait_until_ready(options.ready_seconds)
        self._last_state = time.monotonic()
        if options.protocol == "w2f":
            first = options.warmup_frames
            self._play(0, first, lockstep=True)
            if options.parameters().warmup_on != WarmupTrigger.SERVICE.value:
                self._wait_for_adaptation()
        self._play(first, self._frames, options.lockstep)
        self._wait_for_last_masks()

    def _play(self, first: int, end: int, lockstep: bool) -> None:
        """Play frames, and wait until all of them are published."""
        answer_seconds = self._options.answer_seconds if lockstep else None
        self._stream.play(FrameRange(first, end, self._offset, self._options.rate, answer_seconds))
        self._last_mask, self._sent_at_last_mask = time.monotonic(), first
        while self._stream.playing:
            self._watch()
            # Two frames and no mask: otherwise it may be the sequence in which there is nothing for so long.
            unanswered = self._stream.sent - self._sent_at_last_mask >= 2
            if lockstep and unanswered and time.monotonic() - self._last_mask > self._options.silence_seconds:
                raise self._error(f"no mask came within {self._options.silence_seconds:g} s")

    def _wait_for_adaptation(self) -> None:
        """Hold frames and clock until the node has adapted and trained, or has failed to."""
        begin = time.monotonic()
        while self._stream.state not in (State.ADAPTED, State.FAILED) or self._stream.training:
            self._watch()
            node = self._stream.node_state
            assert node is not None  # it was ready
            if self._last_state > begin + _REPORT_SECONDS and node.state in (State.BASE, State.COLLECTING):
                raise self._error(
                    f"expected the node to take {self._options.warmup_frames} frames for its warm-up, but it took "
                    f"{node.collected} and rejected {node.rejected}"
                )
            if time.monotonic() > begin + self._options.adaptation_timeout:
                raise self._error(f"the adaptation did not finish within {self._options.adaptation_timeout:g} s")

    def _wait_for_last_masks(self) -> None:
        """Wait until the node has counted all frames and the masks of those that it answered are here."""
        begin = time.monotonic()
        while (waited := time.monotonic() - begin) < self._options.answer_seconds:
            self._watch()
            node = self._stream.node_state
            assert node is not None  # it was ready
            settled = node.received == node.published + node.dropped + node.rejected
            complete = settled and node.received == self._frames and self._stream.masks >= node.published
            if complete or (settled and waited > _REPORT_SECONDS):
                return

    def _watch(self) -> None:
        """Take in what a process emits, and see whether the node is still there."""
        stream = self._stream
        masks, node_state = stream.masks, stream.node_state
        stream.take_event()
        now = time.monotonic()
        if stream.masks > masks:
            self._last_mask, self._sent_at_last_mask = now, stream.sent
        if stream.node_state is not node_state:
            self._last_state = now
        if now - self._last_state > self._options.silence_seconds:
            raise self._error(f"the node said nothing for {self._options.silence_seconds:g} s")
        self._on_progress(NodeReplayProgress(stream.sent, stream.masks, stream.state))

    def _error(self, reason: str) -> ReplayError:
        """A failure of the node, with its state and its last words."""
        stream = self._stream
        state = f"the node is {stream.state.value}, {stream.message}"
        return ReplayError(f"{reason}: {state}; {stream.node.last_words()}")


# --- afterwards ----------------------------------------------------------------------------------------------------


def _read_recording(options: NodeReplayOptions, sequence: VideoSequence, recording: Recording) -> NodeReplayRecording:
    """What a finished replay left.

    Raises:
        ReplayError: no frame was answered.
    """
    played = Played(recording)
    stamps = tuple(_stamp_offset(sequence) + sequence.stamp(index) for index in range(len(sequence)))
    scheduled = [] if options.lockstep else played.frames[options.warmup_frames if options.protocol == "w2f" else 0 :]
    failures = [message.message for message in played.messages if message.state is State.FAILED]
    end = played.messages[-1]
    return NodeReplayRecording(
        recording=recording,
        stamps=stamps,
        latency_ms=tuple(map(played.latency_ms, stamps)),
        states=tuple(played.history.changes),
        generation=end.generation,
        adaptation_seconds=end.adaptation_seconds,
        adaptation_reason=end.adaptation_reason,
        deployed_share=end.deployed_share,
        failure=failures[-1] if failures else "",
        dropped=end.dropped,
        rejected=end.rejected,
        lost=played.lost,
        behind_ms=max((1e3 * (frame.time - frame.due) for frame in scheduled), default=None),
    )
