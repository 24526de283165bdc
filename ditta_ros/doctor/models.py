"""Can the model, the teacher and the classes be loaded, and can states be kept? This imports torch."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from ditta_core.available import available, sam2_problem, torchvision_problem, transformers_problem
from ditta_core.checkpoints import identify, segment_noise
from ditta_core.classes import ClassList, ClassMap
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.segmentation.registry import ModelSource, load_model
from ditta_core.teacher import TeacherConfig, check_teacher
from ditta_ros.doctor.environment import why_not_writable
from ditta_ros.doctor.findings import Finding, error, first_line, ok, warning

LIST = "ditta models lists what can be loaded here, ditta models check PATH tries a checkpoint"

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


def check_model(source: ModelSource) -> Iterable[Finding]:
    """Load the model, segment a frame of noise, and match the classes."""
    try:
        model = load_model(replace(source, classes=""))
        trial = segment_noise(model, source.name)
    except LOADING_ERRORS as problem:
        yield error("model", first_line(problem), LIST)
        return
    height, width = trial.input_size
    yield ok(
        "model",
        f"{source.name} on {source.device}: {len(trial.outputs)} classes, one frame of {width}×{height} in "
        f"{trial.milliseconds:.0f} ms",
    )
    yield check_classes(source.classes, model)


def check_classes(classes: str, model: SegmentationModel) -> Finding:
    """Match the classes that are to be published with those of the model."""
    if not classes:
        return ok("classes", f"the model's own: {', '.join(model.outputs.names)}")
    try:
        mapping = ClassMap.between(model.outputs, ClassList.parse(classes))
    except LOADING_ERRORS as problem:
        return error("classes", first_line(problem), f"take names of the model's: {', '.join(model.outputs.names)}")
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


def check_state_folder(folder: str) -> Finding:
    """Whether adapted generations can be kept."""
    name, path = "state_dir", Path(folder).expanduser()
    if not folder:
        return ok(name, "none: ~/save keeps nothing", "set state_dir to a folder, to begin the next drive adapted")
    problem = why_not_writable(path)
    if not problem and path.is_dir():
        try:
            with tempfile.TemporaryFile(dir=path):
                pass
        except OSError as failure:
            problem = f"expected a folder that can be written: {failure}"
    if problem:
        return error(name, f"{problem}: nothing can be saved", "choose another, or make it one that you may write")
    return ok(name, f"{path}{'' if path.is_dir() else ', which will be made'}")
