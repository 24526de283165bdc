"""SegFormer with the published decode head, for weights in the layout of the paper's own release.

The head keeps its published parameters, since an adaptation trains them, and images are resized as for VSPW.
:func:`convert` brings a released checkpoint to the form of the files: the backbone under the names of the Hugging Face
hub, head and add-on under their published ones.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ditta_core.classes import ClassList
from ditta_core.datasets.paths import output_path
from ditta_core.segmentation.base import existing_file, load_state_dict_file
from ditta_core.segmentation.huggingface import quiet_unless, require_transformers
from ditta_core.segmentation.segformer import Segformer
from ditta_core.segmentation.segformer_head import SegFormerHead

if TYPE_CHECKING:
    from transformers import SegformerModel

LONG_SIDE, SHORT_SIDE = 853, 480
"""An image is scaled until one of its sides reaches this, as in VSPW at 480p."""

HEADS = (1, 2, 5, 8)
"""Attention heads of every MiT, B0 to B5."""

LEVELS = 4
METADATA = "ditta_segformer"


@dataclass(frozen=True)
class SegformerShape:
    """The shape of the network of a checkpoint, level by level from the finest on.

    Attributes:
        widths: Channels of the levels.
        depths: Blocks of the levels.
        reductions: Factors from the sides of a level to those of its keys and values.
        expansions: Hidden widths of the blocks' MLPs over the widths of the blocks.
        heads: Attention heads of the levels; the tensors do not tell, so that they are :data:`HEADS` unless given.
        dim: Embedding width D of the head.
        classes: Names of the outputs.
    """

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    reductions: tuple[int, ...]
    expansions: tuple[int, ...]
    heads: tuple[int, ...]
    dim: int
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        for name in ("widths", "depths", "reductions", "expansions", "heads"):
            if len(getattr(self, name)) != LEVELS:
                raise ValueError(f"expected {name} of {LEVELS} levels, but got {getattr(self, name)}")
        if any(width % heads for width, heads in zip(self.widths, self.heads, strict=True)):
            raise ValueError(
                f"expected heads that divide {self.widths}, but got {self.heads}; give those of the backbone"
            )


@dataclass(frozen=True)
class DittaCheckpoint:
    """A converted checkpoint: tensors ``backbone.*``, ``decode_head.*`` and, where it has the add-on, ``add_on.*``."""

    shape: SegformerShape
    tensors: dict[str, Tensor]

    def part(self, name: str) -> dict[str, Tensor]:
        """The tensors of a part without its name."""
        prefix = f"{name}."
        return {key.removeprefix(prefix): value for key, value in self.tensors.items() if key.startswith(prefix)}


# --- the network ---------------------------------------------------------------------------------------------------


class DittaSegformer(Segformer):
    """SegFormer with the published head and the weights of a checkpoint.

    Raises:
        ValueError: transformers is missing, or tensors are missing, unexpected or of another shape.
    """

    def __init__(self, checkpoint: DittaCheckpoint) -> None:
        shape = checkpoint.shape
        super().__init__(ClassList.of_outputs(shape.classes))
        self.embedding_dim = shape.dim
        self.backbone = _build_backbone(shape, checkpoint.part("backbone"))
        self.decode_head = SegFormerHead(shape.widths, len(shape.classes), shape.dim)
        try:
            self.decode_head.load_state_dict(checkpoint.part("decode_head"))
        except RuntimeError as error:
            raise ValueError(f"the decode head does not fit {shape}: {error}") from error
        self.add_on_weights = checkpoint.part("add_on")

    def input_size(self, image_size: tuple[int, int], long_side: int) -> tuple[int, int]:
        """Network input (H, W) as for VSPW: the scaled image's sides, raised to the next multiple of 32.

        ``long_side`` 0 is the published 853, beside which the short side is at most 480; another one scales both.
        """
        multiple = self.size_multiple
        height, width = (-(-side // multiple) * multiple for side in _scaled_size(image_size, long_side or LONG_SIDE))
        return height, width

    def preprocess(self, images: NDArray[np.uint8], input_size: tuple[int, int], device: torch.device) -> Tensor:
        """RGB uint8 [N, H0, W0, 3] -> normalised pixels float32 [N, 3, H, W], resized by OpenCV, bilinearly.

        As published in two steps, to the scaled size and from there to the network input, where ``input_size`` is the
        published one for these images; in one step to any other.
        """
        size = (images.shape[1], images.shape[2])
        steps = [_scaled_size(size, LONG_SIDE)] if tuple(input_size) == self.input_size(size, 0) else []
        resized = np.stack([_resize(image, [*steps, (input_size[0], input_size[1])]) for image in images])
        return super().preprocess(resized, input_size, device)


def _scaled_size(image_size: tuple[int, int], long_side: int) -> tuple[int, int]:
    """(height, width) of an image scaled until its long side or its short side reaches its limit; rounded half up."""
    scale = min(long_side / max(image_size), long_side * SHORT_SIDE / LONG_SIDE / min(image_size))
    height, width = (max(1, int(side * scale + 0.5)) for side in image_size)
    return height, width


def _resize(image: NDArray[np.uint8], sizes: Sequence[tuple[int, int]]) -> NDArray[np.uint8]:
    """Resize to one (height, width) after the other, where the image has another."""
    for height, width in sizes:
        if image.shape[:2] != (height, width):
            image = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
    return image


def _build_backbone(shape: SegformerShape, state: Mapping[str, Tensor]) -> SegformerModel:
    """The MiT of a shape with the weights in ``state``, by their names on the hub."""
    require_transformers()
    from transformers import SegformerConfig, SegformerModel

    config = SegformerConfig(
        num_encoder_blocks=LEVELS,
        hidden_sizes=list(shape.widths),
        depths=list(shape.depths),
        sr_ratios=list(shape.reductions),
        mlp_ratios=list(shape.expansions),
        num_attention_heads=list(shape.heads),
        drop_path_rate=0.1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    with quiet_unless(False):
        try:
            backbone, info = SegformerModel.from_pretrained(
                None,
                config=config,
                state_dict=dict(state),
                dtype=torch.float32,
                output_loading_info=True,
                trust_remote_code=False,
            )
        except RuntimeError as error:
            raise ValueError(f"the backbone does not fit {shape}: {error}") from error
    wrong = {kind: sorted(map(str, info[kind])) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")}
    if any(wrong.values()):
        counts = ", ".join(f"{len(keys)} {kind.replace('_', ' ')} {keys[:3]}" for kind, keys in wrong.items() if keys)
        raise ValueError(f"the backbone does not fit {shape}: {counts}")
    for name, module in backbone.named_modules():
        if isinstance(module, nn.LayerNorm) and "patch_embeddings" not in name and "attention" not in name:
            module.eps = 1e-6  # of blocks and levels; transformers has 1e-5 throughout
    return backbone


# --- files ---------------------------------------------------------------------------------------------------------


def save_ditta_segformer(checkpoint: DittaCheckpoint, path: str | Path) -> None:
    """Write a converted checkpoint as one ``.safetensors`` file, the shape in its metadata."""
    from safetensors.torch import save_file

    tensors = {name: tensor.contiguous() for name, tensor in checkpoint.tensors.items()}
    save_file(tensors, output_path(path), {"format": "pt", METADATA: json.dumps(asdict(checkpoint.shape))})


def load_ditta_segformer(path: str | Path) -> DittaSegformer:
    """Load a file of :func:`save_ditta_segformer` in evaluation mode.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is not one of these, does not fit its own shape, or transformers is missing.
    """
    from safetensors import SafetensorError, safe_open

    path = existing_file(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            described = json.loads((file.metadata() or {})[METADATA])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, KeyError) as error:
        cause = f"it has no {METADATA} in its metadata" if isinstance(error, KeyError) else str(error)
        tool = "tools/convert_ditta_checkpoint.py"
        raise ValueError(f"expected a SegFormer converted by {tool}, but {path} is none: {cause}") from error
    fields: dict[str, Any] = {k: tuple(value) if isinstance(value, list) else value for k, value in described.items()}
    return DittaSegformer(DittaCheckpoint(SegformerShape(**fields), tensors)).eval()


# --- conversion ----------------------------------------------------------------------------------------------------

BACKBONE_NAMES = (
    (r"patch_embed(\d)\.proj\.", "encoder.patch_embeddings.{}.proj."),
    (r"patch_embed(\d)\.norm\.", "encoder.patch_embeddings.{}.layer_norm."),
    (r"norm(\d)\.", "encoder.layer_norm.{}."),
    (r"block(\d)\.(\d+)\.norm1\.", "encoder.block.{}.{}.layer_norm_1."),
    (r"block(\d)\.(\d+)\.norm2\.", "encoder.block.{}.{}.layer_norm_2."),
    (r"block(\d)\.(\d+)\.attn\.q\.", "encoder.block.{}.{}.attention.self.query."),
    (r"block(\d)\.(\d+)\.attn\.sr\.", "encoder.block.{}.{}.attention.self.sr."),
    (r"block(\d)\.(\d+)\.attn\.norm\.", "encoder.block.{}.{}.attention.self.layer_norm."),
    (r"block(\d)\.(\d+)\.attn\.proj\.", "encoder.block.{}.{}.attention.output.dense."),
    (r"block(\d)\.(\d+)\.mlp\.fc1\.", "encoder.block.{}.{}.mlp.dense1."),
    (r"block(\d)\.(\d+)\.mlp\.dwconv\.dwconv\.", "encoder.block.{}.{}.mlp.dwconv.dwconv."),
    (r"block(\d)\.(\d+)\.mlp\.fc2\.", "encoder.block.{}.{}.mlp.dense2."),
)
"""Released names and those on the hub, up to weight or bias. Levels are numbered from 1 there and from 0 here."""

KEY_VALUE = re.compile(r"block(\d)\.(\d+)\.attn\.kv\.")
"""Keys and values are one layer in the release: its first half of outputs are the keys, its second the values."""

ADD_ON = re.compile(r"(?:.*\.)?((?:(?:query|key)_layer\.[02]|proj_feat\.[024])\.(?:weight|bias))")
UNUSED = re.compile(r"decode_head\.conv_seg\..*|backbone\.head\..*")
"""A classifier that every head of the original framework has and SegFormer's never uses, and that for ImageNet."""


