"""What can be loaded on this machine, and for the rest what is missing and how to get it.

Nothing is downloaded and no model is loaded; packages are looked for without importing them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from ditta_core.catalog.checkpoints import CheckpointKind, identify_file, read_configuration
from ditta_core.classes import ClassList, packaged_names
from ditta_core.versions import distribution_version

if TYPE_CHECKING:
    from huggingface_hub import CachedRevisionInfo

_TRANSFORMERS = (4, 57)
"""The first release of transformers that was proven."""

_EDGENETS = "https://github.com/sacmehta/EdgeNets/raw/master/model/segmentation/model_zoo"
_ESPNETV2_WEIGHTS = f"{_EDGENETS}/espnetv2/espnetv2_s_2.0_city_1024x512.pth"
_DICENET_WEIGHTS = f"{_EDGENETS}/dicenet/dicenet_s_1.75_city_1024x512.pth"
_DITTA_CONVERSION = "python tools/convert_ditta_checkpoint.py RELEASED FILE"
_ONNX_CHECK = "ditta models check FILE.onnx"
_SAM2_WEIGHTS = "https://dl.fbaipublicfiles.com/segment_anything_2/092824/sam2.1_hiera_tiny.pt"
_SEGFORMER = "nvidia/segformer-b0-finetuned-cityscapes-1024-1024"
_SAM2_FOLDER = "facebook/sam2.1-hiera-tiny"
"""The smallest of each kind, as examples to begin with."""


@dataclass(frozen=True)
class Problem:
    """Why something cannot be loaded.

    Attributes:
        missing: ``package`` where one must be installed or replaced; ``weights`` where only these are yours to give.
        reason: What is missing, in words.
        command: Shell command that provides it.
    """

    missing: Literal["package", "weights"]
    reason: str
    command: str


@dataclass(frozen=True)
class Option:
    """A model or teacher that can be asked for.

    Attributes:
        name: Name that the parameters ``model`` and ``teacher`` take; a word in capitals stands for what you give.
        description: Description in a few words.
        checkpoint: Checkpoint to give to a teacher; empty where it needs none or none is known.
        problem: Problem that is in the way; None where it can be loaded.
    """

    name: str
    description: str
    checkpoint: str = ""
    problem: Problem | None = None


@dataclass(frozen=True)
class Available:
    """All models, teachers and class lists.

    Attributes:
        models, teachers: Options in the order in which to try them.
        class_lists: Names of the classes, by the name of the list.
    """

    models: tuple[Option, ...]
    teachers: tuple[Option, ...]
    class_lists: dict[str, tuple[str, ...]]


def available() -> Available:
    """Look around on this machine."""
    cached = cached_checkpoints()
    return Available(
        tuple(models(cached)),
        tuple(teachers(cached)),
        {name: ClassList.packaged(name).names for name in packaged_names()},
    )


def models(cached: list[CachedCheckpoint]) -> list[Option]:
    """All models, those in the cache of Hugging Face one by one."""
    package = transformers_problem()
    found = [
        Option(f"hf:{entry.repository}", entry.architecture, problem=package or entry.problem)
        for entry in cached
        if entry.kind is CheckpointKind.HUGGING_FACE and entry.architecture.endswith("ForSemanticSegmentation")
    ]
    espnetv2 = _no_weights("you give the weights, for example those for Cityscapes", f"curl -LO {_ESPNETV2_WEIGHTS}")
    dicenet = _no_weights("you give the weights, for example those for Cityscapes", f"curl -LO {_DICENET_WEIGHTS}")
    ditta = _no_weights("you give the weights: the authors' checkpoint, converted", _DITTA_CONVERSION)
    adapted = _no_weights("a model and drives of your own make it", "ditta adapt DRIVE --model camvid --out FILE")
    other = package
    if all(option.problem for option in found):
        other = package or _no_weights("no such model in the cache of Hugging Face", f"hf download {_SEGFORMER}")
    return [
        Option("camvid", "packaged: ESPNetv2 trained on CamVid, 11 classes"),
        Option("street", "packaged: ESPNetv2 for streets, the 19 classes of Cityscapes"),
        Option("espnetv2:FILE", "weights of ESPNetv2 of any width (EdgeNets)", problem=espnetv2),
        Option("dicenet:FILE", "weights of DiCENet of any width (EdgeNets)", problem=dicenet),
        *found,
        Option("hf:FOLDER or hf:ID", "any *ForSemanticSegmentation of transformers", problem=other),
        Option("adapted:FILE", "one of these after `ditta adapt`", problem=adapted),
        Option("ditta:FILE", "SegFormer with DiTTA's decode head", problem=package or ditta),
        Option("onnx:FILE", "any segmentation network in ONNX", problem=onnx_problem()),
    ]


def teachers(cached: list[CachedCheckpoint]) -> list[Option]:
    """All teachers; those that need a checkpoint once for each in the cache of Hugging Face."""
    return [
        Option("flow", "predictions carried along optical flow; runs anywhere"),
        Option("object_vote:flow", "the published vote over regions tracked by optical flow; runs anywhere"),
        *_object_votes(
            Option("object_vote:sam2", "the published teacher: SAM 2 by its own package", problem=sam2_problem()),
            [entry for entry in cached if entry.kind is CheckpointKind.SAM2],
            _no_weights("no weights in the cache of Hugging Face; any file will do", f"curl -LO {_SAM2_WEIGHTS}"),
        ),
        *_object_votes(
            Option("object_vote:sam2_transformers", "SAM 2 or EdgeTAM by transformers", problem=transformers_problem()),
            [entry for entry in cached if entry.kind is CheckpointKind.VIDEO_TRACKER],
            _no_weights("no weights in the cache of Hugging Face; any folder will do", f"hf download {_SAM2_FOLDER}"),
        ),
    ]


def _no_weights(reason: str, command: str) -> Problem:
    return Problem("weights", reason, command)


def _object_votes(teacher: Option, checkpoints: list[CachedCheckpoint], no_weights: Problem) -> list[Option]:
    """A teacher with each of the checkpoints that it could take, or once with what is missing."""
    name, description = teacher.name, teacher.description
    return [
        Option(name, f"{description}: {entry.repository}", entry.checkpoint, teacher.problem or entry.problem)
        for entry in checkpoints
    ] or [Option(name, description, problem=teacher.problem or no_weights)]


# --- packages --------------------------------------------------------------------------------------------------------


def transformers_problem() -> Problem | None:
    """What keeps the package transformers from working here."""
    install = f"pip install 'transformers>={'.'.join(map(str, _TRANSFORMERS))}'"
    if util.find_spec("transformers") is None:
        return Problem("package", "the package transformers is not installed", install)
    version = distribution_version("transformers")
    if release(version) < _TRANSFORMERS:
        return Problem("package", f"the package transformers is too old: {version}", install)
    return torchvision_problem()


def onnx_problem() -> Problem:
    """What keeps a network in ONNX from being loaded: the package, or that the file is yours to give."""
    if util.find_spec("onnx") is None:
        return Problem("package", "the package onnx is not installed", "pip install 'onnx>=1.17'")
    return _no_weights("you give the file, with a score for each class as its output", _ONNX_CHECK)


def sam2_problem() -> Problem | None:
    """What keeps the package sam2 from working here."""
    for module in ("sam2", "hydra", "iopath"):
        if util.find_spec(module) is None:
            return Problem("package", f"the package {module} is not installed", _sam2_installation())
    return torchvision_problem()


def _sam2_installation() -> str:
    """The command that installs the package sam2: beside a CPU build of torch without torchvision, which needs CUDA."""
    if torch.version.cuda is not None:
        return "pip install 'sam2>=1.1,<2'"
    return (
        "pip install 'hydra-core>=1.3.2' 'iopath>=0.1.10' tqdm pillow setuptools && "
        "SAM2_BUILD_CUDA=0 pip install --no-deps --no-build-isolation 'sam2>=1.1,<2'"
    )


def _timm_problem() -> Problem | None:
    """What keeps the image encoder of EdgeTAM, a network of timm, from working here."""
    if util.find_spec("timm") is not None:
        return None
    # timm requires torchvision.
    first = "" if torch.version.cuda else "pip install torchvision --index-url https://download.pytorch.org/whl/cpu && "
    return Problem("package", "the package timm is not installed", f"{first}pip install timm")


def torchvision_problem() -> Problem | None:
    """A torchvision for CUDA beside a torch for CPU: its presence alone breaks transformers and sam2."""
    version = distribution_version("torchvision")
    if version == "unknown" or not torch.__version__.endswith("+cpu") or version.endswith("+cpu"):
        return None
    reason = f"torchvision {version} is made for CUDA, but torch {torch.__version__} is not"
    return Problem("package", reason, "pip uninstall -y torchvision")


def release(version: str) -> tuple[int, ...]:
    """Major and minor number of a version.

    >>> release("4.57.1"), release("5.0rc1"), release("unknown")
    ((4, 57), (5, 0), ())
    """
    match = re.match(r"([0-9]+)(?:\.([0-9]+))?", version)
    return tuple(int(number) for number in match.groups() if number) if match else ()


# --- cache of Hugging Face -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CachedCheckpoint:
    """A checkpoint in the local cache of Hugging Face.

    Attributes:
        repository: Id of the repository.
        kind: Kind of its content.
        architecture: Class of the model.
        checkpoint: Name that loads it: the id, or for weights of SAM 2 the path of the file.
        problem: Problem that remains even with all packages; None where none is known.
    """

    repository: str
    kind: CheckpointKind
    architecture: str
    checkpoint: str
    problem: Problem | None = None


def cached_checkpoints(cache: Path | None = None) -> list[CachedCheckpoint]:
    """All models in a folder of the cache, by default that of the environment or package, by id.

    There are none where the package huggingface_hub or the cache is not there.
    """
    try:
        from huggingface_hub import CacheNotFound, scan_cache_dir
    except ImportError:
        return []
    try:
        repositories = scan_cache_dir(cache).repos
    except (CacheNotFound, ValueError):
        return []
    found = []
    for repository in sorted(repositories, key=lambda repository: repository.repo_id):
        if repository.repo_type != "model":
            continue
        revision = repository.refs.get("main") or max(repository.revisions, key=lambda one: one.last_modified)
        found += _in_revision(repository.repo_id, revision)
    return found


def _in_revision(repository: str, revision: CachedRevisionInfo) -> list[CachedCheckpoint]:
    """What one revision of a repository holds: a model folder, weights of SAM 2, both or nothing that is known here."""
    files = {file.file_name: file.file_path for file in revision.files}
    found = []
    if "config.json" in files:
        try:
            config = read_configuration(files["config.json"])
        except ValueError:
            return []
        problem = _timm_problem() if config.model_type == "edgetam_video" else None
        if not any(name.endswith(".safetensors") for name in files):
            problem = Problem("weights", "it has no safetensors", f"hf download {repository}")
        found.append(CachedCheckpoint(repository, config.kind, config.architecture, repository, problem))
    for name, path in sorted(files.items()):
        if name.endswith(".pt") and "sam2" in name:
            try:
                weights = identify_file(path)
            except ValueError:
                continue
            found.append(CachedCheckpoint(repository, weights.kind, weights.architecture, str(path)))
    return found
