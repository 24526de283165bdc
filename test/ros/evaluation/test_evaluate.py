"""The command `ditta evaluate`: on a folder, on the bag made of it, by the node, interrupted, and on bad input."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from ditta_ros.cli.main import main, parser
from ditta_ros.evaluation.evaluate import _claim_store, _evaluation_options, _fill_in, _open_inputs

FRAMES = 22


@pytest.fixture(scope="module")
def folder(shared_file: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first frames of the real clip, small."""
    clip = shared_file("data", "camvid", "clip_0016E5")
    target = tmp_path_factory.mktemp("data") / "drive"
    for part, interpolation in (("images", cv2.INTER_AREA), ("labels", cv2.INTER_NEAREST)):
        (target / part).mkdir(parents=True)
        for file in sorted((clip / part).iterdir())[:FRAMES]:
            image = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
            cv2.imwrite(str(target / part / file.name), cv2.resize(image, (160, 120), interpolation=interpolation))
    return target


@pytest.fixture(scope="module")
def bag(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a bag."""
    path = tmp_path_factory.mktemp("bags") / "drive"
    assert main(["bag", "make", str(folder), str(path)]) == 0
    return path


def evaluate(tmp_path: Path, source: Path, *arguments: str) -> list[dict[str, Any]]:
    """Run the command in this process; the rows of its JSON."""
    out = tmp_path / "out.json"
    common = ["--long-side", "160", "--threads", "1", "--work", str(tmp_path / "work"), "--json", str(out)]
    assert main(["evaluate", str(source), *common, *arguments]) == 0
    assert not any((tmp_path / "work").iterdir())
    rows = json.loads(out.read_text())["results"]
    assert isinstance(rows, list)
    return rows


def accuracy(row: dict[str, Any]) -> dict[str, Any]:
    """What must not depend on how the frames came."""
    names = ("method", "warmup_ratio", "frames", "miou", "wiou", "vc8", "vc16", "correct8", "correct16", "consistency")
    return {name: row[name] for name in (*names, "iou", "confusion")}


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_bag_gives_the_numbers_of_the_folder(folder: Path, bag: Path, tmp_path: Path) -> None:
    methods = ["--method", "source,ditta", "--warmup-ratio", "10,20", "--corruption", "clean,noise:2"]
    arguments = [*methods, "--eager"]  # as no two networks are alike, compiling them takes most of the time
    from_folder = evaluate(tmp_path, folder, *arguments)
    from_bag = evaluate(tmp_path, bag, *arguments)
    assert [accuracy(row) for row in from_bag] == [accuracy(row) for row in from_folder]
    assert [(row["corruption"], row["warmup_ratio"], row["method"], row["frames"]) for row in from_bag] == [
        (corruption, ratio, method, FRAMES - frames)
        for corruption in (None, "noise:2")
        for ratio, frames in ((10, 2), (20, 4))
        for method in ("source", "ditta")
    ]
    assert all(0 < row["miou"] < 100 for row in from_bag)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_node_in_lockstep_gives_the_numbers_of_the_bag(bag: Path, tmp_path: Path) -> None:
    pytest.importorskip("rclpy")
    direct, node = evaluate(
        tmp_path, bag, "--node", "--lockstep", "--eager", "--method", "ditta", "--warmup-ratio", "20"
    )
    assert (direct["method"], node["method"]) == ("ditta", "node")
    assert node["dropped"] == 0
    assert node["latency_ms"]["p50"] > 0
    assert node["adaptation_seconds"] > 0
    assert node["frames"] == direct["frames"]
    assert {**accuracy(node), "method": "ditta"} == accuracy(direct)


def test_the_report(folder: Path, tmp_path: Path) -> None:
    report = tmp_path / "report"
    rows = evaluate(tmp_path, folder, "--method", "source,ema_smoothing", "--report", str(report))
    assert json.loads((report / "results.json").read_text())["results"] == rows
    assert "ema_smoothing" in (report / "report.html").read_text(encoding="utf-8")
    assert (report / "overlay.mp4").stat().st_size > 10_000


def test_an_interrupted_run_goes_on(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    methods = ("--method", "source,source_merged,ema_smoothing", "--eager")
    arguments = [*methods, "--long-side", "160", "--threads", "1", "--work", str(tmp_path / "work")]
    command = [sys.executable, "-m", "ditta_ros.cli", "evaluate", str(folder), *arguments]
    out = tmp_path / "out.json"
    with subprocess.Popen([*command, "--json", str(out)], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("1/3"):
                process.send_signal(signal.SIGTERM)  # treated as Ctrl-C, which a shell's background jobs ignore
                break
        said = process.stderr.read()
    assert process.returncode == 130
    assert "the same command goes on with it" in said
    assert not out.exists(), "no partial result"

    capfd.readouterr()
    assert main([*command[3:], "--json", str(out)]) == 0
    said = capfd.readouterr()
    assert "1 of 3 trials are done" in said.out + said.err
    resumed = json.loads(out.read_text())["results"]
    assert [accuracy(row) for row in resumed] == [
        accuracy(row) for row in evaluate(tmp_path / "again", folder, *methods)
    ]


def test_another_configuration_does_not_go_on_with_it(folder: Path, tmp_path: Path) -> None:
    """Parts of one run never find their way into another."""
    work = tmp_path / "work"
    small = ["--eager", "--work", str(work), "--threads", "1", "--long-side"]
    common = ["evaluate", str(folder), "--method", "source", *small]
    command = [sys.executable, "-m", "ditta_ros.cli", *common, "160", "--method", "source,ema_smoothing"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        next(line for line in process.stderr if line.startswith("1/2"))
        process.send_signal(signal.SIGTERM)
        process.stderr.read()
    assert process.returncode == 130, "SIGTERM is as good as Ctrl-C"
    (kept,) = work.iterdir()
    out = tmp_path / "out.json"
    assert main([*common, "96", "--json", str(out)]) == 0
    assert list(work.iterdir()) == [kept]


def cut_bag(folder: Path, bag: Path, target: Path) -> Path:
    """A bag whose storage ends in the middle."""
    shutil.copytree(bag, target)
    (file,) = (path for path in target.iterdir() if path.suffix in (".mcap", ".db3"))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    return target


def wrong_size(folder: Path, bag: Path, target: Path) -> Path:
    """A label image of another size than its frame."""
    shutil.copytree(folder, target)
    file = sorted((target / "labels").iterdir())[7]
    cv2.imwrite(str(file), np.zeros((5, 5), np.uint8))
    return target


def wrong_id(folder: Path, bag: Path, target: Path) -> Path:
    """A label that is no class."""
    shutil.copytree(folder, target)
    file = sorted((target / "labels").iterdir())[7]
    cv2.imwrite(str(file), np.full((120, 160), 77, np.uint8))
    return target


def empty(folder: Path, bag: Path, target: Path) -> Path:
    """No frames."""
    for part in ("images", "labels"):
        (target / part).mkdir(parents=True)
    return target


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (cut_bag, (), "drive|cut"),
        (wrong_size, (), "5"),
        (wrong_id, (), "77"),
        (empty, (), "expected images"),
        (None, ("--max-frames", "12"), "VC16|window of video consistency"),
        (None, ("--method", "magic"), "expected methods of .* but got .*magic"),
        (None, ("--method", "source,tps,fda"), "expected labelled drives for tps, fda, but got none; give --source"),
        (None, ("--method", "tps", "--source", "/nowhere"), "/nowhere"),
        (
            None,
            ("--method", "source,ur", "--annotated-frames"),
            "without a warm-up .*but got ur; give --method source_m",
        ),
        (None, ("--corruption", "fog:9"), "fog"),
        (None, ("--classes", "cityscapes19"), "cityscapes19|member"),
        (None, ("--model", "espnetv2:nowhere.pth"), "nowhere.pth does not exist"),
        (None, ("--image-topic", "/nowhere", "--format", "bag"), "expected"),
    ],
)
def test_bad_input_is_told_and_leaves_no_result(
    folder: Path,
    bag: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    make: Callable[[Path, Path, Path], Path] | None,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    source = folder if make is None else make(folder, bag, tmp_path / "bad")
    out = tmp_path / "out.json"
    command = ["evaluate", str(source), "--method", "source", "--long-side", "96", "--json", str(out)]
    assert main([*command, "--work", str(tmp_path / "work"), *arguments]) == 2
    said = capfd.readouterr().err
    assert "ditta evaluate: " in said
    assert re.search(message, said), said
    assert "Traceback" not in said
    assert not out.exists()


def test_a_missing_topic_lists_those_there_are(bag: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(bag), "--image-topic", "/front", "--work", str(tmp_path)]) == 2
    said = capfd.readouterr().err
    assert "/front" in said and "/camera/image_raw" in said


@pytest.mark.slow
def test_methods_with_a_labelled_source(folder: Path, bag: Path, tmp_path: Path) -> None:
    """The labels come from a folder, or from the same as a bag."""
    arguments = ("--method", "source,fda", "--max-frames", "12", "--vc-windows", "8", "--eager", "--source")
    unadapted, adapted = evaluate(tmp_path, folder, *arguments, str(folder))
    assert (adapted["method"], adapted["adaptations"], adapted["failed_adaptations"]) == ("fda", 1, 0)
    assert not adapted["problems"] and adapted["confusion"] != unadapted["confusion"]
    assert json.loads((tmp_path / "out.json").read_text())["config"]["labelled"] == {folder.name: FRAMES}
    assert accuracy(evaluate(tmp_path, folder, *arguments, str(bag))[1]) == accuracy(adapted)


def test_another_labelled_source_does_not_go_on(folder: Path, bag: Path, tmp_path: Path) -> None:
    names = set()
    for source in (folder, bag):
        command = ["evaluate", str(folder), "--method", "fda", "--work", str(tmp_path), "--source", str(source)]
        options = parser().parse_args(command)
        _fill_in(options)
        evaluation = _evaluation_options(options)
        names.add(_claim_store(options, evaluation, _open_inputs(options)).folder.name)
    assert len(names) == 2


def test_quick_look(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    command = ["evaluate", str(folder), "--quick", "--method", "source", "--json", str(out)]
    assert main([*command, "--work", str(tmp_path / "work")]) == 0
    config = json.loads(out.read_text())["config"]
    assert config["long_side"] == 320
    assert config["warmup_ratios"] == [10]
    assert config["quick"]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_independent_numbers_on_the_whole_clip(city_weights: Path, camvid_clip: Path, tmp_path: Path) -> None:
    """What an independent script measures for the unadapted model on all frames of the clip."""
    arguments = ["--format", "camvid", "--model", f"espnetv2:{city_weights}", "--classes", "camvid11"]
    out = tmp_path / "out.json"
    command = ["evaluate", str(camvid_clip), *arguments, "--input-size", "640x480", "--method", "source"]
    assert main([*command, "--whole-video", "--json", str(out), "--work", str(tmp_path / "work")]) == 0
    (row,) = json.loads(out.read_text())["results"]
    assert row["miou"] == pytest.approx(59.1, abs=0.2)
    assert row["wiou"] == pytest.approx(80.35, abs=0.2)
    assert row["vc8"] == pytest.approx(90.7, abs=0.2)
    assert row["vc16"] == pytest.approx(90.2, abs=0.2)
