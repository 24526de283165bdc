"""The real node as a process, and a camera in another process, over real DDS."""

from __future__ import annotations

import os
import signal
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
import torch
from diagnostic_msgs.msg import DiagnosticStatus
from node_probe import ADAPTATION, STREAM, StartNode, diagnostic, stamps, values
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter as RosParameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from ros_harness import BEST_EFFORT, RELIABLE, Probe, wait_until
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from ditta_core.adaptation.config import AdaptationConfig
from ditta_core.classes import ClassList
from ditta_core.domain.warmup import LARGEST_SHARE
from ditta_core.inference.config import InferenceConfig
from ditta_core.inference.frame_segmenter import FrameSegmenter
from ditta_core.segmentation.adapted import AdaptedModel, save_adapted, weights_fingerprint
from ditta_core.segmentation.registry import load_model
from ditta_core.segmentation.source import ModelSource
from ditta_core.stream.config import StreamConfig
from ditta_core.stream.video_segmenter import VideoSegmenter
from ditta_ros.camera import stream
from ditta_ros.messages.images import label_image, stamp_of
from ditta_ros.node import DittaNode
from ditta_ros.process.executor import BackgroundExecutor


def test_adapts_while_masks_keep_coming(probe: Probe, start_node: StartNode) -> None:
    start_node()
    probe.film()
    adapted = probe.wait_for_state("ADAPTED")
    probe.wait_for_masks()
    probe.hold()

    assert adapted["generation"] == 1
    assert adapted["collected"] == adapted["warmup_frames"] == 4
    assert adapted["progress"] == 1.0
    assert len(adapted["losses"]) == 20
    assert adapted["adaptation_seconds"] > 0
    order = list(dict.fromkeys(state["state"] for state in probe.states))
    assert order == ["BASE", "COLLECTING", "ADAPTING", "ADAPTED"]
    published = [state["published"] for state in probe.states if state["state"] == "ADAPTING"]
    assert max(published) >= min(published) + 5, "masks while adapting"
    assert any(0 < state["progress"] < 1 for state in probe.states if state["state"] == "ADAPTING")

    assert len(probe.masks) > 10
    for mask in probe.masks:
        image = probe.sent[stamp_of(mask.header)]
        assert mask.header == image.header
        assert (mask.encoding, mask.height, mask.width) == ("mono8", image.height, image.width)
        assert label_image(mask).max() < 11
    assert stamps(probe.masks) == sorted(stamps(probe.masks))
    assert set(stamps(probe.confidences)) <= set(probe.sent)
    assert probe.confidences[-1].encoding == "mono8"
    assert label_image(probe.confidences[-1]).std() > 0

    camvid = ClassList.packaged("camvid11")
    (classes,) = probe.classes
    assert [each["id"] for each in classes] == [*range(11), 255]
    assert [each["name"] for each in classes] == [*camvid.names, "unlabelled"]
    assert [tuple(each["color"]) for each in classes[:-1]] == list(camvid.colors)

    stream = values(diagnostic(probe, STREAM, "Hz in"))
    fates = ("published", "dropped", "rejected")
    wait_until(lambda: probe.state["received"] == sum(probe.state[each] for each in fates), "every image's fate")
    # The camera of this test is to send 10 a second; beside other tests it may not get to more than half of them.
    assert 1 < float(stream["input rate (Hz)"]) < 14
    for stage in ("wait", "convert", "segment", "publish", "total", "encode", "decode"):
        assert 0 < float(stream[f"latency {stage} p50 (ms)"]) <= float(stream[f"latency {stage} p95 (ms)"])
    status = diagnostic(probe, ADAPTATION, "adapted to 4 frames")
    assert (values(status)["state"], values(status)["generation"]) == ("ADAPTED", "1")

    mark = len(probe.states)
    assert probe.call("reset").message == "back to the base model with the next image"
    assert probe.wait_for_state("BASE", mark)["generation"] == 0
    probe.film()
    probe.wait_for_masks()
    assert probe.state["state"] == "BASE"


def test_the_trained_network_follows_the_statistics(probe: Probe, start_node: StartNode) -> None:
    """As a node does by default, but for the guard."""
    start_node(self_training_steps=30, warmup_frames=6)
    probe.film()
    statistics = probe.wait_for_state("ADAPTED")
    assert (statistics["generation"], statistics["training"]) == (1, True)
    assert statistics["deployed_share"] == 0 and statistics["statistics_share"] > 0
    trained = wait_until(
        lambda: next((state for state in probe.states if state["generation"] == 2), None),
        lambda: f"a second generation; the last state was {probe.state}",
    )
    assert (trained["state"], trained["training"], trained["adaptation_reason"]) == ("ADAPTED", False, "adapted")
    assert trained["deployed_share"] == LARGEST_SHARE and trained["losses"]
    meanwhile = [state["published"] for state in probe.states if state["training"]]
    assert max(meanwhile) > min(meanwhile), "masks while training"
    probe.wait_for_masks()


