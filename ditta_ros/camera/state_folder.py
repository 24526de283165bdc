"""The folder of adapted generations, so that what was learned outlives the process."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ditta_core.segmentation.files import remove_leftovers
from ditta_core.stream.generation_file import GenerationError, load_generation, save_generation
from ditta_core.stream.generations import Generation

MOST_REFUSALS = 10
"""Number of files of which it is told why they were left out; of others only how many they are."""


@dataclass(frozen=True)
class SavedGenerations:
    """What was found in the folder.

    Attributes:
        generations: Generations that fit the model, oldest first.
        refusals: Sentences that say why other files were left out.
    """

    generations: Sequence[Generation] = ()
    refusals: Sequence[str] = ()


@dataclass(frozen=True)
class StateFolder:
    """The files of one camera in the folder.

    A generation is written over the file that it was read from or written to, never over another: what was left out,
    such as that of another model, is no less worth for that.

    Attributes:
        path: The folder, which is made when it is first written to.
        camera: Name of the camera; empty for the only one.
        fingerprint: Fingerprint of the base model, without which a generation is of no use.
        largest: Number of bytes that a file of this model has at most; larger ones are left out.
    """

    path: Path
    camera: str
    fingerprint: str
    largest: int = 2**32
    _numbers: dict[int, int] = field(default_factory=dict)  # of the file of each generation, by its own number

    @property
    def prefix(self) -> str:
        """What the names of the files begin with."""
        return f"{self.camera}-generation-" if self.camera else "generation-"

    def _remove_leftovers(self) -> None:
        remove_leftovers(self.path, rf"{re.escape(self.prefix)}\d+\.safetensors")

    def save(self, generation: Generation) -> Path:
        """Write a generation, in place of an earlier save of it, and clear away what killed saves left behind.

        Its number in the file is that of the file, which is above those of all others where it is a new one.

        Raises:
            GenerationError: the folder cannot be written to.
        """
        self._remove_leftovers()  # first, since they may be what fills the disk
        number = self._numbers.get(generation.number)
        if number is None:
            number = max([generation.number, *(taken + 1 for taken in self._files())])
        file = self.path / f"{self.prefix}{number:04d}.safetensors"
        save_generation(file, replace(generation, number=number), self.fingerprint)
        self._numbers[generation.number] = number
        return file

    def _files(self) -> dict[int, str]:
        """Names of the files by their numbers, in this order."""
        pattern = re.compile(re.escape(self.prefix) + r"(\d+)\.safetensors")
        names = (pattern.fullmatch(file.name) for file in self.path.glob(f"{self.prefix}*.safetensors"))
        return dict(sorted((int(name[1]), name[0]) for name in names if name is not None))

    def read(self, count: int) -> SavedGenerations:
        """The newest generations, by their numbers, as many as ``count``. A folder that is not there has none.

        Whatever lies there in the place of a file costs that file alone.
        """
        self._remove_leftovers()
        generations: list[Generation] = []
        refusals: list[str] = []
        for number, name in reversed(self._files().items()):
            if len(generations) == count:
                break
            try:
                generations.append(load_generation(self.path / name, self.fingerprint, self.largest))
                self._numbers.setdefault(generations[-1].number, number)
            except (GenerationError, OSError) as error:
                refusals.append(str(error))
        if len(refusals) > MOST_REFUSALS:
            refusals[MOST_REFUSALS:] = [f"{len(refusals) - MOST_REFUSALS} more files were left out"]
        return SavedGenerations(generations[::-1], refusals)
