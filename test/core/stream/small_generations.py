"""Generations of a few numbers, and files of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load, save

from ditta_core.adaptation.state import AdaptedState
from ditta_core.stream import generation_file
from ditta_core.stream.generation_file import save_generation
from ditta_core.stream.generations import Generation
from ditta_core.stream.scene.known import KnownScene
from ditta_core.stream.scene.signature import SceneSignature
from ditta_core.types import AdaptationReport

BASE = "b" * 64
REPORT = AdaptationReport(True, "adapted", 10, 50, 3.25, 1.5, (0.7, 0.1 + 0.2), 3)


def signature(*mean: float) -> SceneSignature:
    values = np.array(mean, np.float32)
    return SceneSignature(values, np.full_like(values, 0.5))


def generation(number: int = 1, *mean: float, size: int = 4) -> Generation:
    """A small one, whose tensors tell the number."""
    tensors = {"model.weight": np.full((size, size), number, np.float32), "bias": np.arange(3, dtype=np.float32)}
    return Generation(number, AdaptedState(tensors, True), REPORT, KnownScene(signature(*mean)) if mean else None)


def forged(file: Path, tensors: dict[str, np.ndarray], **changes: str) -> None:
    """Write a file with these tensors and metadata, and a checksum that fits."""
    save_generation(file, generation(1, 1.0), BASE)
    with safe_open(file, framework="np") as opened:
        metadata = {**opened.metadata(), **changes, "checksum": "0" * 64}
    data = save({**load(file.read_bytes()), **tensors}, metadata)
    signed = generation_file._checksum(data, metadata["checksum"])
    file.write_bytes(data.replace(b"0" * 64, signed.encode(), 1))
