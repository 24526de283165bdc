"""Generations in files: one generation per safetensors file, for one base model, written atomically.

Reading such a file runs no code, and whoever reads it finds the old one or the new one, whole. Whatever lies there in
the place of one is refused in a sentence, before it has taken more memory than a file of this base model.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load, save

from ditta_core.adaptation.state import AdaptedState
from ditta_core.inference.temporal_branch import TemporalSegmenter
from ditta_core.segmentation.files import open_regular, write_atomically
from ditta_core.stream.generations import Generation
from ditta_core.stream.scene.known import MOST_PLACES, KnownScene
from ditta_core.stream.scene.signature import SceneSignature
from ditta_core.types import AdaptationReport

PACKAGE = "ditta_ros"
FORMAT = "3"  # version of the file's layout
READABLE = ("1", "2", FORMAT)  # files of any other are refused; 1 had no size of the network input, 2 one place
LONGEST_HEADER = 4 * 2**20  # bytes; a model of a thousand tensors needs a twentieth
LARGEST_SIGNATURE = 2**20  # bytes, of 8 places of 16,384 channels
LONGEST_TEXT = 2000  # characters of a report, which is published every second
LONGEST_QUOTE = 200  # characters of a file's own content in a message
LONGEST_SIDE = 8192  # pixels of the network input
MOST_LOSSES = 1000
NO_CHECKSUM = "0" * 64  # in the place of the checksum while that is taken, which thus covers every other byte
STATE, SIGNATURE = "state.", "signature."  # what the names of tensors begin with


class GenerationError(ValueError):
    """A generation cannot be saved or loaded; the text says what was expected, what came, and the remedy."""


def model_fingerprint(segmenter: TemporalSegmenter) -> str:
    """What identifies a base model: SHA-256 over its published classes and all of its tensors, as 64 hex digits.

    Another architecture, other weights, or classes with other names or made of other outputs give another fingerprint;
    the device, the memory format and the colours of the classes do not count. The packaged model takes 6 ms on one
    core, every further 100 MB of weights 60 ms.
    """
    state = {name: value.detach().cpu().contiguous() for name, value in segmenter.state_dict().items()}
    model = segmenter.model
    description = {
        "classes": model.classes.names,
        "outputs": model.class_map.assignment,
        "radius": segmenter.radius,
        "tensors": [(name, str(value.dtype), list(value.shape)) for name, value in state.items()],
    }
    digest = hashlib.sha256(json.dumps(description).encode())
    for value in state.values():
        digest.update(value.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def largest_file(segmenter: TemporalSegmenter) -> int:
    """Number of bytes that a file of a base model has at most: all of its numbers changed."""
    numbers = sum(value.numel() for value in segmenter.state_dict().values() if value.is_floating_point())
    return 8 + LONGEST_HEADER + LARGEST_SIGNATURE + 4 * numbers


def save_generation(path: Path, generation: Generation, fingerprint: str) -> None:
    """Write a generation to a file, replacing one that is there; its folder is made where it is missing.

    Args:
        path: File to write; whatever happens meanwhile, it is the old one or the new one, never a part of either.
        generation: What is saved.
        fingerprint: Fingerprint of its base model, see :func:`model_fingerprint`.

    Raises:
        GenerationError: The file cannot be written; a file that was there before is as it was.
    """
    try:
        write_atomically(path, _to_bytes(generation, fingerprint))
    except OSError as error:
        raise GenerationError(str(error)) from error


def load_generation(path: Path, fingerprint: str, largest: int = 2**32) -> Generation:
    """Read a generation from a file that :func:`save_generation` wrote.

    Args:
        path: File to read.
        fingerprint: Fingerprint of the base model that it has to belong to.
        largest: Number of bytes of the largest file that is read, see :func:`largest_file`.

    Raises:
        GenerationError: There is no such file, it is damaged or something else, it belongs to another base model, it
            is too large for the model or for the memory, or its numbers are not finite.
    """
    try:
        with open_regular(path) as file:
            data, metadata = _read_checked(file, path, fingerprint, largest)
        return _of_parts(load(data), metadata)
    except FileNotFoundError as error:
        raise GenerationError(f"expected a saved generation, but {path} does not exist; save one first") from error
    except OSError as error:
        raise GenerationError(f"expected a saved generation in {path}, but got: {error.strerror or error}") from error
    except MemoryError as error:
        raise GenerationError(f"expected memory for the generation in {path}, but there is not enough") from error
    except GenerationError:
        raise
    except Exception as error:  # the content is anybody's: whatever a parser makes of it says that it is damaged
        raise _damaged(path, str(error) or type(error).__name__) from error


def _damaged(path: Path, reason: str) -> GenerationError:
    return GenerationError(
        f"expected a generation saved by {PACKAGE}, but {path} is damaged or something else: {_quoted(reason)}; delete "
        f"it, then adapt and save again"
    )


def _quoted(text: str) -> str:
    """The beginning of a text from a file, as what every log and every message can hold."""
    return text[:LONGEST_QUOTE].encode("unicode_escape").decode("ascii")


def _read_checked(file: BinaryIO, path: Path, fingerprint: str, largest: int) -> tuple[bytes, dict[str, str]]:
    """The content of a file and its metadata; the body of one that does not belong here is left alone.

    Raises:
        GenerationError: The file is of another package, format or base model, too large, or damaged.
    """
    data = file.read(8)
    length = int.from_bytes(data, "little")
    data += file.read(length if length <= LONGEST_HEADER else 0)
    metadata = _metadata(data[8:])
    if "package" not in metadata:
        raise _damaged(path, "it has no header of this package")
    if metadata["package"] != PACKAGE or metadata.get("format") not in READABLE:
        known = f"{', '.join(READABLE[:-1])} or {FORMAT}"
        raise GenerationError(
            f"expected a generation in format {known} of {PACKAGE}, but {path} has format "
            f"{_quoted(repr(metadata.get('format')))} of {_quoted(repr(metadata['package']))}; adapt and save again "
            f"with this version"
        )
    if metadata.get("fingerprint") != fingerprint:
        raise GenerationError(
            f"expected a generation of the base model {fingerprint[:12]}, but {path} belongs to "
            f"{_quoted(metadata.get('fingerprint', '')[:12])}: another model, other weights or other classes; load "
            f"that model, or adapt and save again"
        )
    # Not by safe_open: of a file that is replaced meanwhile it would give one's header and another's content.
    size = os.fstat(file.fileno()).st_size
    if size > largest:
        raise _damaged(path, f"expected at most {largest} bytes, as all numbers of the base model take, but got {size}")
    data += file.read(max(0, size - len(data)))
    checksum = metadata.get("checksum", "")
    if len(checksum) != len(NO_CHECKSUM) or checksum != _checksum(data, checksum):
        raise _damaged(path, "its checksum does not fit its content")
    return data, metadata


def _to_bytes(generation: Generation, fingerprint: str) -> bytes:
    """The content of a file."""
    tensors: dict[str, NDArray[Any]] = {f"{STATE}{name}": value for name, value in generation.state.tensors.items()}
    if generation.scene is not None:
        places = [vars(place) for place in generation.scene.places]
        tensors |= {f"{SIGNATURE}{name}": np.stack([place[name] for place in places]) for name in places[0]}
    metadata = {
        "package": PACKAGE,
        "format": FORMAT,
        "fingerprint": fingerprint,
        "checksum": NO_CHECKSUM,
        "number": str(generation.number),
        "temporal_branch": json.dumps(generation.state.temporal_branch),
        "long_side": json.dumps(generation.state.long_side),
        "report": json.dumps(asdict(generation.report)),
    }
    # In C order, because safetensors 0.8 writes the values of any other array in the order in which they lie in memory.
    data = save({name: value.copy(order="C") for name, value in tensors.items()}, metadata)
    unsigned, signed = (f'"checksum":"{text}"'.encode() for text in (NO_CHECKSUM, hashlib.sha256(data).hexdigest()))
    return data.replace(unsigned, signed, 1)


def _metadata(header: bytes) -> dict[str, str]:
    """The metadata in the header of a safetensors file; none where it is no such header."""
    try:
        return {str(key): str(value) for key, value in json.loads(header)["__metadata__"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _checksum(data: bytes, checksum: str) -> str:
    """SHA-256 of the content of a file without the checksum that stands in it."""
    return hashlib.sha256(data.replace(checksum.encode(), NO_CHECKSUM.encode(), 1)).hexdigest()


def _of_parts(tensors: dict[str, NDArray[Any]], metadata: dict[str, str]) -> Generation:
    """A generation from the tensors and metadata of a file; raises anything where they are of none."""
    foreign = [name for name, value in tensors.items() if value.dtype != np.float32]
    foreign += [name for name in tensors if not name.startswith((STATE, SIGNATURE))]
    if foreign:
        raise ValueError(f"expected float32 tensors of a generation, but got {foreign[:3]}")
    broken = [name for name, value in tensors.items() if not np.isfinite(value).all()]
    if broken:
        raise ValueError(f"expected finite numbers, but got NaN or infinity in {broken[:3]}")
    temporal_branch, report = json.loads(metadata["temporal_branch"]), json.loads(metadata["report"])
    if not isinstance(temporal_branch, bool) or not isinstance(report, dict):
        raise TypeError(f"expected true or false and a report, but got {temporal_branch!r} and {report!r}")
    long_side = json.loads(metadata.get("long_side", "null"))
    if long_side is not None and not (type(long_side) is int and 0 < long_side <= LONGEST_SIDE):
        raise ValueError(f"expected a longest side of 1 to {LONGEST_SIDE} pixels, but got {str(long_side)[:80]!r}")
    # Copies: safetensors gives read-only views of the file's content, of which torch warns.
    state, parts = (
        {name.removeprefix(kind): value.copy() for name, value in tensors.items() if name.startswith(kind)}
        for kind in (STATE, SIGNATURE)
    )
    scene = _scene_of(**parts) if parts else None
    number = int(metadata["number"])
    if not 0 < number < 2**31:
        raise ValueError(f"expected a number from 1 to {2**31 - 1}, but got {number}")
    return Generation(number, AdaptedState(state, temporal_branch, long_side), _report_of(report), scene)


def _scene_of(mean: NDArray[np.float32], spread: NDArray[np.float32]) -> KnownScene:
    """A scene from signatures [places, channels], or of one place [channels]; ValueError: they are of none."""
    if mean.shape != spread.shape or mean.ndim not in (1, 2) or not 0 < len(np.atleast_2d(mean)) <= MOST_PLACES:
        raise ValueError(
            f"expected mean and spread of one shape, of 1 to {MOST_PLACES} places, but got {mean.shape} and "
            f"{spread.shape}"
        )
    places = [SceneSignature(*place) for place in zip(np.atleast_2d(mean), np.atleast_2d(spread), strict=True)]
    return KnownScene(places[0], places[1:])


def _report_of(values: dict[str, Any]) -> AdaptationReport:
    """A report from JSON; TypeError or ValueError: it is none."""
    kinds = {field.name: str(field.type) for field in fields(AdaptationReport)}
    # What is no field is left to the constructor, which says so.
    return AdaptationReport(**{name: _checked(name, kinds.get(name, ""), value) for name, value in values.items()})


def _checked(name: str, kind: str, value: Any) -> Any:
    """A value of JSON as one of the field ``name``, which has the type ``kind``; TypeError or ValueError: it is none.

    What is read here is formatted and published later, by code that takes the types as they are declared.
    """
    if kind == "tuple[float, ...]" and isinstance(value, list) and len(value) <= MOST_LOSSES:
        return tuple(_checked(name, "float", item) for item in value)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind.startswith("float") and number and math.isfinite(value):
        return float(value)
    if kind == "str" and isinstance(value, str) and len(value) <= LONGEST_TEXT:
        value.encode()  # half a surrogate pair can be in no message
        return value
    if (
        (kind.startswith("int") and number and isinstance(value, int) and 0 <= value < 2**63)
        or (kind == "bool" and isinstance(value, bool))
        or (kind.endswith("| None") and value is None)
        or not kind
    ):
        return value
    raise TypeError(f"expected {kind} for {name} in the report, but got {str(value)[:80]!r}")
