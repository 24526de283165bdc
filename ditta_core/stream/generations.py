"""Adapted models that are kept in memory, by the place they were adapted to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from ditta_core.adaptation.state import AdaptedState
from ditta_core.stream.scene.known import KnownScene
from ditta_core.stream.scene.signature import SAME_DISTANCE, SceneSignature
from ditta_core.types import AdaptationReport


@dataclass(frozen=True, eq=False)
class Generation:
    """One adapted model. Two are equal only if they are the same object.

    Attributes:
        number: Number that the stream gave it, from 1.
        state: Tensors that differ from the base model.
        report: Report of the adaptation that made it.
        scene: Scene that it was adapted to, with the places where it has served since; None where that is not known,
            so that it is never recognised.
    """

    number: int
    state: AdaptedState
    report: AdaptationReport
    scene: KnownScene | None = None


class GenerationStore:
    """Generations of places seen before: an LRU cache.

    Used are those that were added or touched: looking for a known scene is no use. Iteration goes from the one to be
    dropped next to the one used last. Not thread safe.

    Args:
        capacity: Number of generations that are kept; 0 keeps none.
        generations: Generations to begin with.

    Attributes:
        next_number: Number of the next new generation: one above the highest that was ever added.

    Raises:
        ValueError: The capacity is negative.
    """

    def __init__(self, capacity: int, generations: Iterable[Generation] = ()) -> None:
        self.next_number = 1
        self._generations: list[Generation] = []
        self.resize(capacity)
        for generation in generations:
            self.add(generation)

    def __len__(self) -> int:
        return len(self._generations)

    def __iter__(self) -> Iterator[Generation]:
        return iter(tuple(self._generations))

    @property
    def newest(self) -> Generation | None:
        """The one with the highest number, the last added of equals; None where the store is empty."""
        return max(reversed(self._generations), key=lambda generation: generation.number, default=None)

    def to_restore(self) -> Generation:
        """The newest; a ValueError with the reasons where the store is empty."""
        newest = self.newest
        if newest is None:
            raise ValueError(
                "expected a generation to restore, but got none: nothing was adapted yet, or nothing is kept "
                "(remembered_scenes 0)"
            )
        return newest

    def resize(self, capacity: int) -> None:
        """Keep as many from now on; ValueError where that is negative."""
        if capacity < 0:
            raise ValueError(f"expected a capacity of 0 or more generations, but got {capacity}")
        self._capacity = capacity
        self._drop_oldest()

    def add(self, generation: Generation) -> None:
        """Keep a generation as the one used last, and drop those for which there is no room any more."""
        self.remove(generation)
        self._generations.append(generation)
        self.next_number = max(self.next_number, generation.number + 1)
        self._drop_oldest()

    def replace(self, old: Generation | None, new: Generation) -> None:
        """Keep a new generation instead of the one that it updates, and of one that was adapted to the same place."""
        place = None if new.scene is None else new.scene.adapted_to
        known = None if place is None else self._nearest(lambda scene: scene.adapted_to.distance(place))
        for generation in (old, known):
            if generation is not None:
                self.remove(generation)
        self.add(new)

    def touch(self, generation: Generation) -> None:
        """Make a generation the one used last, where it is (still) kept."""
        if generation in self._generations:
            self.add(generation)

    def remove(self, generation: Generation) -> None:
        """Drop a generation, where it is kept."""
        if generation in self._generations:
            self._generations.remove(generation)

    def known_scene(self, signature: SceneSignature, but: Generation | None = None) -> Generation | None:
        """The generation of whose places one is most like this one, of equals the one used last, if it is the same.

        Stricter than not having left a scene: to restore a wrong model costs more than to learn again.

        Args:
            signature: Signature of the place.
            but: Generation that is none of them, since it has just failed here.
        """
        return self._nearest(lambda scene: scene.distance(signature), but)

    def _nearest(self, distance_of: Callable[[KnownScene], float], but: Generation | None = None) -> Generation | None:
        distances = [
            (distance_of(generation.scene), generation)
            for generation in reversed(self._generations)
            if generation.scene is not None and generation is not but
        ]
        distance, nearest = min(distances, key=lambda pair: pair[0], default=(SAME_DISTANCE, None))
        return nearest if distance < SAME_DISTANCE else None

    def _drop_oldest(self) -> None:
        del self._generations[: max(len(self) - self._capacity, 0)]
