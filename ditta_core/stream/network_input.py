"""The size of the network input of a stream: which serves, and up to which an adaptation may choose.

The rate bounds the choice by how long frames take: those that were segmented, at the size that serves.
"""

from __future__ import annotations

import statistics
from collections import deque

from ditta_core.adaptation.input_size import largest_side
from ditta_core.inference.compiled_network import RuntimeStatus
from ditta_core.inference.config import DEFAULT_LONG_SIDE
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.stream.config import StreamConfig
from ditta_core.stream.generations import Generation

RECENT_FRAMES = 15
"""Number of frames that the estimate is made of; what ran before them, and other programs, count no more."""
FEWEST_FRAMES = 3
"""Number of frames without which there is no estimate: the first ones of a network allocate."""
LONGEST_WAIT = 100
"""Number of frames for which the estimate is waited for: torch.compile may take minutes on a GPU."""
MARGIN = 1.1
"""Factor on what another size would take by its pixels, which is up to as much less than what it does take:
docs/ablations.md#time-of-a-size."""


class FrameTimes:
    """Times of the recent frames of a stream, apart from how large the network input was.

    All that a frame takes is held to grow with the pixels of the network input, and by ``MARGIN`` for another size.
    """

    def __init__(self) -> None:
        self._runtime = RuntimeStatus("torch")
        self._seconds_per_pixel: deque[float] = deque(maxlen=RECENT_FRAMES)

    def add(self, seconds: float, input_size: tuple[int, int], runtime: RuntimeStatus) -> None:
        """A frame was segmented.

        Args:
            seconds: what it took in all.
            input_size: of the network (height, width).
            runtime: what ran the network. The times of another are forgotten, and while one is being compiled none are
                taken.
        """
        if runtime != self._runtime:
            self._runtime = runtime
            self._seconds_per_pixel.clear()
        if not runtime.compiling:
            self._seconds_per_pixel.append(seconds / (input_size[0] * input_size[1]))

    def seconds(self, input_size: tuple[int, int]) -> float | None:
        """What a frame would take at most with a network input (height, width); None where too few were seen."""
        if len(self._seconds_per_pixel) < FEWEST_FRAMES:
            return None
        return MARGIN * statistics.median(self._seconds_per_pixel) * input_size[0] * input_size[1]


class StreamInputSize:
    """Decides on the size of the network input, (height, width), for the frames of a stream.

    Args:
        model: Base model.

    Attributes:
        times: What frames take; the owner tells it.
    """

    def __init__(self, model: SegmentationModel) -> None:
        self._model = model
        self._waited = 0
        self.times = FrameTimes()

    def serving(
        self, frame_size: tuple[int, int], config: StreamConfig, generation: Generation | None
    ) -> tuple[int, int]:
        """For a frame of a size (H, W): as the settings say, or as was found for the generation that serves."""
        inference, found = config.inference, None if generation is None else generation.state.long_side
        if inference.input_size is not None:
            return inference.input_size
        side = (found or DEFAULT_LONG_SIDE) if inference.finds_input_size else inference.long_side
        return self._model.input_size(frame_size, side)

    def waits(self, config: StreamConfig) -> bool:
        """Whether a choice has to wait for a frame more: the rate bounds it, and what a frame takes is not known yet.

        After ``LONGEST_WAIT`` answers of yes it does not wait any longer, and there is no choice.
        """
        bounded = config.inference.finds_input_size and config.target_rate > 0
        waits = bounded and self.times.seconds((1, 1)) is None and self._waited < LONGEST_WAIT
        self._waited = self._waited + 1 if waits else 0
        return waits

    def of_adaptation(
        self, frame_size: tuple[int, int], config: StreamConfig, noisiness: float, updates: Generation | None
    ) -> tuple[tuple[int, int], int | None]:
        """The size that serves meanwhile, and the longest side that the adaptation may choose, see :meth:`largest`.

        The mean of two adaptations serves at one size: one that updates a generation keeps that of the generation.
        """
        largest = self.largest(frame_size, config, noisiness) if updates is None else None
        return self.serving(frame_size, config, updates), largest

    def largest(self, frame_size: tuple[int, int], config: StreamConfig, noisiness: float) -> int | None:
        """Longest side in pixels up to which an adaptation may choose; None where there is no choice.

        Args:
            frame_size: of the clip (H, W).
            noisiness: noise that restoration took out of the clip, 0..1.
        """
        if not config.inference.finds_input_size:
            return None

        def fast_enough(input_size: tuple[int, int]) -> bool:
            seconds = self.times.seconds(input_size)
            return config.target_rate == 0 or (seconds is not None and seconds * config.target_rate <= 1)

        return largest_side(self._model, frame_size, noisiness, fast_enough)
