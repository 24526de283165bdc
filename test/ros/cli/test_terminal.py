"""The command on terminals that lack characters, and beside a decoder that writes a line for each fault."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from ros_harness import ROOT

FAULTS = """
import os, sys
from ditta_ros.cli.terminal import decoder_lines_counted
with decoder_lines_counted("evaluate"):
    os.write(2, b"[mpeg4 @ 0x55d0c0ffee00] ac-tex damaged at 2 0\\n" * 3000)
    os.write(2, b"[h264 @ 0x1f] error while decoding MB 5 9\\n")
    os.write(2, b"[ WARN:0@0.1] of OpenCV\\n")
    print("of Python", file=sys.stderr)
print("after", file=sys.stderr)
"""


def run(code: str, encoding: str = "utf-8") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding=encoding, cwd=ROOT, env=environment, check=False
    )


def test_lines_of_a_decoder_become_one() -> None:
    lines = run(FAULTS).stderr.splitlines()
    (warning,) = (line for line in lines if line.startswith("ditta evaluate: warning: "))
    assert "3001 faults in the video, such as 'ac-tex damaged at 2 0'" in warning
    assert sorted(line for line in lines if line != warning) == ["[ WARN:0@0.1] of OpenCV", "after", "of Python"]


def test_no_warning_where_there_is_no_fault() -> None:
    code = FAULTS.replace("[mpeg4 @", "mpeg4:").replace("[h264 @", "h264:")
    lines = run(code).stderr.splitlines()
    assert len(lines) == 3004 and not any("warning" in line for line in lines)


def test_an_error_passes_through() -> None:
    done = run(FAULTS.replace('print("of Python", file=sys.stderr)', "raise KeyError('mine')"))
    assert done.returncode == 1
    assert "KeyError: 'mine'" in done.stderr and "3001 faults" in done.stderr


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
