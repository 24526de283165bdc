from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_generations import generation, signature

from ditta_core.stream.generations import Generation, GenerationStore
from ditta_core.stream.scene.signature import SAME_DISTANCE


def test_the_least_recently_used_is_dropped() -> None:
    store = GenerationStore(2)
    first, second, third = (generation(number, float(number)) for number in (1, 2, 3))
    store.add(first)
    store.add(second)
    store.touch(first)
    store.add(third)
    assert list(store) == [first, third]
    store.touch(second)  # too late
    assert list(store) == [first, third]
    store.remove(first)
    store.remove(second)
    assert list(store) == [third]
    store.resize(0)
    assert len(store) == 0
    assert store.next_number == 4, "numbers go on"


def test_the_nearest_place_is_known_if_near_enough_and_looking_is_not_using() -> None:
    nearest, near, far = generation(1, 1.0), generation(2, 1.05), generation(3, 10.0)
    store = GenerationStore(3, [nearest, near, far])
    place = signature(1.01)
    assert place.distance(signature(1.0)) < place.distance(signature(1.05)) < SAME_DISTANCE
    assert store.known_scene(place) is nearest
    elsewhere = signature(1.2)
    assert SAME_DISTANCE < elsewhere.distance(signature(1.05)) < elsewhere.distance(signature(1.0))
    assert store.known_scene(elsewhere) is None
    store.add(generation(4, 20.0))
    assert nearest not in store
    again = generation(5, 10.0)
    store.add(again)
    assert store.known_scene(signature(10.0)) is again, "of equals the one used last"


def test_what_has_failed_at_a_place_is_not_recognised_there() -> None:
    failed, other = generation(1, 1.0), generation(2, 1.02)
    store = GenerationStore(2, [failed, other])
    assert store.known_scene(signature(1.0)) is failed
    assert store.known_scene(signature(1.0), but=failed) is other
    store.remove(other)
    assert store.known_scene(signature(1.0), but=failed) is None


def test_a_scene_is_known_by_every_place_where_its_generation_served() -> None:
    wide, other = generation(1, 1.0), generation(2, 3.0)
    store = GenerationStore(2, [wide, other])
    assert wide.scene is not None and store.known_scene(signature(1.2)) is None
    wide.scene.learn(signature(1.22))
    assert store.known_scene(signature(1.2)) is wide
    store.replace(None, new := generation(3, 1.2))
    assert list(store) == [other, new], "the room is for two; what served there was adapted elsewhere"
    store.resize(3)
    store.add(wide)
    store.replace(None, generation(4, 1.23))
    assert wide in store and new not in store, "only what was adapted to the same place is replaced"


def test_generations_of_unknown_places_are_kept_but_never_recognised() -> None:
    store = GenerationStore(2)
    assert store.known_scene(signature(1.0)) is None
    assert store.newest is None
    store.add(generation(5))
    assert store.known_scene(signature(1.0)) is None
    store.add(generation(4, 1.0))
    found = store.known_scene(signature(1.0))
    assert found is not None
    assert found.number == 4
    assert store.newest is not None
    assert store.newest.number == 5


def test_a_new_generation_replaces_the_one_it_updates_and_the_one_of_its_place() -> None:
    updated, same_place, elsewhere = generation(1), generation(2, 1.0), generation(3, 10.0)
    store = GenerationStore(4, [updated, same_place, elsewhere])
    assert store.next_number == 4
    new = generation(store.next_number, 1.01)
    store.replace(updated, new)
    assert list(store) == [elsewhere, new]
    store.replace(None, unknown := generation(5))
    assert list(store) == [elsewhere, new, unknown]


def test_no_room() -> None:
    store = GenerationStore(0)
    store.add(generation(1, 1.0))
    assert len(store) == 0
    with pytest.raises(ValueError, match="expected a capacity of 0 or more generations, but got -1"):
        GenerationStore(-1)


@given(st.integers(0, 4), st.lists(st.tuples(st.sampled_from(["add", "touch", "remove"]), st.integers(0, 5))))
def test_the_store_against_a_list(capacity: int, actions: list[tuple[str, int]]) -> None:
    known = [generation(number, float(number)) for number in range(6)]
    store, expected = GenerationStore(capacity), list[Generation]()
    for action, number in actions:
        chosen = known[number]
        getattr(store, action)(chosen)
        if action == "add" or (action == "touch" and chosen in expected):
            expected = [*(kept for kept in expected if kept is not chosen), chosen][-capacity or len(known) + 1 :]
        elif action == "remove":
            expected = [kept for kept in expected if kept is not chosen]
        assert list(store) == expected
