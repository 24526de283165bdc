"""The command on terminals that lack characters."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from ros_harness import ROOT


def run(code: str, encoding: str = "utf-8") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding=encoding, cwd=ROOT, env=environment, check=False
    )


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "cp1252", "utf-8"])
def test_a_terminal_that_lacks_characters(encoding: str) -> None:
    code = "import sys; from ditta_ros.cli.main import main; sys.exit(main(['models']))"
    done = run(code, encoding)
    assert (done.returncode, done.stderr) == (0, "")
    mark = "✓" if encoding == "utf-8" else "+"
    assert f"{mark} camvid" in done.stdout


def test_an_error_message_in_another_script() -> None:
    code = "import sys; from ditta_ros.cli.main import main; sys.exit(main(['evaluate', 'дорога.mp4']))"
    done = run(code, "ascii")
    assert done.returncode == 2
    assert "??????.mp4 does not exist" in done.stderr
