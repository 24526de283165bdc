"""What a weight file or model folder is, which name loads it, and whether it works."""

from __future__ import annotations

import json
import pickle
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import Enum
from math import prod
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from ditta_core.inference.config import DEFAULT_LONG_SIDE
from ditta_core.inference.frame_segmenter import segment_frame
from ditta_core.segmentation.adapted import base_of_adapted
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.segmentation.ditta_segformer import METADATA, convert, read_released, save_ditta_segformer
from ditta_core.segmentation.edgenet import CLASSIFIER
from ditta_core.segmentation.onnx_file import read_onnx
from ditta_core.segmentation.onnx_model import OnnxNetwork, compare_with_openvino
from ditta_core.segmentation.registry import load_model
from ditta_core.segmentation.source import ModelSource
from ditta_core.teacher.build import build_teacher
from ditta_core.teacher.config import TeacherConfig
from ditta_core.teacher.sam2_network import configuration_name
from ditta_core.types import text_of

_VIDEO_TRACKERS = ("sam2_video", "edgetam_video")
"""``model_type`` of the folders that serve as tracker."""

_DICENET_CLASSIFIER = "eff_pool_128x128.merge_layer.3.weight"
_SEGFORMER_CLASSIFIER = "decode_head.linear_pred.weight"

_FRAME_SIZE = (360, 640)
"""Height and width of the frames of a trial."""

CHECK_TRACKER_SIZE = 512
"""Side of a tracker's input in a trial: half its default, for a fifth of the time."""


class CheckpointKind(Enum):
    """What a checkpoint holds."""

    ESPNETV2 = "weights of ESPNetv2"
    DICENET = "weights of DiCENet"
    RELEASED_DITTA = "SegFormer with DiTTA's decode head, as released"
    DITTA = "SegFormer with DiTTA's decode head, converted"
    HUGGING_FACE = "model folder of Hugging Face"
    ADAPTED = "model adapted to recorded drives"
    SAM2 = "weights of SAM 2"
    VIDEO_TRACKER = "video tracker folder of Hugging Face"
    ONNX = "network in ONNX"


_TEACHERS = {
    CheckpointKind.SAM2: "object_vote:sam2",
    CheckpointKind.VIDEO_TRACKER: "object_vote:sam2_transformers",
}
"""The teacher that takes a checkpoint; the other kinds are models."""

_MODELS = {
    CheckpointKind.ESPNETV2: "espnetv2",
    CheckpointKind.DICENET: "dicenet",
    CheckpointKind.RELEASED_DITTA: "ditta",
    CheckpointKind.DITTA: "ditta",
    CheckpointKind.HUGGING_FACE: "hf",
    CheckpointKind.ADAPTED: "adapted",
    CheckpointKind.ONNX: "onnx",
}
"""What stands before the path in the name of a model."""


@dataclass(frozen=True)
class IdentifiedCheckpoint:
    """A weight file or model folder, told by its content.

    Attributes:
        path: Path of the file or folder.
        kind: Kind of its content.
        architecture: Class of the model in a folder; size or number of outputs of the one in a file; base of an adapted
            one.
        parameters: Number of parameters, statistics of normalisation included.
    """

    path: Path
    kind: CheckpointKind
    architecture: str
    parameters: int

    @property
    def is_teacher(self) -> bool:
        """Whether a teacher takes it; otherwise it is a model."""
        return self.kind in _TEACHERS

    @property
    def converted(self) -> Path:
        """What to load: the path itself, or for a checkpoint that must be converted first a name for the result."""
        if self.kind is CheckpointKind.RELEASED_DITTA:
            return self.path.with_name(f"{self.path.stem}.converted.safetensors")
        return self.path

    @property
    def name(self) -> str:
        """The name of the model, path included, or of the teacher that takes this checkpoint."""
        return _TEACHERS[self.kind] if self.is_teacher else f"{_MODELS[self.kind]}:{self.converted}"


# --- what is it ------------------------------------------------------------------------------------------------------


def identify(path: Path) -> IdentifiedCheckpoint:
    """Tell what a file or folder is from its keys and configuration; no weights are read.

    Raises:
        FileNotFoundError: there is nothing at ``path``.
        ValueError: it is nothing that can be loaded; the message says what it is instead, as far as that can be told.
    """
    if not path.exists():
        raise FileNotFoundError(f"expected a weight file or model folder, but {path} does not exist")
    if path.is_dir():
        return _identify_folder(path)
    if not path.is_file():  # opening a pipe would wait, and a device may never end
        raise ValueError(f"expected a weight file or model folder, but {path} is a device or a pipe")
    return identify_file(path)


