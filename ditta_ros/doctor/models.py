"""Can the model, the teacher and the classes be loaded, and can states be kept? This imports torch."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from ditta_core.catalog.available import available, sam2_problem, torchvision_problem, transformers_problem
from ditta_core.catalog.checkpoints import identify, segment_noise
from ditta_core.classes import ClassList, ClassMap
from ditta_core.inference.temporal_branch import TemporalSegmenter
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.segmentation.registry import load_model
from ditta_core.segmentation.source import ModelSource
from ditta_core.stream.generation_file import model_fingerprint
from ditta_core.teacher.build import check_teacher
from ditta_core.teacher.config import TeacherConfig
from ditta_ros.camera.state_folder import StateFolder
from ditta_ros.doctor.environment import why_not_writable
from ditta_ros.doctor.findings import Finding, Level, error, first_line, ok, warning

LIST = "ditta models lists what can be loaded here, ditta models check PATH tries a checkpoint"

MOST_GENERATIONS = 100
"""Saved generations that are looked at, for each camera."""

LOADING_ERRORS = (ValueError, OSError, ImportError, RuntimeError)


def check_packages() -> Iterable[Finding]:
    """The packages that some models and teachers need."""
    torchvision = torchvision_problem()
    if torchvision is not None:
        finding = f"{torchvision.reason}: its mere presence breaks transformers and sam2"
        yield error("torchvision", finding, torchvision.command)
    for name, gives, problem in (
        ("transformers", "models hf: and ditta:, teacher object_vote:sam2_transformers", transformers_problem()),
        ("sam2", "teacher object_vote:sam2", sam2_problem()),
    ):
        if problem is None:
            yield ok(name, gives)
        elif problem != torchvision:
            yield ok(name, f"{problem.reason}; it gives: {gives}", problem.command)


def check_model(source: ModelSource) -> tuple[SegmentationModel | None, list[Finding]]:
    """Load the model, segment a frame of noise, and match the classes.

    Returns:
        The model as the node would have it, None where it cannot; and what was found.
    """
    try:
        model = load_model(replace(source, classes=""))
        trial = segment_noise(model, source.name)
    except LOADING_ERRORS as problem:
        return None, [error("model", first_line(problem), LIST)]
    height, width = trial.input_size
    text = (
        f"{source.name} on {source.device}: {len(trial.outputs)} classes, one frame of {width}×{height} in "
        f"{trial.milliseconds:.0f} ms"
    )
    classes = check_classes(source.classes, model)
    return None if classes.level is Level.ERROR else model, [ok("model", text), classes]


def check_classes(classes: str, model: SegmentationModel) -> Finding:
    """Match the classes that are to be published with those of the model, and let it publish them."""
    if not classes:
        return ok("classes", f"the model's own: {', '.join(model.outputs.names)}")
    try:
        mapping = ClassMap.between(model.outputs, ClassList.parse(classes))
    except LOADING_ERRORS as problem:
        return error("classes", first_line(problem), f"take names of the model's: {', '.join(model.outputs.names)}")
    model.set_classes(mapping)
    misspelt = mapping.likely_misspelt()
    if misspelt:
        pairs = ", ".join(f"{member!r} (perhaps {output!r})" for member, output in misspelt.items())
        return warning("classes", f"no outputs of the model: {pairs}", "mend the names in the parameter classes")
    return ok("classes", ", ".join(mapping.classes.names))


def check_teacher_config(config: TeacherConfig) -> Finding:
    """Whether the teacher can be built, as far as that shows without building it."""
    name = "teacher"
    try:
        check_teacher(config)
        path = Path(config.checkpoint)
        if config.checkpoint and path.exists():
            checkpoint = identify(path)
            if checkpoint.name != config.name:
                finding = f"{path} is {checkpoint.kind.value}, which {config.name} cannot use"
                return error(name, finding, f"set teacher to {checkpoint.name}" if checkpoint.is_teacher else LIST)
    except LOADING_ERRORS as problem:
        return error(name, first_line(problem), LIST)
    cached = {option.checkpoint for option in available().teachers}
    if config.checkpoint and not path.exists() and not config.allow_download and config.checkpoint not in cached:
        finding = f"{config.checkpoint} is no path, and not in the cache of Hugging Face"
        return error(name, finding, f"hf download {config.checkpoint}, or set allow_download")
    return ok(name, f"{config.name} {config.checkpoint}".strip())


def check_state_folder(path: Path, cameras: Sequence[str], model: SegmentationModel | None) -> Finding:
    """Whether adapted generations can be kept, and whether those that are there belong to the model.

    Args:
        path: of the folder.
        cameras: their names.
        model: as the node would have it; None where it cannot.
    """
    name = "state_dir"
    problem = why_not_writable(path)
    if not problem and path.is_dir():
        try:
            with tempfile.TemporaryFile(dir=path):
                pass
        except OSError as failure:
            problem = f"expected a folder that can be written: {failure}"
    if problem:
        return error(name, f"{problem}: nothing can be saved", "choose another, or make it one that you may write")
    if not path.is_dir():
        return ok(name, f"{path}, which will be made")
    if model is None:
        return ok(name, str(path))
    identity = model_fingerprint(TemporalSegmenter(model))
    saved = [StateFolder(path, camera, identity).read(MOST_GENERATIONS) for camera in cameras]
    count = sum(len(each.generations) for each in saved)
    refusals = [refusal for each in saved for refusal in each.refusals]
    if refusals:
        finding = f"{path}: {count} saved generations fit, {len(refusals)} are left out: {refusals[0]}"
        return warning(name, finding, "remove them, or give every model a state_dir of its own")
    return ok(name, f"{path}: {count} saved generations")