def convert(
    checkpoint: Mapping[str, Tensor],
    add_on: Mapping[str, Tensor] | None = None,
    classes: Sequence[str] = (),
    heads: Sequence[int] = HEADS,
) -> DittaCheckpoint:
    """Convert a released checkpoint.

    Args:
        checkpoint: ``backbone.*`` and ``decode_head.*`` under their released names.
        add_on: ``query_layer``, ``key_layer`` and ``proj_feat`` under any prefix; by default those in ``checkpoint``.
        classes: names of the outputs; may be left out for 124 (VSPW).
        heads: of the attention, level by level.

    Raises:
        ValueError: tensors are missing or unknown, or the number of classes needs names.
    """
    checkpoint = {
        key.removeprefix("module."): value.float() if value.is_floating_point() else value
        for key, value in checkpoint.items()
    }
    tensors, unknown = dict[str, Tensor](), list[str]()
    for key, value in checkpoint.items():
        part, _, name = key.partition(".")
        if ADD_ON.fullmatch(key) or UNUSED.fullmatch(key):
            continue
        if part == "backbone" and (converted := _convert_backbone_tensor(name, value)):
            tensors.update({f"backbone.{ours}": tensor for ours, tensor in converted.items()})
        elif part == "decode_head" and name.startswith("linear_"):
            tensors[key] = value
        else:
            unknown.append(key)
    if unknown:
        raise ValueError(
            f"expected the released names, such as backbone.block1.0.attn.q.weight and decode_head.linear_pred.weight, "
            f"but got {len(unknown)} others, such as {unknown[:3]}"
        )
    shape = _shape_of(checkpoint, classes, heads)
    tensors.update(_add_on_tensors(add_on or checkpoint, shape.dim))
    return DittaCheckpoint(shape, tensors)


