"""Adapted models that are kept: a bounded store in memory, by the place they were adapted to, and files that last.

A file belongs to one base model. It is a safetensors file, so that reading it runs no code, and it is written so that
whoever reads it finds the old one or the new one, whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ditta_core.adaptation.state import AdaptedState
from ditta_core.stream.scene.signature import SceneSignature
from ditta_core.types import AdaptationReport


@dataclass(frozen=True, eq=False)
class Generation:
    """One adapted model. Two are equal only if they are the same object.

    Attributes:
        number: that the stream gave it, from 1.
        state: what differs from the base model.
        report: of the adaptation that made it.
        signature: of the place it was adapted to; None where that is not known, and then it is never the nearest one.
    """

    number: int
    state: AdaptedState
    report: AdaptationReport
    signature: SceneSignature | None = None


class GenerationStore:
    """Generations of places seen before, as many as there is room for; the one not used for the longest time goes.

    Used are those that were added or touched last: looking for the nearest one is no use of it, because the caller may
    find it too far away. Iteration goes from the one to be dropped next to the one used last. Not thread safe.

    Args:
        capacity: how many are kept; 0 keeps none.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 0:
            raise ValueError(f"expected a capacity of 0 or more generations, but got {capacity}")
        self.capacity = capacity
        self._generations: list[Generation] = []

    def __len__(self) -> int:
        return len(self._generations)

    def __iter__(self) -> Iterator[Generation]:
        return iter(tuple(self._generations))

    @property
    def newest(self) -> Generation | None:
        """The one with the highest number, the last added of equals; None where the store is empty."""
        return max(reversed(self._generations), key=lambda generation: generation.number, default=None)

    def add(self, generation: Generation) -> None:
        """Keep a generation as the one used last, and drop those for which there is no room any more."""
        self.remove(generation)
        self._generations.append(generation)
        del self._generations[: max(len(self) - self.capacity, 0)]

    def touch(self, generation: Generation) -> None:
        """Make a generation the one used last, where it is (still) kept."""
        if generation in self._generations:
            self.add(generation)

    def remove(self, generation: Generation) -> None:
        """Drop a generation, where it is kept; for one that is made anew for the same place."""
        if generation in self._generations:
            self._generations.remove(generation)

    def clear(self) -> None:
        """Drop all."""
        self._generations.clear()

    def nearest(self, signature: SceneSignature) -> tuple[Generation, float] | None:
        """The generation whose place is most like this one, and the distance of both signatures.

        Returns:
            None where no generation with a signature is kept. Of equals the one used last.
        """
        known = [
            (generation, signature.distance(generation.signature))
            for generation in reversed(self._generations)
            if generation.signature is not None
        ]
        return min(known, key=lambda pair: pair[1], default=None)
