"""Segmentation checkpoints of the package transformers, by the id of a repository or as a local folder.

A SegFormer gets a folded head (:mod:`~ditta_core.segmentation.segformer`), any other network that labels pixels is
split (:mod:`~ditta_core.segmentation.transformers_split`). Classes and normalisation are the checkpoint's own; code
that it brings along is never run.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ditta_core.classes import ClassList
from ditta_core.datasets.paths import expanded
from ditta_core.segmentation.base import IMAGENET_MEAN, IMAGENET_STD, PixelFormat, SegmentationModel
from ditta_core.segmentation.segformer import FoldedSegformer
from ditta_core.segmentation.transformers_split import SplitTransformer
from ditta_core.types import text_of

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

INSTALL = "pip install 'ditta_ros[huggingface]'"


@dataclass(frozen=True)
class Checkpoint:
    """Where a checkpoint is and what may be done to get it.

    Attributes:
        name: Id of a repository, such as ``nvidia/segformer-b0-finetuned-ade-512-512``, or a local folder.
        allow_download: Whether files that are not in the local cache are fetched.
        allow_pickle: Whether weights are also read from ``pytorch_model.bin`` where there is no ``.safetensors``.
    """

    name: str
    allow_download: bool = False
    allow_pickle: bool = False

    @property
    def is_folder(self) -> bool:
        """Whether the name is that of a local folder rather than an id."""
        return expanded(self.name).is_dir() or self.name.startswith(("/", ".", "~"))

    @property
    def location(self) -> str:
        """What transformers takes for the name."""
        return str(expanded(self.name)) if self.is_folder else self.name

    @property
    def remedy(self) -> str:
        """What to do where a file of the checkpoint is not there."""
        if self.is_folder:
            return "give the folder that save_pretrained wrote"
        if self.allow_download:
            return "check the id and the connection"
        return f"allow downloads, or fetch it by 'hf download {self.name}'"


def load_huggingface(name: str, allow_download: bool = False, allow_pickle: bool = False) -> SegmentationModel:
    """Load a ``*ForSemanticSegmentation`` checkpoint in evaluation mode on the CPU; see :class:`Checkpoint`.

    Raises:
        FileNotFoundError: the folder or the cached files are not there.
        ValueError: the package transformers is missing or too old, or the checkpoint is none that labels pixels, lacks
            weights, has none that may be read, or cannot be split into encoder, decoder and classifier.
    """
    require_transformers()
    checkpoint = Checkpoint(name, allow_download, allow_pickle)
    config = _load_config(checkpoint)
    outputs = _class_list_of(config, name)
    pixel_format = pixel_format_of(_load_preprocessor(checkpoint))
    network = _load_network(checkpoint, config).eval()
    if config.model_type == "segformer":
        return FoldedSegformer(network, outputs, pixel_format).eval()
    return SplitTransformer(network, outputs, pixel_format).eval()


def cached_snapshot(name: str) -> Path | None:
    """The folder of a checkpoint's files in the local cache by its id; None where there is none."""
    try:
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError
    except ImportError:
        return None
    try:
        path = try_to_load_from_cache(name, "config.json")
    except HFValidationError:  # no id at all
        return None
    return Path(path).parent if isinstance(path, str) else None


def require_transformers() -> None:
    """Raise a ValueError unless the package is installed and fits what it needs."""
    try:
        import transformers.models.auto.modeling_auto  # noqa: F401
    except ImportError as error:
        raise ValueError(f"expected the package transformers, but it cannot be imported: {error}; {INSTALL}") from error


# --- what a checkpoint says of itself ------------------------------------------------------------------------------


