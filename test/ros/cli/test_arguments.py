"""What the command line refuses before anything runs, each with the reason in its last line."""

from __future__ import annotations

from pathlib import Path

import pytest

from ditta_ros.cli.main import main


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("evaluate x --long-side -32", "--long-side: expected a whole number of 0 to 8192, but got '-32'"),
        ("evaluate x --long-side 4e2", "--long-side: expected a whole number"),
        ("evaluate x --input-size 640x9000", "--input-size: expected sides of at most 8192 pixels, but got '640x9000'"),
        ("evaluate x --input-size 64²x48", "--input-size: expected WIDTHxHEIGHT"),
        ("demo --input-size 0x48", "--input-size: expected WIDTHxHEIGHT"),
        ("evaluate x --engine ray --workers -1", "--workers: expected a whole number of at least 1, but got '-1'"),
        ("evaluate x --threads 0", "--threads: expected a whole number of at least 1"),
        ("evaluate x --repeats 0", "--repeats: expected a whole number of at least 1"),
        ("evaluate x --max-frames 0", "--max-frames: expected a whole number of at least 1"),
        ("evaluate x --seed 2147483648", "--seed: expected a whole number of 0 to 2147483647"),
        ("evaluate x --teacher sam9", "--teacher: invalid choice: 'sam9'"),
        ("evaluate x --rate inf", "--rate: expected a number above 0, but got 'inf'"),
        ("evaluate x --slop nan", "--slop: expected a number of at least 0, but got 'nan'"),
        ("evaluate x --frame-rate 0", "--frame-rate: expected a number above 0"),
        ("evaluate x --warmup-ratio ²5", "--warmup-ratio: expected whole numbers"),
        ("bag make x y --frame-rate -15", "--frame-rate: expected a number above 0"),
        ("demo --warmup-ratio 100", "--warmup-ratio: expected a whole number of 1 to 99"),
        ("demo --warmup-frames 0", "--warmup-frames: expected a whole number of 1 to 1000"),
        ("demo --timeout -1", "--timeout: expected a number above 0"),
        ("demo --frame-rate nan", "--frame-rate: expected a number above 0, but got 'nan'"),
    ],
)
def test_values_out_of_range(arguments: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments.split())
    assert message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("evaluate x --json {folder}", "is a folder; name a file in it"),
        ("evaluate x --json {file}/out.json", "is none; choose another"),
        ("evaluate x --report {file}", "is none; choose another"),
        ("evaluate x --work {file}/work", "is none; choose another"),
        ("evaluate x --report /proc/report", "/proc cannot be written to"),
        ("evaluate x --json /proc/out.json", "/proc cannot be written to"),
        ("demo --out {file}/deep/out", "is none; choose another"),
        ("demo --out {dangling}", "is none; choose another"),
        ("demo --out {long}", "File name too long"),
        ("evaluate x --json {long}", "File name too long"),
        ("adapt x --out {long}", "File name too long"),
        ("adapt x --out /dev/zero", "expected a regular file to write, but /dev/zero is none"),
    ],
)
def test_places_that_cannot_be_written_to(
    arguments: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    (tmp_path / "dangling").symlink_to(tmp_path / "gone")
    places = {
        "long": tmp_path / ("x" * 300),
        "folder": tmp_path,
        "file": tmp_path / "file",
        "dangling": tmp_path / "dangling",
    }
    with pytest.raises(SystemExit, match="2"):
        main(arguments.format(**places).split())
    said = capsys.readouterr().err.splitlines()[-1]
    assert message in said and "Errno" not in said
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dangling", "file"]
