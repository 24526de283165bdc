"""A sequence played to the node as it really runs: camera, node and recorder as processes, controlled from here."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ditta_core.datasets.base import VideoSequence
from ditta_core.types import State
from ditta_ros.process.children import Processes, ReplayError
from ditta_ros.replay.control import FrameRange
from ditta_ros.replay.recording import ArrivedState, Recording

READY_SECONDS = 90.0
"""How long the node may take to load its model and to find the camera."""
ANSWER_SECONDS = 10.0
"""How long a frame in lockstep waits for the mask of the one before."""


class Stream:
    """The camera, the node and the recorder, from their start to the last mask.

    Args:
        sequence: Sequence that the camera plays.
        recording: Recording that takes what happens; is cleared first.
        params_file: File that is written for the node, with the ``node_parameters`` by name.
        answered: Whether the camera listens to the masks, as lockstep needs.
        clock: Whether the camera publishes simulated time.

    Attributes:
        playing: Whether the camera plays a range that was asked for.
        sent: Index of the frame after the last one published.
        masks: Number of masks that came out.
        node_state: Last state that the node told; None before the first.
    """

    def __init__(
        self,
        processes: Processes,
        sequence: VideoSequence,
        recording: Recording,
        params_file: Path,
        node_parameters: Mapping[str, Any],
        answered: bool = True,
        clock: bool = False,
    ) -> None:
        recording.clear()
        recording.write_sequence(sequence)
        params_file.write_text(yaml.safe_dump({"/**": {"ros__parameters": dict(node_parameters)}}), encoding="utf-8")
        folder = str(recording.folder)
        flags = [*(["--answered"] if answered else []), *(["--clock"] if clock else [])]
        self._processes = processes
        self.node = processes.start(
            "node", "ditta_ros.node", "--ros-args", "--params-file", str(params_file), controlled=False
        )
        processes.start("recorder", "ditta_ros.replay.recorder", folder)
        self._camera = processes.start("camera", "ditta_ros.replay.camera", folder, *flags)
        self.playing = False
        self.sent = 0
        self.masks = 0
        self.node_state: ArrivedState | None = None
        self._matched = False
        self._ready = False
        self._problem = ""

    @property
    def state(self) -> State:
        """The state of the node."""
        return State.BASE if self.node_state is None else self.node_state.state

    @property
    def training(self) -> bool:
        """Whether the network that serves is still trained."""
        return self.node_state is not None and self.node_state.training

    @property
    def message(self) -> str:
        """What the node says of its state."""
        return "" if self.node_state is None else self.node_state.message

    @property
    def progress(self) -> float:
        """Share of the running adaptation that is done, 0..1."""
        return 0.0 if self.node_state is None else self.node_state.progress

    def wait_until_ready(self, seconds: float = READY_SECONDS) -> None:
        """Wait until the node has its model, hears the camera, and is heard by the recorder.

        Raises:
            ReplayError: it cannot, or did not in time.
            ProcessDied: one of the processes has.
        """
        deadline = time.monotonic() + seconds
        while not (self._matched and self._ready):
            self.take_event()
            if self._problem:
                raise ReplayError(f"the node cannot run: {self._problem}")
            if time.monotonic() > deadline:
                raise ReplayError(f"the node was not ready within {seconds:g} s; {self.node.last_words()}")

    def play(self, frames: FrameRange) -> None:
        """Have a range played, after the one before."""
        self._camera.send(frames.command())
        self.playing = True
        self.sent = frames.first

    def stop(self) -> None:
        """Have the range that is being played broken off; ``playing`` tells when that is done."""
        self._camera.send("stop")

    def take_event(self) -> None:
        """Take in what a process emits; wait a little where none does.

        Raises:
            ProcessDied: one of the processes has.
        """
        event = self._processes.next_event()
        if event is None:
            return
        _, values = event
        if "state" in values:
            self.node_state = ArrivedState.of_message(values["state"], time.monotonic())
            self.masks = values["masks"]
            self._ready = values["ready"]
        elif "problem" in values:
            self._problem = values["problem"]
        elif "matched" in values:
            self._matched = True
        elif "sent" in values:
            self.sent = values["sent"]
        elif "played" in values:
            self.sent = values["played"]
            self.playing = False
