"""Models adapted to recorded drives: files with the tensors that differ from a base model, and which model that is.

A file names its base and what identifies it; only tensors are read from it, no code. The base itself is loaded by its
own name, so that what it takes to load it, such as a download, still has to be allowed by whoever loads.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load, save

from ditta_core.datasets.paths import expanded
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.segmentation.files import open_regular, write_atomically
from ditta_core.types import quoted

KIND = "adapted"
"""What the names of adapted models begin with: ``adapted:FILE``."""
FORMAT = "1"
UNNOTED_SHARE = 0.3
"""Share of the drives' statistics in files that do not say it: those of the time when every adaptation took as much."""
LONGEST_HEADER = 4 * 2**20
"""Bytes; a model of a thousand tensors needs a twentieth."""
LARGEST_FILE = 2**33
"""Bytes; the largest segmentation models have a billion numbers."""


@dataclass(frozen=True)
class AdaptedModel:
    """What differs from a base model.

    Attributes:
        base: Name of the base model, as in :class:`~ditta_core.segmentation.source.ModelSource`.
        fingerprint: Fingerprint of the base model, see :func:`weights_fingerprint`.
        tensors: Changed tensors by their names in the model, float32.
        statistics_share: Share, 0..1, of other statistics than the training's in the BatchNorm layers, of this
            adaptation and all before it.
        classes: Names of the classes that were published while it was adapted.
        details: How it came about: recipe, settings, frames; for people and reports.
    """

    base: str
    fingerprint: str
    tensors: Mapping[str, NDArray[np.float32]]
    statistics_share: float = 0.0
    classes: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    def apply(self, model: SegmentationModel) -> None:
        """Put the tensors and the share of the statistics into the base model, in place.

        Raises:
            ValueError: the model is another one.
        """
        found = weights_fingerprint(model)
        if found != self.fingerprint:
            raise ValueError(
                f"expected the base model {self.fingerprint[:12]} that the adaptation began from, but {self.base!r} is "
                f"{found[:12]}: other weights; give back the file it was, or adapt again"
            )
        state = model.state_dict()
        foreign = [
            name for name, value in self.tensors.items() if name not in state or state[name].shape != value.shape
        ]
        if foreign:
            raise ValueError(
                f"expected tensors of {self.base!r}, but got {len(foreign)} of another model {foreign[:3]}"
            )
        put_tensors(model, self.tensors)
        model.statistics_share = self.statistics_share


@torch.no_grad()
def put_tensors(model: torch.nn.Module, tensors: Mapping[str, NDArray[np.float32]]) -> None:
    """Copy tensors into the model, in place, by their names in its state dict."""
    state = model.state_dict()
    for name, value in tensors.items():
        state[name].copy_(torch.from_numpy(np.array(value)))


def weights_fingerprint(model: SegmentationModel) -> str:
    """What identifies a model by itself: SHA-256 over its outputs and all of its tensors, as 64 hex digits.

    Published classes, device and memory format do not count.
    """
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    description = [model.outputs.names, [(name, str(value.dtype), list(value.shape)) for name, value in state.items()]]
    digest = hashlib.sha256(json.dumps(description).encode())
    for value in state.values():
        digest.update(value.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def save_adapted(path: Path, adapted: AdaptedModel) -> None:
    """Write an adapted model to a file, replacing one that is there in one step.

    Raises:
        OSError: it cannot be written.
    """
    values = {
        "format": FORMAT,
        "base": adapted.base,
        "fingerprint": adapted.fingerprint,
        "statistics_share": adapted.statistics_share,
        "classes": list(adapted.classes),
        "details": dict(adapted.details),
    }
    # In C order, because safetensors writes the values of any other array in the order in which they lie in memory.
    tensors = {name: np.array(value, np.float32, order="C") for name, value in adapted.tensors.items()}
    data = save(tensors, {KIND: json.dumps(values)})
    write_atomically(path, data)


def load_adapted(path: str | Path) -> AdaptedModel:
    """Read an adapted model.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, something else, of another version, or has numbers that are not finite.
    """
    path = expanded(path)
    if not path.exists():
        raise FileNotFoundError(f"expected a model that `ditta adapt` wrote, but {path} does not exist")
    try:
        with open_regular(path) as file:
            data = file.read(LARGEST_FILE)
    except OSError as error:
        raise ValueError(f"expected a model that `ditta adapt` wrote, but {path} cannot be read: {error}") from error
    values = _header(data)
    if values is None:
        raise ValueError(
            f"expected a model that `ditta adapt` wrote, but {path} is damaged or something else; `ditta models check "
            f"{path}` tells what it is"
        )
    if values.get("format") != FORMAT:
        raise ValueError(
            f"expected an adapted model of format {FORMAT}, but {path} has {quoted(values.get('format'))}; adapt again "
            f"with this version"
        )
    try:
        base, fingerprint, details = (values[name] for name in ("base", "fingerprint", "details"))
        classes = tuple(map(str, values["classes"]))
        if not (isinstance(base, str) and isinstance(fingerprint, str) and isinstance(details, dict)):
            raise TypeError("its header is not what it should be")
        statistics_share = float(values.get("statistics_share", UNNOTED_SHARE))
        if not 0 <= statistics_share <= 1:
            raise ValueError(f"its share of the statistics is {statistics_share}, not 0 to 1")
        tensors = load(data)
    except Exception as error:  # the content is anybody's
        raise ValueError(
            f"expected a model that `ditta adapt` wrote, but {path} is damaged: {quoted(error)}"
        ) from error
    wrong = [name for name, value in tensors.items() if value.dtype != np.float32 or not np.isfinite(value).all()]
    if wrong:
        raise ValueError(f"expected finite float32 tensors in {path}, but got others in {wrong[:3]}; adapt again")
    return AdaptedModel(base, fingerprint, tensors, statistics_share, classes, details)


def base_of_adapted(path: Path) -> str | None:
    """The base model that a file names in its header; None for everything else, and what cannot be read."""
    try:
        with open_regular(path) as file:
            values = _header(file.read(8 + LONGEST_HEADER))
    except OSError:
        return None
    return None if values is None else quoted(values.get("base"))


def _header(data: bytes) -> dict[str, Any] | None:
    """What the header of a safetensors file says of an adapted model; None where it is of none."""
    length = int.from_bytes(data[:8], "little")
    if length > LONGEST_HEADER:
        return None
    try:
        values = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][KIND])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return values if isinstance(values, dict) else None
