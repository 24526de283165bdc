"""The study of live DiTTA: its own parts taken away one by one, its rivals, two models, five conditions.

``make study`` runs it (hours on two cores; an interrupted run goes on where it stopped), writes every number to
``benchmarks/results/study.json`` and the tables to ``benchmarks/results/study.md``. The video and the Cityscapes
weights are found under ``$DITTA_SHARED`` or ``../shared``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from goals import ROOT
from notes import write_notes
from oracle import ORACLES, evaluate_oracles

from ditta_core.datasets.open import open_sequences
from ditta_core.evaluation.corruptions import Corruption
from ditta_core.evaluation.methods.base import MethodSetup
from ditta_core.evaluation.plan import EvaluationOptions
from ditta_core.segmentation.source import ModelSource

RESULTS = ROOT / "benchmarks" / "results"
MEASURES = ("miou", "vc8", "vc16")
RIVALS = ("source", "source_merged", "ema_smoothing", "bn_blend", "bn_blend_ema")
PARTS = ("ditta_no_restoration", "ditta_no_statistics", "ditta_no_distillation", "ditta_no_fusion")
ABLATIONS = ("ditta_parity", "ditta", *PARTS, "ditta_temporal_branch")
AT_HOME = ("source", "ditta_parity", "ditta", "ditta_no_distillation")
LENGTHS = ("source", "ema_smoothing", "bn_blend", "bn_blend_ema", "ditta_parity", "ditta", "ditta_no_distillation")
CHIEF = ("source", "bn_blend_ema", "ditta_parity", "ditta", "ditta_no_restoration", "ditta_no_distillation")
SEEDS = 2
CORRUPTIONS = ("fog:3", "low_light:3", "noise:3", "motion_blur:3")


@dataclass(frozen=True)
class Part:
    """One call of ``ditta evaluate``.

    Attributes:
        model: ``city`` (ESPNetv2, Cityscapes weights, classes of CamVid) or ``camvid``, the packaged one.
        repeats: seeds of the corruptions; nothing else here is random, ESPNetv2 having no dropout.
    """

    model: str
    methods: tuple[str, ...]
    ratios: tuple[int, ...] = (10,)
    conditions: tuple[str, ...] = ("clean",)
    repeats: int = 1

    @property
    def name(self) -> str:
        """Names its files."""
        ratios, conditions = "-".join(map(str, self.ratios)), "-".join(self.conditions).replace(":", "")
        return f"{self.model}_{ratios}_{conditions}" + ("_oracles" if self.of_oracles else "")

    @property
    def of_oracles(self) -> bool:
        """Whether its methods are oracles, of which ``ditta evaluate`` knows nothing."""
        return set(self.methods) <= set(ORACLES)

    def among(self, methods: Sequence[str]) -> tuple[str, ...]:
        """Its methods that are among these."""
        return tuple(method for method in self.methods if method in methods)

    def video(self, shared: Path) -> Path:
        """The labelled clip."""
        return shared / "data" / "camvid" / "clip_0016E5"

    def setup(self, shared: Path) -> MethodSetup:
        """Its model and the size of the network input (height, width)."""
        if self.model == "camvid":
            return MethodSetup(ModelSource("camvid"), input_size=(368, 480))
        weights = shared / "weights" / "espnetv2_s_2.0_city_1024x512.pth"
        return MethodSetup(ModelSource(f"espnetv2:{weights}", "camvid11"), input_size=(480, 640))

    def arguments(self, shared: Path, threads: int) -> list[str]:
        """Of ``ditta evaluate``."""
        setup = self.setup(shared)
        assert setup.input_size is not None
        height, width = setup.input_size
        classes = ["--classes", setup.source.classes] if setup.source.classes else []
        model = ["--model", setup.source.name, *classes, "--input-size", f"{width}x{height}"]
        return [
            *(str(self.video(shared)), "--format", "camvid", *model),
            *("--method", ",".join(self.methods), "--warmup-ratio", ",".join(map(str, self.ratios))),
            *("--corruption", ",".join(self.conditions), "--repeats", str(self.repeats), "--threads", str(threads)),
        ]


STUDY = (
    Part("city", (*RIVALS, *ABLATIONS)),
    Part("camvid", (*RIVALS, *ABLATIONS)),
    Part("city", CHIEF, conditions=CORRUPTIONS, repeats=SEEDS),
    Part("city", tuple(ORACLES), conditions=("clean", "low_light:3", "noise:3")),
    Part("city", tuple(ORACLES), conditions=("fog:3",), repeats=SEEDS),  # whose seeds differ much
    Part("city", LENGTHS, ratios=(25, 50)),
    Part("camvid", AT_HOME, conditions=CORRUPTIONS),
    Part("camvid", AT_HOME, ratios=(25, 50)),
    Part("camvid", tuple(ORACLES), ratios=(10, 25, 50)),
)


def run_oracles(part: Part, shared: Path, work: Path) -> dict[str, Any]:
    """Run a part of oracles, or go on with it."""
    options = EvaluationOptions(
        part.methods,
        part.setup(shared),
        part.ratios,
        repeats=part.repeats,
        corruptions=tuple(None if name == "clean" else Corruption.parse(name) for name in part.conditions),
    )
    (sequence,) = open_sequences(part.video(shared), "camvid")
    return evaluate_oracles(options, sequence, work / part.name)


def run(part: Part, shared: Path, workers: int, work: Path) -> dict[str, Any]:
    """Run a part, or go on with it; its results as ``ditta evaluate --json`` writes them."""
    if part.of_oracles:
        return run_oracles(part, shared, work)
    out = work / f"{part.name}.json"
    command = [sys.executable, "-m", "ditta_ros.cli", "evaluate", *part.arguments(shared, threads=1)]
    command += ["--work", str(work / part.name), "--json", str(out)]
    if workers > 1:
        command += ["--engine", "ray", "--workers", str(workers)]
    done = subprocess.run(command, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode not in (0, 1):  # 1: a method without one of its parts adapted nothing, which its row says
        raise SystemExit(done.returncode)
    return json.loads(out.read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def rows_of(part: Part, results: dict[str, Any]) -> list[dict[str, Any]]:
    """What is kept of a part: its rows without videos and confusion."""
    kept = ("method", "warmup_ratio", "corruption", "frames", "failed_adaptations", *MEASURES, "spread", "iou")
    return [
        {"model": part.model, "repeats": part.repeats, **{name: row[name] for name in kept}}
        for row in results["results"]
    ]


def condition_of(row: dict[str, Any]) -> str:
    """A row's condition, clean for none."""
    return row["corruption"] or "clean"


