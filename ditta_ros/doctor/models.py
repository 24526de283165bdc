"""Can the model, the teacher, the classes and the masks be loaded, and can states be kept?

Runs as a process of its own, since it imports torch.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ditta_core.catalog.available import available
from ditta_core.catalog.checkpoints import identify, try_model
from ditta_core.segmentation.files import objection_to_folder
from ditta_core.segmentation.source import ModelSource
from ditta_core.stream.ignore_mask import IgnoreMask
from ditta_core.teacher.build import check_teacher
from ditta_core.teacher.config import TeacherConfig
from ditta_ros.doctor.findings import Finding, error, first_line, ok, warning

LIST = "ditta models lists what can be loaded here, ditta models check PATH tries a checkpoint"


def main() -> int:
    """Check what the argument names as JSON, and print findings as JSON."""
    question = json.loads(sys.argv[1])
    findings = [
        *check_model(ModelSource(**question["model"]), question.get("input_size", (0, 0))),
        check_teacher_config(TeacherConfig(**question["teacher"])),
        check_state_folder(question.get("state_dir", "")),
        *map(check_mask, question.get("masks", ())),
    ]
    print(json.dumps([asdict(finding) for finding in findings]))
    return 0


def check_model(source: ModelSource, input_size: Sequence[int] = (0, 0)) -> list[Finding]:
    """Load the model, segment a frame of noise, and match the classes and the input (height, width); 0 for any."""
    try:
        trial = try_model(source)
    except (ValueError, OSError, ImportError, RuntimeError) as problem:
        return [error("model", first_line(problem), LIST)]
    height, width = trial.input_size
    classes = ", ".join(name for name, _ in trial.published)
    speed = f"one frame of {width}×{height} in {trial.milliseconds:.0f} ms"
    loaded = [ok("model", f"{source.name} on {source.device}: {len(trial.outputs)} classes, {speed}")]
    multiple = trial.size_multiple
    if any(side % multiple for side in input_size):
        finding = f"expected sides of the network input in multiples of {multiple}, but got {list(input_size)}"
        loaded.append(error("input", finding, "correct input_width and input_height"))
    if trial.likely_misspelt:
        pairs = ", ".join(f"{member!r} (perhaps {output!r})" for member, output in trial.likely_misspelt.items())
        finding = f"no outputs of the model: {pairs}"
        return [*loaded, warning("classes", finding, "correct the names in the parameter classes")]
    return [*loaded, ok("classes", classes if source.classes else f"the model's own: {classes}")]


def check_teacher_config(config: TeacherConfig) -> Finding:
    """Whether the teacher can be built, as far as that shows without building it."""
    name, path = "teacher", Path(config.checkpoint)
    try:
        check_teacher(config)
        if config.checkpoint and path.exists():
            checkpoint = identify(path)
            if checkpoint.name != config.name:
                finding = f"{path} is {checkpoint.kind.value}, which {config.name} cannot use"
                return error(name, finding, f"set teacher to {checkpoint.name}" if checkpoint.is_teacher else LIST)
    except (ValueError, OSError, ImportError, RuntimeError) as problem:
        return error(name, first_line(problem), LIST)
    cached = {option.checkpoint for option in available().teachers}
    if config.checkpoint and not path.exists() and not config.allow_download and config.checkpoint not in cached:
        finding = f"{config.checkpoint} is no path, and not in the cache of Hugging Face"
        return error(name, finding, f"hf download {config.checkpoint}, or set allow_download")
    return ok(name, f"{config.name} {config.checkpoint}".strip())


def check_state_folder(folder: str) -> Finding:
    """Whether adapted generations can be kept in a folder, which may not be there yet; empty for none."""
    name, path = "state_dir", Path(folder)
    if not folder:
        return ok(name, "none", "set state_dir to a folder, to keep what was learned by ~/save")
    objection = objection_to_folder(path)
    if objection:
        finding = f"expected a folder that can be written, but {objection}: nothing can be saved"
        return error(name, finding, "choose another, or make it one that you may write")
    return ok(name, folder if path.exists() else f"{folder}, which will be made")


def check_mask(file: str) -> Finding:
    """Whether a camera's ignore_mask can be read."""
    try:
        IgnoreMask.read(file)
    except (ValueError, OSError) as problem:
        return error("ignore_mask", first_line(problem), "give an image, black where the robot is and white elsewhere")
    return ok("ignore_mask", file)


if __name__ == "__main__":
    sys.exit(main())
