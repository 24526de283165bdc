"""What the camera of the demo plays, and when: one video until the node is adapted, or several scenes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from ditta_core.datasets.base import VideoSequence
from ditta_core.evaluation.scenes import Scene, SceneSequence
from ditta_core.types import State
from ditta_ros.process.children import ReplayError
from ditta_ros.replay.control import FrameRange
from ditta_ros.replay.stream import ANSWER_SECONDS, Stream

_PAUSE_SECONDS = 2.0
"""Seconds between two rounds."""
_SETTLE_SECONDS = 2.5
"""Seconds that the recorder goes on after the last image: the node reports its counters once a second."""


def _never() -> bool:
    return False


@dataclass(frozen=True)
class MeasuredPass:
    """A pass that was played while the node was adapted.

    Attributes:
        name: What it shows.
        round: Number of passes before it.
        begin: Number of passes before the first one of the same visit.
    """

    name: str
    round: int
    begin: int


class _Player:
    """Plays one range of frames after another, and watches what comes of it.

    Args:
        timeout: Seconds that the node has to be adapted, for each adaptation anew.
        lockstep: Whether every frame waits for the mask of the one before.
        bar: Shows the progress.
    """

    def __init__(self, stream: Stream, sequence: VideoSequence, timeout: float, lockstep: bool, bar: tqdm[Any]) -> None:
        self._stream = stream
        self._sequence = sequence
        self._timeout = timeout
        self._lockstep = lockstep
        self._bar = bar
        self._deadline = time.monotonic() + timeout
        self._round = 0
        self._offset = time.time_ns()
        self._shown = ""

    def _play_range(self, first: int, end: int, pause: float, enough: Callable[[], bool]) -> None:
        """Play frames, and let the next ones follow by the stamps after a pause in seconds.

        Args:
            enough: Whether to break off.
        """
        stream, sequence = self._stream, self._sequence
        begin = sequence.stamp(first)
        stream.play(
            FrameRange(first, end, self._offset - begin, 1.0, ANSWER_SECONDS if self._lockstep else None, self._round)
        )
        stopping = False
        while stream.playing:
            self._watch()
            if not stopping and enough():
                stream.stop()
                stopping = True
        if stream.sent > first:
            seconds = 1 / sequence.frame_rate + pause
            self._offset += sequence.stamp(stream.sent - 1) - begin + round(seconds * 1e9)
            self._round += 1

    def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._watch()

    def _adapted(self) -> bool:
        return self._stream.state is State.ADAPTED

    def _watch(self) -> None:
        """Take in what a process emits, show it, and see whether the demo can still succeed."""
        stream, bar = self._stream, self._bar
        stream.take_event()
        if stream.message != self._shown:
            self._shown = stream.message
            bar.write(f"{stream.state.value:<10}  {stream.message}")
        share = f" {stream.progress:.0%}" if stream.state is State.ADAPTING else ""
        bar.set_description(f"pass {self._round + 1} {stream.state.value}{share}", refresh=False)
        bar.set_postfix_str(f"{stream.masks} masks", refresh=False)
        if stream.sent < bar.n:
            bar.reset(len(self._sequence))
        bar.update(stream.sent - bar.n)
        if stream.state is State.FAILED:
            raise ReplayError(f"the adaptation failed: {stream.message}")
        if not self._adapted() and time.monotonic() > self._deadline:
            raise ReplayError(
                f"the adaptation did not finish within {self._timeout:g} s: the node is {stream.state.value}, "
                f"{stream.message}; {stream.masks} masks came out. Give it more time with --timeout, or less to do "
                f"with --warmup-frames or --input-size"
            )


class Rounds(_Player):
    """Plays the sequence again and again until the node is adapted, then once more from the beginning.

    Every round begins two seconds after the last one ended, by the stamps as by the clock, so that the node takes the
    first frame for what it is: not the successor of the last.
    """

    def play(self) -> list[MeasuredPass]:
        """Play all rounds, and wait for the last masks; returns the last round.

        Raises:
            ReplayError: the node did not adapt, or not in time, or a process died.
        """
        last = False
        while not last:
            last = self._adapted()  # all but the last are broken off as soon as it is
            enough = _never if last else self._adapted
            self._play_range(0, len(self._sequence), _PAUSE_SECONDS, enough)
            self._wait(_SETTLE_SECONDS if last else _PAUSE_SECONDS)
        return [MeasuredPass(self._sequence.name, self._round - 1, 0)]


class Visits(_Player):
    """Plays each scene until the node is adapted to it, then the first one until that is restored, without a pause.

    Of each visit the last pass is measured: it begins when the node is adapted.
    """

    def __init__(self, stream: Stream, scenes: SceneSequence, timeout: float, lockstep: bool, bar: tqdm[Any]) -> None:
        super().__init__(stream, scenes, timeout, lockstep, bar)
        self._scenes = scenes.scenes
        self._generations: dict[str, int] = {}

    def play(self) -> list[MeasuredPass]:
        """Play all visits, and wait for the last masks; returns the measured pass of each.

        Raises:
            ReplayError: the node did not adapt to a scene or find it again, or not in time, or a process died.
        """
        measured = [self._visit(scene, scene.name) for scene in self._scenes]
        first = self._scenes[0]
        measured.append(self._visit(first, f"{first.name}, again"))
        self._wait(_SETTLE_SECONDS)
        return measured

    def _visit(self, scene: Scene, name: str) -> MeasuredPass:
        begin = self._round
        self._deadline = time.monotonic() + self._timeout
        settled = False
        while not settled:
            settled = self._settled(scene)
            self._play_range(scene.first, scene.end, 0.0, _never)
            if time.monotonic() > self._deadline and not settled:
                raise ReplayError(
                    f"the node did not take {name} for another scene within {self._timeout:g} s: it is "
                    f"{self._stream.state.value}, {self._stream.message}"
                )
        assert self._stream.node_state is not None
        self._generations[scene.name] = self._stream.node_state.generation
        return MeasuredPass(name, self._round - 1, begin)

    def _settled(self, scene: Scene) -> bool:
        """Whether a generation of this scene serves, and none of another one."""
        state = self._stream.node_state
        if state is None or not self._adapted():
            return False
        return state.generation not in [own for name, own in self._generations.items() if name != scene.name]