def _identify_folder(folder: Path) -> IdentifiedCheckpoint:
    """A folder as ``save_pretrained`` of transformers writes it; a ValueError where it is none or has no weights."""
    file = folder / "config.json"
    if not file.is_file():
        inside = sorted(entry.name for entry in folder.iterdir())
        snapshots = sorted((folder / "snapshots").glob("*/config.json"))
        remedy = f"give {snapshots[-1].parent}" if snapshots else "give the folder that has it, or a weight file"
        found = inside[:5] or "nothing"
        raise ValueError(f"expected a model folder with config.json, but {folder} has {found}; {remedy}")
    config = read_configuration(file)
    weights = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not weights:
        raise ValueError(f"expected model.safetensors in {folder}, but got a configuration alone; get the weights too")
    tensors = [_tensors_without_values(part, part.suffix == ".safetensors") for part in weights]
    parameters = sum(tensor.numel() for part in tensors for tensor in part.values())
    return IdentifiedCheckpoint(folder, config.kind, config.architecture, parameters)


@dataclass(frozen=True)
class Configuration:
    """What ``config.json`` of a model folder says of the model.

    Attributes:
        model_type: Family of architectures, such as ``segformer``; empty where it is not told.
        architecture: Class, such as ``SegformerForSemanticSegmentation``, or the family where it is not told.
    """

    model_type: str
    architecture: str

    @property
    def kind(self) -> CheckpointKind:
        """A tracker, or what is at most a segmentation model."""
        return CheckpointKind.VIDEO_TRACKER if self.model_type in _VIDEO_TRACKERS else CheckpointKind.HUGGING_FACE


def read_configuration(file: Path) -> Configuration:
    """Read ``config.json`` of a model folder; a ValueError where it is not JSON, or not an object."""
    try:
        value = json.loads(text_of(file))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"expected JSON in {file}, but it is none: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"expected an object in {file}, but got {type(value).__name__}")
    model_type = str(value.get("model_type") or "")
    return Configuration(model_type, ", ".join(map(str, value.get("architectures") or [model_type])))


def identify_file(path: Path) -> IdentifiedCheckpoint:
    """A weight file, ``.safetensors`` or ``torch.save``d, or ``.onnx``; a ValueError where it is none known here."""
    if path.suffix == ".onnx":
        _check_is_weights(path)
        network = read_onnx(path)
        numbers = sum(prod(tensor.dims) for tensor in network.model.graph.initializer)
        return IdentifiedCheckpoint(path, CheckpointKind.ONNX, f"operator set {network.opset}", numbers)
    base = base_of_adapted(path)
    tensors = _tensors_without_values(path, is_safetensors=base is not None or path.suffix == ".safetensors")
    if base is not None:
        return IdentifiedCheckpoint(
            path, CheckpointKind.ADAPTED, base, sum(value.numel() for value in tensors.values())
        )
    kind, architecture = _kind_of_tensors(path, tensors)
    return IdentifiedCheckpoint(path, kind, architecture, sum(tensor.numel() for tensor in tensors.values()))


def _kind_of_tensors(path: Path, tensors: Mapping[str, Tensor]) -> tuple[CheckpointKind, str]:
    """Kind and architecture of a weight file by its tensors; a ValueError where no network known here has them."""

    def has(*starts: str) -> bool:
        return all(any(key.startswith(start) for key in tensors) for start in starts)

    for classifier in (CLASSIFIER, _DICENET_CLASSIFIER):
        if has("base_net.", classifier):
            kind = CheckpointKind.DICENET if has("base_net.level3.0.right_layer.") else CheckpointKind.ESPNETV2
            return kind, f"{len(tensors[classifier])} outputs"
    if has("backbone.", "decode_head.linear_fuse.", _SEGFORMER_CLASSIFIER):
        kind = CheckpointKind.DITTA if _is_converted(path) else CheckpointKind.RELEASED_DITTA
        return kind, f"{len(tensors[_SEGFORMER_CLASSIFIER])} outputs"
    if has("image_encoder.trunk.", "memory_encoder.", "sam_mask_decoder."):
        return CheckpointKind.SAM2, configuration_name(tensors)
    if has("image_encoder.", "mask_decoder.", "prompt_encoder."):
        reason = "is one of the first SAM, which segments single images and follows nothing; take one of SAM 2"
    elif (path.parent / "config.json").is_file():
        reason = f"is part of a model folder; give the folder {path.parent}"
    elif has("decode_head.conv_seg."):
        reason = "is one of mmsegmentation; convert it to Hugging Face's layout first"
    elif not tensors:
        reason = "has no tensors"
    else:
        reason = f"has {len(tensors)} tensors of an unknown network: {', '.join(list(tensors)[:3])}, …"
    raise ValueError(f"expected weights of ESPNetv2, DiCENet, DiTTA's SegFormer or SAM 2, but {path} {reason}")


