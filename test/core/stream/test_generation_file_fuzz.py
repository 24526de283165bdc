"""Thousands of damaged and forged state files, read by a process that has little memory."""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from small_generations import BASE, generation

from ditta_core.stream.generation_file import GenerationError, _checksum, load_generation, save_generation

FILES = 2000
MEMORY = 2**30
LARGEST = 2**24
ODD_VALUES = (0, -1, 1e308, True, None, "", "x" * 10_000, "\ud800", [], {}, [[]], 2**70, [0.5] * 3, {"a": {}})


def flip(data: bytes, random: np.random.Generator) -> bytes:
    """Some bytes are others."""
    content = bytearray(data)
    for place in random.integers(0, len(content), random.integers(1, 9)):
        content[place] = random.integers(0, 256)
    return bytes(content)


def cut(data: bytes, random: np.random.Generator) -> bytes:
    """A part is missing, or there twice."""
    first, last = sorted(random.integers(0, len(data), 2))
    return data[:first] + data[last:] if random.random() < 0.5 else data[:last] + data[first:]


def announce(data: bytes, random: np.random.Generator) -> bytes:
    """Another length of the header."""
    return int(random.integers(0, 2**63)).to_bytes(8, "little") + data[8:]


def parts(data: bytes) -> tuple[bytes, bytes]:
    """Header and body."""
    length = int.from_bytes(data[:8], "little")
    return data[8 : 8 + length], data[8 + length :]


def signed(header: bytes, body: bytes) -> bytes:
    """A file whose checksum fits, as far as it has a place for one."""
    data = len(header).to_bytes(8, "little") + header + body
    place = re.search(rb'"checksum": ?"([0-9a-f]{64})"', header)
    return data.replace(place[1], _checksum(data, place[1].decode()).encode(), 1) if place else data


def flip_header(data: bytes, random: np.random.Generator) -> bytes:
    """Some bytes of the header are others, and the checksum fits."""
    header, body = parts(data)
    return signed(flip(header, random), body)


def odd_value(data: bytes, random: np.random.Generator) -> bytes:
    """A field of the report, or a value of the metadata, is anything, and the checksum fits."""
    text, body = parts(data)
    header = json.loads(text)
    metadata, odd = header["__metadata__"], ODD_VALUES[random.integers(len(ODD_VALUES))]
    report = json.loads(metadata["report"])
    name = str(random.choice([*report, "other", "number", "temporal_branch"]))
    if name in metadata:
        metadata[name] = json.dumps(odd)
    else:
        metadata["report"] = json.dumps({**report, name: odd})
    return signed(json.dumps(header).encode(), body)


MUTATIONS: tuple[Callable[[bytes, np.random.Generator], bytes], ...] = (flip, cut, announce, flip_header, odd_value)


def read_all() -> None:
    """Read the files; raises where one does anything else than being a generation or being refused in a sentence."""
    size = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    random, outcomes = np.random.default_rng(7), Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "generation-0001.safetensors"
        save_generation(file, generation(3, 1.0, 2.0), BASE)
        whole = file.read_bytes()
        for index in range(FILES):
            file.write_bytes(MUTATIONS[index % len(MUTATIONS)](whole, random))
            try:
                load_generation(file, BASE, LARGEST)
                outcomes["read"] += 1
            except GenerationError as error:
                text = str(error)
                text.encode()
                assert len(text) < 1000
                assert text.startswith("expected ")
                assert "not enough" not in text  # memory
                outcomes["refused"] += 1
    print(json.dumps(outcomes))


def test_whatever_is_in_a_file_it_is_refused_in_a_sentence_and_within_the_memory() -> None:
    done = subprocess.run(
        [sys.executable, __file__], capture_output=True, text=True, timeout=100, cwd=Path(__file__).parent, check=False
    )
    if done.returncode:
        pytest.fail(done.stderr)
    outcomes = json.loads(done.stdout)
    assert sum(outcomes.values()) == FILES
    assert outcomes["refused"] > 0.8 * FILES


if __name__ == "__main__":
    read_all()
