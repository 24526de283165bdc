"""The command on terminals that lack characters."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

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


def test_a_reader_that_has_seen_enough() -> None:
    code = "import sys; from ditta_ros.cli.__main__ import run; sys.argv[1:] = ['models', '--json']; sys.exit(run())"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, text=True
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert (process.stderr.read(), process.wait(60)) == ("", 141)
    process.stderr.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_command_with_a_word(number: signal.Signals) -> None:
    """SIGHUP is what a closed window sends."""
    run = "lambda: print('begun', flush=True) or time.sleep(60)"
    code = f"import sys, time; from ditta_ros.cli.arguments import exit_code; sys.exit(exit_code('x', {run}, 'y'))"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "begun\n"
        process.send_signal(number)
        assert process.communicate(timeout=30)[1] == "ditta x: interrupted\n"
    assert process.returncode == 130


def test_a_list_needs_no_folder_to_write_to() -> None:
    code = "import sys; from ditta_ros.cli.main import main; sys.exit(main(['evaluate', '--list-methods']))"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {code}"],
        cwd="/proc",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and "bn_blend_ema" in done.stdout and not done.stderr


def test_an_output_that_is_full() -> None:
    code = "import sys; from ditta_ros.cli.main import main; sys.exit(main(['evaluate', '--list-methods']))"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, cwd=ROOT, text=True, check=False
        )
    assert done.returncode == 2
    assert done.stderr.startswith("ditta evaluate: expected to read and write, but got: No space left on device")
