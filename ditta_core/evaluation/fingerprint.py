"""The name of an evaluation by everything that its numbers depend on: one never goes on with parts of another."""

from __future__ import annotations

import glob
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ditta_core.datasets.base import VideoSequence
from ditta_core.evaluation.methods.base import MethodSetup
from ditta_core.segmentation.huggingface import cached_snapshot
from ditta_core.versions import software_versions

_CODE = (".py", ".safetensors", ".yaml")
"""Files of the package that numbers depend on."""


def evaluation_fingerprint(
    options: Mapping[str, Any], sequences: Sequence[VideoSequence], setup: MethodSetup, packages: Sequence[Path]
) -> str:
    """16 hexadecimal digits that another option, frame, label, weight, line of code or library changes.

    Frames, labels and weights are known by the path, the size and the time of the last change of their files, or by
    their content where they are in none.

    Args:
        options: Options of the evaluation by name.
        sequences: Videos with their labels.
        setup: Model and teacher, both loaded before, so that what is fetched is on this machine.
        packages: Folders of the code, which counts by its content.
    """
    digest = hashlib.sha256()

    def add(*values: Any) -> None:
        digest.update(json.dumps(values, default=str, sort_keys=True).encode())

    add(options, software_versions())
    for sequence in sequences:
        add(
            type(sequence).__name__, sequence.name, sequence.frame_rate, list(map(sequence.stamp, range(len(sequence))))
        )
        add(None if sequence.classes is None else (sequence.classes.names, sequence.classes.members))
        paths = sequence.source_paths()
        add(_states_of(paths))
        for index in () if paths else range(len(sequence)):
            labels = sequence.labels(index)
            digest.update(sequence.image(index).tobytes() + (b"" if labels is None else labels.tobytes()))
    for text in (setup.source.name.partition(":")[2], setup.teacher.checkpoint, setup.source.classes):
        add(text, _states_of(_named_paths(text)))
    for package in packages:
        for file in sorted(file for file in package.rglob("*") if file.suffix in _CODE):
            digest.update(file.relative_to(package).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def _named_paths(text: str) -> list[Path]:
    """The file or folder that an argument names, or the files that it stands for as an id of the hub; else none.

    With a file go those beside it that have its name and another ending, as weights and classes of an ONNX file have.
    """
    path = os.path.expanduser(text)  # noqa: PTH111 (a class list may also be YAML, which makes no path)
    if os.path.exists(path):  # noqa: PTH110 (of names that are too long, Path.exists raises)
        if os.path.isfile(path):  # noqa: PTH113
            return sorted({Path(path), *Path(path).parent.glob(f"{glob.escape(Path(path).stem)}.*")})
        return [Path(path)] if text else []
    snapshot = cached_snapshot(text)
    return [] if snapshot is None else [snapshot]


def _states_of(paths: Iterable[Path]) -> list[tuple[str, int, int]]:
    """Path, size and time of change of files, and of all files in folders at any depth."""
    states = []
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            # SQLite touches the shared memory of a bag that is only read.
            if file.is_file() and not file.name.endswith("-shm"):
                state = file.stat()
                states.append((str(file.absolute()), state.st_size, state.st_mtime_ns))
    return states
