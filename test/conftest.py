"""Where the tests find the real data, weights and golden numbers."""

from __future__ import annotations

import faulthandler
import os
from collections.abc import Callable, Iterator
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:
    # Before torch is imported, and inherited by the processes that tests start: several processes whose threads wait
    # for each other by spinning, on as many cores as threads, take five to ten times as long as one.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

ROOT = Path(__file__).resolve().parents[1]
TERMINAL = pytest.StashKey[int]()
"""The descriptor that stacks are written to, also while pytest captures what a test writes."""
GRACE = 60.0
"""Seconds after a test's own time limit at which its process ends."""


def pytest_configure(config: pytest.Config) -> None:
    """Keep the way to the terminal."""
    config.stash[TERMINAL] = os.dup(2)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """End the process of a test that its time limit does not end, as it hangs outside of Python, and tell where."""
    marker = item.get_closest_marker("timeout")
    limit = float(marker.args[0] if marker is not None else item.config.getini("timeout"))
    faulthandler.dump_traceback_later(limit + GRACE, exit=True, file=item.config.stash[TERMINAL])
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


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