def _convert_backbone_tensor(name: str, value: Tensor) -> dict[str, Tensor]:
    """A tensor of the backbone under its name on the hub, keys and values apart; empty for an unknown name."""
    if match := KEY_VALUE.match(name):
        prefix, kind = f"encoder.block.{int(match[1]) - 1}.{match[2]}.attention.self", name[match.end() :]
        keys, values = value.chunk(2)
        return {f"{prefix}.key.{kind}": keys.clone(), f"{prefix}.value.{kind}": values.clone()}
    for pattern, ours in BACKBONE_NAMES:
        if match := re.match(pattern, name):
            level, *block = match.groups()
            return {ours.format(int(level) - 1, *block) + name[match.end() :]: value}
    return {}


def _shape_of(checkpoint: Mapping[str, Tensor], classes: Sequence[str], heads: Sequence[int]) -> SegformerShape:
    """The shape of the network that the released tensors belong to."""
    try:
        levels = range(1, LEVELS + 1)
        widths = tuple(len(checkpoint[f"backbone.patch_embed{level}.proj.weight"]) for level in levels)
        expansions = tuple(
            len(checkpoint[f"backbone.block{level}.0.mlp.fc1.weight"]) // width
            for level, width in zip(levels, widths, strict=True)
        )
        outputs, dim = checkpoint["decode_head.linear_pred.weight"].shape[:2]
    except KeyError as error:
        raise ValueError(f"expected a whole SegFormer of the release, but the checkpoint has no {error}") from error
    blocks = [re.match(r"backbone\.block(\d)\.(\d+)\.", key) for key in checkpoint]
    depths = tuple(1 + max(int(b[2]) for b in blocks if b is not None and int(b[1]) == level) for level in levels)
    reductions = tuple(
        checkpoint[key].shape[-1] if (key := f"backbone.block{level}.0.attn.sr.weight") in checkpoint else 1
        for level in levels
    )
    names = tuple(classes) or (ClassList.packaged("vspw124").names if outputs == 124 else ())
    if len(names) != outputs:
        raise ValueError(f"expected a name for each of {outputs} outputs, but got {len(names)}; give the class list")
    return SegformerShape(widths, depths, reductions, expansions, tuple(heads), dim, names)


def _add_on_tensors(checkpoint: Mapping[str, Tensor], dim: int) -> dict[str, Tensor]:
    """``add_on.*`` for all tensors of the add-on, whatever stands before their names; empty where there are none."""
    found = {f"add_on.{match[1]}": value for key, value in checkpoint.items() if (match := ADD_ON.fullmatch(key))}
    if not found:
        return {}
    expected = {f"add_on.{layer}.{index}" for layer in ("query_layer", "key_layer") for index in (0, 2)}
    expected |= {f"add_on.proj_feat.{index}" for index in (0, 2, 4)}
    wrong = [name for name, value in found.items() if any(side not in (1, dim) for side in value.shape)]
    missing = sorted({f"{layer}.{kind}" for layer in expected for kind in ("weight", "bias")} - set(found))
    if wrong or missing:
        raise ValueError(
            f"expected the whole add-on at the head's width {dim}, but {len(missing)} tensors are missing "
            f"{missing[:3]}, and {len(wrong)} are of another width {wrong[:3]}"
        )
    return {name: value.float() for name, value in found.items()}


def read_released(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a released file, from the ``state_dict`` or ``model`` in it; see :func:`load_state_dict_file`."""
    return load_state_dict_file(path, nested=("state_dict", "model"))
