from __future__ import annotations

from pathlib import Path

import pytest
from bounded import BYTES, ask

COUNT = 2000


@pytest.mark.slow
def test_damaged_files_are_refused_in_a_sentence() -> None:
    """Within a gigabyte; whatever else happens ends the script."""
    found = ask(Path(__file__).with_name("generation_fuzzer.py"), str(COUNT), "7")
    fates = found["fates"]
    assert fates["refused"] + fates.get("read whole", 0) == COUNT  # two faults may undo each other
    assert fates["refused"] > 0.9 * COUNT
    assert found["peak"] < BYTES