def _tensors_without_values(path: Path, is_safetensors: bool) -> dict[str, Tensor]:
    """The tensors of a weight file, or of the ``state_dict`` or ``model`` in it, by name.

    They are on the device ``meta``: shapes alone, so that nothing large is read. A ValueError where the file is no
    weight file, or damaged.
    """
    _check_is_weights(path)
    try:
        if is_safetensors:
            with safe_open(path, framework="pt") as file:
                shapes = {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118 (not a dict)
            return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
        state = torch.load(path, map_location="meta", weights_only=True)
    except pickle.UnpicklingError as error:  # its text advises to run the code in the file
        raise ValueError(
            f"expected a weight file, but {path} is damaged, or holds Python objects besides tensors, which are not "
            f"loaded, as that would run code; save the state dict alone: torch.save(model.state_dict(), FILE)"
        ) from error
    except Exception as error:  # both readers raise a dozen types for a damaged file
        raise ValueError(f"expected a weight file, but {path} is damaged: {error}; get it again") from error
    for wrapper in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping):
        raise ValueError(f"expected a dictionary of tensors in {path}, but got {type(state).__name__}")
    return {str(key): value for key, value in state.items() if isinstance(value, Tensor)}


def _check_is_weights(path: Path) -> None:
    """Raise a ValueError for what is often found in the place of a weight file."""
    with path.open("rb") as file:
        start = file.read(64)
    if not start:
        reason = "is empty; download it again"
    elif start.startswith(b"version https://git-lfs"):
        reason = "is a pointer of Git LFS; fetch the file itself by git lfs pull"
    elif start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        reason = "is a web page, as failed downloads leave it; download it again"
    elif path.suffix in (".engine", ".xml", ".tflite", ".h5"):
        reason = "is a model of another runtime, which cannot be adapted; take the weights or the ONNX file behind it"
    elif path.suffix != ".safetensors" and _is_torch_script(path):
        reason = "is a TorchScript program; take the state dict of the model that it was made from"
    else:
        return
    raise ValueError(f"expected a weight file, but {path} {reason}")


def _is_torch_script(path: Path) -> bool:
    """Whether a file is a program of ``torch.jit.save``."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _is_converted(path: Path) -> bool:
    """Whether a weight file is a converted checkpoint of DiTTA rather than a released one."""
    if path.suffix != ".safetensors":
        return False
    with safe_open(path, framework="pt") as file:
        return METADATA in (file.metadata() or {})


# --- does it work ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ModelTrial:
    """What came out of loading a model and segmenting a frame of noise.

    Attributes:
        outputs: Names of the model's own classes.
        published: Name of every published class and the outputs it is made of.
        unlabelled: Outputs that are published as unlabelled.
        likely_misspelt: See :meth:`~ditta_core.classes.ClassMap.likely_misspelt`.
        parameters: Number of parameters of the whole model.
        decoder_parameters: Number of parameters of the decoder.
        adapts: What an adaptation changes, in a sentence, where that is less than of other models; else empty.
        compared: How far the outputs are those of another runtime, in a sentence; empty where it was not compared.
        input_size: Network input (H, W) for the frame of the trial.
        milliseconds: Milliseconds for one frame, the model alone.
        size_multiple: Number of which both sides of the network input are multiples.
    """

    outputs: tuple[str, ...]
    published: tuple[tuple[str, tuple[str, ...]], ...]
    unlabelled: tuple[str, ...]
    likely_misspelt: Mapping[str, str]
    parameters: int
    decoder_parameters: int
    input_size: tuple[int, int]
    milliseconds: float
    size_multiple: int = 1
    adapts: str = ""
    compared: str = ""


@dataclass(frozen=True)
class TeacherTrial:
    """What came out of building a teacher and following an object over two frames.

    Attributes:
        image_size: Side of the tracker's input in the trial.
        milliseconds: Milliseconds for the two frames, forward and back.
    """

    image_size: int
    milliseconds: float


def try_model(source: ModelSource) -> ModelTrial:
    """Load a model and segment a frame of noise with it.

    Raises:
        FileNotFoundError, ImportError, ValueError: see :func:`load_model`; ValueError also where it fails, or gives
            anything but finite numbers.
    """
    model = load_model(source)
    with _failing_as(f"{source.name} to segment a frame", source.device):
        trial = _segment_noise(model, source.name)
        if isinstance(model, OnnxNetwork):
            trial = replace(trial, compared=compare_with_openvino(source.name.partition(":")[2], model))
        return trial


@contextmanager
def _failing_as(attempt: str, device: str) -> Iterator[None]:
    """Torch's own RuntimeErrors, whatever goes wrong inside a network, as ValueErrors that say what was tried."""
    try:
        yield
    except RuntimeError as error:
        size, reason = f"{_FRAME_SIZE[1]}×{_FRAME_SIZE[0]}", str(error).partition("\n")[0]
        raise ValueError(f"expected {attempt} of {size} pixels on {device}, but it failed: {reason}") from error


