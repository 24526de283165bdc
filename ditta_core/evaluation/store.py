"""Finished trials on disk, so that an interrupted evaluation goes on where it stopped."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ditta_core.evaluation.measurement import Measurement
from ditta_core.evaluation.trial import Trial, TrialRecord, decode_mask
from ditta_core.types import AdaptationReport

_RECORD = "record.json"
_LOCK = ".lock"


@dataclass(frozen=True)
class _Lock:
    """The open lock file of a folder, and whether it is ours."""

    file: IO[bytes]
    held: bool


def _lock_of(folder: Path) -> _Lock | None:
    """Try to lock a folder, which is made where it does not exist; None where it was removed meanwhile."""
    with suppress(FileExistsError):
        folder.mkdir()
    path = folder / _LOCK
    try:
        file = path.open("wb")
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(file.fileno()), path.stat()):
            return _Lock(file, held=True)
    except BlockingIOError:
        file.close()
        return _Lock(file, held=False)
    except FileNotFoundError:
        pass
    except OSError:  # a file system without locks: as good as it gets
        return _Lock(file, held=True)
    file.close()
    return None


class TrialStore:
    """Keeps records of trials in a folder, which is made where it does not exist, each one whole or not at all.

    Of several processes, one at a time may use a folder; :meth:`claim` sees to that.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._lock: IO[bytes] | None = None

    @classmethod
    def claim(cls, parent: Path, name: str) -> TrialStore:
        """The store ``name`` in a folder; the next free one, ``name-2`` and so on, while other processes use it.

        It is held until :meth:`close` or :meth:`remove`, or the end of the process.
        """
        parent.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            folder = parent / (name if number == 1 else f"{name}-{number}")
            while (lock := _lock_of(folder)) is None:
                pass  # the folder was removed meanwhile
            if lock.held:
                store = cls(folder)
                store._lock = lock.file
                return store
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Let another process use the folder."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def clear(self) -> None:
        """Forget all records, and hold the folder on."""
        for entry in self.folder.iterdir():
            if entry.name != _LOCK:
                shutil.rmtree(entry)

    def has(self, trial: Trial) -> bool:
        """Whether the trial is done."""
        return (self.folder / trial.key / _RECORD).is_file()

    def put(self, trial: Trial, record: TrialRecord) -> None:
        """Keep a record."""
        folder = self.folder / trial.key
        masks = folder / "masks"
        masks.mkdir(parents=True, exist_ok=True)
        for index, content in record.masks.items():
            (masks / f"{index:06}.png").write_bytes(content)
        values = asdict(replace(record, masks={}))
        for measurement in values["measurements"]:
            measurement["counts"] = measurement["counts"].tolist()
        partial = folder / f"{_RECORD}.partial"
        partial.write_text(json.dumps(values), encoding="utf-8")
        partial.replace(folder / _RECORD)  # last and at once: what has a record is complete

    def get(self, trial: Trial) -> TrialRecord:
        """The record of a trial that is done, without its masks."""
        values = json.loads((self.folder / trial.key / _RECORD).read_text(encoding="utf-8"))
        report, latencies, input_size = values["report"], values["latencies"], values["input_size"]
        return TrialRecord(
            measurements=tuple(map(_measurement, values["measurements"])),
            seconds=_by_index(values["seconds"]),
            masks={},
            report=None if report is None else AdaptationReport(**{**report, "losses": tuple(report["losses"])}),
            peak_memory_mb=values["peak_memory_mb"],
            latencies=None if latencies is None else _by_index(latencies),
            input_size=None if input_size is None else (input_size[0], input_size[1]),
            size_agreement=values["size_agreement"],
        )

    def mask(self, trial: Trial, index: int) -> NDArray[Any] | None:
        """The label image of a frame; None where there is none."""
        path = self.folder / trial.key / "masks" / f"{index:06}.png"
        return decode_mask(path.read_bytes()) if path.is_file() else None

    def remove(self) -> None:
        """Forget all records, and the folder too."""
        gone = Path(tempfile.mkdtemp(dir=self.folder.parent, prefix=".removed-"))
        self.folder.rename(gone)  # at once: another process finds the folder whole or not at all
        self.close()
        shutil.rmtree(gone)


def _measurement(values: dict[str, Any]) -> Measurement:
    windows = {name: _by_index(values[name]) for name in ("consistent", "correct")}
    return Measurement(**{**values, **windows, "counts": np.asarray(values["counts"], np.int64)})


def _by_index(values: Mapping[str, Any]) -> dict[int, Any]:
    """Values by whole number, which JSON does not have as keys."""
    return {int(index): value for index, value in values.items()}
