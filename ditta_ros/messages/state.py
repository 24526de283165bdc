"""The state of a camera's stream as the JSON on ``~/state``."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

from ditta_core.types import State

Self = TypeVar("Self", bound="StreamState")

NUMBER = (int, float)
JSON_TYPES = {"str": (str,), "bool": (bool,), "int": (int,), "float": NUMBER, "float | None": (*NUMBER, type(None))}
"""What JSON has for the types of fields; see :func:`read_value` for the others."""


@dataclass(frozen=True)
class StreamState:
    """What a stream is doing, its last adaptation, and its counters.

    Attributes:
        state: State of the stream.
        generation: Number of the generation that is serving; 0 is the base model.
        collected: Number of frames in the warm-up clip.
        warmup_frames: Number of frames that a warm-up collects.
        training: Whether the network is still trained on the clip, of which it has the statistics and serves.
        progress: Share of the running adaptation or training that is done, 0..1.
        losses: Loss of each finished step of the running or last adaptation, or mean of each pass.
        message: Sentence on the last noteworthy event.
        adaptation_seconds: Duration of the last adaptation that ended; None before.
        adaptation_reason: Sentence on how the last adaptation ended; empty before.
        statistics_share: Share of the clip's BatchNorm statistics that the last adaptation took; None before.
        deployed_share: Share of the way to the trained weights that the last adaptation went; None before.
        input_width: Width of the network input in pixels; 0 before the first image.
        input_height: Its height.
        size_agreement: Share of the pixels in which the size of the network input that the last adaptation found gives
            the class of the mean of the other sizes; None where none was found.
        remembered: Number of generations that are kept.
        dropped: Number of images that a newer one replaced before they were segmented.
        received: Number of images that arrived.
        published: Number of label images.
        rejected: Number of images that could not be used.
        skipped: Number of images that were left out, while the stream was paused or above its largest rate.
        paused: Whether the stream is paused.
    """

    state: State = State.BASE
    generation: int = 0
    collected: int = 0
    warmup_frames: int = 0
    training: bool = False
    progress: float = 0.0
    losses: tuple[float, ...] = ()
    message: str = ""
    adaptation_seconds: float | None = None
    adaptation_reason: str = ""
    statistics_share: float | None = None
    deployed_share: float | None = None
    input_width: int = 0
    input_height: int = 0
    size_agreement: float | None = None
    remembered: int = 0
    dropped: int = 0
    received: int = 0
    published: int = 0
    rejected: int = 0
    skipped: int = 0
    paused: bool = False

    def to_json(self) -> str:
        """The state as a JSON object with a key for each attribute."""
        return json.dumps({**asdict(self), "state": self.state.value})

    @classmethod
    def from_json(cls: type[Self], text: str) -> Self:
        """The state that :meth:`to_json` wrote; keys of later versions are passed over.

        Raises:
            ValueError: it is no state; says what is missing or wrong.
        """
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"expected the state of a stream as JSON, but got {text[:80]!r}: {error}") from error
        if not isinstance(values, dict):
            raise ValueError(f"expected the state of a stream as a JSON object, but got {text[:80]!r}")
        read: dict[str, Any] = {}
        for field in fields(cls):
            if field.name not in values:
                raise ValueError(f"expected the key {field.name} in the state of a stream, but got {sorted(values)}")
            read[field.name] = read_value(field.name, str(field.type), values[field.name])
        return cls(**read)


def read_value(name: str, kind: str, value: Any) -> Any:
    """A value of JSON as a value of the field ``name``, which has the type ``kind``.

    Raises:
        ValueError: it has another type.
    """
    if kind == "State" and value in [state.value for state in State]:
        return State(value)
    if kind == "tuple[float, ...]" and isinstance(value, list):
        return tuple(read_value(name, "float", item) for item in value)
    if isinstance(value, JSON_TYPES.get(kind, ())) and isinstance(value, bool) == (kind == "bool"):
        return value
    raise ValueError(f"expected {kind} for {name} in the state of a stream, but got {value!r}")
