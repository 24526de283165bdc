"""What `ditta models` lists, and how it checks a checkpoint and says what it is and how to use it."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ditta_core.catalog.available import Available, Option
from ditta_core.catalog.checkpoints import (
    CheckpointKind,
    IdentifiedCheckpoint,
    ModelTrial,
    TeacherTrial,
    identify,
    try_model,
    try_released,
    try_teacher,
)
from ditta_core.segmentation.source import ModelSource
from ditta_core.teacher.config import TeacherConfig

MODEL_KINDS = ("camvid", "espnetv2", "hf", "ditta")
"""What the name of a model begins with, as opposed to a path."""

MARKS = {None: "✓", "weights": "·", "package": "✗"}
"""Before the name of a model or teacher, by what is missing."""


# --- what there is ---------------------------------------------------------------------------------------------------


def available_text(found: Available) -> str:
    """What there is, as lines of names and descriptions."""
    rows = [(name, f"{len(names)}: {', '.join(names)}") for name, names in found.class_lists.items()]
    width = max(len(name) for name in [*found.class_lists, *(option.name for option in found.models + found.teachers)])
    return "\n".join(
        [
            "models (--model)",
            *option_lines(found.models, width),
            "",
            "teachers (--teacher)",
            *option_lines(found.teachers, width),
            "",
            "class lists (--classes)",
            *(f"  {name:<{width}}  {textwrap.shorten(text, 110 - width, placeholder=' …')}" for name, text in rows),
            "",
            f"{MARKS[None]} can be loaded   {MARKS['weights']} can be loaded once you give it weights   "
            f"{MARKS['package']} needs a package",
            "ditta models check PATH tells what a weight file or model folder is, and whether it works.",
        ]
    )


def option_lines(options: Sequence[Option], width: int) -> list[str]:
    """Name and description of each, below them the checkpoint, and what is missing with the command that mends it."""
    lines = []
    for option in options:
        mark = MARKS[None if option.problem is None else option.problem.missing]
        lines.append(f"{mark} {option.name:<{width}}  {option.description}")
        indent = " " * (width + 4)
        if option.checkpoint:
            lines.append(f"{indent}--teacher-checkpoint {shlex.quote(option.checkpoint)}")
        if option.problem is not None:
            lines += [f"{indent}{option.problem.reason}:", f"{indent}  {option.problem.command}"]
    return lines


# --- one checkpoint --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CheckResult:
    """A checkpoint that works.

    Attributes:
        path: as it was given.
        name: of the model, or of the teacher that takes the checkpoint.
        kind: what it is, in words; empty for a model given by name.
        trial: what came out of trying it.
        commands: that use it, in the order in which they are run.
    """

    path: str
    name: str
    kind: str
    trial: ModelTrial | TeacherTrial
    commands: tuple[str, ...]

    def text(self) -> str:
        """All of it as lines of names and values."""
        lines = [("checkpoint", self.path)]
        if self.kind:
            lines.append(("kind", self.kind))
        lines += model_lines(self.trial) if isinstance(self.trial, ModelTrial) else teacher_lines(self.trial)
        lines += [("use" if index == 0 else "", command) for index, command in enumerate(self.commands)]
        return "\n".join(f"{name:<14}{value}" for name, value in lines)


def model_lines(trial: ModelTrial) -> list[tuple[str, str]]:
    """What a trial of a model showed, as names and values."""
    height, width = trial.input_size
    lines = [
        ("parameters", f"{trial.parameters / 1e6:.2f} M, of which {trial.trained_parameters / 1e6:.2f} M are adapted"),
        ("outputs", f"{len(trial.outputs)}: {', '.join(trial.outputs)}"),
    ]
    if tuple(name for name, _ in trial.published) != trial.outputs:
        lines += [("class", f"{name}: {', '.join(outputs)}") for name, outputs in trial.published]
        if trial.unlabelled:
            lines.append(("unlabelled", ", ".join(trial.unlabelled)))
    lines += [
        (
            "warning",
            f"{member!r} is no output of the model, but {output!r} is, and belongs to no class: a typing error?",
        )
        for member, output in trial.likely_misspelt.items()
    ]
    lines.append(("trial", f"one frame in {trial.milliseconds:.0f} ms, network input {width}×{height}"))
    return lines


def teacher_lines(trial: TeacherTrial) -> list[tuple[str, str]]:
    """What a trial of a teacher showed, as names and values."""
    size = trial.image_size
    return [("trial", f"one object over two frames and back in {trial.milliseconds:.0f} ms, input {size}×{size}")]


def check(name: str, chosen: ModelSource) -> CheckResult:
    """Identify and try a weight file, a model folder, or a model by name.

    Args:
        name: a path, or the name of a model, such as ``hf:<id>``.
        chosen: classes, device and permissions; its own name is not used.

    Raises:
        FileNotFoundError, ImportError, ValueError: it does not work; the message says why.
    """
    path = Path(name).expanduser()
    if not path.exists() and name.partition(":")[0] in MODEL_KINDS:
        source = replace(chosen, name=name)
        return CheckResult(name, name, "", try_model(source), model_commands(source))
    checkpoint = identify(path)
    kind = f"{checkpoint.kind.value}: {checkpoint.architecture}, {checkpoint.parameters / 1e6:.2f} M numbers"
    if checkpoint.is_teacher:
        if chosen.classes:
            raise ValueError(f"expected a model for the classes, but {path} is for a teacher; leave out --classes")
        trial = try_teacher(TeacherConfig(checkpoint.name, str(path)), chosen.device)
        return CheckResult(name, checkpoint.name, kind, trial, teacher_commands(checkpoint))
    source = replace(chosen, name=checkpoint.name)
    commands = model_commands(source)
    if checkpoint.kind is CheckpointKind.RELEASED_DITTA:
        convert = f"python tools/convert_ditta_checkpoint.py {quoted(path)} {quoted(checkpoint.converted)}"
        return CheckResult(name, checkpoint.name, kind, try_released(checkpoint, source), (convert, *commands))
    return CheckResult(name, checkpoint.name, kind, try_model(source), commands)


def model_commands(source: ModelSource) -> tuple[str, ...]:
    """The commands that use a model, publishing the same classes."""
    chosen = f"--model {shlex.quote(source.name)}"
    if source.classes:
        chosen += f" --classes {shlex.quote(source.classes)}"
    return f"ditta demo {chosen}", f"ditta node {chosen}", f"ditta evaluate {chosen} INPUT"


def teacher_commands(checkpoint: IdentifiedCheckpoint) -> tuple[str, ...]:
    """The commands that use a teacher."""
    chosen = f"--teacher {checkpoint.name} --teacher-checkpoint {quoted(checkpoint.path)}"
    node = f"-p teacher:={checkpoint.name} -p teacher_checkpoint:={quoted(checkpoint.path)}"
    return f"ditta demo {chosen}", f"ditta node --ros-args {node}", f"ditta evaluate {chosen} INPUT"


def quoted(path: Path) -> str:
    """A path as a shell takes it."""
    return shlex.quote(str(path))
