"""What the real node publishes of a subset of the classes, as its consumers receive it over real DDS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from node_probe import StartNode, set_parameter, stamps
from ros_harness import LATCHED, Probe, wait_until
from sensor_msgs.msg import CompressedImage, Image

from ditta_core.types import Segmentation
from ditta_ros.camera.topics import camera_topics
from ditta_ros.messages.images import label_image, labels_of_compressed, rgb_image, stamp_of
from ditta_ros.messages.point_cloud import labelled_cloud
from ditta_ros.parameters import NodeParameters


def by_stamp(messages: list[Any]) -> dict[int, Any]:
    return {stamp_of(message.header): message for message in messages}


def test_all_outputs_of_a_subset_of_the_classes_agree(probe: Probe, start_node: StartNode, tmp_path: Path) -> None:
    body = np.full((64, 96), 255, np.uint8)
    body[48:, :40] = 0
    cv2.imwrite(str(tmp_path / "body.png"), body)
    classes = "[car, {far: [sky, tree, building]}]"
    start_node(classes=classes, ignore_mask=str(tmp_path / "body.png"), warmup_on="service")
    colored: list[Image] = []
    compressed: list[CompressedImage] = []
    probe.subscribe(Image, "/ditta/colored", colored.append)
    probe.subscribe(CompressedImage, "/ditta/semantic/compressed", compressed.append)
    infos: list[Any] = []
    label_infos = False
    try:
        from vision_msgs.msg import LabelInfo

        probe.subscribe(LabelInfo, "/ditta/label_info", infos.append, LATCHED)
        label_infos = True
    except ImportError:
        pass
    probe.film()

    def complete() -> list[int]:
        """Stamps of the images of which every output is here."""
        received = (probe.masks, probe.confidences, colored, compressed)
        return sorted(set.intersection(*(set(by_stamp(messages)) for messages in received)))

    wait_until(lambda: len(complete()) >= 3, "three images with all outputs")
    probe.hold()
    masks, confidences = by_stamp(probe.masks), by_stamp(probe.confidences)
    colours, files = by_stamp(colored), by_stamp(compressed)
    (entries,) = probe.classes
    palette = {each["id"]: each["color"] for each in entries}
    assert [each["name"] for each in entries] == ["car", "far", "unlabelled"]
    for stamp in complete():
        labels, confidence = label_image(masks[stamp]), label_image(confidences[stamp])
        assert set(np.unique(labels)) <= {0, 1, 255} and (labels == 255).any()
        assert (labels[body == 0] == 255).all()
        assert not confidence[labels == 255].any(), "no pixel without a class has a confidence above 0"
        assert confidence[labels != 255].all()
        np.testing.assert_array_equal(labels_of_compressed(files[stamp]), labels)
        pixels = rgb_image(colours[stamp])
        for class_id in np.unique(labels):
            assert (pixels[labels == class_id] == palette[int(class_id)]).all()
        assert_points_agree(labels, confidence, masks[stamp])
    if label_infos:
        wait_until(lambda: infos, "label info")
        assert [(each.class_id, each.class_name) for each in infos[0].class_map] == [(0, "car"), (1, "far")]

    assert not set_parameter(probe, "min_confidence", 1.0)
    probe.film()

    def unsure() -> bool:
        return bool((label_image(probe.masks[-1]) == 255).mean() > 0.99)

    wait_until(unsure, "masks in which nothing is sure enough")
    assert stamps(probe.masks) == sorted(stamps(probe.masks))


def assert_points_agree(labels: np.ndarray, confidence: np.ndarray, mask: Image) -> None:
    """The cloud made of this mask and confidence: no point of class 255 has a confidence above 0."""
    from sensor_msgs.msg import CameraInfo

    height, width = labels.shape
    depth = Image(header=mask.header, height=height, width=width, encoding="16UC1", step=2 * width)
    depth.data = np.full((height, width), 2000, "<u2").tobytes()
    info = CameraInfo(header=mask.header, height=height, width=width)
    info.k = [80.0, 0.0, width / 2, 0.0, 80.0, height / 2, 0.0, 0.0, 1.0]
    cloud = labelled_cloud(Segmentation(labels, confidence, 0), mask.header, depth, info, 1)
    offsets = {field.name: field.offset for field in cloud.fields}
    rows = np.frombuffer(bytes(cloud.data), np.uint8).reshape(-1, cloud.point_step)
    kinds = {field.name: field.datatype for field in cloud.fields}

    def values(name: str) -> np.ndarray:
        kind = {6: np.uint32, 7: np.float32}[kinds[name]]
        start = offsets[name]
        return np.ascontiguousarray(rows[:, start : start + np.dtype(kind).itemsize]).view(kind)[:, 0]

    np.testing.assert_array_equal(values("label"), labels.ravel())
    assert not values("confidence")[values("label") == 255].any()


def test_every_camera_has_a_mask_of_its_own() -> None:
    cameras = "{front: /front/image, rear: {image: /rear/image, ignore_mask: ~/masks/rear body.png}}"
    front, rear = camera_topics(NodeParameters(cameras=cameras))
    assert (front.ignore_mask, rear.ignore_mask) == ("", "~/masks/rear body.png")
    (only,) = camera_topics(NodeParameters(ignore_mask="body.png"))
    assert only.ignore_mask == "body.png"
    with pytest.raises(ValueError, match="but got ignore_mask; give them in cameras, for each camera"):
        camera_topics(NodeParameters(cameras=cameras, ignore_mask="body.png"))
    with pytest.raises(ValueError, match="expected for the camera rear in cameras"):
        camera_topics(NodeParameters(cameras="{rear: {image: /rear/image, ignore_mask: [a.png]}}"))


def test_a_missing_mask_is_said_and_the_node_stays(probe: Probe, start_node: StartNode) -> None:
    node = start_node(ignore_mask="/nowhere/body.png")
    wait_until(lambda: "could not configure" in node.output, lambda: f"a refusal in {node.output}")
    assert "expected an image file as ignore_mask, but /nowhere/body.png does not exist" in node.output
    assert node.process.poll() is None and "Traceback" not in node.output
