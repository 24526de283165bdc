"""The network of SAM 2 by the package ``sam2``: which package will do, and from a checkpoint to the network.

Method: Ravi et al., SAM 2: Segment Anything in Images and Videos, 2024. :mod:`ditta_core.teacher.sam2` tracks by it.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Mapping
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ditta_core.segmentation.base import load_state_dict_file

DISTRIBUTIONS = ("sam2", "rf-sam-2", "SAM-2")
"""What installs the Python package ``sam2``: two uploads of it to PyPI, and the authors' own repository."""

MAJOR_VERSION = "1"
"""Of all three. Proven: sam2 1.1.0 and rf-sam-2 1.0.3."""

INSTALL = (
    "install it by 'pip install sam2==1.1.0', or beside a CPU build of torch, which torchvision would break, by 'pip "
    "install hydra-core iopath tqdm pillow setuptools' and then 'SAM2_BUILD_CUDA=0 pip install --no-deps "
    "--no-build-isolation sam2==1.1.0'"
)

INTERFACE = {
    "forward_image": "img_batch",
    "track_step": "frame_idx, is_init_cond_frame, current_vision_feats, current_vision_pos_embeds, feat_sizes, "
    "point_inputs, mask_inputs, output_dict, num_frames, track_in_reverse, run_mem_encoder, prev_sam_mask_logits",
    "_encode_new_memory": "current_vision_feats, feat_sizes, pred_masks_high_res, object_score_logits, "
    "is_mask_from_pts",
}
"""Arguments of every method of the network that is called here. Releases before December 2024 differ."""


def installed_package() -> tuple[str, str]:
    """Name and version of what provides ``sam2``; ("sam2", "") where it lies on the path without being installed."""
    for name in DISTRIBUTIONS:
        with contextlib.suppress(metadata.PackageNotFoundError):
            return name, metadata.version(name)
    return "sam2", ""


def require_sam2() -> type[nn.Module]:
    """The class of the network, ``sam2.modeling.sam2_base.SAM2Base``.

    Raises:
        ImportError: the package is not there, lacks something, or is of a version that works differently.
    """
    try:
        network: type[nn.Module] = import_module("sam2.modeling.sam2_base").SAM2Base
        for name in ("sam2.modeling.backbones.hieradet", "hydra.utils", "PIL.Image"):
            import_module(name)
    except ImportError as error:
        raise ImportError(f"expected the package sam2, but got: {error}; {INSTALL}") from error
    name, version = installed_package()
    if version and version.split(".")[0] != MAJOR_VERSION:
        raise ImportError(f"expected sam2 or rf-sam-2 in version {MAJOR_VERSION}, but got {name} {version}; {INSTALL}")
    for method, expected in INTERFACE.items():
        called = getattr(network, method, None)
        found = ", ".join(list(inspect.signature(called).parameters)[1:]) if called else ""
        if found != expected:
            raise ImportError(
                f"expected sam2 1.1 or rf-sam-2 1.0.3, where {method} takes {expected}, but got {name} {version}, "
                f"where it takes {found}; {INSTALL}"
            )
    return network


SIZES = {(96, 12): "t", (96, 16): "s", (112, 24): "b+", (144, 48): "l"}
"""Suffix of the package's configurations (tiny, small, base plus, large) by width and blocks of the image encoder."""

CONFIGURATIONS = tuple(f"{release}_hiera_{size}" for release in ("sam2", "sam2.1") for size in SIZES.values())
"""The package's own configurations, by the names of their files."""


def load_configuration(name: str) -> Any:
    """One of the package's own :data:`CONFIGURATIONS`, an omegaconf ``DictConfig``; a ValueError for another name."""
    require_sam2()
    if name not in CONFIGURATIONS:
        raise ValueError(f"expected a configuration of {', '.join(CONFIGURATIONS)}, but got {name!r}")
    (folder,) = import_module("sam2").__path__
    return import_module("omegaconf").OmegaConf.load(Path(folder, "configs", name.split("_")[0], f"{name}.yaml"))


