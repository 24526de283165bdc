"""The command `ditta models`: what can be loaded here, and whether a checkpoint works. It needs no ROS."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ditta_core.datasets.paths import expanded
from ditta_core.segmentation.source import PACKAGED, ModelSource
from ditta_core.teacher.config import TeacherConfig
from ditta_ros.cli.arguments import exit_code, importing

if TYPE_CHECKING:
    from ditta_core.catalog.available import Available, Option
    from ditta_core.catalog.checkpoints import IdentifiedCheckpoint, ModelTrial, TeacherTrial
    from ditta_core.classes import ClassList, Color

MODEL_KINDS = (*PACKAGED, "espnetv2", "dicenet", "hf", "ditta", "onnx", "adapted")
"""What the name of a model begins with, as opposed to a path."""

CLASSES = "classes to publish: YAML text, a .yaml file or a packaged list"

MARKS = {None: "✓", "weights": "·", "package": "✗"}
"""Mark before the name of a model or teacher, by what is missing."""


def add_models_parser(commands: Any) -> None:
    """Describe the command."""
    models = commands.add_parser(
        "models",
        help="which models and teachers can be loaded here, and what the rest lacks",
        description="List the models, teachers and class lists that can be loaded here, and how to get the rest. "
        "Nothing is downloaded.",
    )
    models.add_argument("--json", action="store_true", help="print JSON")
    actions = models.add_subparsers(dest="action", metavar="check | classes")
    add = actions.add_parser(
        "check",
        help="whether a checkpoint works, and how to use it",
        description="Tell what a weight file or model folder is, load it, try it on a frame, and print the commands "
        "that use it.",
    ).add_argument
    add("path", metavar="PATH", help="weight file, model folder, or name of a model such as hf:ID")
    add("--classes", default="", help=CLASSES)
    add("--device", default="cpu", help="torch device (default: cpu)")
    add("--allow-download", action="store_true", help="fetch what is not on this machine (hf:ID)")
    add("--allow-pickle", action="store_true", help="read pytorch_model.bin where there is no safetensors")
    # Without a default: it would overwrite what was said before the word check.
    add("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")
    add = actions.add_parser(
        "classes",
        help="id, name and colour of the classes that a model publishes",
        description="Print id, name and colour of the classes that a model publishes, those of ~/semantic and "
        "~/colored.",
    ).add_argument
    add("model", metavar="MODEL", nargs="?", default=PACKAGED[0], help=f"name of the model (default: {PACKAGED[0]})")
    add("--classes", default="", help=CLASSES)
    add("--allow-download", action="store_true", help="fetch what is not on this machine (hf:ID)")
    add(
        "--csv",
        action="store_true",
        help="print the colour table of Kimera and Hydra: name,red,green,blue,alpha,id; there 0 is the label of what "
        "is unknown, so that the labels are the class ids plus 1",
    )


def run_models_command(options: argparse.Namespace) -> int:
    """Run the command; for its exit codes see :func:`exit_code`."""
    action = {None: list_available, "check": print_check, "classes": print_classes}[options.action]
    command = f"models {options.action}" if options.action else "models"
    return exit_code(command, lambda: action(options), "evaluate")


def list_available(options: argparse.Namespace) -> None:
    """Print what can be loaded."""
    with importing("models"):
        from ditta_core.catalog.available import available  # imports torch
    found = available()
    print(json.dumps(dataclasses.asdict(found), indent=2) if options.json else available_text(found))


def print_check(options: argparse.Namespace) -> None:
    """Try a checkpoint, and print what it is.

    Raises:
        ValueError, OSError, ImportError: it cannot be used; the message says why.
    """
    chosen = ModelSource("", options.classes, options.device, options.allow_download, options.allow_pickle)
    result = check(options.path, chosen)
    print(json.dumps(dataclasses.asdict(result), indent=2) if options.json else result.text())


def print_classes(options: argparse.Namespace) -> None:
    """Print the classes of a model.

    Raises:
        ValueError, OSError, ImportError: the model or the classes cannot be used; the message says why.
    """
    with importing("models classes"):
        from ditta_core.segmentation.registry import load_model  # imports torch
        from ditta_ros.messages.classes import classes_json

    source = ModelSource(options.model, options.classes, allow_download=options.allow_download)
    classes = load_model(source).classes
    if options.csv:
        print(color_table(classes))
        for names in of_one_color(classes):
            print(f"ditta models classes: {', '.join(names)} have one colour, and are one label there", file=sys.stderr)
    elif options.json:
        print(classes_json(classes))
    else:
        for index, (name, color) in enumerate(zip(classes.names, classes.colors, strict=True)):
            print(f"{index:>5}  {'#{:02x}{:02x}{:02x}'.format(*color)}  {name}")


def of_one_color(classes: ClassList) -> list[list[str]]:
    """The names of classes that colours do not tell apart, nor from unlabelled pixels, which are black."""
    names: dict[Color, list[str]] = {(0, 0, 0): ["unlabelled"]}
    for name, color in zip(classes.names, classes.colors, strict=True):
        names.setdefault(color, []).append(name)
    return [alike for alike in names.values() if len(alike) > 1]


def color_table(classes: ClassList) -> str:
    """The table by which Kimera and Hydra make labels of colours: label 0 for black, which is unlabelled.

    They take label 0 for what is unknown and never map it, so that class ids are counted from 1. They split lines at
    every comma.
    """
    rows = [("unlabelled", (0, 0, 0)), *zip(classes.names, classes.colors, strict=True)]
    lines = [
        f"{name.replace(',', ' ')},{red},{green},{blue},255,{label}"
        for label, (name, (red, green, blue)) in enumerate(rows)
    ]
    return "\n".join(["name,red,green,blue,alpha,id", *lines])


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
            "ditta models check PATH tells what a weight file or model folder is, and whether it works;",
            "ditta models classes MODEL prints ids, names and colours.",
        ]
    )


def option_lines(options: Sequence[Option], width: int) -> list[str]:
    """Name and description of each; below them the checkpoint, and what is missing with the command to get it."""
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


@dataclass(frozen=True)
class CheckResult:
    """A checkpoint that works.

    Attributes:
        path: Path or model name as it was given.
        name: Name of the model, or of the teacher that takes the checkpoint.
        kind: Kind of the checkpoint in words; empty for a model given by name.
        trial: Result of the trial.
        commands: Commands that use the checkpoint, in the order in which they are run.
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
        lines += trial_lines(self.trial)
        lines += [("use" if index == 0 else "", command) for index, command in enumerate(self.commands)]
        return "\n".join(f"{name:<14}{value}" for name, value in lines)


