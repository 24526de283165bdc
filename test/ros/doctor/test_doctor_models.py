"""Whether model, teacher and classes can be loaded, and states be kept."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from ros_harness import ROOT

from ditta_core.catalog.checkpoints import CheckpointKind
from ditta_core.segmentation.source import ModelSource
from ditta_core.teacher.config import TeacherConfig
from ditta_ros.doctor.examination import check_models
from ditta_ros.doctor.findings import Finding, Level
from ditta_ros.doctor.models import check_mask, check_model, check_state_folder, check_teacher_config
from ditta_ros.parameters import NodeParameters


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def test_the_packaged_model_and_its_classes() -> None:
    findings = by_name(check_model(ModelSource(classes="navigation")))
    assert findings["model"].level is Level.OK and "11 classes" in findings["model"].finding
    assert findings["classes"].finding.startswith("drivable, ")
    misspelt = by_name(check_model(ModelSource(classes="[road, {moving: [car, bicyclst]}]")))["classes"]
    assert misspelt.level is Level.WARNING and "'bicyclist'" in misspelt.finding
    (unknown,) = check_model(ModelSource(classes="[raod]"))
    assert unknown.level is Level.ERROR and "'road'" in unknown.finding


@pytest.mark.parametrize("name", ["espnetv2:absent.pth", "ditta:absent.safetensors", "espnetv3"])
def test_a_model_that_is_not_there(name: str) -> None:
    (finding,) = check_model(ModelSource(name))
    assert (finding.name, finding.level) == ("model", Level.ERROR)
    assert finding.finding.startswith("expected") and "ditta models" in finding.remedy


def test_teachers(tmp_path: Path) -> None:
    assert check_teacher_config(TeacherConfig()).level is Level.OK
    unknown = check_teacher_config(TeacherConfig("flw"))
    assert unknown.level is Level.ERROR and "object_vote:flow" in unknown.finding
    pytest.importorskip("sam2", reason="sam2 is not installed")
    absent = check_teacher_config(TeacherConfig("object_vote:sam2", str(tmp_path / "absent.pt")))
    assert absent.level is Level.ERROR and "absent.pt" in absent.finding


def test_weights_of_a_model_are_no_teacher() -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    weights = ROOT / "ditta_core" / "weights" / "camvid.safetensors"
    finding = check_teacher_config(TeacherConfig("object_vote:sam2_transformers", str(weights)))
    assert finding.level is Level.ERROR and CheckpointKind.ESPNETV2.value in finding.finding
    absent = check_teacher_config(TeacherConfig("object_vote:sam2_transformers", "nobody/no-such-model"))
    assert absent.level is Level.ERROR and "hf download nobody/no-such-model" in absent.remedy


def test_the_folder_of_states(tmp_path: Path) -> None:
    assert "will be made" in check_state_folder(str(tmp_path / "new")).finding
    assert check_state_folder(str(tmp_path)).finding == str(tmp_path)
    assert check_state_folder("").level is Level.OK
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    broken = check_state_folder(str(tmp_path / "file" / "states"))
    assert broken.level is Level.ERROR and str(tmp_path / "file") in broken.finding


def test_models_of_parameters(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    parameters = NodeParameters(model="espnetv2:absent.pth", state_dir=str(tmp_path / "file"))
    findings = by_name(check_models(parameters, os.environ))
    assert {name: finding.level for name, finding in findings.items()} == {
        "model": Level.ERROR,
        "teacher": Level.OK,
        "state_dir": Level.ERROR,
    }
    assert by_name(check_models(None, os.environ))["model"].finding.startswith("camvid")


def test_what_keeps_the_node_from_being_configured_is_found(tmp_path: Path) -> None:
    parameters = NodeParameters(input_width=100, input_height=64, ignore_mask=str(tmp_path / "absent.png"))
    findings = by_name(check_models(parameters, os.environ))
    assert {name for name, each in findings.items() if each.level is Level.ERROR} == {"input", "ignore_mask"}
    assert "in multiples of 16" in findings["input"].finding and "absent.png" in findings["ignore_mask"].finding
    cv2.imwrite(str(tmp_path / "body.png"), np.tile(np.uint8([0, 255]), (8, 8)))
    assert check_mask(str(tmp_path / "body.png")).level is Level.OK


def test_a_model_that_ends_the_interpreter_does_not_end_the_doctor(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("import os\nos.kill(os.getpid(), 11)\n", encoding="utf-8")
    (finding,) = check_models(None, {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"})
    assert finding.level is Level.ERROR and "signal 11" in finding.finding
