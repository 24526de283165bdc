"""Accuracy against time for sizes of the network input: frame by frame, without training, and the whole method.

``python benchmarks/sizes.py`` measures the labelled clip under ``$DITTA_SHARED`` or ``../shared`` with the packaged
model and Cityscapes weights, writes ``benchmarks/results/sizes.json``, and draws it as ``docs/sizes.png``.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import torch
from goals import ROOT
from notes import write_notes

from ditta_core.adaptation.input_size import LONG_SIDES
from ditta_core.datasets.base import VideoSequence
from ditta_core.datasets.open import open_sequences
from ditta_core.evaluation.input_sizes import InputSizes
from ditta_core.evaluation.methods.base import MethodSetup
from ditta_core.evaluation.plan import EvaluationOptions, plan
from ditta_core.evaluation.scores import Scores
from ditta_core.evaluation.trial import run_trial
from ditta_core.inference.compiled_network import Compiler
from ditta_core.inference.config import AUTO_LONG_SIDE, InferenceConfig, RuntimeConfig
from ditta_core.inference.frame_segmenter import FrameSegmenter
from ditta_core.inference.temporal_branch import TemporalSegmenter
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.segmentation.registry import load_model
from ditta_core.segmentation.source import ModelSource

RESULTS = ROOT / "benchmarks" / "results" / "sizes.json"
FIGURE = ROOT / "docs" / "sizes.png"
METHODS = ("source", "ditta_no_distillation", "ditta")
TITLES = {"source": "frame by frame", "ditta_no_distillation": "without training", "ditta": "DiTTA"}
TIMED_FRAMES = 12
"""Frames that are timed, after as many that are not."""


def sources(shared: Path) -> dict[str, ModelSource]:
    """The models, by their names in the figure."""
    weights = shared / "weights" / "espnetv2_s_2.0_city_1024x512.pth"
    return {"packaged": ModelSource(), "Cityscapes": ModelSource(f"espnetv2:{weights}", "camvid11")}


def milliseconds(model: SegmentationModel, video: VideoSequence, long_side: int, smoothing: bool) -> float:
    """Time of one core for a frame as the node runs it, the network compiled where that is possible.

    The least of several, and of the process: other programs do not count.
    """
    compiler = Compiler(RuntimeConfig(wait=True))
    config = InferenceConfig() if smoothing else InferenceConfig(smoothing=0.0)
    stream = FrameSegmenter(TemporalSegmenter(model), config, temporal_branch=False, compiler=compiler)
    seconds = []
    for frame in (video.frame(index) for index in range(2 * TIMED_FRAMES)):
        input_size = model.input_size(frame.size, long_side)
        start = time.process_time()
        stream.segment(frame, input_size, 0)
        seconds.append(time.process_time() - start)
    compiler.close()
    return 1e3 * min(seconds[TIMED_FRAMES:])


def measure(name: str, source: ModelSource, video: VideoSequence, sides: tuple[int, ...]) -> list[dict[str, Any]]:
    """A row for each method at each size, and those at the size that is found."""
    model, rows, sizes = load_model(source), [], InputSizes()
    for side in (AUTO_LONG_SIDE, *sides):
        options = EvaluationOptions(METHODS, MethodSetup(source, long_side=side))
        for planned in plan(options, [video]):
            ((given, _),) = planned.trials[0]
            trial = sizes.settle(given, model)
            record = run_trial(trial, model)
            scores, found = Scores.of(record.measurements), trial.setup.long_side
            row = {
                "model": name,
                "method": trial.method,
                "long_side": found,
                "found": side == AUTO_LONG_SIDE,
                "agreement": record.size_agreement,
                "miou": scores.miou,
                "vc8": scores.vc8,
                "ms": milliseconds(model, video, found, smoothing=trial.method != "source"),
                "adaptation_seconds": None if record.report is None else record.report.seconds,
            }
            rows.append(row)
            print(row, flush=True)
    return rows


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """mIoU over milliseconds: a line for each method, a panel for each model, a ring around the size that is found."""
    from matplotlib.figure import Figure

    models = list(dict.fromkeys(row["model"] for row in rows))
    figure = Figure(figsize=(5 * len(models), 4), layout="constrained")
    for axes, model in zip(figure.subplots(1, len(models), squeeze=False)[0], models, strict=True):
        for method in METHODS:
            chosen = [row for row in rows if (row["model"], row["method"]) == (model, method)]
            given = sorted({row["long_side"]: row for row in chosen}.values(), key=lambda row: row["long_side"])
            (line,) = axes.plot(
                [row["ms"] for row in given], [row["miou"] for row in given], "o-", label=TITLES[method]
            )
            for row in chosen:
                if row["found"]:
                    axes.plot(row["ms"], row["miou"], "o", ms=13, mfc="none", color=line.get_color())
            if method == METHODS[-1]:
                for row in given:
                    axes.annotate(str(row["long_side"]), (row["ms"], row["miou"]), (0, 8), textcoords="offset points")
        axes.set(title=model, xlabel="ms a frame, one core", ylabel="mIoU, %")
        axes.grid(alpha=0.3)
        axes.margins(0.08)  # the numbers above the points stay inside
    figure.axes[0].legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure, write, draw; or draw what was written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", metavar="A,B", help="longest sides in pixels (default: all that are compared)")
    parser.add_argument("--only", metavar="MODEL", help="one of the models; the rows of others stay as they are noted")
    parser.add_argument("--draw", action="store_true", help="draw what is noted, and measure nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    shared = Path(os.environ.get("DITTA_SHARED", ROOT.parent / "shared"))
    sides = tuple(map(int, options.sides.split(","))) if options.sides else LONG_SIDES
    (video,) = open_sequences(shared / "data" / "camvid" / "clip_0016E5", "camvid")
    for name, source in sources(shared).items():
        if options.draw or (options.only and options.only != name):
            continue
        measured = measure(name, source, video, sides)
        # Read only now, since models may be measured side by side.
        noted = json.loads(RESULTS.read_text(encoding="utf-8"))["rows"] if RESULTS.exists() else []
        write_notes(RESULTS, {"rows": [row for row in noted if row["model"] != name] + measured})
    draw(json.loads(RESULTS.read_text(encoding="utf-8"))["rows"], FIGURE)


if __name__ == "__main__":
    main()