def try_released(checkpoint: IdentifiedCheckpoint, source: ModelSource) -> ModelTrial:
    """Convert a released checkpoint of DiTTA into a temporary file and try that, with the rest of ``source``.

    Raises:
        ValueError: it cannot be converted, or see :func:`try_model`.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "converted.safetensors"
        save_ditta_segformer(convert(read_released(checkpoint.path)), file)
        return try_model(replace(source, name=f"ditta:{file}"))


def _segment_noise(model: SegmentationModel, name: str) -> ModelTrial:
    """Segment a frame of noise; a ValueError where the logits are not finite."""
    image = np.random.default_rng(0).integers(0, 256, (*_FRAME_SIZE, 3), np.uint8)
    input_size = model.input_size(_FRAME_SIZE, DEFAULT_LONG_SIDE)
    with torch.inference_mode():
        logits = model(model.preprocess(image[None], input_size, model.mean.device))
    if not bool(torch.isfinite(logits).all()):
        raise ValueError(f"expected finite logits, but {name} gives others; its weights are damaged")
    start = time.perf_counter()
    segment_frame(model, image, input_size)  # ends on the host, so that an accelerator's work is counted
    milliseconds = 1000 * (time.perf_counter() - start)
    class_map = model.class_map
    owned = list(zip(class_map.source.names, class_map.assignment, strict=True))
    members = [tuple(output for output, owner in owned if owner == own) for own in range(len(model.classes))]
    return ModelTrial(
        outputs=model.outputs.names,
        published=tuple(zip(model.classes.names, members, strict=True)),
        unlabelled=class_map.unused_outputs,
        likely_misspelt=class_map.likely_misspelt(),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        decoder_parameters=sum(parameter.numel() for parameter in model.decoder_parameters()),
        input_size=input_size,
        milliseconds=milliseconds,
        size_multiple=model.size_multiple,
        adapts=model.adapts,
    )


def try_teacher(config: TeacherConfig, device: str = "cpu") -> TeacherTrial:
    """Build a teacher and let it follow a bright square over two frames, at a smaller size than usual.

    Raises:
        FileNotFoundError, ImportError, ValueError: see :func:`build_teacher`; ValueError also where it fails to build
            targets.
    """
    height, width = _FRAME_SIZE
    clip = np.full((2, height, width, 3), 60, np.uint8)
    probabilities = np.full((2, 2, height // 4, width // 4), 0.02, np.float32)
    probabilities[:, 0] = 0.98
    for frame, left in enumerate((200, 220)):
        clip[frame, 120:240, left : left + 120] = 220
        probabilities[frame, :, 30:60, left // 4 : left // 4 + 30] = [[[0.02]], [[0.98]]]
    reliabilities = probabilities.max(1)
    teacher = build_teacher(replace(config, image_size=CHECK_TRACKER_SIZE), torch.device(device))
    start = time.perf_counter()
    with _failing_as(f"{config.name} to follow an object over two frames", device):
        teacher.build(clip, probabilities, reliabilities)
    return TeacherTrial(CHECK_TRACKER_SIZE, 1000 * (time.perf_counter() - start))
