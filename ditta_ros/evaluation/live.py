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
from ditta_core.evaluation.measurement import Protocol
from ditta_core.inference.config import Runtime
from ditta_core.stream.config import WarmupTrigger
from ditta_core.types import State
from ditta_ros.parameters import NodeParameters, Value
from ditta_ros.process.children import Processes, ReplayError
from ditta_ros.replay.control import FrameRange
from ditta_ros.replay.recording import ArrivedState, Recording, StateHistory
from ditta_ros.replay.stream import ANSWER_SECONDS, READY_SECONDS, Stream

EPOCH = 1_600_000_000_000_000_000
"""Stamp of the first frame of a sequence without a time of its own, nanoseconds: as in a bag that is made of it. Zero
would mean to ROS that simulated time has not begun."""
REPORT_SECONDS = 2.5
"""The node tells its counters once a second; after this long, what it has counted is known."""
OURS = (
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
class LiveOptions:
    """How a sequence is played to the node.

    Attributes:
        folder: for the recording, the logs and the parameters file; what an earlier run left in it is removed.
        node_parameters: of the node, by name, without those that the replay decides on: the topic and its QoS, the
            length of the warm-up, ``autostart`` and ``use_sim_time``.
        warmup_frames: length of the warm-up, at least 1.
        protocol: ``w2f``: the warm-up frames are played in lockstep, so that they are the node's warm-up clip exactly;
            then frames and simulated time are held until the node has adapted. ``whole``: nothing is held.
        rate: how many times as fast as their stamps say the frames are played, above 0.
        lockstep: frames come one by one, each after the mask of the last (and no faster than ``rate`` says), so that
            none is dropped. Otherwise they come in time, whoever can follow.
        ready_seconds: how long the node may take to load its model and to find the camera.
        answer_seconds: how long a frame in lockstep waits for the mask of the one before, which a frame that the node
            rejects never gets.
        adaptation_timeout: seconds that the adaptation may take while the replay is held for it.
        silence_seconds: how long the node may say nothing, or in lockstep answer nothing, before it is given up.
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
        wrong = sorted(name for name in self.node_parameters if name not in known or name in OURS)
        if wrong:
            raise ValueError(
                f"expected parameters of the node other than {', '.join(OURS)}, which the replay decides on, but got "
                f"{', '.join(wrong)}"
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
class LiveProgress:
    """How far a replay is.

    Attributes:
        sent: frames published.
        masks: that came out.
        state: of the node.
        adaptation: share of the running adaptation that is done, 0..1.
    """

    sent: int
    masks: int
    state: State
    adaptation: float


@dataclass(frozen=True)
class LiveRecording:
    """What came of a replay. Masks stay in files until they are asked for.

    Attributes:
        recording: the files.
        stamps: of the frames, by index, nanoseconds.
        latency_ms: from the publication of a frame to the arrival of its mask, by index; None without a mask.
        states: the first message of each state that the node was in, in order.
        generation: of the model that served at the end, 0 for the base model.
        adaptation_seconds: as the node measured it; None where no adaptation ended.
        failure: why the adaptation failed; empty where it did not.
        dropped: frames that the node passed over for newer ones, as it counts them.
        rejected: frames that the node could not use, as it counts them.
        lost: frames that did not reach the node: published, but not counted by it.
        behind_ms: how far the camera was at most behind its own schedule, as where frames cannot be read in time; None
            in lockstep, which has no schedule.
    """

    recording: Recording
    stamps: tuple[int, ...]
    latency_ms: tuple[float | None, ...]
    states: tuple[ArrivedState, ...]
    generation: int
    adaptation_seconds: float | None
    failure: str
    dropped: int
    rejected: int
    lost: int
    behind_ms: float | None

    @property
    def unanswered(self) -> int:
        """Frames without a mask."""
        return self.latency_ms.count(None)

    def mask(self, index: int) -> NDArray[Any] | None:
        """Class ids [H, W] of a frame, uint8 or uint16; None where no mask came."""
        return None if self.latency_ms[index] is None else self.recording.read_mask(self.stamps[index])


def run_live(
    options: LiveOptions, sequence: VideoSequence, on_progress: Callable[[LiveProgress], None] = lambda _: None
) -> LiveRecording:
    """Play a sequence to the node in another process, and record its masks.

    All processes have ended when this returns or raises.

    Args:
        options: how.
        sequence: what; it must be picklable, as the camera is another process.
        on_progress: told of every piece of news, several times a second while there is any.

    Raises:
        ValueError: the options do not go with the sequence.
        ReplayError: the node did not get ready, did not take the warm-up frames, did not adapt in time, or fell silent;
            or a process died. The message holds its last words.
    """
    check_sequence(options, sequence)
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
        Replay(stream, options, sequence, on_progress).run()
    return read_recording(options, sequence, recording)


def check_sequence(options: LiveOptions, sequence: VideoSequence) -> None:
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


def stamp_offset(sequence: VideoSequence) -> int:
    """What is added to the stamps of a sequence: nothing where they are those of a recording, else :data:`EPOCH`."""
    return EPOCH if sequence.stamp(0) == 0 else 0


# --- while it plays ------------------------------------------------------------------------------------------------


class Replay:
    """One replay, from the start of the processes to the last mask.

    Args:
        stream: the processes.
        options: how to play.
        sequence: what is played.
        on_progress: told of every piece of news.
    """

    def __init__(
        self,
        stream: Stream,
        options: LiveOptions,
        sequence: VideoSequence,
        on_progress: Callable[[LiveProgress], None],
    ) -> None:
        self.stream = stream
        self.options = options
        self.frames = len(sequence)
        self.offset = stamp_offset(sequence)
        self.on_progress = on_progress
        self.last_mask = self.last_state = time.monotonic()
        self.sent_at_last_mask = 0

    def run(self) -> None:
        """Play the sequence by the protocol, and wait for the last masks.

        Raises:
            ReplayError: see :func:`run_live`.
        """
        options, first = self.options, 0
        self.stream.wait_until_ready(options.ready_seconds)
        self.last_state = time.monotonic()
        if options.protocol == "w2f":
            first = options.warmup_frames
            self.play(0, first, lockstep=True)
            if options.parameters().warmup_on != WarmupTrigger.SERVICE.value:
                self.wait_for_adaptation()
        self.play(first, self.frames, options.lockstep)
        self.wait_for_last_masks()

    def play(self, first: int, end: int, lockstep: bool) -> None:
        """Play frames, and wait until all of them are published."""
        answer_seconds = self.options.answer_seconds if lockstep else None
        self.stream.play(FrameRange(first, end, self.offset, self.options.rate, answer_seconds))
        self.last_mask, self.sent_at_last_mask = time.monotonic(), first
        while self.stream.playing:
            self.watch()
            # Two frames and no mask: otherwise it may be the sequence in which there is nothing for so long.
            unanswered = self.stream.sent - self.sent_at_last_mask >= 2
            if lockstep and unanswered and time.monotonic() - self.last_mask > self.options.silence_seconds:
                raise self.error(f"no mask came within {self.options.silence_seconds:g} s")

    def wait_for_adaptation(self) -> None:
        """Hold frames and clock until the node has adapted, or has failed to."""
        begin = time.monotonic()
        while self.stream.state not in (State.ADAPTED, State.FAILED):
            self.watch()
            node = self.stream.node_state
            assert node is not None  # it was ready
            if node.time > begin + REPORT_SECONDS and node.state in (State.BASE, State.COLLECTING):
                raise self.error(
                    f"expected the node to take {self.options.warmup_frames} frames for its warm-up, but it took "
                    f"{node.collected} and rejected {node.rejected}"
                )
            if time.monotonic() > begin + self.options.adaptation_timeout:
                raise self.error(f"the adaptation did not finish within {self.options.adaptation_timeout:g} s")

    def wait_for_last_masks(self) -> None:
        """Wait until the node has counted all frames and the masks of those that it answered are here."""
        begin = time.monotonic()
        while (waited := time.monotonic() - begin) < self.options.answer_seconds:
            self.watch()
            node = self.stream.node_state
            assert node is not None  # it was ready
            settled = node.received == node.published + node.dropped + node.rejected
            complete = settled and node.received == self.frames and self.stream.masks >= node.published
            if complete or (settled and waited > REPORT_SECONDS):
                return

    def watch(self) -> None:
        """Take in what a process tells, and see whether the node is still there."""
        stream = self.stream
        masks, node_state = stream.masks, stream.node_state
        stream.take_event()
        now = time.monotonic()
        if stream.masks > masks:
            self.last_mask, self.sent_at_last_mask = now, stream.sent
        if stream.node_state is not node_state:
            self.last_state = now
        if now - self.last_state > self.options.silence_seconds:
            raise self.error(f"the node said nothing for {self.options.silence_seconds:g} s")
        self.on_progress(LiveProgress(stream.sent, stream.masks, stream.state, stream.progress))

    def error(self, reason: str) -> ReplayError:
        """A failure of the node, with its state and its last words."""
        stream = self.stream
        return ReplayError(
            f"{reason}: the node is {stream.state.value}, {stream.message}; the end of {stream.node.log}:\n"
            f"{stream.node.last_words()}"
        )


# --- afterwards ----------------------------------------------------------------------------------------------------


def read_recording(options: LiveOptions, sequence: VideoSequence, recording: Recording) -> LiveRecording:
    """What a finished replay left.

    Raises:
        ReplayError: no frame was answered.
    """
    frames, masks, messages = recording.frames(), recording.masks(), recording.states()
    if not masks:
        raise ReplayError(f"expected masks on /ditta/semantic, but none of {len(frames)} frames was answered")
    arrivals = {mask.stamp: mask.time for mask in masks}
    published = {frame.stamp: frame.time for frame in frames}
    stamps = tuple(stamp_offset(sequence) + sequence.stamp(index) for index in range(len(sequence)))
    scheduled = [] if options.lockstep else frames[options.warmup_frames if options.protocol == "w2f" else 0 :]
    failures = [message.message for message in messages if message.state is State.FAILED]
    end = messages[-1]
    return LiveRecording(
        recording=recording,
        stamps=stamps,
        latency_ms=tuple(1e3 * (arrivals[stamp] - published[stamp]) if stamp in arrivals else None for stamp in stamps),
        states=tuple(StateHistory(messages).changes),
        generation=end.generation,
        adaptation_seconds=end.adaptation_seconds,
        failure=failures[-1] if failures else "",
        dropped=end.dropped,
        rejected=end.rejected,
        lost=max(len(frames) - end.received, 0),
        behind_ms=max(1e3 * (frame.time - frame.due) for frame in scheduled) if scheduled else None,
    )
