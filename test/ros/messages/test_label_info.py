from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from ditta_core.classes import ClassList
from ditta_ros.messages.label_info import label_info_message

CLASSES = ClassList.of_names(["road", "person"])

# The definitions of vision_msgs 4.1.
LABEL_INFO = "std_msgs/Header header\nvision_msgs/VisionClass[] class_map\nfloat32 threshold"
VISION_CLASS = "uint16 class_id\nstring class_name"


@pytest.fixture
def vision_msgs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package, with classes made of the definitions, where it is not installed itself."""
    try:
        import vision_msgs.msg  # noqa: F401
    except ImportError:
        store = get_typestore(Stores.ROS2_HUMBLE)
        store.register(get_types_from_msg(LABEL_INFO, "vision_msgs/msg/LabelInfo"))
        store.register(get_types_from_msg(VISION_CLASS, "vision_msgs/msg/VisionClass"))
        names = ("LabelInfo", "VisionClass")
        messages = SimpleNamespace(**{name: store.types[f"vision_msgs/msg/{name}"] for name in names})
        monkeypatch.setitem(sys.modules, "vision_msgs", ModuleType("vision_msgs"))
        monkeypatch.setitem(sys.modules, "vision_msgs.msg", messages)  # type: ignore[arg-type]


def test_every_class_by_its_id(vision_msgs: None) -> None:
    message = label_info_message(CLASSES)
    assert message is not None
    assert [(entry.class_id, entry.class_name) for entry in message.class_map] == [(0, "road"), (1, "person")]
    assert message.threshold == 0.0
    assert message.header.frame_id == ""


def test_ids_of_16_bits(vision_msgs: None) -> None:
    message = label_info_message(ClassList.of_names([f"class {index}" for index in range(300)]))
    assert message is not None
    assert [entry.class_id for entry in message.class_map] == list(range(300))


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vision_msgs", None)
    monkeypatch.setitem(sys.modules, "vision_msgs.msg", None)
    assert label_info_message(CLASSES) is None