@pytest.mark.slow
def test_services_are_answered_in_time(probe: Probe, start_node: StartNode) -> None:
    start_node(warmup_on="service", long_side=480)
    assert probe.clients["adapt"].wait_for_service(30)
    probe.film()
    probe.wait_for_masks()
    assert probe.state["state"] == "BASE"
    seconds = []
    for _ in range(9):
        start = time.perf_counter()
        assert probe.call("reset").success
        seconds.append(time.perf_counter() - start)
        time.sleep(0.05)
    assert median(seconds) < 0.5, "also beside processes that keep all cores busy"

    mark = len(probe.states)
    answer = probe.call("adapt")
    assert (answer.success, answer.message) == (True, "adapting to the next 4 images")
    probe.wait_for_state("ADAPTING", mark)


def old(probe: Probe) -> Header:
    """A header one tenth of a second older than the last mask."""
    header = Header(frame_id="camera_optical_frame")
    header.stamp.sec, header.stamp.nanosec = divmod(stamp_of(probe.masks[-1].header) - 10**8, 10**9)
    return header


@pytest.mark.slow
def test_bad_images_are_named_and_the_stream_goes_on(probe: Probe, start_node: StartNode) -> None:
    node = start_node(warmup_on="service")
    probe.film()
    probe.wait_for_masks()
    bad: list[tuple[Callable[[], dict[str, Any]], str]] = [
        (lambda: {"encoding": "jpeg"}, "expected one of the encodings"),
        (lambda: {"step": 95}, "expected a step of at least 288 bytes for 96 pixels of rgb8, but got 95"),
        (lambda: {"data": array("B", bytes(7))}, "expected 18432 bytes for 64 rows of 288 bytes, but got 7"),
        (lambda: {"height": 0, "width": 0}, "expected an image with pixels, but got one of 0×0"),
        (lambda: {"header": old(probe)}, "expected a frame not older than the last one"),
        (lambda: {"height": 5, "width": 7}, "the resolution changed from (64, 96) to (5, 7)"),
        (lambda: {"header": Header(frame_id="rear")}, "the frame_id changed from 'camera_optical_frame' to 'rear'"),
        (lambda: {"header": Header(frame_id="camera_optical_frame")}, "the clock jumped back by"),
    ]
    for number, (changes, reason) in enumerate(bad, start=1):
        probe.hold()
        rejected = probe.send(**changes())
        status = diagnostic(probe, STREAM, reason)
        assert status.level == DiagnosticStatus.WARN
        assert values(status)["rejected"] == str(number)
        assert stamp_of(rejected.header) not in stamps(probe.masks)
        probe.film()
        probe.wait_for_masks()

    mark = len(probe.states)
    probe.size = (80, 80)
    state = wait_until(
        lambda: next((s for s in probe.states[mark:] if "the resolution changed" in s["message"]), None),
        "a restart by the change of resolution",
    )
    assert "from (64, 96) to (80, 80)" in state["message"]
    assert {(mask.height, mask.width) for mask in probe.wait_for_masks(6)[-3:]} == {(80, 80)}
    diagnostic(probe, STREAM, "Hz in")
    assert "image rejected: expected one of the encodings" in node.output
    assert "Traceback" not in node.output


@pytest.mark.slow
def test_best_effort_and_reliable_subscribers_both_receive(probe: Probe, start_node: StartNode) -> None:
    start_node(warmup_on="service")
    received: dict[str, list[Image]] = {"best effort": [], "reliable": []}
    probe.subscribe(Image, "/ditta/semantic", received["best effort"].append, BEST_EFFORT)
    probe.subscribe(Image, "/ditta/semantic", received["reliable"].append, RELIABLE)
    probe.film()
    probe.wait_for_masks(10)
    probe.hold()
    wait_until(lambda: len(received["reliable"]) == len(received["best effort"]) == len(probe.masks), "all masks")
    assert stamps(received["best effort"]) == stamps(received["reliable"]) == stamps(probe.masks)


