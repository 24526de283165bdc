"""The command `ditta models`."""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ditta_core.classes import ClassList
from ditta_core.segmentation.espnetv2 import ESPNetv2
from ditta_core.segmentation.source import PACKAGED, ModelSource
from ditta_core.teacher.config import TEACHERS
from ditta_ros.cli.main import parser
from ditta_ros.cli.models import add_models_parser, model_commands, run_models_command

ROOT = Path(__file__).resolve().parents[3]


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    add_models_parser(parser.add_subparsers(dest="command"))
    return run_models_command(parser.parse_args(["models", *arguments]))


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Random weights of ESPNetv2 for CamVid, in a path that a shell would split."""
    path = tmp_path / "my weights.safetensors"
    save_file(ESPNetv2(ClassList.packaged("camvid11")).state_dict(), path)
    return path


def test_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    lines = capsys.readouterr().out.splitlines()
    assert {"✓ camvid", "✓ street"} <= {line[:8] for line in lines}
    for name in (*TEACHERS, "espnetv2:FILE", "dicenet:FILE", "ditta:FILE", "navigation", "ade20k150"):
        assert any(name in line.split() for line in lines), name
    assert max(map(len, lines)) <= 200


def test_what_is_missing_comes_with_its_command(capsys: pytest.CaptureFixture[str]) -> None:
    run()
    lines = capsys.readouterr().out.splitlines()
    (index,) = [index for index, line in enumerate(lines) if "espnetv2:FILE" in line]
    assert lines[index].startswith("·") and lines[index + 2].strip().startswith("curl -LO https://")


def test_the_list_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["models"][0] == {
        "name": "camvid",
        "description": found["models"][0]["description"],
        "checkpoint": "",
        "problem": None,
    }
    (espnetv2,) = (option for option in found["models"] if option["name"] == "espnetv2:FILE")
    assert espnetv2["problem"]["command"].startswith("curl")
    assert found["class_lists"]["camvid11"][0] == "sky"


def test_a_checkpoint_that_works(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", str(weights), "--classes", "[road, {moving: [car, bicyclst]}]") == 0
    text = capsys.readouterr().out
    lines = {line[:14].strip(): line[14:] for line in text.splitlines() if line[0] != " "}
    assert lines["kind"].startswith("weights of ESPNetv2")
    assert lines["outputs"].startswith("11: sky, building")
    assert lines["class"] == "moving: car"
    assert "'bicyclst' is no output of the model, but 'bicyclist' is" in lines["warning"]
    # The command can be pasted: path and classes arrive as they were.
    used = shlex.split(lines["use"])
    assert used == ["ditta", "demo", "--model", f"espnetv2:{weights}", "--classes", "[road, {moving: [car, bicyclst]}]"]


def test_the_commands_use_a_model_as_it_was_tried() -> None:
    source = ModelSource("hf:a/b", device="cuda:1", allow_pickle=True)
    demo, node, evaluate = map(shlex.split, model_commands(source))
    for command in (demo, evaluate):
        options = parser().parse_args(["x.mp4" if word == "INPUT" else word for word in command[1:]])
        assert (options.model, options.device, options.allow_pickle) == ("hf:a/b", "cuda:1", True)
    options, rest = parser().parse_known_args(node[1:])
    assert options.model == "hf:a/b"
    assert rest == ["--ros-args", "-p", "device:=cuda:1", "-p", "allow_pickle:=true"]
    assert model_commands(ModelSource())[1] == "ditta node --model camvid"


@pytest.mark.parametrize("arguments", [("--json", "check", "{}"), ("check", "{}", "--json")])
def test_a_checkpoint_as_json(arguments: tuple[str, ...], weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*(argument.format(weights) for argument in arguments)) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["name"] == f"espnetv2:{weights}" and result["trial"]["input_size"] == [272, 480]
    assert result["trial"]["published"][0] == ["sky", ["sky"]]


@pytest.mark.parametrize("name", PACKAGED)
def test_a_model_by_name(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", name, "--classes", "navigation") == 0
    assert "drivable: road" in capsys.readouterr().out


def colour_map(table: str) -> dict[tuple[int, ...], int]:
    """Labels by colour, as ``SemanticLabel2Color`` of Kimera-Semantics reads them: numbers by atoi, later rows win."""

    def atoi(text: str) -> int:
        return int(text) if text.isdigit() else 0

    rows = [line.split(",") for line in table.splitlines()]
    assert {len(row) for row in rows} == {6}
    return {tuple(map(atoi, row[1:5])): atoi(row[5]) for row in rows}


def test_the_colour_table_of_kimera(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("classes", "camvid", "--classes", "[road, {'a, b': [car, pole]}, sky]", "--csv") == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("name,red,green,blue,alpha,id\n") and not captured.err
    classes = ClassList.parse("[road, {'a, b': [car, pole]}, sky]")
    labels = colour_map(captured.out)
    assert labels[0, 0, 0, 255] == 0, "unlabelled, which Kimera maps as unknown"
    for class_id, color in enumerate(classes.colors):
        assert labels[(*color, 255)] == class_id + 1


def test_colours_that_tell_no_classes_apart_are_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    grey = "color: [9, 9, 9]"
    file.write_text(f"[{{name: road, {grey}}}, {{name: car, {grey}}}, {{name: sky, color: [0, 0, 0]}}]")
    assert run("classes", "--classes", str(file), "--csv") == 0
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 5
    assert "unlabelled, sky have one colour" in captured.err and "road, car have one colour" in captured.err


def test_the_classes_of_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("classes", "street") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["0", "#804080", "road"] and len(lines) == 19
    assert run("--json", "classes", "street") == 0
    assert json.loads(capsys.readouterr().out)[0] == {"id": 0, "name": "road", "color": [128, 64, 128]}
    assert run("classes", "espnetv2:absent.pth") == 2
    assert capsys.readouterr().err.startswith("ditta models classes: expected a weight file")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.pth"], "absent.pth does not exist"),
        (["espnetv2:absent.pth"], "absent.pth does not exist"),
        (["hf:no/such-model"], "no/such-model"),
        (["camvid", "--classes", "[raod]"], "for 'raod' perhaps 'road'"),
        (["camvid", "--classes", "navigations"], "packaged class lists"),
        (["camvid", "--device", "cuda:99"], "expected a torch device that is there"),
    ],
)
def test_what_does_not_work(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    if arguments[0].startswith("hf:"):
        pytest.importorskip("transformers", reason="transformers is not installed")
    assert run("check", *arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("ditta models check: expected") and message in captured.err and not captured.out


def test_weights_of_another_shape(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = ESPNetv2(ClassList.packaged("camvid11")).state_dict()
    state["base_net.level1.conv.weight"] = torch.zeros(16, 3, 3, 3)
    save_file(state, weights)
    assert run("check", str(weights)) == 2
    assert "expected ESPNetv2 with 11 outputs in" in capsys.readouterr().err


def test_a_video_tracker(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    monkeypatch.syspath_prepend(ROOT / "test" / "core")
    monkeypatch.setattr("ditta_core.catalog.checkpoints.CHECK_TRACKER_SIZE", 128)
    from sam2_video_models import save_small_checkpoint

    save_small_checkpoint(tmp_path)
    assert run("check", str(tmp_path), "--classes", "navigation") == 2
    assert "leave out --classes" in capsys.readouterr().err
    assert run("check", str(tmp_path)) == 0
    text = capsys.readouterr().out
    assert f"ditta demo --teacher object_vote:sam2_transformers --teacher-checkpoint {tmp_path}" in text
    assert f"-p teacher_checkpoint:={tmp_path}" in text


def test_without_optional_packages() -> None:
    """Neither the list nor a check of the packaged model imports what need not be there, ROS included."""
    absent = "rclpy", "sensor_msgs", "transformers", "huggingface_hub", "sam2", "hydra"
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({absent})); sys.path.insert(0, 'test/ros/cli'); "
        "from importlib import util; real = util.find_spec; "
        f"util.find_spec = lambda name, *rest: None if name in {absent} else real(name, *rest); "
        "from test_models import run; sys.exit(run() or run('check', 'camvid'))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "the package sam2 is not installed" in result.stdout and "network input 480×272" in result.stdout
