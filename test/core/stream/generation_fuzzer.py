"""A script: damages files of generations, has each read, and tells what became of them."""

from __future__ import annotations

import json
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
from bounded import limit_memory, tell

from ditta_core.adaptation.state import AdaptedState
from ditta_core.stream.generation_file import GenerationError, load_generation, save_generation
from ditta_core.stream.generations import Generation
from ditta_core.stream.scene.signature import SceneSignature
from ditta_core.types import AdaptationReport

FINGERPRINT = "b" * 64
NUMBERS = (0, 1, 7, 100, 2**16, 2**31, 2**40, 2**63, 2**64 - 1)
WORDS = [b"F32", b"F64", b"BF16", b"\xff", b"{", b"}", b"[[[[", b'"', b"null", b"-1", b"1e999", b"NaN", b"__metadata__"]


def good_file(folder: Path, size: int) -> bytes:
    """What is written of a small generation."""
    weights = np.arange(size * size, dtype=np.float32).reshape(size, size)
    signature = SceneSignature(weights[0], weights[1])
    report = AdaptationReport(True, "adapted", 10, 50, 3.25, 1.5, (0.7, 0.3), 3)
    state = AdaptedState({"model.weight": weights, "bias": weights[0]}, True)
    save_generation(folder / "good", Generation(3, state, report, signature), FINGERPRINT)
    return (folder / "good").read_bytes()


def mutate(random: random.Random, files: list[bytes]) -> bytes:
    """A file with one to three faults."""
    data = bytearray(random.choice(files))
    for _ in range(random.randint(1, 3)):
        place = random.randrange(len(data) + 1)
        length = int.from_bytes(data[:8], "little")
        fault = random.randrange(8)
        if fault == 0:
            data[place : place + 1] = bytes((random.randrange(256),))
        elif fault == 1:
            del data[place:]
        elif fault == 2:
            data[:8] = random.choice((*NUMBERS, length - 1, length + 1)).to_bytes(8, "little", signed=False)
        elif fault == 3:
            other = random.choice(files)
            data[place:] = other[random.randrange(len(other)) :]
        elif fault == 4:
            place = random.randrange(8, 8 + max(min(length, len(data) - 8), 1))
            data[place : place + random.randint(0, 12)] = random.choice(WORDS)
        elif fault == 5:
            data += random.randbytes(random.choice((1, 100, 100_000)))
        elif fault == 6:
            header = json.dumps({f"state.{index}": huge(random) for index in range(random.randint(1, 300))}).encode()
            data[: 8 + min(length, len(data))] = len(header).to_bytes(8, "little") + header
        else:
            data = bytearray(random.randbytes(random.randint(0, 300)))
    return bytes(data)


def huge(random: random.Random) -> dict[str, object]:
    """A tensor that claims to be large."""
    shape = [random.choice(NUMBERS) for _ in range(random.randint(0, 40))]
    return {"dtype": random.choice(("F32", "F64", "U8")), "shape": shape, "data_offsets": random.sample(NUMBERS, 2)}


def main() -> None:
    """Damage as many files as the first argument says; the second one is the seed. Any other error ends the script."""
    source = random.Random(int(sys.argv[2]))
    fates: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        files = [good_file(Path(folder), size) for size in (2, 16, 200)]
        path = Path(folder, "damaged")
        limit_memory()
        for _ in range(int(sys.argv[1])):
            data = mutate(source, files)
            path.write_bytes(data)
            try:
                load_generation(path, FINGERPRINT)
            except GenerationError as error:
                text = str(error)
                assert text.startswith("expected ") and ", but " in text and len(text) < 1000, text
                fates["refused"] += 1
            else:
                fates["read whole" if data in files else "read though damaged"] += 1
    tell(fates=fates)


if __name__ == "__main__":
    main()
