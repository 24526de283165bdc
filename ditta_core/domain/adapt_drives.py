"""From drives and the name of a model to a file that any part of the package loads as a model."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ditta_core.adaptation.batchnorm import chained_share
from ditta_core.adaptation.guard import shows_something
from ditta_core.adaptation.input_size import find_long_side
from ditta_core.datasets.base import VideoSequence
from ditta_core.datasets.paths import expanded
from ditta_core.domain.config import OfflineConfig
from ditta_core.domain.driver import OfflineProgress, OfflineReport, adapt_offline
from ditta_core.domain.frames import DriveFrames
from ditta_core.domain.processes import joined_group
from ditta_core.domain.reading import DrivesError, read_drives
from ditta_core.domain.recipes.registry import RECIPES
from ditta_core.inference.config import DEFAULT_LONG_SIDE
from ditta_core.segmentation.adapted import (
    KIND,
    AdaptedModel,
    load_adapted,
    put_tensors,
    save_adapted,
    weights_fingerprint,
)
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.segmentation.registry import load_model
from ditta_core.segmentation.source import ModelSource
from ditta_core.versions import software_versions

SIZE_FRAMES = 3
"""Frames, spread evenly over the drives, that the size of the stronger view is found on."""


@dataclass(frozen=True)
class DrivesJob:
    """What is to be adapted, and how.

    Attributes:
        model: Base model; ``adapted:FILE`` goes on from a model that was adapted before.
        method: Name of the recipe.
        config: Settings of the driver.
        input_size: Network input (height, width) that the model will serve at; None for ``long_side``.
        long_side: Longest side of it in pixels; 0 for the images' own.
        restoration: Whether noise and darkness are taken out of the images first, as the node does where it is not told
            otherwise: a model learns what it will serve on.
    """

    model: ModelSource
    method: str = "ur"
    config: OfflineConfig = field(default_factory=OfflineConfig)
    input_size: tuple[int, int] | None = None
    long_side: int = DEFAULT_LONG_SIDE
    restoration: bool = True


@dataclass(frozen=True)
class AdaptedDrives:
    """What came of it.

    Attributes:
        report: Report of the driver.
        before, after: The base model and the adapted one, in evaluation mode.
        drive: The frames that were learned from; those that were kept out are in it.
        label_size: Network input (height, width) that pseudo-labels came from.
        first: Whether this process is the one that writes files.
    """

    report: OfflineReport
    before: SegmentationModel
    after: SegmentationModel
    drive: DriveFrames
    label_size: tuple[int, int]
    first: bool


def adapt_to_drives(
    job: DrivesJob,
    drives: Sequence[VideoSequence],
    out: Path,
    source: Sequence[VideoSequence] = (),
    state_file: Path | None = None,
    reading: Callable[[int, int], None] = lambda done, of: None,
    progress: Callable[[OfflineProgress], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> AdaptedDrives:
    """Adapt a model to drives, and write what differs to ``out``.

    Args:
        drives: unlabelled drives of one camera, at least one.
        source: labelled drives, for recipes that need them.
        state_file: see :func:`~ditta_core.domain.driver.adapt_offline`.
        reading: told how many of how many frames were read.

    Raises:
        ValueError: there is no such recipe, the model cannot be loaded, or the drives or the size do not do.
        FileNotFoundError: a weight or class file is not there.
        OSError: the file cannot be written.
        AdaptationFailed: what :func:`~ditta_core.domain.driver.adapt_offline` raises.
    """
    recipe = RECIPES.get(job.method)
    if recipe is None:
        raise ValueError(f"expected one of the methods {list(RECIPES)}, but got {job.method!r}")
    if not drives or not any(len(drive) for drive in drives):
        raise DrivesError("expected drives with frames, but got none; name a bag, a folder of images or a video")
    if recipe.needs_source and not source:
        raise ValueError(
            f"expected labelled drives for {job.method}, but got none; give --source, or take another method"
        )
    if source and not recipe.needs_source:
        takers = [name for name, each in RECIPES.items() if each.needs_source]
        raise ValueError(
            f"expected no labelled drives for {job.method}, which learns from none, but got {len(source)}; leave out "
            f"--source, or take one of {takers}"
        )
    if job.config.published and not recipe.published_faults:
        takers = [name for name, each in RECIPES.items() if each.published_faults]
        raise ValueError(
            f"expected a method whose published code has faults that are mended here, for --published, but got "
            f"{job.method}; leave it out, or take one of {takers}"
        )
    with joined_group(job.config.batch) as processes:
        if processes.size > 1 and job.model.device == "cuda":  # a GPU for each process of a machine
            job = replace(job, model=replace(job.model, device=f"cuda:{os.environ.get('LOCAL_RANK', '0')}"))
        model = load_model(job.model)
        first = next(drive for drive in drives if len(drive)).image(0)
        image_size = first.shape[0], first.shape[1]
        input_size = job.input_size or model.input_size(image_size, job.long_side)
        model.check_input_size(input_size)
        stored = None
        if job.config.stronger_view or recipe.stronger_view:
            stored = _stronger_size(model, drives, image_size, input_size)
        drive = read_drives(
            drives, input_size, job.config.most_frames, stored, restored=job.restoration, progress=reading
        )
        labelled = None
        if source:
            labelled = read_drives(source, input_size, job.config.most_frames, classes=model.classes, progress=reading)
        result = adapt_offline(model, recipe, drive, job.config, labelled, state_file, progress, cancelled)
        earlier = load_adapted(job.model.name.partition(":")[2]) if job.model.name.startswith(f"{KIND}:") else None
        details: dict[str, Any] = {
            "method": job.method,
            "reason": result.report.reason,
            "drives": [drive.name for drive in drives],
            "frames": result.report.frames,
            "steps": result.report.steps,
            "input_size": list(input_size),
            "config": asdict(job.config),
            "versions": software_versions(),
        }
        adapted = AdaptedModel(
            base=_absolute(job.model.name) if earlier is None else earlier.base,
            fingerprint=weights_fingerprint(model) if earlier is None else earlier.fingerprint,
            tensors=result.tensors if earlier is None else {**earlier.tensors, **result.tensors},
            statistics_share=chained_share(model.statistics_share, result.report.statistics_share),
            classes=model.classes.names,
            details=details,
        )
        if processes.first:
            save_adapted(out, adapted)
            if state_file is not None:
                state_file.unlink(missing_ok=True)
        after = load_model(job.model)
        put_tensors(after, result.tensors)
        return AdaptedDrives(result.report, model, after, drive, stored or input_size, processes.first)


def _absolute(name: str) -> str:
    """The name of a model with the path in it made absolute, so that the file can be used from anywhere."""
    kind, _, argument = name.partition(":")
    path = expanded(argument)
    return f"{kind}:{path.absolute()}" if argument and path.exists() else name


def _stronger_size(
    model: SegmentationModel,
    drives: Sequence[VideoSequence],
    image_size: tuple[int, int],
    input_size: tuple[int, int],
) -> tuple[int, int] | None:
    """The network input that the sizes agree on most, on a few frames; None where that is no larger than the other."""
    places = [(drive, index) for drive in drives for index in range(len(drive))]
    images: list[NDArray[np.uint8]] = []
    for place in np.unique(np.linspace(0, len(places) - 1, 3 * SIZE_FRAMES).round().astype(int)):
        drive, index = places[place]
        image = drive.image(index)
        if image.shape[:2] == image_size and shows_something(image) and len(images) < SIZE_FRAMES:
            images.append(image)
    choice = find_long_side(model, np.stack(images)) if images else None
    if choice is None:
        return None
    found = model.input_size(image_size, choice.long_side)
    return found if found > input_size else None