def _load_config(checkpoint: Checkpoint) -> PreTrainedConfig:
    """The configuration, if it is that of a network that labels pixels."""
    from transformers import AutoConfig

    if checkpoint.is_folder and not (Path(checkpoint.location) / "config.json").is_file():
        raise FileNotFoundError(f"expected {checkpoint.location}/config.json, but there is none; {checkpoint.remedy}")
    try:
        config = AutoConfig.from_pretrained(
            checkpoint.location, local_files_only=not checkpoint.allow_download, trust_remote_code=False
        )
    except OSError as error:
        reason = f"({first_line(error)}); {checkpoint.remedy}"
        raise FileNotFoundError(f"expected the checkpoint {checkpoint.name!r}, but it is not there {reason}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        if "trust_remote_code" in str(error):
            raise ValueError(
                f"expected a network that is part of transformers, but {checkpoint.name} brings code of its own, which "
                f"is never run; take a checkpoint without"
            ) from error
        raise ValueError(
            f"expected a configuration that the installed transformers knows in {checkpoint.name}: {first_line(error)}"
        ) from error
    _refuse_other_tasks(config, checkpoint.name)
    return config


def _refuse_other_tasks(config: PreTrainedConfig, name: str) -> None:
    """Raise a ValueError with the reason for a network that does not label pixels."""
    from transformers.models.auto import modeling_auto

    kind = type(config)
    if kind in modeling_auto.MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING:
        if config.num_labels > 1:
            return
        raise ValueError(
            f"expected at least two labels, but {name} has {config.num_labels}: a single score by sigmoid leaves no "
            f"classes to choose between"
        )
    universal = modeling_auto.MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING
    if kind in universal or kind in modeling_auto.MODEL_FOR_INSTANCE_SEGMENTATION_MAPPING:
        raise ValueError(
            f"expected a network that labels pixels, but {name} is of type {config.model_type}, which classifies whole "
            f"masks by queries: no map of features precedes its classes, which DiTTA could adapt; take a SegFormer or "
            f"another *ForSemanticSegmentation checkpoint"
        )
    known = sorted(kind.model_type for kind in modeling_auto.MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING)
    raise ValueError(f"expected a network of one of the types {known}, but {name} is of type {config.model_type}")


def _class_list_of(config: PreTrainedConfig, name: str) -> ClassList:
    """The labels in order, as a packaged list where one has the same names."""
    labels = {int(index): str(label) for index, label in config.id2label.items()}
    if sorted(labels) != list(range(config.num_labels)):
        raise ValueError(f"expected id2label of {name} numbered 0..{config.num_labels - 1}, but got {sorted(labels)}")
    names: list[str] = []
    for index in range(config.num_labels):
        # Some vocabularies have a name twice, for things that differ by more than it says.
        names.append(f"{labels[index]} {index}" if labels[index] in names else labels[index])
    return ClassList.of_outputs(names)


def _load_preprocessor(checkpoint: Checkpoint) -> dict[str, Any]:
    """``preprocessor_config.json``, empty where there is none."""
    from transformers.utils import cached_file

    path = cached_file(
        checkpoint.location,
        "preprocessor_config.json",
        local_files_only=not checkpoint.allow_download,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    if path is None:
        return {}
    try:
        return dict(json.loads(text_of(Path(path))))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"expected a JSON object in {path}, but it is none: {error}") from error


def pixel_format_of(preprocessor: Mapping[str, Any]) -> PixelFormat:
    """The normalisation that a preprocessor's settings describe; ImageNet's where they say nothing.

    A preprocessor multiplies values 0..255 by its rescale factor f, where it rescales, then takes (x − mean) / std,
    where it normalises. For values in 0..1 that is (x − mean / 255 f) / (std / 255 f). Mean and std may also be one
    number for all channels.

    Raises:
        ValueError: a value is no number, or none that a pixel can be divided by, or there are not three of it.
    """
    factor = 255.0
    if preprocessor.get("do_rescale", True):
        factor *= _channels(preprocessor, "rescale_factor", 1 / 255, divides=True)[0]
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    # Preprocessors without the setting are those of networks that are fed plain 0..1.
    if preprocessor.get("do_normalize", "image_mean" in preprocessor or not preprocessor):
        mean = _channels(preprocessor, "image_mean", IMAGENET_MEAN)
        std = _channels(preprocessor, "image_std", IMAGENET_STD, divides=True)
    return PixelFormat(
        tuple(value / factor for value in mean),
        tuple(value / factor for value in std),
        blue_first=bool(preprocessor.get("do_flip_channel_order", False)),
    )


def _channels(
    preprocessor: Mapping[str, Any], name: str, default: float | tuple[float, ...], divides: bool = False
) -> tuple[float, ...]:
    """A setting as three finite numbers, none of them 0 where it ``divides``; one number stands for all channels."""
    given = preprocessor.get(name)
    value = default if given is None else given
    values = list(value) if isinstance(value, list | tuple) else [value]
    numbers = [float(each) for each in values if isinstance(each, int | float) and math.isfinite(each)]
    if len(numbers) < len(values) or len(numbers) not in (1, 3) or (divides and 0 in numbers):
        raise ValueError(
            f"expected one finite number or three{', not 0,' * divides} for {name} in preprocessor_config.json, but "
            f"got {str(given)[:80]}; correct it to what the network was trained with"
        )
    return tuple(numbers * 3 if len(numbers) == 1 else numbers)


# --- weights -------------------------------------------------------------------------------------------------------


def _load_network(checkpoint: Checkpoint, config: PreTrainedConfig) -> PreTrainedModel:
    """The network with all of its weights, in single precision; transformers would make up those that are missing."""
    from safetensors import SafetensorError
    from transformers import AutoModelForSemanticSegmentation

    with quiet_unless(checkpoint.allow_download):
        try:
            network, info = AutoModelForSemanticSegmentation.from_pretrained(
                checkpoint.location,
                config=config,
                local_files_only=not checkpoint.allow_download,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,  # told below with the reason
                use_safetensors=None if checkpoint.allow_pickle else True,
                dtype=torch.float32,
                output_loading_info=True,
            )
        except (OSError, SafetensorError) as error:
            raise ValueError(
                f"expected weights in model.safetensors of {checkpoint.name}, but they cannot be read "
                f"({first_line(error)}); {checkpoint.remedy}, or, where there is only a pytorch_model.bin, of which "
                f"torch reads tensors alone, allow it with --allow-pickle (parameter allow_pickle)"
            ) from error
        except ImportError as error:
            raise ValueError(f"{config.model_type} needs a package that is missing: {first_line(error)}") from error
        except RuntimeError as error:
            raise ValueError(f"the weights of {checkpoint.name} do not fit its configuration: {error}") from error
    _check_weights(info, type(network).__name__, checkpoint.name, config)
    return network


def _check_weights(info: Mapping[str, Any], network: str, name: str, config: PreTrainedConfig) -> None:
    """Raise a ValueError with the reason unless the file had all weights of the network, in the right shapes."""
    for key, stored, expected in sorted(info["mismatched_keys"]):
        if stored[0] != expected[0] == config.num_labels and stored[1:] == expected[1:]:
            raise ValueError(
                f"expected as many labels in config.json of {name} as its weights have outputs, {stored[0]} by {key}, "
                f"but got {config.num_labels} in id2label; correct id2label and label2id"
            )
        raise ValueError(
            f"the weights of {name} do not fit its configuration: expected {key} of shape {list(expected)}, but got "
            f"{list(stored)}; take config.json and weights of one training"
        )
    missing = sorted(key for key in info["missing_keys"] if "auxiliary" not in key)
    prefixed = [key for key in info["unexpected_keys"] if key.startswith("module.")]
    if missing and prefixed:
        raise ValueError(
            f"expected the weights of {network}, but those of {name} begin with 'module.', as in {min(prefixed)!r}: "
            f"they are of a network in DataParallel; save the one inside it: wrapped.module.save_pretrained(FOLDER)"
        )
    if missing:
        architecture = (config.architectures or ["unnamed"])[0]
        raise ValueError(
            f"expected all weights of {network}, but {name}, a checkpoint of "
            f"{architecture}, lacks {len(missing)}, such as {missing[:3]}; take one that was trained to label pixels"
        )


@contextmanager
def quiet_unless(shown: bool) -> Iterator[None]:
    """Without transformers' warnings of weights that do not fit, which end in a message of our own.

    And unless ``shown`` without its progress bars, which a download alone is long enough for.
    """
    from transformers.utils import logging

    hide, verbosity = not shown and logging.is_progress_bar_enabled(), logging.get_verbosity()
    if hide:
        logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if hide:
            logging.enable_progress_bar()


def first_line(error: Exception) -> str:
    """The first line of an error's text, which is the part that says what is wrong."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(". ")
