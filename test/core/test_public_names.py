"""What ``ditta_core`` offers, and what it costs to import it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import ditta_core

EXAMPLE = """
from ditta_core import VideoSegmenter, open_video

segmenter = VideoSegmenter("camvid")
for frame in open_video("drive.mp4"):
    segmentation = segmenter.push(frame)
    print(segmenter.status.state.value, segmentation.generation)
"""


def run_python(code: str, folder: Path) -> list[str]:
    """Lines that a new interpreter prints."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # several would wait for each other on a busy machine
    run = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


def test_the_package_alone_loads_neither_torch_nor_opencv(tmp_path: Path) -> None:
    code = "import sys, ditta_core; dir(ditta_core); print([name for name in ('torch', 'cv2') if name in sys.modules])"
    assert run_python(code, tmp_path) == ["[]"]


def test_settings_load_neither_torch_nor_opencv(tmp_path: Path) -> None:
    names = [name for name in ditta_core.__all__ if name.endswith(("Config", "Source"))]
    assert len(names) == 5
    code = f"import sys; from ditta_core import {', '.join(names)}; print('torch' in sys.modules, 'cv2' in sys.modules)"
    assert run_python(code, tmp_path) == ["False False"]


def test_every_public_name_is_there() -> None:
    for name in ditta_core.__all__:
        assert getattr(ditta_core, name).__name__ == name
        assert name in dir(ditta_core)
    with pytest.raises(AttributeError, match="module 'ditta_core' has no attribute 'nothing'"):
        getattr(ditta_core, "nothing")  # noqa: B009


@pytest.mark.timeout(600)
def test_the_first_example_runs(tmp_path: Path) -> None:
    noise = np.random.default_rng(5).integers(0, 256, (32, 192, 3), dtype=np.uint8)
    scene = cv2.GaussianBlur(noise, (0, 0), 2)
    writer = cv2.VideoWriter(str(tmp_path / "drive.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 10, (128, 32))
    for index in range(12):
        writer.write(np.ascontiguousarray(scene[:, index : index + 128]))
    writer.release()
    assert run_python(EXAMPLE, tmp_path) == ["COLLECTING 0"] * 9 + ["ADAPTED 0", "ADAPTED 1", "ADAPTED 1"]
