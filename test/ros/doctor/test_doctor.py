"""The command `ditta doctor`."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ros_harness
import yaml
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from ros_harness import BEST_EFFORT, RELIABLE, ROOT, wait_until
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from ditta_core.adaptation.state import AdaptedState
from ditta_core.catalog.checkpoints import CheckpointKind
from ditta_core.inference.temporal_branch import TemporalSegmenter
from ditta_core.segmentation.source import ModelSource
from ditta_core.stream.generation_file import model_fingerprint
from ditta_core.stream.generations import Generation
from ditta_core.teacher.config import TeacherConfig
from ditta_core.types import AdaptationReport
from ditta_ros.camera.state_folder import StateFolder
from ditta_ros.cli.doctor import add_doctor_parser, run_doctor_command
from ditta_ros.doctor import environment, installation, transport
from ditta_ros.doctor.environment import check_environment
from ditta_ros.doctor.examination import DoctorOptions, check_graph, check_models
from ditta_ros.doctor.findings import Finding, Level, Section, error, examined, ok, section_text, summary_text, warning
from ditta_ros.doctor.installation import Import, Installation, check_installation
from ditta_ros.doctor.models import check_model, check_state_folder, check_teacher_config
from ditta_ros.doctor.parameters_file import read_parameters
from ditta_ros.doctor.profile import check_profile
from ditta_ros.doctor.transport import Arrivals, RoundTrip, check_transport
from ditta_ros.messages.images import image_message
from ditta_ros.parameters import NodeParameters, declare
from ditta_ros.process.shared_memory import OLD_PROFILE_VARIABLE, PROFILE_VARIABLE, profile_variables

PROFILE = ROOT / "config" / "fastdds.xml"
FAST_DDS = Installation(torch=True, rmw="rmw_fastrtps_cpp")


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    add_doctor_parser(parser.add_subparsers(dest="command"))
    return run_doctor_command(parser.parse_args(["doctor", *arguments]))


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def params_file(folder: Path, **parameters: Any) -> Path:
    file = folder / "parameters.yaml"
    file.write_text(yaml.safe_dump({"/**": {"ros__parameters": parameters}}), encoding="utf-8")
    return file


# --- findings --------------------------------------------------------------------------------------------------------


def test_text_is_aligned_and_commands_stay_whole() -> None:
    command = "export FASTDDS_DEFAULT_PROFILES_FILE=/a/path/that-is/longer/than/the/line/config/fastdds.xml"
    section = Section("transport", (ok("a", "well"), error("images", "all lost on the way " * 4, command)))
    lines = section_text(section, 60).splitlines()
    assert lines[:2] == ["transport", "  ✓ a       well"]
    assert lines[2].startswith("  ✗ images  all lost") and lines[3].startswith(" " * 12 + "on the way")
    assert command.split()[1] in lines[-1].split()
    assert all(len(line) <= 60 for line in lines if "/a/path" not in line)


def test_the_summary_counts_and_names_what_is_wrong() -> None:
    sections = [Section("a", (ok("x", ""), warning("y", "", "r"))), Section("b", (error("z", "", "r"), ok("w", "")))]
    assert summary_text(sections) == "4 checks: 2 ok, 1 warning (y), 1 error (z)"
    assert summary_text([Section("a", (ok("x", ""),))]) == "1 checks: 1 ok"


def test_a_check_that_fails_is_a_finding() -> None:
    def check() -> Iterator[Finding]:
        yield ok("first", "well")
        raise KeyError("of its own")

    (finding,) = examined("domain", check)
    assert (finding.name, finding.level) == ("domain", Level.ERROR)
    assert "KeyError: 'of its own'" in finding.finding


# --- installation ----------------------------------------------------------------------------------------------------


def test_this_installation_works() -> None:
    findings, found = check_installation(os.environ)
    assert not [finding for finding in findings if finding.level is Level.ERROR]
    assert found.torch and found.rmw
    import torch
    from rclpy.utilities import get_rmw_implementation_identifier

    assert by_name(findings)["torch"].finding.startswith(torch.__version__)
    assert found.rmw == get_rmw_implementation_identifier()


def test_a_package_that_ends_the_interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deadly.py").write_text("import os\nos.kill(os.getpid(), 11)\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    attempt = Import.attempt("deadly", "import deadly", {**os.environ, "PYTHONPATH": str(tmp_path)})
    assert "ended by signal 11" in attempt.problem and not attempt.missing
    assert Import.attempt("no_such_package", "", os.environ).missing


def test_a_broken_rclpy_is_told_from_a_missing_one() -> None:
    (missing,) = installation.check_ros(Import({}, "the package rclpy is not installed", missing=True), {})
    assert missing.level is Level.ERROR and "pip install" in missing.remedy
    (numpy,) = installation.check_ros(Import({}, "it cannot be used: ImportError: numpy.core.multiarray failed"), {})
    assert numpy.level is Level.ERROR and "numpy<2" in numpy.remedy
    (package,) = installation.check_ros(Import({}, "it cannot be used: No module named 'lifecycle_msgs'"), {})
    assert "ros-<distribution>-lifecycle-msgs" in package.remedy


def test_wheels_and_a_sourced_installation_are_not_mixed(tmp_path: Path) -> None:
    if not installation.installed_version("ros-rclpy"):
        pytest.skip("ROS is not from wheels")
    (tmp_path / "lib" / "python3.12" / "site-packages" / "rclpy").mkdir(parents=True)
    mixed = {"AMENT_PREFIX_PATH": f"{sys.prefix}{os.pathsep}{tmp_path}"}
    (finding,) = installation.check_ros(Import({"file": "", "rmw": ""}), mixed)
    assert finding.level is Level.ERROR and str(tmp_path) in finding.finding
    works = Import({"file": "/x/rclpy/__init__.py", "rmw": "rmw_cyclonedds_cpp"})
    rclpy, middleware = installation.check_ros(works, {"AMENT_PREFIX_PATH": sys.prefix})
    assert rclpy.level is Level.OK and "/x/rclpy" in rclpy.finding
    assert middleware.level is Level.WARNING and "RMW_IMPLEMENTATION" in middleware.remedy


def test_two_opencv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    works = Import({"version": "4.5"})
    for name in ("opencv_python", "opencv_contrib_python_headless"):
        folder = tmp_path / f"{name}-4.5.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 4.5\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    finding = installation.check_opencv(works)
    assert finding.level is Level.WARNING
    assert "pip uninstall -y" in finding.remedy and "opencv-contrib-python-headless" in finding.remedy


@pytest.mark.parametrize(
    ("cuda", "devices", "driver", "level", "text"),
    [
        (None, [], False, Level.OK, "no CUDA"),
        ("12.8", [], False, Level.OK, "no CUDA"),
        ("12.8", ["H200"], True, Level.OK, "on H200"),
        (None, [], True, Level.WARNING, "made without CUDA"),
        ("12.8", [], True, Level.WARNING, "finds no GPU"),
    ],
)
def test_the_gpu(cuda: str | None, devices: list[str], driver: bool, level: Level, text: str, tmp_path: Path) -> None:
    file = tmp_path / "version"
    if driver:
        file.touch()
    attempt = Import({"version": "2.9", "threads": 2, "cuda": cuda, "devices": devices})
    finding = installation.check_torch(attempt, file)
    assert finding.level is level and text in finding.finding


def test_every_optional_package_is_named() -> None:
    findings = by_name(installation.check_optional_packages())
    assert {"message_filters", "vision_msgs", "launch_ros", "rosbags", "ray"} == set(findings)
    for name, finding in findings.items():
        command = [sys.executable, "-c", f"import {name}"]
        installed = subprocess.run(command, capture_output=True, check=False).returncode == 0
        assert ("not installed" in finding.finding, bool(finding.remedy)) == (not installed, not installed)


# --- environment -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "level"),
    [
        ("", Level.OK),
        ("0", Level.OK),
        ("101", Level.OK),
        ("102", Level.WARNING),
        ("232", Level.WARNING),
        ("233", Level.ERROR),
        ("-1", Level.ERROR),
        ("robot", Level.ERROR),
    ],
)
def test_the_domain(value: str, level: Level) -> None:
    assert environment.check_domain({"ROS_DOMAIN_ID": value}).level is level


@pytest.mark.parametrize(
    ("variables", "level", "text"),
    [
        ({}, Level.OK, "subnet"),
        ({"ROS_LOCALHOST_ONLY": "1"}, Level.OK, "this machine alone"),
        ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}, Level.OK, "this machine alone"),
        ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "OFF"}, Level.ERROR, "no process hears"),
        ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "HOST"}, Level.WARNING, "'HOST'"),
    ],
)
def test_discovery(variables: dict[str, str], level: Level, text: str) -> None:
    finding = environment.check_discovery(variables)
    assert finding.level is level and text in finding.finding


def test_logs_need_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert environment.check_log_folder({}).level is Level.ERROR
    assert environment.check_log_folder({"ROS_LOG_DIR": str(tmp_path / "file" / "log")}).level is Level.ERROR
    assert environment.check_log_folder({"ROS_HOME": str(tmp_path)}).finding == str(tmp_path / "log")
    assert environment.check_log_folder({"HOME": str(tmp_path)}).finding == str(tmp_path / ".ros" / "log")


def test_the_package_index(tmp_path: Path) -> None:
    folder = tmp_path / "share" / "ament_index" / "resource_index" / "packages"
    folder.mkdir(parents=True)
    path = {"AMENT_PREFIX_PATH": f"/nowhere{os.pathsep}{tmp_path}"}
    assert environment.check_package_index(path).level is Level.WARNING
    (folder / "ditta_ros").touch()
    assert str(tmp_path) in environment.check_package_index(path).finding


def test_shared_memory_and_sockets(tmp_path: Path) -> None:
    assert environment.check_shared_memory(tmp_path / "none").level is Level.ERROR
    assert re.search(r"\d+ MB of \d+ MB are free", environment.check_shared_memory(tmp_path).finding)
    limit = tmp_path / "rmem_max"
    limit.write_text("212992\n", encoding="utf-8")
    assert environment.check_socket_buffer({}, limit).level is Level.WARNING
    assert environment.check_socket_buffer({"ROS_LOCALHOST_ONLY": "1"}, limit).level is Level.OK
    limit.write_text("4194304\n", encoding="utf-8")
    assert environment.check_socket_buffer({}, limit).level is Level.OK


def test_segments_of_the_living_and_of_the_dead(tmp_path: Path) -> None:
    """A real participant, seen while it lives and after it was killed."""
    code = "import rclpy, time; rclpy.init(); node = rclpy.create_node('a'); print('up', flush=True); time.sleep(60)"
    variables = {**os.environ, **dict.fromkeys(profile_variables(), str(PROFILE))}
    with subprocess.Popen([sys.executable, "-c", code], env=variables, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        maps = Path(f"/proc/{process.pid}/maps").read_text(encoding="utf-8")
        mapped = {Path(path) for path in re.findall(r"/dev/shm/fastdds_[0-9a-f]{16}(?=\s)", maps)}
        segments = [path for path in mapped if Path(f"{path}_el").exists()]
        if not segments:
            process.kill()
            pytest.skip("no segments of Fast DDS in /dev/shm")
        for path in segments:
            (tmp_path / path.name).symlink_to(path)
            (tmp_path / f"{path.name}_el").symlink_to(f"{path}_el")
        alive = environment.left_behind(tmp_path)
        process.kill()
    try:
        assert alive == []
        assert sum(environment.left_behind(tmp_path)) > 64 * 2**20
        assert environment.check_left_behind(tmp_path).level is Level.WARNING
        assert "fastdds shm clean" in environment.check_left_behind(tmp_path).remedy
    finally:
        for path in segments:
            path.unlink()
            Path(f"{path}_el").unlink()


def test_few_bytes_left_behind_are_no_trouble(tmp_path: Path) -> None:
    segment = tmp_path / "fastdds_0123456789abcdef"
    segment.write_bytes(bytes(100_000))
    lock = tmp_path / f"{segment.name}_el"
    lock.touch()
    (tmp_path / "fastdds_port7411").touch()  # without a lock beside it nothing is known
    assert len(environment.left_behind(tmp_path)) == 1
    assert environment.check_left_behind(tmp_path).level is Level.OK
    with lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        assert environment.left_behind(tmp_path) == []


def test_cyclone_needs_no_profile_of_fast_dds() -> None:
    names = set(by_name(check_environment({"HOME": "/"}, Installation(torch=True, rmw="rmw_cyclonedds_cpp"))))
    fast = set(by_name(check_environment({"HOME": "/"}, FAST_DDS)))
    assert fast - names == {"Fast DDS profile", "shared memory", "left behind"}


# --- the profile -----------------------------------------------------------------------------------------------------

SEGMENT = "<segment_size>67108864</segment_size>"
USED = "<transport_id>ditta_shared_memory</transport_id>"


@pytest.mark.parametrize(
    ("old", "new", "level", "text"),
    [
        ("", "", Level.OK, "SHM, UDPv4; 64 MB of shared memory"),
        ("</dds>", "", Level.ERROR, "expected XML"),
        ('is_default_profile="true"', "", Level.ERROR, "is_default_profile"),
        ('xmlns="http://www.eprosima.com"', "", Level.OK, "64 MB"),
        (SEGMENT, "<segment_size>1048576</segment_size>", Level.WARNING, "of 1.0 MB, smaller than an image"),
        (SEGMENT, "", Level.WARNING, "of 0.5 MB"),
        (f"<userTransports>\n          {USED}", "<userTransports>", Level.WARNING, "no shared memory"),
        ("<useBuiltinTransports>false", "<useBuiltinTransports>true", Level.OK, "SHM, UDPv4, built-in"),
        (
            f"<userTransports>\n          {USED}",
            "<useBuiltinTransports>true</useBuiltinTransports><userTransports>",
            Level.WARNING,
            "of 0.5 MB",
        ),
        (
            "<useBuiltinTransports>false",
            "<builtinTransports>LARGE_DATA</builtinTransports><useBuiltinTransports>false",
            Level.OK,
            "LARGE_DATA",
        ),
    ],
)
def test_profiles(old: str, new: str, level: Level, text: str, tmp_path: Path) -> None:
    original = PROFILE.read_text(encoding="utf-8")
    assert old in original
    file = tmp_path / "profile.xml"
    file.write_text(original.replace(old, new, 1) if old else original, encoding="utf-8")
    finding = check_profile({PROFILE_VARIABLE: str(file)}, (PROFILE_VARIABLE,))
    assert finding.level is level and text in finding.finding
    assert bool(finding.remedy) == (level is not Level.OK)


@pytest.mark.parametrize(
    ("variables", "level", "text"),
    [
        ({}, Level.WARNING, "none"),
        ({"FASTDDS_BUILTIN_TRANSPORTS": "LARGE_DATA"}, Level.OK, "suits images"),
        ({OLD_PROFILE_VARIABLE: str(PROFILE)}, Level.WARNING, f"this ROS reads {PROFILE_VARIABLE}"),
        ({PROFILE_VARIABLE: "/nowhere.xml"}, Level.ERROR, "No such file"),
    ],
)
def test_the_variables_of_profiles(variables: dict[str, str], level: Level, text: str) -> None:
    finding = check_profile(variables, (PROFILE_VARIABLE,))
    assert finding.level is level and text in finding.finding
    assert level is Level.OK or f"export {PROFILE_VARIABLE}={PROFILE}" in finding.remedy


# --- transport -------------------------------------------------------------------------------------------------------


def test_images_arrive_through_shared_memory() -> None:
    variables = {**os.environ, **dict.fromkeys(profile_variables(), str(PROFILE))}
    (finding,) = check_transport(variables, FAST_DDS)
    assert finding.level is Level.OK, finding
    assert re.search(r"1[45] of 15 \(.* ms\) arrived best effort, 1[45] of 15 \(.* ms\) reliable", finding.finding)


def test_images_are_lost_over_udp_and_the_remedy_is_tried(tmp_path: Path) -> None:
    """The same profile without shared memory."""
    file = tmp_path / "udp.xml"
    text = PROFILE.read_text(encoding="utf-8").replace(USED, "").replace("4194304", "65536")
    file.write_text(text, encoding="utf-8")
    (finding,) = check_transport({**os.environ, **dict.fromkeys(profile_variables(), str(file))}, FAST_DDS)
    assert finding.level is Level.WARNING, finding
    assert "with the shared-memory profile 1" in finding.finding
    assert f"export {profile_variables()[0]}={PROFILE}" in finding.remedy


ALL, SOME, NONE = Arrivals((5.0,) * 15), Arrivals((5.0,) * 4), Arrivals(())


@pytest.mark.parametrize(
    ("here", "profile", "level", "remedies"),
    [
        (RoundTrip(ALL, ALL), None, Level.OK, ()),
        (RoundTrip(SOME, ALL), RoundTrip(ALL, ALL), Level.WARNING, ("export", "image_reliability")),
        (RoundTrip(SOME, NONE), RoundTrip(ALL, ALL), Level.WARNING, ("export",)),
        (RoundTrip(NONE, ALL), RoundTrip(SOME, ALL), Level.WARNING, ("image_reliability",)),
        (RoundTrip(NONE, ALL), None, Level.WARNING, ("image_reliability",)),
        (RoundTrip(NONE, NONE), RoundTrip(SOME, SOME), Level.ERROR, ("shared memory",)),
    ],
)
def test_only_remedies_that_worked_are_named(
    here: RoundTrip, profile: RoundTrip | None, level: Level, remedies: tuple[str, ...]
) -> None:
    finding = transport.judge(here, profile)
    assert finding.level is level
    for remedy in ("export", "image_reliability", "shared memory"):
        assert (remedy in finding.remedy) == (remedy in remedies)


def test_the_programs_send_what_is_counted() -> None:
    from ditta_ros.doctor import round_trip

    assert (round_trip.IMAGES, set(round_trip.QOS)) == (transport.IMAGES, {"best_effort", "reliable"})


# --- parameters ------------------------------------------------------------------------------------------------------


def read(folder: Path, text: str) -> tuple[NodeParameters, dict[str, Finding]]:
    file = folder / "parameters.yaml"
    file.write_text(text, encoding="utf-8")
    parameters, findings = read_parameters(file)
    return parameters, by_name(list(findings))


def test_overrides_of_qos_are_known_to_ros(tmp_path: Path) -> None:
    overrides = "{qos_overrides./ditta/semantic.publisher.depth: 5, qos_overrides: {/a: {publisher: {depth: 5}}}}"
    assert read(tmp_path, f"ditta: {{ros__parameters: {overrides}}}")[1]["parameters"].level is Level.OK


@pytest.mark.parametrize("name", ["/**", "ditta", "/ditta", "/front/ditta", "/**/ditta"])
def test_parameters_for_the_node(name: str, tmp_path: Path) -> None:
    parameters, findings = read(tmp_path, f"{name}:\n  ros__parameters: {{passes: 7, use_sim_time: true}}\n")
    assert parameters == NodeParameters(passes=7)
    assert list(findings) == ["parameters"] and findings["parameters"].level is Level.OK


def test_parameters_in_nested_namespaces(tmp_path: Path) -> None:
    assert read(tmp_path, "front: {ditta: {ros__parameters: {passes: 3}}}")[0].passes == 3


def test_the_file_that_comes_with_the_package() -> None:
    parameters, findings = read_parameters(ROOT / "config" / "ditta.yaml")
    assert parameters == NodeParameters()
    assert [finding.level for finding in findings] == [Level.OK]


@pytest.mark.parametrize(
    "text",
    [
        "/**: {ros__parameters: {learning_rate: 1e-3, autostart: false, classes: '[road]', smoothing: .5}}",
        "{/**: {ros__parameters: {passes: 7, seed: 1}}, ditta: {ros__parameters: {passes: 8}}}",
        "{ditta: {ros__parameters: {passes: 8}}, /**: {ros__parameters: {passes: 7, seed: 1}}}",
        "{/*: {ros__parameters: {passes: 7}}, /**/ditta: {ros__parameters: {seed: 1}}}",
        "{/front/ditta: {ros__parameters: {passes: 7}}, /ditta: {ros__parameters: {passes: 8}}}",
    ],
)
def test_ros_reads_the_same(text: str, tmp_path: Path, ros: None) -> None:
    mine = read(tmp_path, text)[0]
    node = Node("ditta", cli_args=["--ros-args", "--params-file", str(tmp_path / "parameters.yaml")])
    theirs = declare(node)
    node.destroy_node()
    assert mine == theirs != NodeParameters()


@pytest.mark.parametrize(
    ("text", "name", "level", "words"),
    [
        ("/**: {ros__parameters: {pases: 7}}", "pases", Level.WARNING, "perhaps passes"),
        ("/**: {ros__parameters: {classes: [road, car]}}", "classes", Level.ERROR, "quotation marks"),
        ("/**: {ros__parameters: {smoothing: 1}}", "smoothing", Level.ERROR, "decimal point"),
        ("/**: {ros__parameters: {passes: 2.0}}", "passes", Level.ERROR, "whole number"),
        ("/**: {ros__parameters: {autostart: 1}}", "autostart", Level.ERROR, "true or false"),
        ("/**: {ros__parameters: {passes: 0}}", "passes", Level.ERROR, "1 to 1000"),
        ("/**: {ros__parameters: {input_width: 640}}", "parameters", Level.ERROR, "input_height"),
        ("/**: {ros__parameters: {cameras: '{front: [a]}'}}", "parameters", Level.ERROR, "front"),
        ("/other: {ros__parameters: {passes: 7}}", "parameters", Level.ERROR, "/other"),
        ("passes: 7", "parameters", Level.ERROR, "ros__parameters"),
        ("a: [", "parameters", Level.ERROR, "config/ditta.yaml"),
    ],
)
def test_what_ros_does_not_say(text: str, name: str, level: Level, words: str, tmp_path: Path) -> None:
    parameters, findings = read(tmp_path, text)
    assert parameters == NodeParameters() or name == "parameters"
    assert findings[name].level is level
    assert words in f"{findings[name].finding} {findings[name].remedy}"


# --- models ----------------------------------------------------------------------------------------------------------


def test_the_packaged_model_and_its_classes() -> None:
    model, found = check_model(ModelSource(classes="navigation"))
    findings = by_name(found)
    assert model is not None and model.classes.names[0] == "drivable"
    assert findings["model"].level is Level.OK and "11 classes" in findings["model"].finding
    assert findings["classes"].finding.startswith("drivable, ")
    misspelt = by_name(check_model(ModelSource(classes="[road, {moving: [car, bicyclst]}]"))[1])["classes"]
    assert misspelt.level is Level.WARNING and "'bicyclist'" in misspelt.finding
    unknown = by_name(check_model(ModelSource(classes="[raod]"))[1])["classes"]
    assert unknown.level is Level.ERROR and "'road'" in unknown.finding


@pytest.mark.parametrize("name", ["espnetv2:absent.pth", "ditta:absent.safetensors", "espnetv3"])
def test_a_model_that_is_not_there(name: str) -> None:
    model, (finding,) = check_model(ModelSource(name))
    assert model is None
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
    assert "will be made" in check_state_folder(tmp_path / "new", [""], None).finding
    assert check_state_folder(tmp_path, [""], None).finding == str(tmp_path)
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    broken = check_state_folder(tmp_path / "file" / "states", [""], None)
    assert broken.level is Level.ERROR and f"{tmp_path / 'file'} is a file" in broken.finding


def test_saved_generations_belong_to_a_model(tmp_path: Path) -> None:
    model, _ = check_model(ModelSource())
    other, _ = check_model(ModelSource(classes="navigation"))
    assert model is not None and other is not None
    segmenter = TemporalSegmenter(model)
    generation = Generation(3, AdaptedState({"a": np.ones(2, np.float32)}, False), AdaptationReport(True, ""), None)
    StateFolder(tmp_path, "front", model_fingerprint(segmenter)).save(generation)
    assert check_state_folder(tmp_path, ["front", "rear"], model).finding == f"{tmp_path}: 1 saved generations"
    assert check_state_folder(tmp_path, ["rear"], other).level is Level.OK
    refused = check_state_folder(tmp_path, ["front"], other)
    assert refused.level is Level.WARNING and "0 saved generations fit, 1 are left out" in refused.finding


def test_models_of_parameters(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    parameters = NodeParameters(model="espnetv2:absent.pth", state_dir=str(tmp_path / "file"))
    findings = by_name(check_models(parameters))
    assert {name: finding.level for name, finding in findings.items()} == {
        "model": Level.ERROR,
        "teacher": Level.OK,
        "state_dir": Level.ERROR,
    }
    assert by_name(check_models(None))["model"].finding.startswith("camvid")


# --- the graph -------------------------------------------------------------------------------------------------------


@pytest.fixture
def cameras(ros: None) -> Iterator[Node]:
    """A node that publishes in its own way on each topic."""
    node = Node("cameras")
    stopped = threading.Event()

    def publisher(kind: Any, topic: str, qos: QoSProfile) -> Any:
        return node.create_publisher(kind, topic, qos)

    publishers = {name: publisher(Image, f"/{name}", RELIABLE) for name in ("fine", "unstamped", "unreadable")}
    publisher(Image, "/silent", RELIABLE)
    publisher(CompressedImage, "/packed", RELIABLE)
    publisher(Image, "/best_effort", BEST_EFFORT)
    mixed = [Node(name) for name in ("left", "right")]
    publishers |= {each.get_name(): each.create_publisher(Image, "/mixed", RELIABLE) for each in mixed}

    def film() -> None:
        while not stopped.wait(0.05):
            for name, each in publishers.items():
                header = Header(frame_id="camera")
                if name != "unstamped":
                    header.stamp.sec, header.stamp.nanosec = divmod(time.time_ns(), 1_000_000_000)
                message = image_message(ros_harness.texture(0), header)
                if name == "unreadable":
                    message.encoding = "infrared7"
                each.publish(message)

    thread = threading.Thread(target=film)
    thread.start()
    yield node
    stopped.set()
    thread.join()
    for each in (node, *mixed):
        each.destroy_node()


def test_cameras_of_every_kind(cameras: Node) -> None:
    names = "fine", "unstamped", "unreadable", "silent", "packed", "best_effort", "mixed", "absent"
    text = yaml.safe_dump({name: f"/{name}" for name in names})
    parameters = NodeParameters(cameras=text, image_reliability="reliable")
    found: dict[str, list[Finding]] = {}
    for finding in check_graph(parameters, DoctorOptions(Path("given")), os.environ):
        found.setdefault(finding.name, []).append(finding)
    levels = {name: [finding.level for finding in found[f"/{name}"]] for name in names}
    assert levels == {
        "fine": [Level.OK],
        "unstamped": [Level.WARNING],
        "unreadable": [Level.ERROR],
        "silent": [Level.ERROR],
        "packed": [Level.ERROR],
        "best_effort": [Level.ERROR],
        "mixed": [Level.WARNING, Level.OK],
        "absent": [Level.WARNING],
    }, found
    sentences = {name: found[f"/{name}"][0] for name in names}
    assert re.match(r"96×64 at \d+\.\d Hz from /cameras \(reliable, volatile", sentences["fine"].finding)
    assert "same stamp" in sentences["unstamped"].finding
    assert "infrared7" in sentences["unreadable"].finding
    assert "no image came" in sentences["silent"].finding
    assert "image_transport to compressed" in sentences["packed"].remedy
    asked = "asks for (reliable, volatile), but /cameras offers (best_effort, volatile)"
    assert asked in sentences["best_effort"].finding
    assert sentences["best_effort"].remedy == "set image_reliability to best_effort"
    assert "/left" in sentences["mixed"].finding and "/right" in sentences["mixed"].finding
    assert "/fine" in sentences["absent"].finding and "/best_effort" in sentences["absent"].finding
    assert found["node"][0].level is Level.OK


def test_an_environment_in_which_ros_does_not_start() -> None:
    (finding,) = check_graph(NodeParameters(), DoctorOptions(), {**os.environ, "ROS_DOMAIN_ID": "robot"})
    assert finding.level is Level.ERROR and "ROS_DOMAIN_ID is not an integral number" in finding.finding
    (coloured,) = check_graph(NodeParameters(), DoctorOptions(), {**os.environ, "ROS_DOMAIN_ID": "300"})
    assert coloured.level is Level.ERROR and "\x1b" not in coloured.finding


def findings_of_the_node(parameters: NodeParameters) -> dict[str, Finding]:
    """Of a look at which the node was discovered; where all cores are busy, that can take longer than one look."""

    def look() -> dict[str, Finding] | None:
        findings = by_name(check_graph(parameters, DoctorOptions(), os.environ))
        return findings if "/ditta" in findings else None

    return wait_until(look, "the node", 90)


def test_a_node_that_runs(
    probe: ros_harness.Probe, start_node: Callable[..., ros_harness.NodeProcess], tmp_path: Path
) -> None:
    start_node(image_topic="/camera/image_raw", passes=1)
    probe.film()
    probe.wait_for_masks()
    late = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    probe.subscribe(Image, "/ditta/semantic", lambda _: None, late)
    findings = findings_of_the_node(NodeParameters(image_topic="/elsewhere"))
    assert findings["/ditta"].finding == "active"
    # What it listens to, not the default; a machine too busy may lose images on the way, which is then what is found.
    assert re.search(r"96×64 at .* from /probe|images of /probe", findings["/camera/image_raw"].finding)
    assert findings["/ditta diagnostics"].level is not Level.ERROR
    assert findings["/ditta/semantic"].level is Level.ERROR
    assert "/probe asks for (reliable, transient_local)" in findings["/ditta/semantic"].finding


def test_a_node_that_could_not_be_configured(start_node: Callable[..., ros_harness.NodeProcess]) -> None:
    process = start_node(model="espnetv2:absent.pth")
    wait_until(lambda: "could not configure" in process.output, "the refusal")
    findings = findings_of_the_node(NodeParameters())
    assert findings["/ditta"].level is Level.WARNING and "unconfigured" in findings["/ditta"].finding
    assert findings["/ditta diagnostics"].level is Level.ERROR
    assert "absent.pth" in findings["/ditta diagnostics"].finding


# --- the command -----------------------------------------------------------------------------------------------------


def test_everything_that_is_wrong_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken.xml"
    broken.write_text("<dds>", encoding="utf-8")
    (tmp_path / "file").touch()
    for variable in profile_variables():
        monkeypatch.setenv(variable, str(broken))
    file = params_file(tmp_path, model="espnetv2:absent.pth", state_dir=str(tmp_path / "file"), long_sid=96)
    assert run("--json", "--no-transport", "--params-file", str(file), "--image-topic", "/front/image") == 1
    result = json.loads(capsys.readouterr().out)
    assert result["level"] == "error"
    sections = {section["title"]: section["findings"] for section in result["sections"]}
    assert list(sections) == ["installation", "optional packages", "environment", "parameters", "graph", "models"]
    findings = [finding for section in sections.values() for finding in section]
    for finding in findings:
        assert set(finding) == {"name", "level", "finding", "remedy"}
        assert finding["level"] in ("ok", "warning", "error")
        assert finding["finding"] and (finding["remedy"] or finding["level"] == "ok")
    levels = {finding["name"]: finding["level"] for finding in findings}
    assert {name for name, level in levels.items() if level == "error"} == {"Fast DDS profile", "model", "state_dir"}
    assert (levels["long_sid"], levels["/front/image"]) == ("warning", "warning")


def test_without_ros_the_rest_is_examined() -> None:
    hidden = "import sys; sys.modules.update(dict.fromkeys(['rclpy', 'rcl_interfaces', 'sensor_msgs'])); "
    code = (
        f"{hidden}import argparse; from ditta_ros.cli.doctor import add_doctor_parser, run_doctor_command; "
        "parser = argparse.ArgumentParser(); add_doctor_parser(parser.add_subparsers()); "
        "sys.exit(run_doctor_command(parser.parse_args(['doctor'])))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 1, result.stderr
    assert not result.stderr
    lines = result.stdout.splitlines()
    (rclpy,) = [index for index, line in enumerate(lines) if line.startswith("  ✗ rclpy")]
    assert "→ source an installation" in lines[rclpy + 1]
    assert any(line.startswith("  ! graph") and "not checked without ROS 2" in line for line in lines)
    assert any(line.startswith("  ✓ model  ") and "camvid on cpu" in line for line in lines)
    assert lines[-1].endswith("1 error (rclpy)")


def test_a_file_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--params-file", "absent.yaml") == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("ditta doctor: expected a file") and not captured.out
    with pytest.raises(SystemExit, match="2"):
        run("--no-such-flag")
