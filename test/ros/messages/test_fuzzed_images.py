from __future__ import annotations

from pathlib import Path

import pytest
from bounded import BYTES, ask

COUNT = 10_000


@pytest.mark.slow
def test_damaged_images_are_taken_or_rejected_in_a_sentence() -> None:
    """Within a gigabyte and a few seconds each; whatever else happens ends the script."""
    found = ask(Path(__file__).with_name("image_fuzzer.py"), str(COUNT), "7")
    for kind in ("Image", "CompressedImage"):
        taken, rejected = found["fates"][f"{kind} taken"], found["fates"][f"{kind} rejected"]
        assert taken + rejected == COUNT
        assert min(taken, rejected) > COUNT / 20, "neither is to be all of them"
    assert found["peak"] < BYTES
    assert found["slowest"] < 3
