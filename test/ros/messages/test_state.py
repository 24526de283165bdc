from __future__ import annotations

import json
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ditta_core.types import State
from ditta_ros.messages.state import StreamState

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
COUNTS = st.integers(0, 2**63)
STATES = st.builds(
    StreamState,
    state=st.sampled_from(State),
    generation=COUNTS,
    collected=COUNTS,
    warmup_frames=COUNTS,
    progress=NUMBERS,
    losses=st.lists(NUMBERS).map(tuple),
    message=st.text(),
    adaptation_seconds=st.none() | NUMBERS,
    adaptation_reason=st.text(),
    statistics_share=st.none() | NUMBERS,
    deployed_share=st.none() | NUMBERS,
    remembered=COUNTS,
    dropped=COUNTS,
    received=COUNTS,
    published=COUNTS,
    rejected=COUNTS,
)


@given(STATES)
def test_it_comes_back_from_json(state: StreamState) -> None:
    assert StreamState.from_json(state.to_json()) == state


@given(STATES)
def test_the_object_has_a_key_for_each_attribute(state: StreamState) -> None:
    values = json.loads(state.to_json())
    assert list(values) == [field.name for field in fields(StreamState)]
    assert values["state"] == state.state.value
    assert StreamState.from_json(json.dumps({**values, "of a later version": 1})) == state


def test_the_keys_on_the_wire() -> None:
    """Programs of others read them."""
    assert json.loads(StreamState().to_json()) == {
        "state": "BASE",
        "generation": 0,
        "collected": 0,
        "warmup_frames": 0,
        "training": False,
        "progress": 0.0,
        "losses": [],
        "message": "",
        "adaptation_seconds": None,
        "adaptation_reason": "",
        "statistics_share": None,
        "deployed_share": None,
        "input_width": 0,
        "input_height": 0,
        "size_agreement": None,
        "remembered": 0,
        "dropped": 0,
        "received": 0,
        "published": 0,
        "rejected": 0,
        "skipped": 0,
        "paused": False,
    }


@pytest.mark.parametrize("text", ["", "BASE", "[]", "7", "null", '"BASE"'])
def test_what_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected the state of a stream as (a )?JSON"):
        StreamState.from_json(text)


@pytest.mark.parametrize("name", [field.name for field in fields(StreamState)])
def test_a_missing_key_is_named(name: str) -> None:
    values = json.loads(StreamState().to_json())
    del values[name]
    with pytest.raises(ValueError, match=f"expected the key {name} in the state of a stream"):
        StreamState.from_json(json.dumps(values))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("state", "DREAMING"),
        ("state", 1),
        ("generation", 1.5),
        ("generation", True),
        ("generation", None),
        ("progress", "half"),
        ("losses", 0.5),
        ("losses", ["low"]),
        ("message", None),
        ("paused", 1),
        ("adaptation_seconds", "long"),
        ("adaptation_reason", None),
    ],
)
def test_a_wrong_value_is_named(name: str, value: object) -> None:
    values = {**json.loads(StreamState().to_json()), name: value}
    with pytest.raises(ValueError, match=f"expected .* for {name} in the state of a stream, but got"):
        StreamState.from_json(json.dumps(values))
