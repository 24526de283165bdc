from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ditta_core.datasets.white_level import BITS, WhiteLevel


@given(st.lists(st.integers(0, 65535), min_size=1, max_size=6))
def test_the_least_number_of_bits_that_holds_all_values_so_far(values: list[int]) -> None:
    said: list[str] = []
    white = WhiteLevel(notify=said.append)
    whites = [white(np.array([[3, value]], np.uint16)) for value in values]
    expected = [
        next(2**bits - 1 for bits in BITS if max(values[: index + 1], default=0) < 2**bits)
        for index in range(len(values))
    ]
    assert whites == expected
    assert len(said) == len(set(whites))
    assert f"fit into {max(whites).bit_length()} bits so far: {max(whites)} is taken for white" in said[-1]
