"""Files whose checksum fits and whose content is anything: each is refused in a sentence that a message can hold."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_generations import BASE, REPORT, forged, generation, signature

from ditta_core.inference.temporal_branch import TemporalSegmenter
from ditta_core.segmentation.registry import load_model
from ditta_core.segmentation.source import ModelSource
from ditta_core.stream.generation_file import GenerationError, largest_file, load_generation, save_generation
from ditta_core.stream.generations import GenerationStore

SURROGATE = "\ud800"


def refusal(file: Path, largest: int = 2**32) -> str:
    """Why a file is refused."""
    with pytest.raises(GenerationError) as caught:
        load_generation(file, BASE, largest)
    text = str(caught.value)
    assert len(text) < 1000
    text.encode()
    return text


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("succeeded", 1),
        ("succeeded", None),
        ("reason", 5),
        ("reason", "x" * 5000),
        ("reason", SURROGATE),
        ("refused", ["no"]),
        ("frames", 2.5),
        ("frames", -1),
        ("steps", True),
        ("objects", 10**30),
        ("seconds", "3.5"),
        ("seconds", None),
        ("seconds", 10**400),
        ("target_seconds", float("nan")),
        ("statistics_share", "half"),
        ("deployed_share", float("inf")),
        ("losses", 0.5),
        ("losses", {"0": 1}),
        ("losses", [0.5, "0.4"]),
        ("losses", [[0.5]]),
        ("losses", [0.5] * 5000),
    ],
)
def test_reports_of_other_types_are_refused(tmp_path: Path, field: str, value: Any) -> None:
    forged(tmp_path / "generation", {}, report=json.dumps({**asdict(REPORT), field: value}))
    assert "is damaged or something else" in refusal(tmp_path / "generation")


def test_whole_numbers_are_read_as_the_floats_they_stand_for(tmp_path: Path) -> None:
    report = {**asdict(REPORT), "seconds": 3, "losses": [1, 0], "deployed_share": 1}
    forged(tmp_path / "generation", {}, report=json.dumps(report))
    read = load_generation(tmp_path / "generation", BASE).report
    assert (read.seconds, read.losses, read.deployed_share) == (3.0, (1.0, 0.0), 1.0)
    assert isinstance(read.seconds, float)
    assert isinstance(read.losses[0], float)


@pytest.mark.parametrize("number", ["0", "-1", str(2**31), "1e3", "9" * 5000, ""])
def test_numbers_that_no_stream_gives_are_refused(tmp_path: Path, number: str) -> None:
    forged(tmp_path / "generation", {}, number=number)
    assert "is damaged or something else" in refusal(tmp_path / "generation")


@pytest.mark.parametrize("key", ["package", "format", "fingerprint", "checksum"])
@pytest.mark.parametrize("value", ["x" * 100_000, SURROGATE, "\0\n\x1b[31m"])
def test_what_a_message_quotes_of_a_file_is_short_and_can_be_published(tmp_path: Path, key: str, value: str) -> None:
    header = {"package": "ditta_ros", "format": "1", "fingerprint": BASE, key: value}
    text = json.dumps({"__metadata__": header}).encode()
    (tmp_path / "generation").write_bytes(len(text).to_bytes(8, "little") + text)
    assert "\x1b" not in refusal(tmp_path / "generation")


def test_nested_lists_are_refused(tmp_path: Path) -> None:
    forged(tmp_path / "generation", {}, report="[" * 100_000)
    assert "is damaged or something else" in refusal(tmp_path / "generation")


def test_of_another_model_only_the_header_is_read(tmp_path: Path) -> None:
    file = tmp_path / "generation"
    save_generation(file, generation(), "c" * 64)
    os.truncate(file, 2**40)  # a sparse file of a terabyte
    assert "belongs to cccccccccccc: another model" in refusal(file)


def test_a_file_larger_than_its_model_is_refused(tmp_path: Path) -> None:
    base = TemporalSegmenter(load_model(ModelSource()))
    largest = largest_file(base)
    weights = sum(value.numel() * 4 for value in base.parameters())
    assert weights < largest < weights + 2**23
    file = tmp_path / "generation"
    save_generation(file, generation(size=100), BASE)
    load_generation(file, BASE, file.stat().st_size)
    assert f"expected at most {file.stat().st_size - 1} bytes" in refusal(file, file.stat().st_size - 1)
    os.truncate(file, 2**40)
    assert f"expected at most {largest} bytes" in refusal(file, largest)


def test_a_header_of_megabytes_is_not_read(tmp_path: Path) -> None:
    text = json.dumps({"__metadata__": {"package": "ditta_ros"}, "list": [0] * 2**21}).encode()
    (tmp_path / "generation").write_bytes(len(text).to_bytes(8, "little") + text)
    assert "it has no header of this package" in refusal(tmp_path / "generation")


def test_a_signature_of_another_encoder_is_no_place_that_is_recognised(tmp_path: Path) -> None:
    forged(tmp_path / "generation", {f"signature.{name}": np.ones(3, np.float32) for name in ("mean", "spread")})
    store = GenerationStore(2, [load_generation(tmp_path / "generation", BASE), generation(2, 1.0)])
    known = store.known_scene(signature(1.0))
    assert known is not None
    assert known.number == 2
