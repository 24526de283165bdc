"""`ditta adapt` from the command line: from a folder or a bag to a model, interrupted and gone on with."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pytest

from ditta_core.segmentation.adapted import load_adapted
from ditta_core.segmentation.files import sole_writer
from ditta_core.segmentation.registry import load_model
from ditta_core.segmentation.source import ModelSource
from ditta_ros.adaptation.drives import Interruption
from ditta_ros.cli.main import main

SMALL = ("--long-side", "64", "--max-frames", "16")


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images of a camera that slides over a picture."""
    folder = tmp_path_factory.mktemp("drive")
    picture = cv2.resize(np.random.default_rng(0).integers(0, 256, (12, 40, 3), np.uint8), (320, 96))
    for index in range(14):
        cv2.imwrite(str(folder / f"{index:03}.png"), picture[:, 6 * index : 6 * index + 128])
    return folder


def run(drive: Path, out: Path, *arguments: str) -> int:
    return main(["adapt", str(drive), "--out", str(out), "--frame-rate", "10", *SMALL, *arguments])


def test_from_a_folder_to_a_model(drive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "adapted.safetensors"
    assert run(drive, out, "--steps", "4", "--classes", "navigation") == 0
    told = capsys.readouterr().out
    assert f"ditta node --model adapted:{out} --classes navigation" in told
    assert "13 learned from, 1 kept out" in told
    adapted = load_adapted(out)
    assert adapted.base == "camvid" and adapted.details["method"] == "ur" and adapted.details["steps"] == 4
    model = load_model(ModelSource(f"adapted:{out}", "navigation"))
    assert model.classes.names == adapted.classes
    summary = json.loads((tmp_path / "adapted_report" / "summary.json").read_text())
    assert set(summary["losses"][0][1]) == {"labels", "entropy", "dropout"} and summary["steps"] == 4
    page = (tmp_path / "adapted_report" / "report.html").read_text()
    assert page.count("<figure>") == 1 and "labelled from a confidence of" in page
    assert not list(tmp_path.glob("*.training"))
    assert main(["models", "check", str(out)]) == 0
    assert f"ditta node --model adapted:{out}" in capsys.readouterr().out


def test_an_adapted_model_is_adapted_again_from_the_same_base(drive: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    assert run(drive, one, "--steps", "0") == 0
    assert run(drive, two, "--steps", "2", "--method", "self_training", "--model", f"adapted:{one}") == 0
    first, both = load_adapted(one), load_adapted(two)
    assert both.base == "camvid"
    taken = json.loads((tmp_path / "two_report" / "summary.json").read_text())["statistics_share"]
    left = (1 - first.statistics_share) * (1 - taken)
    assert first.statistics_share > 0 and both.statistics_share == pytest.approx(1 - left)
    one.unlink()
    assert load_model(ModelSource(f"adapted:{two}"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--method", "magic"), "expected one of the methods ['ur', 'vst', 'stpl', 'hcl'"),
        (("--model", "nothing"), "expected the model 'camvid'"),
        (("--input-size", "100x100"), "multiples of 16 pixels for this model, but got 100x100"),
        (("--batch", "1", "--source", "/nowhere"), "/nowhere does not exist"),
        (("--source", "{drive}"), "expected no labelled drives for ur, which learns from none, but got 1; leave out"),
        (
            ("--source", "{drive}", "--method", "fda"),
            "expected a source of at least 8 labelled frames, but 0 of 14 have labels",
        ),
        (("--published", "--method", "hcl"), "for --published, but got hcl; leave it out, or take one of ['tps', "),
        (("--source-split", "train"), "expected a --source for --source-split, but got none"),
        (("--ground-truth-topic", "/labels"), "expected a --source for --ground-truth-topic, but got none"),
        (("--report", "{out}_report/x", "--model", "camvid9"), "expected the model 'camvid'"),
    ],
)
def test_wrong_arguments(
    arguments: tuple[str, ...], message: str, drive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "adapted.safetensors"
    command = ["adapt", str(drive), "--out", str(out), "--frame-rate", "10", "--steps", "1"]
    assert main([*command, *(each.format(drive=drive, out=out) for each in arguments)]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("kind", ["video", "weights", "report"])
def test_what_is_somebody_elses_stays_as_it_is(
    kind: str, drive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine.bin"
    place = tmp_path / "mine_report" if kind == "report" else out
    place.write_bytes(b"ftyp" if kind != "weights" else (16).to_bytes(8, "little") + b'{"__metadata__":{}')
    before = place.read_bytes()
    assert run(drive, out, "--steps", "0") == 2
    assert "choose another" in capsys.readouterr().err
    assert place.read_bytes() == before and list(tmp_path.iterdir()) == [place]


def test_two_at_once_write_one_file_one_after_the_other(
    drive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "adapted.safetensors"
    with sole_writer(out):
        assert run(drive, out, "--steps", "0") == 2
        assert "for this adaptation alone, but another one is under way that writes it" in capsys.readouterr().err
    (tmp_path / ".adapted.safetensors.training.7.89abcdef").write_bytes(b"left by kill -9")
    assert run(drive, out, "--steps", "0") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapted.safetensors", "adapted_report"]


def test_a_link_stays_one(drive: Path, tmp_path: Path) -> None:
    (tmp_path / "latest").symlink_to(tmp_path / "monday")
    assert run(drive, tmp_path / "latest", "--steps", "0") == 0
    assert (tmp_path / "latest").is_symlink() and load_adapted(tmp_path / "monday").base == "camvid"
    assert main(["models", "check", str(tmp_path / "latest")]) == 0, "whatever its name ends with"


def test_signals_close_to_each_other_are_one_wish() -> None:
    with Interruption() as interruption:
        interruption.stepping = True
        for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM):
            os.kill(os.getpid(), number)
        assert interruption.asked
    with pytest.raises(KeyboardInterrupt), Interruption():
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_drive_that_is_too_short(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "short"
    folder.mkdir()
    for index in range(3):
        image = np.random.default_rng(index).integers(0, 256, (12, 16, 3), np.uint8)
        cv2.imwrite(str(folder / f"{index}.png"), cv2.resize(image, (128, 96)))
    assert run(folder, tmp_path / "out.safetensors", "--steps", "1") == 2
    assert "expected at least 8 frames that differ, but got 3 of 3; record longer drives" in capsys.readouterr().err


@pytest.mark.slow
def test_ctrl_c_keeps_what_was_reached_and_the_same_command_goes_on(drive: Path, tmp_path: Path) -> None:
    out = tmp_path / "adapted.safetensors"
    command = [sys.executable, "-m", "ditta_ros.cli", "adapt", str(drive), "--out", str(out), "--frame-rate", "10"]
    command += [*SMALL, "--method", "self_training", "--steps"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    state = tmp_path / "adapted.safetensors.training"
    terminal, slave = pty.openpty()  # without one there is no progress bar
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    process = subprocess.Popen([*command, "1000"], stderr=slave, env=environment)
    os.close(slave)
    told = ""
    try:
        with suppress(OSError):  # which ends the output of a pseudo-terminal
            while letters := os.read(terminal, 4096):
                if "step" not in told and b"step" in letters:
                    process.send_signal(signal.SIGINT)
                told += letters.decode(errors="ignore")
        process.wait(60)
    finally:
        process.kill()
        os.close(terminal)
    assert process.returncode == 130, told
    assert "the same command goes on with it" in told
    assert state.is_file() and not out.exists()
    # Other settings are another adaptation.
    done = subprocess.run([*command, "10"], capture_output=True, text=True, env=environment, timeout=100, check=False)
    assert done.returncode == 2 and "--fresh" in done.stderr
    done = subprocess.run(
        [*command, "10", "--fresh"], capture_output=True, text=True, env=environment, timeout=100, check=False
    )
    assert done.returncode == 0 and out.is_file() and not state.exists(), done.stderr