def configuration_name(weights: Mapping[str, Tensor]) -> str:
    """Which of the package's configurations a checkpoint was made with, from the names and shapes of its tensors.

    Raises:
        ValueError: it is none of SAM 2, or of a size that the package does not have.
    """
    first = weights.get("image_encoder.trunk.patch_embed.proj.weight")
    if first is None:
        raise ValueError(
            f"expected a checkpoint of SAM 2 in its authors' layout, but got tensors such as {sorted(weights)[:3]}; a "
            "checkpoint in the layout of transformers is for the teacher 'object_vote:sam2_transformers'"
        )
    prefix = "image_encoder.trunk.blocks."
    blocks = {name.removeprefix(prefix).split(".")[0] for name in weights if name.startswith(prefix)}
    size = SIZES.get((len(first), len(blocks)))
    if size is None:
        raise ValueError(
            f"expected an image encoder of (width, blocks) {', '.join(map(str, SIZES))}, but got "
            f"{(len(first), len(blocks))}; name the configuration if it is one of the package's"
        )
    release = "sam2.1" if "no_obj_embed_spatial" in weights else "sam2"
    return f"{release}_hiera_{size}"


SIZE_MULTIPLE = 32
"""Number that the image size must be a multiple of: positions within windows of 8×8 tokens, 4 pixels each."""


def build_network(configuration: Any, image_size: int) -> nn.Module:
    """The network of a configuration with random weights, as the package's own video predictor sets it up.

    Args:
        configuration: of :func:`load_configuration`, or of the same form.
        image_size: side in pixels of the square that frames are resized to. The published weights were trained at
            1024; smaller ones see less and take less: docs/ablations.md#cost-of-sam-2.

    Raises:
        ImportError: see :func:`require_sam2`.
        ValueError: the network cannot work at this size.
    """
    network = require_sam2()
    if image_size < 1 or image_size % SIZE_MULTIPLE:
        raise ValueError(f"expected an image size that is a multiple of {SIZE_MULTIPLE}, but got {image_size}")
    model = import_module("omegaconf").OmegaConf.create({"settings": configuration.model}).settings
    model._target_ = f"{network.__module__}.{network.__name__}"
    model.image_size = image_size
    model.binarize_mask_from_pts_for_mem_enc = True
    stability = {"via_stability": True, "stability_delta": 0.05, "stability_thresh": 0.98}
    model.sam_mask_decoder_extra_args = {f"dynamic_multimask_{name}": value for name, value in stability.items()}
    layer = model.memory_attention.layer
    for attention in (layer.self_attention, layer.cross_attention):
        attention.feat_sizes = [image_size // 16] * 2
    for part in (model.image_encoder.neck, model.memory_encoder):
        # Else tables for 1024 pixels are put on the first CUDA device, whatever device and size is used.
        part.position_encoding.warmup_cache = False
    built: nn.Module = import_module("hydra.utils").instantiate(model, _recursive_=True)
    return built.eval().requires_grad_(False)


def require_checkpoint(path: Path) -> None:
    """Raise a FileNotFoundError unless there is a file."""
    if not path.is_file():
        raise FileNotFoundError(
            f"expected the file of a SAM 2 checkpoint, but got {str(path)!r}, where there is none; they can be had at "
            "https://github.com/facebookresearch/sam2#download-checkpoints"
        )


def load_network(checkpoint: str, device: torch.device, image_size: int = 1024, configuration: str = "") -> nn.Module:
    """The network of a checkpoint, on a device, ready to infer.

    Args:
        checkpoint: path of a file; any size of SAM 2 and SAM 2.1, also retrained.
        device: where it runs.
        image_size: see :func:`build_network`.
        configuration: one of :data:`CONFIGURATIONS`; "" for the one that the tensors show.

    Raises:
        ImportError: see :func:`require_sam2`.
        FileNotFoundError: there is no such file.
        ValueError: it is no such checkpoint, or the image size does not fit.
    """
    require_sam2()
    require_checkpoint(Path(checkpoint))
    weights = load_state_dict_file(checkpoint, nested=("model",))
    name = configuration or configuration_name(weights)
    network = build_network(load_configuration(name), image_size)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"expected the tensors of {name} in {checkpoint}, but got others: {error}") from error
    return network.to(device)
