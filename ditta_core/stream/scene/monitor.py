"""When a camera has left the scene that the model was adapted to.

Three signs, each cheap:

- a **cut**: the frame does not follow the last one. The score is that of PySceneDetect's ``ContentDetector`` (mean
  absolute difference in HSV on a thumbnail), which cannot be a dependency because it brings a second OpenCV. A cut
  alone proves nothing (a hand, a flash, a corrupt frame): what lasts after it is compared with what was before it;
- **drift**: the frozen encoder of the base model describes a frame now and then, by mean and spread of its deepest
  channels, see :class:`~ditta_core.stream.scene.signature.SceneSignature`;
- a **fall of certainty**: what the adapted model says of its own output, against its level after the adaptation.

The signs together must stay above one for some time, and fall well below one to count as gone. How the thresholds were
set and what they find: docs/ablations.md#thresholds-of-the-scene-monitor.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ditta_core.stream.clock import StreamClock
from ditta_core.stream.scene.config import SceneConfig
from ditta_core.stream.scene.cuts import CUT_RATIO, CUT_SCORE, CutDetector, Thumbnail
from ditta_core.stream.scene.known import KnownScene
from ditta_core.stream.scene.signature import SAME_DISTANCE, SceneSignature

DESCRIBE_INTERVAL = 0.5  # seconds between two descriptions: docs/ablations.md#scene-descriptions
RESTLESS_INTERVAL = 2.0  # the same in the midst of a pan or of corrupt frames, which say little of the place
EAGER_FRAMES = 4  # frames after a cut that are all described
GATHER_FRAMES = 16  # frames of a warm-up that are all described
GATHER_LIMIT = 120  # descriptions of a warm-up that are kept: the last minute
BEFORE_WINDOW = 1.0  # seconds before a cut that what lasts after it is compared with
FAST_WINDOW = 3.0  # seconds whose mean description is compared at once
SLOW_WINDOW = 20.0  # seconds whose mean description is compared for slow changes: passing things average out

# What suffices alone at medium sensitivity: docs/ablations.md#thresholds-of-the-scene-monitor.
FAST_DISTANCE = 0.42  # distance of the fast window from the reference
SLOW_DISTANCE = 0.30  # distance of the slow window from the reference
JUMP_DISTANCE = 0.21  # distance over a cut, and of the place after it from the reference
CERTAINTY_FALL = 0.25  # fall of certainty beyond the slack

CERTAINTY_WINDOW = 5.0  # seconds over which certainty is averaged, for its level and later for its fall
CERTAINTY_SLACK = 0.06  # fall of certainty that says nothing
CLEAR = 0.75  # share of the evidence below which a change counts as gone
SERIES_LIMIT = 4.0
"""Seconds within which one cut after another is a series: a hand, some corrupt frames. Longer ones are flicker, and a
camera that moves has gone on meanwhile, so that nothing is told by comparing before and after."""
SERIES_FACTOR = 1.75  # how much farther a place must be to count as another one when something stood between


class SceneObservation(NamedTuple):
    """What a frame says of the scene.

    Attributes:
        cut: Whether this frame does not follow the last one.
        left: One sentence why the scene is another one now; empty if it is not.
        same_place: Whether it is left though the place is the same: what served there has become unsure of it.
    """

    cut: bool
    left: str = ""
    same_place: bool = False


class _Description(NamedTuple):
    time: float
    signature: SceneSignature


@dataclass
class _PendingCut:
    """A cut of which it is not known yet what lasts after it.

    Attributes:
        before: The place before the first of a series of cuts.
        score: Score of the first cut.
        start: Time of the first cut.
        alone: Whether the frames before followed one another; otherwise something stood between, as in a series.
        since: Time of the last cut.
        after: Descriptions since the last cut.
        fresh: Whether no frame came after the last cut yet.
        arrival: Whether a warm-up has begun since: it led to the place that is adapted to, and away from nothing.
    """

    before: SceneSignature
    score: float
    start: float
    alone: bool
    since: float
    after: list[_Description] = field(default_factory=list)
    fresh: bool = True
    arrival: bool = False

    def restart(self, time: float) -> None:
        """Another cut: what came after the last one did not last."""
        self.alone, self.since, self.after, self.fresh = False, time, [], True


class SceneMonitor:
    """Watches a stream for leaving the scene that the serving model was adapted to.

    Not for several threads at once.

    Args:
        describe: Gives the signature of an RGB image, such as a
            :class:`~ditta_core.stream.scene.signature.SceneDescriber`.
        config: How readily a change is believed.
        later: Does the same beside the frame, but for those of a warm-up: what they say is told with the next frame.
            None for all of them at once.

    Attributes:
        config: As above; may be replaced between two frames.
    """

    def __init__(
        self,
        describe: Callable[[NDArray[np.uint8]], SceneSignature],
        config: SceneConfig,
        later: Callable[[NDArray[np.uint8]], Future[SceneSignature]] | None = None,
    ) -> None:
        self.config = config
        self._describe = describe
        self._later = later
        self._awaited: Future[SceneSignature] | None = None  # description of the last frame
        self._cuts = CutDetector()
        self._clock = StreamClock()
        self._quiet_until = 0.0
        self._recent: deque[_Description] = deque()
        self._described = -math.inf
        self._eager = 0
        self._pending: _PendingCut | None = None
        self._certainties: deque[tuple[float, float]] = deque()
        self.forget()

    def _refer_to(self, scene: KnownScene | None) -> None:
        self._awaited = None
        self._scene = scene
        self._gathered: deque[SceneSignature] | None = None
        self._certainties.clear()
        self._level: float | None = None
        self._settled = self._now
        self._since: float | None = None

    # --- what is served ----------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """A warm-up begins: gather a signature from the next frame on. Nothing is left meanwhile."""
        self.forget()
        self._gathered = deque(maxlen=GATHER_LIMIT)
        self._eager = GATHER_FRAMES

    def settle(self, scene: KnownScene) -> None:
        """The serving model was adapted to this scene: watch for leaving it, and have it learn its other places.

        Args:
            scene: That of the frames it was adapted to: :attr:`signature` when they were all there.
        """
        self._refer_to(scene)
        self._quiet_until = self._now + self.config.cooldown

    def forget(self) -> None:
        """There is no scene to leave: the base model serves, or what shows now is going to be the scene."""
        self._refer_to(None)
        self._jump = 0.0
        if self._pending is not None:
            self._pending.arrival = True

    @property
    def signature(self) -> SceneSignature | None:
        """Signature of the frames since :meth:`begin`; None before the first and outside a warm-up."""
        return SceneSignature.pooled(self._gathered) if self._gathered else None

    # --- one frame ---------------------------------------------------------------------------------------------------

    def observe(self, image: NDArray[np.uint8], stamp: int, certainty: float | None = None) -> SceneObservation:
        """Take in a frame.

        Args:
            image: RGB uint8 [H, W, 3].
            stamp: Nanoseconds. Where stamps do not advance, frames are counted instead.
            certainty: Mean confidence of the last segmentation, 0..1; None if unknown.
        """
        awaited, self._awaited = self._awaited, None
        # Before anything of this frame is known: as if it had been there with the last one.
        left = "" if awaited is None else self._judge(self._take_description(awaited.result()))
        self._clock.advance(stamp)
        thumbnail = Thumbnail.of(image)
        cut, stands_out = self._cuts.observe(thumbnail)
        if self._pending is not None:
            self._follow_cut(self._pending)
        elif stands_out:
            self._open_cut()
        same_place = bool(left) and self._same_place()
        if thumbnail.blank:
            return SceneObservation(cut, left, same_place)
        if certainty is not None and math.isfinite(certainty):
            self._take_certainty(certainty)
        if left or self._now - self._described < self._patience() * (1 - 1e-6):
            return SceneObservation(cut, left, same_place)
        if self._later is not None and self._gathered is None:
            self._described = self._now
            self._awaited = self._later(image)
            return SceneObservation(cut)
        left = self._judge(self._take_description(self._describe(image)))
        return SceneObservation(cut, left, bool(left) and self._same_place())

    @property
    def _now(self) -> float:
        return self._clock.seconds

    def _patience(self) -> float:
        """Seconds from the last description to the next."""
        restless = bool(self._cuts.scores) and self._cuts.scores[-1] >= CUT_SCORE
        if restless and self._pending is None and self._gathered is None:
            return RESTLESS_INTERVAL
        return 0.0 if self._eager > 0 else DESCRIBE_INTERVAL

    def _open_cut(self) -> None:
        """Wait for what lasts after this cut."""
        before = self._window(BEFORE_WINDOW)
        if before is not None:
            scores = self._cuts.scores
            restless = len(scores) > 1 and scores[-2] >= CUT_SCORE
            self._pending = _PendingCut(before, scores[-1], self._now, not restless, self._now)
            self._eager = max(self._eager, EAGER_FRAMES)

    def _follow_cut(self, pending: _PendingCut) -> None:
        """See whether the frames after a cut follow one another; of a series, the place before the first counts."""
        fresh, pending.fresh = pending.fresh, False
        if self._cuts.scores[-1] < max(CUT_SCORE, pending.score / CUT_RATIO):
            return
        if fresh or self._now - pending.start > SERIES_LIMIT:
            self._pending = None  # a pan, which goes on, or a flash, which is over; flicker
            self._eager = 0 if self._gathered is None else self._eager  # a warm-up goes on all the same
        else:
            pending.restart(self._now)
            self._eager = max(self._eager, EAGER_FRAMES)

    def _take_description(self, signature: SceneSignature) -> float:
        """Keep a description where it belongs; gives the time since which what the windows show has lasted."""
        self._described = self._now
        self._eager = max(0, self._eager - 1)
        if self._gathered is not None:
            self._gathered.append(signature)
        new, pending = _Description(self._now, signature), self._pending
        if pending is None:
            self._recent.append(new)
        else:
            pending.after.append(new)
            if len(pending.after) >= 3 and self._now - pending.since >= self.config.confirmation:
                return self._close_cut(pending)
        while self._recent and self._now - self._recent[0].time > SLOW_WINDOW:
            self._recent.popleft()
        return self._now

    def _close_cut(self, pending: _PendingCut) -> float:
        """What is after the cut has lasted: how far is it from what was before? Gives the time of the cut."""
        self._pending = None
        after = SceneSignature.pooled(item.signature for item in pending.after)
        reference = self._scene.adapted_to if self._scene is not None else self.signature
        jump = after.distance(pending.before) / (1.0 if pending.alone else SERIES_FACTOR)
        if jump >= SAME_DISTANCE:
            self._recent.clear()
        self._recent.extend(pending.after)
        if reference is None or pending.arrival:
            return pending.since
        far = after.distance(reference)
        if self._jump >= JUMP_DISTANCE and far < pending.before.distance(reference):
            self._jump = min(self._jump, far)  # back, or somewhere else that is nearer
        else:
            self._jump = max(self._jump, jump)
        return pending.since

    def _take_certainty(self, certainty: float) -> None:
        """Keep the certainty of the last seconds, and its level after the adaptation."""
        self._certainties.append((self._now, certainty))
        if self._level is None and self._now - self._settled >= CERTAINTY_WINDOW:
            self._level = self._mean_certainty()
        while self._now - self._certainties[0][0] > CERTAINTY_WINDOW:
            self._certainties.popleft()

    def _mean_certainty(self) -> float:
        return sum(value for _, value in self._certainties) / len(self._certainties)

    def _window(self, seconds: float) -> SceneSignature | None:
        """Signature of the descriptions of the last seconds, of the last one at least; None without any."""
        if not self._recent:
            return None
        end = self._recent[-1].time
        return SceneSignature.pooled(item.signature for item in self._recent if end - item.time <= seconds)

    # --- the verdict -------------------------------------------------------------------------------------------------

    def _judge(self, since: float) -> str:
        """Why the scene was left, once that has lasted and nothing was reported lately; otherwise empty."""
        if self._scene is None or self._pending is not None:
            return ""
        evidence, reason = self._evidence(self._scene.adapted_to)
        window = self._window(FAST_WINDOW)
        if window is not None and evidence < CLEAR * min(1.0, self.config.tolerance):
            self._scene.learn(window)
        if evidence < self.config.tolerance * (1.0 if self._since is None else CLEAR):
            self._since = None
            return ""
        if self._since is None:
            self._since = since
        if self._now - self._since < self.config.confirmation or self._now < self._quiet_until:
            return ""
        self._quiet_until = self._now + self.config.cooldown
        return reason

    def _same_place(self) -> bool:
        """Whether the last seconds show a place of the scene that the serving model was adapted to."""
        window = self._window(FAST_WINDOW)
        return window is not None and self._scene is not None and self._scene.distance(window) < SAME_DISTANCE

    def _evidence(self, reference: SceneSignature) -> tuple[float, str]:
        """How strongly all signs speak for another scene, 1 = just enough at medium sensitivity, and what they are."""
        fast, slow = self._window(FAST_WINDOW), self._window(SLOW_WINDOW)
        if fast is None or slow is None:
            return 0.0, ""
        near, far = fast.distance(reference), slow.distance(reference)
        jump = min(self._jump, near) / JUMP_DISTANCE
        # The slow window counts once the descriptions reach back over most of it.
        full = self._now - self._recent[0].time >= 0.75 * SLOW_WINDOW
        drift = max(near / FAST_DISTANCE, far / SLOW_DISTANCE if full else 0.0)
        fall = max(0.0, self._level - self._mean_certainty() - CERTAINTY_SLACK) if self._level is not None else 0.0
        evidence = max(jump, drift) + fall / CERTAINTY_FALL
        what = "the view jumped to another place" if jump >= drift else "the view has drifted to another place"
        if fall / CERTAINTY_FALL > max(jump, drift):
            what = "the model has become unsure of what it sees"
        text = f"{what}: {near:.2f} from the scene the model was adapted to"
        if fall > 0 and self._level is not None:
            text += f", certainty {self._mean_certainty():.2f} after {self._level:.2f}"
        return evidence, text
