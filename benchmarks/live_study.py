"""What are recorded drives worth to a robot that adapts live as well? `ditta adapt`, then DiTTA on top of it.

    python benchmarks/live_study.py

Cityscapes weights of ESPNetv2, adapted to CamVid's training drives at 1 Hz without their labels, in the weather that is
met later (another seed), as `ditta adapt` does it; then `ditta evaluate` on ``clip_0016E5`` at 640×480, as the study of
live DiTTA takes its figures. ``all`` drives have 0016E5 among them, whose streets are those of the clip; ``others`` are
those without. Nothing is chosen on the clip. An interrupted run goes on where it stopped. Written are every number and
the table (``live_study.json``, ``.md``).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import torch
from goals import ROOT
from notes import write_notes
from recorded_drives import drive_of
from scenes import DRIVES, Cell, model_source
from study import MEASURES, SEEDS

from ditta_core.domain.adapt_drives import DrivesJob, adapt_to_drives
from ditta_core.domain.config import OfflineConfig

RESULTS = ROOT / "benchmarks" / "results"
INPUT_SIZE = (480, 640)
"""Height and width of the network input, in the training and live."""
IMAGES = ("clean", "fog:3", "low_light:3", "noise:3")
LEARNED_FROM: Mapping[str, tuple[str, ...]] = {"all": DRIVES, "others": ("0001TP", "0006R0")}
METHODS = ("ditta_no_distillation", "ditta")


def adapt(shared: Path, image: str, drives: str, options: argparse.Namespace, out: Path) -> dict[str, Any]:
    """Adapt to drives in one weather, as the command does it; what the driver reported."""
    config = OfflineConfig(steps=options.steps, most_frames=options.frames, stronger_view=options.stronger_view)
    job = DrivesJob(model_source(Cell("city", "", 0, 1, 10, image), shared), options.method, config, INPUT_SIZE)
    begin = time.monotonic()
    targets = [drive_of(shared, name, image) for name in LEARNED_FROM[drives]]
    done = adapt_to_drives(job, targets, out, state_file=out.with_suffix(".training"))
    report = done.report
    return {
        "steps": report.steps,
        "frames": report.frames,
        "seconds": time.monotonic() - begin,
        "label_size": done.label_size,
        "statistics_share": report.statistics_share,
        "labelled": report.labelled,
        "contradicted": report.contradicted,
        "entropy_ratio": report.entropy_ratio,
        "refused": report.refused,
    }


def evaluate(shared: Path, image: str, adapted: Path) -> dict[str, dict[str, Any]]:
    """Live DiTTA on the clip, by the adapted model; by name of the method."""
    out, work = adapted.with_suffix(".json"), adapted.with_suffix(".trials")
    command = [
        *(sys.executable, "-m", "ditta_ros.cli", "evaluate", str(shared / "data" / "camvid" / "clip_0016E5")),
        *("--format", "camvid", "--model", f"adapted:{adapted}", "--classes", "camvid11", "--threads", "1"),
        *("--input-size", f"{INPUT_SIZE[1]}x{INPUT_SIZE[0]}", "--method", ",".join(METHODS), "--warmup-ratio", "10"),
        *("--corruption", image, "--repeats", str(1 if image == "clean" else SEEDS)),
        *("--work", str(work), "--json", str(out)),
    ]
    done = subprocess.run(command, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        raise SystemExit(done.returncode)
    rows = json.loads(out.read_text(encoding="utf-8"))["results"]
    return {row["method"]: {name: row[name] for name in (*MEASURES, "spread")} for row in rows}


def alone(image: str) -> dict[str, dict[str, Any]]:
    """The same rows without drives, as the study of live DiTTA has them at that time."""
    parts = json.loads((RESULTS / "study.json").read_text(encoding="utf-8"))
    return {
        row["method"]: {name: row[name] for name in MEASURES}
        for part in parts.values()
        for row in part["rows"]
        if row["method"] in ("source", *METHODS)
        and row["model"] == "city"
        and row["warmup_ratio"] == 10
        and (row["corruption"] or "clean") == image
    }


def won_back(score: float, image: str) -> float:
    """Share of what the weather took from the unadapted model, frame by frame, that a score wins back."""
    clean, hurt = alone("clean")["source"]["miou"], alone(image)["source"]["miou"]
    return float((score - hurt) / (clean - hurt))


def markdown(noted: Mapping[str, Any]) -> str:
    """The table: mIoU / VC8, and the share of what the weather took that is won back."""
    images = [image for image in IMAGES if any(key.startswith(f"{image} ") for key in noted)]
    lines = [
        "The number in a row's name is that of the steps. mIoU / VC8 in percent.",
        "In brackets: the share of what the weather took from the frame-by-frame mIoU of the "
        "unadapted model that is won back.",
        "",
        f"| drives | | {' | '.join(images)} |",
        "|---" * (len(images) + 2) + "|",
    ]
    found: dict[tuple[str, str], dict[str, Any]] = {("none", method): {} for method in ("source", *METHODS)}
    for key, row in noted.items():
        image, _, drives = key.partition(" ")
        for method, score in row["alone"].items():
            found["none", method][image] = score
        for method, score in row["scores"].items():
            found.setdefault((drives, method), {})[image] = score
    for (drives, method), scores in found.items():
        cells = []
        for image in images:
            score = scores.get(image)
            text = "–" if score is None else f"{score['miou']:.1f} / {score['vc8']:.1f}"
            if score is not None and image != "clean":
                text += f" ({100 * won_back(score['miou'], image):.0f} %)"
            cells.append(text)
        lines.append(f"| {drives} | `{method}` | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure what is not noted yet, and write what is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--frames", type=int, default=300, help="largest number that is learned from")
    parser.add_argument("--method", default="ur")
    parser.add_argument("--stronger-view", action="store_true")
    parser.add_argument("--images", default=",".join(IMAGES), metavar="A,B")
    parser.add_argument("--drives", default=",".join(LEARNED_FROM), metavar="A,B")
    parser.add_argument("--out", type=Path, default=RESULTS / "live_study.json")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "live_study", help="where models and trials wait")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    shared = Path(os.environ.get("DITTA_SHARED", ROOT.parent / "shared"))
    options.work.mkdir(parents=True, exist_ok=True)
    for drives in options.drives.split(","):
        for image in options.images.split(","):
            noted: dict[str, Any] = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {}
            view = "+stronger_view" if options.stronger_view else ""
            key = f"{image} {drives} {options.method}{view} {options.steps}"
            if key in noted:
                continue
            adapted = options.work / f"{key.replace(' ', '_').replace(':', '')}.safetensors"
            report = adapt(shared, image, drives, options, adapted)
            noted[key] = {"training": report, "scores": evaluate(shared, image, adapted), "alone": alone(image)}
            write_notes(options.out, noted)
            options.out.with_suffix(".md").write_text(markdown(noted), encoding="utf-8")
            print(key, noted[key], flush=True)


if __name__ == "__main__":
    main()