def trial_lines(trial: ModelTrial | TeacherTrial) -> list[tuple[str, str]]:
    """What the trial of a model or teacher showed, as names and values."""
    from ditta_core.catalog.checkpoints import TeacherTrial

    if isinstance(trial, TeacherTrial):
        size = trial.image_size
        return [("trial", f"one object over two frames and back in {trial.milliseconds:.0f} ms, input {size}×{size}")]
    height, width = trial.input_size
    lines = [
        (
            "parameters",
            f"{trial.parameters / 1e6:.2f} M, {trial.decoder_parameters / 1e6:.2f} M of them in the decoder",
        ),
        ("outputs", f"{len(trial.outputs)}: {', '.join(trial.outputs)}"),
    ]
    if tuple(name for name, _ in trial.published) != trial.outputs:
        lines += [("class", f"{name}: {', '.join(outputs)}") for name, outputs in trial.published]
        if trial.unlabelled:
            lines.append(("unlabelled", ", ".join(trial.unlabelled)))
    lines += [(name, text) for name, text in (("adapts", trial.adapts), ("compared", trial.compared)) if text]
    for member, output in trial.likely_misspelt.items():
        text = f"{member!r} is no output of the model, but {output!r} is, and belongs to no class: a typing error?"
        lines.append(("warning", text))
    return [*lines, ("trial", f"one frame in {trial.milliseconds:.0f} ms, network input {width}×{height}")]


def check(name: str, chosen: ModelSource) -> CheckResult:
    """Identify and try a weight file, a model folder, or a model by name.

    Args:
        name: Path, or the name of a model, such as ``hf:<id>``.
        chosen: Classes, device and permissions; its own name is not used.

    Raises:
        FileNotFoundError, ImportError, ValueError: It does not work; the message says why.
    """
    with importing("models check"):
        from ditta_core.catalog.checkpoints import CheckpointKind, identify, try_model, try_released, try_teacher

    path = expanded(name)
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
        convert = shlex.join(["python", "tools/convert_ditta_checkpoint.py", str(path), str(checkpoint.converted)])
        return CheckResult(name, checkpoint.name, kind, try_released(checkpoint, source), (convert, *commands))
    return CheckResult(name, checkpoint.name, kind, try_model(source), commands)


def model_commands(source: ModelSource) -> tuple[str, ...]:
    """The commands that use a model as it was tried: the same classes and device, the same permission."""
    chosen = shlex.join(["--model", source.name, *(["--classes", source.classes] if source.classes else [])])
    words, parameters = [], []
    if source.device != "cpu":
        words.append(shlex.join(["--device", source.device]))
        parameters.append(f"-p device:={shlex.quote(source.device)}")
    if source.allow_pickle:
        words.append("--allow-pickle")
        parameters.append("-p allow_pickle:=true")
    options = " ".join([chosen, *words])
    node = " ".join([chosen, *(["--ros-args", *parameters] if parameters else [])])
    return f"ditta demo {options}", f"ditta node {node}", f"ditta evaluate {options} INPUT"


def teacher_commands(checkpoint: IdentifiedCheckpoint) -> tuple[str, ...]:
    """The commands that use a teacher."""
    path = shlex.quote(str(checkpoint.path))
    chosen = f"--teacher {checkpoint.name} --teacher-checkpoint {path}"
    node = f"-p teacher:={checkpoint.name} -p teacher_checkpoint:={path}"
    return f"ditta demo {chosen}", f"ditta node --ros-args {node}", f"ditta evaluate {chosen} INPUT"
