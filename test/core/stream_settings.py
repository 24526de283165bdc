"""Settings of a stream for the tests: those of a frame and those of the stream in one list of keywords."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from ditta_core.inference.config import InferenceConfig
from ditta_core.stream.config import StreamConfig

INFERENCE = {field.name for field in fields(InferenceConfig)}


def stream_config(**settings: Any) -> StreamConfig:
    """A configuration with these settings, at the image's own size unless one is given."""
    frame = {"long_side": 0, **{name: value for name, value in settings.items() if name in INFERENCE}}
    stream = {name: value for name, value in settings.items() if name not in INFERENCE}
    return StreamConfig(InferenceConfig(**frame), **stream)
