"""The settings are numbers and strings: who reads them waits for neither torch nor OpenCV."""

from __future__ import annotations

import subprocess
import sys

import pytest

MODULES = (
    "ditta_core.inference.config",
    "ditta_core.adaptation.config",
    "ditta_core.teacher.config",
    "ditta_core.segmentation.source",
)


@pytest.mark.parametrize("module", MODULES)
def test_settings_load_neither_torch_nor_opencv(module: str) -> None:
    program = f"import sys, {module}; print([name for name in ('torch', 'cv2') if name in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert ended.stdout.strip() == "[]"
