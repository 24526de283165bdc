"""Does it pay in other scenes? Methods on a fixed sample of cameras, rates, warm-ups and image faults.

    make study-scenes ARGS="--count 30"

Every cell is a video (:mod:`scenes`) that every method meets; an interrupted run goes on where it stopped. Written are
every number (``scene_study.json``) and how the differences between methods are spread (``scene_study.md``): mean, tenth
percentile, worst. On a drive the numbers are mIoU / VC8; on DAVIS the IoU of the object, and the share of its pixels
that is held over eight frames.
"""

from __future__ import annotations

import argparse
import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np
import torch
from goals import ROOT
from notes import read_notes, write_notes
from numpy.typing import NDArray
from scenes import CITY_MODELS, Cell, frames_of, model_source, object_ids, sample
from torch import Tensor

from ditta_core.evaluation.methods.base import MethodSetup
from ditta_core.evaluation.methods.registry import build_method
from ditta_core.evaluation.metrics import ConfusionMatrix, VideoConsistency
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.segmentation.edgenet import EdgeNet
from ditta_core.segmentation.registry import load_model
from ditta_core.types import UNLABELLED, Frame

RESULTS = ROOT / "benchmarks" / "results"
METHODS = ("source", "bn_blend_ema", "ditta_no_distillation", "ditta")
SEED = 7
LONG_SIDE = 480


@contextmanager
def cached_features() -> Iterator[None]:
    """Encoder features of a frame are computed once for all methods whose encoders are alike."""
    known: dict[tuple[bytes, bytes], tuple[Tensor, ...]] = {}
    encode = EdgeNet.encode

    def cached(self: EdgeNet, pixels: Tensor) -> tuple[Tensor, ...]:
        # Whoever hooks a layer wants to see what it is given.
        watched = any(
            each.training or each._forward_hooks or each._forward_pre_hooks for each in self.encoder.modules()
        )
        if len(pixels) != 1 or torch.is_grad_enabled() or watched:
            return encode(self, pixels)
        weights = hashlib.sha256()
        for value in self.encoder.state_dict().values():
            weights.update(value.numpy().tobytes())
        key = pixels.contiguous().numpy().tobytes(), weights.digest()
        if key not in known:
            known[key] = tuple(features.clone() for features in encode(self, pixels))
        return tuple(features.clone() for features in known[key])

    with mock.patch.object(EdgeNet, "encode", cached):
        yield


def measure(
    method: str, cell: Cell, setup: MethodSetup, model: SegmentationModel, video: tuple[list[Frame], list[Any]]
) -> dict[str, Any]:
    """One method on one cell: its two scores in percent, and why no training serves, where none does."""
    frames, truths = video
    ids = object_ids(cell, model.classes.names) if cell.has_objects else None
    segmenter, report = build_method(method, setup, model), None
    if segmenter.uses_warmup:
        report = segmenter.prepare(frames[: cell.warmup])
    confusion = ConfusionMatrix(2 if ids is not None else len(model.classes))
    consistency = VideoConsistency((8,))
    for frame, truth in zip(frames[cell.warmup :], truths[cell.warmup :], strict=True):
        mask: NDArray[Any] = segmenter.observe(frame).class_ids
        if ids is not None:
            mask = np.isin(mask, ids).astype(np.uint8)
        confusion.update(truth, mask)
        consistency.update(np.where(truth == 1, 1, UNLABELLED) if ids is not None else truth, mask)
    first = confusion.iou()[1] if ids is not None else confusion.mean_iou()
    second = consistency.correct(8) if ids is not None else consistency.score(8)
    scores = [None if np.isnan(score) else round(100 * float(score), 3) for score in (first, second)]
    return {
        "scores": scores,
        "refused": "" if report is None else report.refused or ("" if report.succeeded else report.reason),
    }


def differences(rows: dict[str, Any], method: str, other: str) -> tuple[list[float], list[float]]:
    """What a method has more than another, in each cell that both were measured in."""
    gains: tuple[list[float], list[float]] = ([], [])
    for row in rows.values():
        if method in row["methods"] and other in row["methods"]:
            pairs = zip(row["methods"][method]["scores"], row["methods"][other]["scores"], gains, strict=True)
            for ours, theirs, kept in pairs:
                if ours is not None and theirs is not None:
                    kept.append(ours - theirs)
    return gains


def markdown(rows: dict[str, Any], methods: Sequence[str]) -> str:
    """How the differences are spread, and every cell."""
    lines = [
        f"{len(rows)} cells at {LONG_SIDE} pixels; mIoU or the object's IoU / VC8 or share of the object that is held.",
        "",
        "| | against | cells | mean | tenth percentile | worst | steadiness: mean | tenth percentile | worst |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for number, method in enumerate(methods):
        for other in methods[:number]:
            gains = differences(rows, method, other)
            texts = [
                f"{value:+.2f}"
                for kept in gains
                for value in ((np.mean(kept), np.percentile(kept, 10), min(kept)) if kept else (np.nan,) * 3)
            ]
            lines.append(f"| `{method}` | `{other}` | {len(gains[0])} | {' | '.join(texts)} |")
    lines += ["", f"| cell | {' | '.join(f'`{method}`' for method in methods)} |", "|---" * (len(methods) + 1) + "|"]
    for key, row in rows.items():
        found = [row["methods"].get(method, {"scores": [None, None]}) for method in methods]
        cells = [" / ".join("–" if score is None else f"{score:.1f}" for score in each["scores"]) for each in found]
        marks = ["*" if each.get("refused") else "" for each in found]
        lines.append(f"| {key} | {' | '.join(cell + mark for cell, mark in zip(cells, marks, strict=True))} |")
    return "\n".join([*lines, "", "\\* nothing was trained, or it was refused.", ""])


def main() -> None:
    """Measure what is not noted yet, and write what is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=300, help="number of cells (default: 300)")
    parser.add_argument("--methods", default=",".join(METHODS), metavar="A,B")
    parser.add_argument("--city", choices=CITY_MODELS, default="city", help="the model with Cityscapes weights")
    parser.add_argument("--fresh", action="store_true", help="measure everything anew")
    parser.add_argument(
        "--part", type=int, nargs=2, default=(0, 1), metavar=("I", "N"), help="every N-th cell, from I on"
    )
    parser.add_argument("--out", type=Path, default=RESULTS / "scene_study.json")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(options.threads)
    shared = Path(os.environ.get("DITTA_SHARED", ROOT.parent / "shared"))
    methods = options.methods.split(",")
    path = options.out
    noted = read_notes(path, options.fresh)
    first, step = options.part
    for cell in sample(options.count, SEED, options.city)[first::step]:
        row = noted.setdefault(cell.key, {"cell": asdict(cell), "methods": {}})
        missing = [method for method in methods if method not in row["methods"]]
        if not missing:
            continue
        source = model_source(cell, shared)
        model, video = load_model(source), frames_of(cell, shared)
        with cached_features():
            for method in missing:
                row["methods"][method] = measure(method, cell, MethodSetup(source, long_side=LONG_SIDE), model, video)
        write_notes(path, noted)
        path.with_suffix(".md").write_text(markdown(noted, methods), encoding="utf-8")
        print(cell.key, {method: row["methods"][method]["scores"] for method in methods}, flush=True)


if __name__ == "__main__":
    main()