@pytest.mark.slow
def test_overlay_shows_the_mask_to_those_who_listen(probe: Probe, start_node: StartNode) -> None:
    start_node(warmup_on="service", overlay_rate=2.0, overlay_opacity=1.0, classes="[road, {rest: [sky, tree]}]")
    overlays: list[Image] = []
    probe.subscribe(Image, "/ditta/overlay", overlays.append)
    probe.film()
    wait_until(lambda: len(overlays) >= 2, "overlays", 60)
    probe.hold()
    wait_until(lambda: any(mask.header == overlays[-1].header for mask in probe.masks), "the mask of the overlay")
    overlay = overlays[-1]
    assert (overlay.encoding, overlay.height, overlay.width) == ("rgb8", 64, 96)
    labels = label_image(next(mask for mask in probe.masks if mask.header == overlay.header))
    assert set(np.unique(labels)) <= {0, 1, 255}
    (classes,) = probe.classes
    assert [each["name"] for each in classes] == ["road", "rest", "unlabelled"]
    image = probe.sent[stamp_of(overlay.header)]
    pixels = np.frombuffer(overlay.data, np.uint8).reshape(64, 96, 3)
    expected = np.frombuffer(image.data, np.uint8).reshape(64, 96, 3).copy()
    for each in classes[:-1]:
        expected[labels == each["id"]] = each["color"]
    np.testing.assert_array_equal(pixels, expected)


@pytest.mark.slow
def test_a_killed_worker_costs_no_mask(probe: Probe, start_node: StartNode) -> None:
    node = start_node()
    probe.film()
    probe.wait_for_state("ADAPTING")
    os.kill(node.worker(), signal.SIGKILL)
    failed = probe.wait_for_state("FAILED")
    assert "killed by SIGKILL" in failed["message"]
    assert failed["generation"] == 0
    assert diagnostic(probe, ADAPTATION, "killed by SIGKILL").level == DiagnosticStatus.WARN
    probe.wait_for_masks()
    mark = len(probe.states)
    assert probe.call("adapt").success
    assert probe.wait_for_state("ADAPTED", mark)["generation"] == 1
    assert probe.state["rejected"] == 0


def test_silence_and_an_incompatible_qos_are_named(probe: Probe, start_node: StartNode) -> None:
    start_node(image_reliability="reliable", image_topic="/front/image", input_timeout=1.0, warmup_on="service")
    status = diagnostic(probe, STREAM, "no image on /front/image: nobody publishes it")
    assert status.level == DiagnosticStatus.WARN
    assert status.message.endswith("Topics with images: /camera/image_raw")
    camera = probe.node.create_publisher(
        Image, "/front/image", QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    )
    status = diagnostic(probe, STREAM, "expected a QoS that satisfies (reliable, volatile)")
    assert "/probe offers (best_effort, volatile); set image_reliability to best_effort" in status.message
    probe.node.destroy_publisher(camera)
    probe.node.create_publisher(Image, "/front/image", RELIABLE)
    diagnostic(probe, STREAM, "though a publisher matches: it sends nothing")


class NodeInThisProcess:
    """The node with parameters besides those that make it quick, in a thread."""

    def __init__(self, **parameters: Any) -> None:
        values = {"long_side": 96, "threads": 1, "warmup_on": "service", "runtime": "torch", **parameters}
        self.node = DittaNode(parameter_overrides=[RosParameter(name, value=value) for name, value in values.items()])
        self.executor = BackgroundExecutor(self.node, "node")

    def __enter__(self) -> DittaNode:
        return self.node

    def __exit__(self, *_: object) -> None:
        self.executor.stop()
        self.node.destroy_node()


