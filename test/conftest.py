"""Where the tests find the real data, weights and golden numbers."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:
    # Before torch is imported, and inherited by the processes that tests start: several processes whose threads wait
    # for each other by spinning, on as many cores as threads, take five to ten times as long as one.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

ROOT = Path(__file__).resolve().parents[1]


def shared(*parts: str) -> Path:
    """A file or folder of the shared data: under $DITTA_SHARED, or in ../shared beside the project; else skip."""
    base = Path(os.environ.get("DITTA_SHARED", ROOT.parent / "shared"))
    path = base.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"needs {'/'.join(parts)} of the shared data: set DITTA_SHARED to the folder that holds it")
    return path


@pytest.fixture(scope="session")
def shared_file() -> Callable[..., Path]:
    """Finds a file or folder of the shared data, or skips."""
    return shared


@pytest.fixture(scope="session")
def city_weights() -> Path:
    """ESPNetv2 s=2.0 Cityscapes weights."""
    return shared("weights", "espnetv2_s_2.0_city_1024x512.pth")


@pytest.fixture(scope="session")
def camvid_clip() -> Path:
    """101 labelled frames of CamVid at 15 Hz."""
    return shared("data", "camvid", "clip_0016E5")
