"""What an evaluation compares, and the trials that it takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from ditta_core.adaptation.config import LARGEST_SEED, warmup_length
from ditta_core.datasets.base import VideoSequence
from ditta_core.evaluation.corruptions import Corruption
from ditta_core.evaluation.measurement import WINDOWS, GroundTruth
from ditta_core.evaluation.methods.base import MethodSetup
from ditta_core.evaluation.methods.registry import METHODS
from ditta_core.evaluation.trial import Trial
from ditta_core.segmentation.base import SegmentationModel


@dataclass(frozen=True)
class EvaluationOptions:
    """What is compared.

    Attributes:
        methods: Names of the methods.
        setup: Settings that the methods are built from; its seed is that of the first repeat.
        warmup_ratios: Lengths of the warm-up in percent of each video's frames.
        whole_video: Whether all frames are measured, the unadapted method serving those of the warm-up, instead of the
            rest alone.
        corruptions: Corruptions of the videos; None for the clean ones.
        repeats: Number of runs with successive seeds.
        windows: Lengths of the windows of video consistency that every evaluation must be able to fill.
        threads: Number of threads of torch in each process; the last digits of a result depend on it.
    """

    methods: tuple[str, ...]
    setup: MethodSetup = field(default_factory=MethodSetup)
    warmup_ratios: tuple[int, ...] = (10,)
    whole_video: bool = False
    corruptions: tuple[Corruption | None, ...] = (None,)
    repeats: int = 1
    windows: tuple[int, ...] = WINDOWS
    threads: int = 1

    def __post_init__(self) -> None:
        for name in ("methods", "warmup_ratios", "corruptions"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                found = [str(each or "clean") for each in values]
                raise ValueError(f"expected {name.replace('_', ' ')}, each once, but got {found}")
        wrong = [ratio for ratio in self.warmup_ratios if not 1 <= ratio <= 99]
        if wrong:
            raise ValueError(f"expected warm-up ratios of 1 to 99 %, which leave frames to measure, but got {wrong}")
        if self.repeats < 1 or self.threads < 1:
            raise ValueError(f"expected repeats and threads of at least 1, but got {self.repeats} and {self.threads}")
        if not 0 <= self.setup.seed <= LARGEST_SEED - (self.repeats - 1):
            raise ValueError(
                f"expected seeds of 0 to {LARGEST_SEED}, successive ones for the repeats, but got {self.setup.seed} "
                f"for the first of {self.repeats}"
            )
        if not set(self.windows) <= set(WINDOWS):
            raise ValueError(f"expected windows of {WINDOWS} frames, but got {self.windows}")

    def first_measured(self, frames: int, ratio: int | None) -> int:
        """Index of the first measured frame of a video of so many frames."""
        return 0 if self.whole_video or ratio is None else warmup_length(frames, ratio)


@dataclass(frozen=True)
class PlannedResult:
    """One row of the table to come.

    Attributes:
        method, warmup_ratio, corruption: Same as in :class:`~ditta_core.evaluation.scores.MethodResult`.
        trials: Trials by repeat, one per video, each with the beginning of the measured frames.
    """

    method: str
    warmup_ratio: int | None
    corruption: Corruption | None
    trials: tuple[tuple[tuple[Trial, int], ...], ...]


def plan(
    options: EvaluationOptions,
    sequences: Sequence[VideoSequence],
    uses_warmup: Callable[[str], bool] = lambda name: METHODS[name].uses_warmup,
) -> list[PlannedResult]:
    """Which trials make which row; a method without a warm-up runs once over a video, whatever the ratios."""
    ratios: tuple[int | None, ...] = options.warmup_ratios
    if options.whole_video and not any(map(uses_warmup, options.methods)):
        ratios = (None,)

    def trial(
        sequence: VideoSequence, method: str, ratio: int | None, corruption: Corruption | None, repeat: int
    ) -> tuple[Trial, int]:
        frames, warms = len(sequence), uses_warmup(method)
        first = options.first_measured(frames, ratio)
        firsts = {first} if warms else {options.first_measured(frames, each) for each in options.warmup_ratios}
        warmup = warmup_length(frames, ratio) if warms and ratio is not None else 0
        setup = replace(options.setup, seed=options.setup.seed + repeat)
        sizing = warmup_length(frames, min(options.warmup_ratios))
        return Trial(sequence, method, setup, warmup, tuple(sorted(firsts)), corruption, setup.seed, sizing), first

    return [
        PlannedResult(
            method,
            ratio,
            corruption,
            tuple(
                tuple(trial(sequence, method, ratio, corruption, repeat) for sequence in sequences)
                for repeat in range(options.repeats)
            ),
        )
        for corruption in options.corruptions
        for ratio in ratios
        for method in options.methods
    ]


def check_sequences(options: EvaluationOptions, sequences: Sequence[VideoSequence], model: SegmentationModel) -> None:
    """Find out before hours of work what would make it worthless.

    Raises:
        ValueError: there is no video, two have the same name, one has no frame to measure, its labels and the model
            have no classes in common, no video is long enough for a window of video consistency, or the model does
            not take the network input of the setup.
    """
    if options.setup.input_size is not None:
        model.check_input_size(options.setup.input_size)
    names = [sequence.name for sequence in sequences]
    if not sequences or len(set(names)) < len(names):
        raise ValueError(f"expected videos with a name each, but got {names}")
    for sequence in sequences:
        needed = 1 if options.whole_video else 2
        if len(sequence) < needed:
            raise ValueError(
                f"expected at least {needed} frames in {sequence.name}, one of them to measure, but got {len(sequence)}"
            )
        GroundTruth(sequence, model.classes)
    lengths = [len(sequence) for sequence in sequences if sequence.classes is not None]
    for ratio in options.warmup_ratios if lengths else ():
        longest = max(frames - options.first_measured(frames, ratio) for frames in lengths)
        for window in options.windows:
            if longest <= window:
                raise ValueError(
                    f"expected a video with more than {window} measured frames for a window of video consistency, but "
                    f"got at most {longest} at a warm-up ratio of {ratio} %; leave VC{window} out with --vc-windows"
                )
