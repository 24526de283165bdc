"""The places of a scene."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ditta_core.stream.scene.known import MOST_PLACES, NEW_PLACE, KnownScene
from ditta_core.stream.scene.signature import SceneSignature

SIGNATURES = st.lists(st.floats(-2, 2, width=32), min_size=2, max_size=2).map(
    lambda mean: SceneSignature(np.array(mean, np.float32), np.ones(2, np.float32))
)


@given(SIGNATURES, st.lists(SIGNATURES, max_size=12))
def test_what_was_learned_is_near_and_nothing_is_kept_twice(first: SceneSignature, seen: list[SceneSignature]) -> None:
    scene = KnownScene(first)
    for signature in seen:
        full = len(scene.places) == MOST_PLACES
        scene.learn(signature)
        assert full or scene.distance(signature) < NEW_PLACE
    assert scene.adapted_to is first and len(scene.places) <= MOST_PLACES
    for index, place in enumerate(scene.places):
        assert all(place.distance(other) >= NEW_PLACE for other in scene.places[:index])


def test_an_updated_model_is_of_the_new_place_and_knows_the_others() -> None:
    first, second, third = (SceneSignature(np.full(2, mean, np.float32), np.ones(2, np.float32)) for mean in (0, 1, 2))
    scene = KnownScene(first, [second])
    moved = scene.moved_to(third)
    assert moved.adapted_to is third and moved.places[1:] == (first, second) == scene.places
