"""The clip that a warm-up collects: which frames it takes, and when it is full."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from ditta_core.flow import FlowEstimator
from ditta_core.stream.clock import ASSUMED_PERIOD, StreamClock
from ditta_core.stream.config import StreamConfig
from ditta_core.stream.generations import Generation, GenerationStore
from ditta_core.stream.scene.known import KnownScene
from ditta_core.stream.scene.signature import SceneSignature

# What a new frame shows: docs/ablations.md#frames-that-show-something-new.
VIEW_SIDE = 256  # longest side in pixels of the copies that are compared
NEW_MOTION = 1 / 256  # share of the longest side by which something must have moved since the last frame taken
NEW_SHARE = 0.1  # share of the view that must have moved by as much

RECOGNITION_FRAMES = 3  # frames from which on they are compared with the scenes seen before
SMALLEST_CLIP = 6
"""Frames that are collected in any case, if as many are asked for: the statistics are taken of five, and the teacher
``flow`` averages a frame with three on either side."""
MAX_RESTARTS = 3
"""How often a clip starts over because of a cut in it. After that it is taken as it comes: video that cuts all the time
would never fill one, and the teachers carry nothing across a cut."""


COMPILE_SECONDS = 15.0
"""Seconds for which a clip waits for the compiled network; torch.compile may take minutes on a GPU."""


class WarmupClip:
    """The frames of one warm-up: those that show something new, while there is time for it.

    A robot that is switched on stands still, and the first frames of its stream are one view many times over. Where the
    camera moves, every frame is new, and the clip is made of the first frames.

    Args:
        recognise: Whether a generation that is kept is restored if its scene is the one that the first frames show.
        updates: Generation that the outcome is averaged into; None where the outcome stands for itself.
        failed: Generation that is not recognised, since it has become unsure of this very place; None for none.

    Attributes:
        recognise: As above.
        updates: As above.
        failed: As above.
        trains: Generation that serves already, while the adaptation to this clip trains on; None before.
        scene: Scene of the full clip, see :meth:`locate`; None where it is not known.
        seen: Number of frames that were offered since the clip began.
    """

    def __init__(
        self, recognise: bool = False, updates: Generation | None = None, failed: Generation | None = None
    ) -> None:
        self.recognise = recognise
        self.updates = updates
        self.failed = failed
        self.trains: Generation | None = None
        self.scene: KnownScene | None = None
        self._flow = FlowEstimator("ultrafast", VIEW_SIDE)
        self._restarts = 0
        self._waiting_since: float | None = None
        self._begin()

    def _begin(self) -> None:
        self.seen = 0
        self._images: list[NDArray[np.uint8]] = []
        self._clock = StreamClock()
        self._last_view: NDArray[np.uint8] | None = None

    def __len__(self) -> int:
        return len(self._images)

    def waits(self, compiling: bool) -> bool:
        """Whether it does not begin yet: while the network is ``compiling``, masks come slowly, and frames far apart.

        After ``COMPILE_SECONDS`` it does not wait any longer.
        """
        if not compiling or self.seen:
            return False
        now = time.monotonic()
        self._waiting_since = now if self._waiting_since is None else self._waiting_since
        return now - self._waiting_since < COMPILE_SECONDS

    def restart_after_cut(self) -> bool:
        """Start over with the next frame, unless nothing is collected or the clip did so ``MAX_RESTARTS`` times.

        Returns:
            Whether the clip starts over.
        """
        if not self._images or self._restarts == MAX_RESTARTS:
            return False
        self._restarts += 1
        self._begin()
        return True

    def offer(self, image: NDArray[np.uint8], stamp: int, config: StreamConfig, blank: bool = False) -> bool:
        """Take the first frame, every one that shows something new, and all once the ``warmup_seconds`` are over.

        Args:
            image: RGB uint8 [H, W, 3], of one size throughout.
            stamp: Nanoseconds; a gap counts as one second at most.
            config: Settings of the stream; ``warmup_seconds`` of 0 take every frame.
            blank: Whether the frame shows nothing at all; it is never taken then.

        Returns:
            Whether the frame was taken.
        """
        self.seen += 1
        self._clock.advance(stamp)
        taken = not blank and (self._late(config) or self._shows_new(image))
        if taken:
            self._images.append(image)
        return taken

    def full(self, config: StreamConfig) -> bool:
        """Whether the clip has all its frames, or has ``SMALLEST_CLIP`` and its time is over."""
        enough = min(SMALLEST_CLIP, config.warmup_frames)
        late = config.warmup_seconds > 0 and self._late(config)
        return len(self) >= (enough if late else config.warmup_frames)

    def recognisable(self, config: StreamConfig) -> bool:
        """Whether there are frames enough to compare the scene with those seen before."""
        return self.recognise and (self.seen >= RECOGNITION_FRAMES or self.full(config))

    def known_in(
        self, store: GenerationStore, signature: SceneSignature | None, config: StreamConfig
    ) -> Generation | None:
        """The generation that is kept of the scene that the frames so far show, as soon as that can be told."""
        if signature is None or not self.recognisable(config):
            return None
        return store.known_scene(signature, self.failed)

    def take(self) -> NDArray[np.uint8]:
        """The frames, RGB uint8 [n, H, W, 3] in time order; the clip lets go of them."""
        images, self._images = np.stack(self._images), []
        return images

    def locate(self, signature: SceneSignature) -> KnownScene:
        """Keep and return the scene that the full clip shows, with the places of the generation that it updates."""
        known = None if self.updates is None else self.updates.scene
        self.scene = KnownScene(signature) if known is None else known.moved_to(signature)
        return self.scene

    def _late(self, config: StreamConfig) -> bool:
        """Whether the seconds are over for which the clip waits for something new."""
        return self._clock.seconds - ASSUMED_PERIOD >= config.warmup_seconds

    def _shows_new(self, image: NDArray[np.uint8]) -> bool:
        """Whether enough has moved since the last frame for which this was asked and true."""
        view = self._flow.prepare(image)
        if self._last_view is not None:
            motion = np.linalg.norm(self._flow.flow(self._last_view, view), axis=2)
            if np.quantile(motion, 1 - NEW_SHARE) < NEW_MOTION * max(view.shape):
                return False
        self._last_view = view
        return True