def test_an_unexpected_failure_is_shown_and_the_stream_goes_on(
    probe: Probe, collected: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with NodeInThisProcess():
        probe.film()
        probe.wait_for_masks()
        broken: list[FrameSegmenter] = []
        segment = FrameSegmenter.segment

        def break_the_first(self: FrameSegmenter, *arguments: Any) -> Any:
            if self in (broken or [self]):
                broken[:] = [self]
                raise TypeError("'NoneType' object is not callable")
            return segment(self, *arguments)

        monkeypatch.setattr(FrameSegmenter, "segment", break_the_first)
        status = diagnostic(probe, STREAM, "TypeError: 'NoneType'")
        assert status.level == DiagnosticStatus.ERROR
        assert int(values(status)["rejected"]) > 0
        assert probe.call("reset").success  # makes a new one
        probe.wait_for_masks()
        diagnostic(probe, STREAM, "Hz in")


def test_the_mode_parity_alone_is_the_published_method(collected: None, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[StreamConfig, AdaptationConfig]] = []

    class Spy(VideoSegmenter):
        def __init__(self, model: ModelSource, config: StreamConfig, **rest: Any) -> None:
            made.append((config, rest["adaptation"]))
            super().__init__(model, config, **rest)

    monkeypatch.setattr(stream, "VideoSegmenter", Spy)
    node = DittaNode(parameter_overrides=[RosParameter("mode", value="parity"), RosParameter("threads", value=1)])
    assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    node.destroy_node()
    ((config, adaptation),) = made
    assert config.inference == InferenceConfig.parity()
    assert adaptation == AdaptationConfig.parity()


@pytest.mark.slow
def test_a_model_of_transformers_adapts_and_publishes(probe: Probe, start_node: StartNode, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="needs the package transformers")
    names = {0: "road", 1: "sky", 2: "car"}
    torch.manual_seed(0)
    config = transformers.SegformerConfig(id2label=names, label2id={name: index for index, name in names.items()})
    folder = tmp_path / "segformer-b0"
    transformers.SegformerForSemanticSegmentation(config).save_pretrained(folder)

    start_node(model=f"hf:{folder}", passes=2)
    probe.film()
    adapted = probe.wait_for_state("ADAPTED")
    probe.wait_for_masks()
    probe.hold()
    assert adapted["generation"] == 1
    assert [entry["name"] for entry in probe.classes[-1]] == ["road", "sky", "car", "unlabelled"]
    assert set(np.unique(label_image(probe.masks[-1]))) <= {0, 1, 2}


@pytest.mark.slow
def test_a_model_adapted_to_drives_serves_and_warms_up(probe: Probe, start_node: StartNode, tmp_path: Path) -> None:
    base = load_model(ModelSource("camvid"))
    bias = "bu_dec_l4.merge_layer.3.bias"
    tensors = {bias: base.state_dict()[bias].numpy() + 0.25}
    save_adapted(tmp_path / "a.safetensors", AdaptedModel("camvid", weights_fingerprint(base), tensors))

    start_node(model=f"adapted:{tmp_path / 'a.safetensors'}", passes=2)
    probe.film()
    assert probe.wait_for_state("ADAPTED")["generation"] == 1
    probe.wait_for_masks()
    assert label_image(probe.masks[-1]).max() < 11


@pytest.mark.slow
def test_the_network_is_compiled_beside_the_stream(probe: Probe, start_node: StartNode) -> None:
    pytest.importorskip("openvino", reason="needs openvino")
    start_node(runtime="auto", warmup_on="service")
    probe.film()

    def runtime() -> str:
        status = probe.diagnostics.get(STREAM)
        return values(status).get("runtime", "") if status is not None else ""

    def compiled() -> bool:
        return runtime().startswith("openvino")

    wait_until(compiled, lambda: f"a compiled network; torch serves: {runtime()}", 60)
    assert probe.call("adapt").success
    assert probe.wait_for_state("ADAPTED")["generation"] == 1
    wait_until(compiled, lambda: f"the adapted network compiled; torch serves: {runtime()}", 60)
    probe.wait_for_masks()
    assert probe.state["rejected"] == 0


@pytest.mark.slow
def test_the_adaptation_finds_the_size_of_the_network_input(probe: Probe, start_node: StartNode) -> None:
    """By default; a rate that leaves time for every size does not bound it."""
    probe.size = (32, 96)  # wide, as the sizes that are tried go up to 960 pixels
    start_node(long_side=-1, target_rate=0.001, passes=1)
    probe.film()
    probe.wait_for_masks()
    first = probe.state
    assert max(first["input_width"], first["input_height"]) in (0, 480)
    probe.wait_for_state("ADAPTED", timeout=240)
    mark = len(probe.masks)
    wait_until(lambda: len(probe.masks) > mark + 1, "masks of the generation")
    wait_until(lambda: probe.state["input_width"] >= 480 and probe.state["size_agreement"] is not None, "its size")

    def reported() -> dict[str, str]:
        return values(diagnostic(probe, ADAPTATION, "adapted to 4 frames"))

    def served() -> str:
        return f"{probe.state['input_width']}x{probe.state['input_height']}"

    # Diagnostics come once a second, and the first state of a generation still has the size of the frame before.
    wait_until(lambda: reported()["network input"] == served(), lambda: f"diagnostics of {served()}: {reported()}")
    diagnostics = reported()
    assert 0 < float(diagnostics["agreement of the network input"]) <= 1


@pytest.mark.slow
def test_the_second_start_has_its_network_compiled_before_the_first_image(probe: Probe, start_node: StartNode) -> None:
    """The size of the first one's input is known, and its graph is on disk."""
    pytest.importorskip("openvino", reason="needs openvino")

    def compiled() -> bool:
        status = probe.diagnostics.get(STREAM)
        return status is not None and values(status).get("runtime", "").startswith("openvino")

    first = start_node(runtime="openvino", warmup_on="startup", precision="float32")
    probe.film()
    wait_until(compiled, "a compiled network", 60)
    warm_up = probe.wait_for_state("COLLECTING")
    assert warm_up["collected"] <= 1, "collecting begins with the compiled network"
    first.stop()
    probe.hold()
    probe.diagnostics.clear()
    start_node(runtime="openvino", warmup_on="service", precision="float32")
    wait_until(compiled, "a compiled network without a single image", 60)
    probe.film()
    probe.wait_for_masks()
    assert compiled()
