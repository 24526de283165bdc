"""Which value of 16-bit images is white: a camera of 12 bits, say, may publish 4095 for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

WhiteOf = Callable[[NDArray[Any]], int]
"""The values of a 16-bit image, of any shape -> the one that becomes 255."""

BITS = (8, 10, 12, 14, 16)
"""Of how many bits the values of cameras are."""


FULL_RANGE = 0xFFFF
"""White where all 16 bits are used."""


def full_range(_: NDArray[Any]) -> int:
    """All 16 bits are used, as the encodings have it."""
    return FULL_RANGE


class WhiteLevel:
    """The white of one camera's images. It never gets darker again, so that the images of a stream keep their scale.

    Args:
        bits: Number of bits that hold the values, 1..16. 0: found from the images, as the least of :data:`BITS` that
            hold the largest value so far.
        notify: Told in a sentence what was found.
    """

    def __init__(self, bits: int = 0, notify: Callable[[str], object] | None = None) -> None:
        self._found = not bits
        self._bits = bits
        self._notify = notify

    def __call__(self, values: NDArray[Any]) -> int:
        """The white of the next image."""
        largest = int(values.max()) if self._found else 0
        if largest >> self._bits or not self._bits:
            self._bits = next(bits for bits in BITS if not largest >> bits)
            if self._notify is not None:
                self._notify(
                    f"the values of the 16-bit images fit into {self._bits} bits so far: {(1 << self._bits) - 1} is "
                    f"taken for white (the parameter image_bits sets the number)"
                )
        return (1 << self._bits) - 1