def cell(row: dict[str, Any] | None) -> str:
    """mIoU / VC8 of a row, ± the standard deviation over its seeds."""
    if row is None:
        return "–"
    texts = []
    for name in ("miou", "vc8"):
        spread = row["spread"][name] if row["spread"] else None
        texts.append(f"{row[name]:.1f}" + (f" ± {spread:.1f}" if spread is not None else ""))
    return " / ".join(texts)


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """One table per model and warm-up ratio, methods by conditions."""
    lines = ["mIoU / VC8 in percent, ± the standard deviation over the seeds where there are several.", ""]
    for model, ratio in unique((row["model"], row["warmup_ratio"]) for row in rows):
        chosen = [row for row in rows if (row["model"], row["warmup_ratio"]) == (model, ratio)]
        conditions = unique(map(condition_of, chosen))
        found = {(row["method"], condition_of(row)): row for row in chosen}
        lines += [
            f"## {model}, {ratio} % warm-up",
            "",
            f"| | {' | '.join(conditions)} |",
            "|---" * (len(conditions) + 1) + "|",
        ]
        for method in unique(row["method"] for row in chosen):
            cells = " | ".join(cell(found.get((method, condition))) for condition in conditions)
            lines.append(f"| `{method}` | {cells} |")
        lines += ["", *class_changes(found, conditions), ""]
    return "\n".join(lines)


def class_changes(found: dict[tuple[str, str], dict[str, Any]], conditions: Sequence[str]) -> list[str]:
    """Which classes that are there lose by DiTTA, against the source, per condition."""
    lines = []
    for condition in conditions:
        source, ours = found.get(("source", condition)), found.get(("ditta", condition))
        if source is None or ours is None:
            continue
        changes = {
            name: value - source["iou"][name]
            for name, value in ours["iou"].items()
            if value is not None and source["iou"][name] is not None
        }
        lost = ", ".join(f"{name} {change:+.1f}" for name, change in changes.items() if change < -2) or "none"
        lines.append(f"IoU lost by `ditta` against `source`, more than 2, {condition}: {lost}.")
    return [line for each in lines for line in (each, "")]


def unique(values: Iterable[Any]) -> list[Any]:
    """Each value once, in order."""
    return list(dict.fromkeys(values))


def main() -> None:
    """Run what is chosen, and write what is done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="NAME", help="parts whose name holds this; others stay as they are noted")
    parser.add_argument("--methods", metavar="A,B", help="of these parts; the rows of others stay as they are noted")
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "study", help="where finished trials wait")
    options = parser.parse_args()
    shared = Path(os.environ.get("DITTA_SHARED", ROOT.parent / "shared"))
    path = RESULTS / "study.json"
    for part in STUDY:
        methods = part.among(options.methods.split(",")) if options.methods else part.methods
        if not methods or (options.only and options.only not in part.name):
            continue
        options.work.mkdir(parents=True, exist_ok=True)
        results = run(replace(part, methods=methods), shared, options.workers, options.work)
        # Read only now, since parts may be run side by side.
        noted: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        before = noted.get(part.name, {"rows": []})["rows"]
        rows = [row for row in before if row["method"] in part.methods and row["method"] not in methods]
        rows += rows_of(part, results)
        rows.sort(key=lambda row: part.methods.index(row["method"]))
        noted[part.name] = {"part": asdict(part), "versions": results["versions"], "rows": rows}
        write_notes(path, noted)
        rows = [row for each in STUDY if each.name in noted for row in noted[each.name]["rows"]]
        (RESULTS / "study.md").write_text(markdown(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
