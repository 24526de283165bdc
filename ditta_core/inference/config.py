"""Settings of how one frame is segmented; nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

DEFAULT_LONG_SIDE = 480
"""Longest side of the network input in pixels, where nothing else is asked for or found."""

AUTO_LONG_SIDE = -1
"""In the place of a longest side: the adaptation finds it, see :mod:`ditta_core.adaptation.input_size`."""

DEFAULT_SEED = 5123
"""Seed of everything random, where nothing else is asked for."""

PUBLISHED_THRESHOLD = 0.8
"""Reliability threshold τ of the published inference."""

PRECISIONS = ("auto", "float32", "bfloat16")


@dataclass(frozen=True)
class InferenceConfig:
    """How one frame is segmented.

    Attributes:
        long_side: Longest side of the network input in pixels; 0 takes the image's own size. With ``AUTO_LONG_SIDE``
            an adaptation finds it, and ``DEFAULT_LONG_SIDE`` serves until then.
        input_size: Network input (height, width) exactly, instead of ``long_side``.
        reliability_threshold: Reliability τ in 0..1 below which the temporal branch helps a pixel; 0 switches the
            temporal branch off.
        smoothing: Largest share in 0..1 of the previous probabilities, carried along by optical flow, in the new ones.
            A pixel takes less where the flow does not explain the image or the two contradict each other, all take
            less where little of the frame can be followed, and none takes any where the flow is inconsistent; 0
            switches smoothing off.
        restoration: Whether noise and darkness are taken out of the images before the network sees them, see
            :mod:`ditta_core.inference.restoration`. Images that are neither noisy nor dark stay as they are.
        max_fusion_gap: Seconds between two frames above which nothing is carried from the earlier to the later one.
            Below it, smoothing itself carries the less the less of the motion can be followed.
        exact: Whether logits are resized to the network input and to the frame before they are blended, as published.
            Off, they are blended at their own size, which differs at class borders only and is several times faster.
    """

    long_side: int = AUTO_LONG_SIDE
    input_size: tuple[int, int] | None = None
    reliability_threshold: float = 0.0
    smoothing: float = 0.93
    restoration: bool = True
    max_fusion_gap: float = 2.0
    exact: bool = False

    def __post_init__(self) -> None:
        for name in ("reliability_threshold", "smoothing"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"expected {name} in 0..1, but got {getattr(self, name)}")
        if self.long_side < 0 and self.long_side != AUTO_LONG_SIDE:
            raise ValueError(
                f"expected a longest side in pixels, 0 (the image's own) or {AUTO_LONG_SIDE} (found by the "
                f"adaptation), but got {self.long_side}"
            )

    @property
    def finds_input_size(self) -> bool:
        """Whether the adaptation finds the size of the network input."""
        return self.input_size is None and self.long_side == AUTO_LONG_SIDE

    @classmethod
    def parity(cls, **settings: Any) -> InferenceConfig:
        """The published inference, at one size of the network input, with ``settings`` of one's own."""
        published = cls(
            long_side=DEFAULT_LONG_SIDE,
            reliability_threshold=PUBLISHED_THRESHOLD,
            smoothing=0.0,
            restoration=False,
            exact=True,
        )
        return replace(published, **settings)


class Runtime(Enum):
    """What runs the network of a stream."""

    AUTO = "auto"
    """OpenVINO on a CPU where it is installed, else torch; torch.compile on a GPU."""
    TORCH = "torch"
    """Eager torch."""
    OPENVINO = "openvino"
    """OpenVINO; on a CPU alone."""
    COMPILE = "compile"
    """torch.compile."""


@dataclass(frozen=True)
class RuntimeConfig:
    """How the network that serves is run.

    Attributes:
        runtime: What runs the network.
        precision: Precision of the network's arithmetic: "float32", "bfloat16", or "auto" for bfloat16 where the
            hardware has it and the classes of eager torch come out of it, see
            :class:`~ditta_core.inference.agreement.Agreement`; else float32.
        wait: Whether the first frame of a size waits for the compiled network, so that all frames are answered by the
            same one, as an evaluation wants it; off, eager torch answers until then.
    """

    runtime: Runtime = Runtime.AUTO
    precision: str = "auto"
    wait: bool = False

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(f"expected a precision of {PRECISIONS}, but got {self.precision!r}")
