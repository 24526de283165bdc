"""A scene as a model knows it: the place that it was adapted to, and the places where it has served since."""

from __future__ import annotations

from collections.abc import Iterable

from ditta_core.stream.scene.signature import SceneSignature

MOST_PLACES = 8
NEW_PLACE = 0.1
"""Distance from all places so far beyond which another one is kept, a little below ``SAME_DISTANCE``:
docs/ablations.md#places-of-a-scene."""


class KnownScene:
    """The places of one scene. It grows while its model serves; one thread may learn while others read.

    Args:
        place: Signature of the frames that the model was adapted to.
        others: Places where it has served since.

    Attributes:
        places: Signatures of all places, at most ``MOST_PLACES``, that of the adaptation first.
    """

    def __init__(self, place: SceneSignature, others: Iterable[SceneSignature] = ()) -> None:
        self.places: tuple[SceneSignature, ...] = (place, *others)[:MOST_PLACES]

    @property
    def adapted_to(self) -> SceneSignature:
        """The place that the model was adapted to."""
        return self.places[0]

    def distance(self, signature: SceneSignature) -> float:
        """Distance of the nearest place."""
        return min(place.distance(signature) for place in self.places)

    def learn(self, signature: SceneSignature) -> None:
        """The model has served here: keep the place, where it is unlike all others and there is room for it."""
        if len(self.places) < MOST_PLACES and self.distance(signature) >= NEW_PLACE:
            self.places = (*self.places, signature)

    def moved_to(self, place: SceneSignature) -> KnownScene:
        """The scene of a model that was updated at this place, which is kept with all places so far."""
        return KnownScene(place, self.places)
