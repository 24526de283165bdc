"""ONNX files as they are, as strangers write them, and what they say of themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="needs the package onnx")

from onnx import TensorProto, helper
from onnx_networks import small_network

from ditta_core.classes import ClassList
from ditta_core.segmentation import onnx_file
from ditta_core.segmentation.base import IMAGENET_MEAN, IMAGENET_STD
from ditta_core.segmentation.onnx_file import class_list, describe, read_onnx

Change = Callable[[Any, Path], Any]


def changed(path: Path, change: Change) -> Path:
    """A small network with a change of its model, or with what the change returns in its place."""
    model = onnx.load(small_network(path))
    result = change(model, path)
    path.write_bytes(result if isinstance(result, bytes) else model.SerializeToString())
    return path


def external(location: str, **entries: str) -> Change:
    """The first weights in another file."""

    def change(model: Any, path: Path) -> None:
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in {"location": location, **entries}.items():
            tensor.external_data.add(key=key, value=value)

    return change


def sides_of_image(*sides: int) -> Change:
    def change(model: Any, _: Path) -> None:
        model.graph.input[0].CopyFrom(helper.make_tensor_value_info("image", TensorProto.FLOAT, sides))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model, _: b"", "is none, or is damaged|has no operators"),
        (lambda model, _: b"not an ONNX file at all", "is none, or is damaged"),
        (lambda model, _: model.SerializeToString()[:-100], "is none, or is damaged"),
        (lambda model, _: model.graph.ClearField("node"), "but it has no operators"),
        (lambda model, _: model.graph.node.add(op_type="Nonsense", output=["x"]), "ONNX's checker refuses it"),
        (lambda model, _: model.graph.node.reverse(), "ONNX's checker refuses it"),
        (external("../outside.bin"), "in its own folder, but it names '../outside.bin'"),
        (external("/etc/passwd"), "in its own folder, but it names '/etc/passwd'"),
        (external("inside/../../x"), "in its own folder"),
        (external("link.bin"), "in its own folder"),
        (external("absent.bin"), "expected absent.bin beside"),
        (external("part.bin", offset="0", length="1000000"), "it is cut short"),
        (external("part.bin", offset="-1"), "expected numbers for a part"),
        (external("part.bin", length=str(2**40), offset="0"), "it is cut short"),
        (external("huge.bin"), "at most 2047 MB"),
        (lambda model, _: model.graph.input.add().CopyFrom(model.graph.input[0]), "expected one input|checker refuses"),
        (sides_of_image(1, 3, 64), "has \\[1, 3, 64\\]"),
        (sides_of_image(1, 64, 96, 3), "export it with channels first"),
        (sides_of_image(1, 4, 64, 96), "but 'image' is \\[1, 4, 64, 96\\]"),
        (sides_of_image(8, 3, 64, 96), "but 'image' is \\[8, 3, 64, 96\\]"),
        (sides_of_image(1, 3, 64, 0), "but only one side"),
        (lambda model, _: model.graph.input[0].type.tensor_type.ClearField("shape"), "ONNX's checker refuses it"),
    ],
)
def test_what_is_refused(tmp_path: Path, change: Change, message: str) -> None:
    folder = tmp_path / "network"
    folder.mkdir()
    (tmp_path / "outside.bin").write_bytes(bytes(10_000))
    (folder / "link.bin").symlink_to(tmp_path / "outside.bin")
    (folder / "part.bin").write_bytes(bytes(432))
    with (folder / "huge.bin").open("wb") as file:
        file.truncate(2**32)  # of holes
    path = changed(folder / "a.onnx", change)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_onnx(path)


def test_a_file_that_is_not_there_or_too_large(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_onnx(tmp_path / "absent.onnx")
    with (tmp_path / "large.onnx").open("wb") as file:
        file.truncate(2**32)
    with pytest.raises(ValueError, match=r"at most 2047 MB with its weights, but .* has 4096 MB"):
        read_onnx(tmp_path / "large.onnx")


def test_the_package_is_named_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(ValueError, match=r"the package onnx, .*pip install 'ditta_ros\[onnx\]'"):
        read_onnx(tmp_path / "a.onnx")


def test_weights_beside_the_file_are_read(tmp_path: Path) -> None:
    path = small_network(tmp_path / "a.onnx")
    whole = onnx.load(path)
    first = onnx.numpy_helper.to_array(whole.graph.initializer[0])
    onnx.save(whole, path, save_as_external_data=True, location="a.data", size_threshold=0)
    assert (tmp_path / "a.data").stat().st_size > 400
    read = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in read_onnx(path).model.graph.initializer}
    np.testing.assert_array_equal(read["w1"], first)


ARGMAX = helper.make_node("ArgMax", ["scores"], ["out"], axis=1, keepdims=0)
SOFTMAX = [helper.make_node("Softmax", ["scores"], ["out"], axis=1)]


@pytest.mark.parametrize(
    ("options", "logits"),
    [
        ({}, "out"),
        ({"last": SOFTMAX}, "scores"),
        ({"last": [ARGMAX], "shape": (1, "h", "w"), "kind": TensorProto.INT64}, "scores"),
    ],
)
def test_the_scores_before_classes_are_chosen(tmp_path: Path, options: dict[str, Any], logits: str) -> None:
    assert read_onnx(small_network(tmp_path / "a.onnx", **options)).logits == logits


def test_no_map_comes_out(tmp_path: Path) -> None:
    flat = [helper.make_node("Flatten", ["scores"], ["out"])]
    path = small_network(tmp_path / "a.onnx", last=flat, shape=(1, "n"))
    with pytest.raises(ValueError, match=r"a score for each class and pixel.*but got .*out \[1, 0\]"):
        read_onnx(path)


# --- what it says of itself ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "metadata",
    [
        {"names": "{0: 'road', 1: 'no', 2: 'car'}"},
        {"classes": '["road", "no", "car"]'},
        {"labels": "road, no, car"},
        {"id2label": '{"0": "road", "1": "no", "2": "car"}'},
    ],
)
def test_names_in_the_metadata(tmp_path: Path, metadata: dict[str, str]) -> None:
    file = read_onnx(small_network(tmp_path / "a.onnx", metadata=metadata))
    assert class_list(describe(file), 3, file).names == ("road", "no", "car")


def test_normalisation(tmp_path: Path) -> None:
    plain = describe(read_onnx(small_network(tmp_path / "plain.onnx"))).pixel_format
    assert (plain.mean, plain.std, plain.blue_first) == (IMAGENET_MEAN, IMAGENET_STD, False)
    metadata = {"mean": "[123.675, 116.28, 103.53]", "std": "[58.395, 57.12, 57.375]", "color_order": "BGR"}
    bgr = describe(read_onnx(small_network(tmp_path / "bgr.onnx", metadata=metadata))).pixel_format
    np.testing.assert_allclose((bgr.mean, bgr.std), (IMAGENET_MEAN, IMAGENET_STD), atol=1e-6)
    assert bgr.blue_first
    (tmp_path / "bgr.yaml").write_text("{mean: 0, std: 1, color_order: RGB}")
    beside = describe(read_onnx(tmp_path / "bgr.onnx")).pixel_format
    assert (beside.mean, beside.std, beside.blue_first) == ((0.0,) * 3, (1.0,) * 3, False)


def test_names_where_the_file_tells_none(tmp_path: Path) -> None:
    file = read_onnx(small_network(tmp_path / "a.onnx"))
    nothing = describe(file)
    assert class_list(nothing, 3, file).names == ("class 0", "class 1", "class 2")
    assert class_list(nothing, 3, file, "[road, sky, car]").names == ("road", "sky", "car")
    assert class_list(nothing, 3, file, "[road, {else: [sky, car]}, x]").names == ("class 0", "class 1", "class 2")
    assert class_list(nothing, 19, file) == ClassList.packaged("cityscapes19")
    (tmp_path / "a.yaml").write_text("classes: [one, two, three]")
    assert class_list(describe(file), 3, file, "[road, sky, car]").names == ("one", "two", "three")


@pytest.mark.parametrize(
    ("metadata", "beside", "message"),
    [
        (
            {"names": "[road, sky]"},
            "",
            "names of 3 outputs.* but its metadata 'names' has 2; correct them there, or in a.y",
        ),
        ({"names": "{1: road, 2: sky, 3: car}"}, "", r"names of the ids 0..2"),
        ({"names": "[[road], sky]"}, "", "expected a list of class names"),
        ({"names": "[[["}, "", "expected YAML in the metadata names"),
        ({"mean": "[1, 2]"}, "", "expected one finite number or three for mean"),
        ({"std": "[1, nan, 1]"}, "", "expected one finite number or three for std"),
        ({"std": "0"}, "", "expected a std other than 0"),
        ({"color_order": "YUV"}, "", "expected RGB or BGR"),
        ({}, "[road, sky]", "expected a mapping with the keys"),
        ({}, "{normalise: true}", "expected a mapping with the keys"),
    ],
)
def test_what_is_no_description(tmp_path: Path, metadata: dict[str, str], beside: str, message: str) -> None:
    file = read_onnx(small_network(tmp_path / "a.onnx", metadata=metadata))
    if beside:
        (tmp_path / "a.yaml").write_text(beside)
    with pytest.raises(ValueError, match=message):
        class_list(describe(file), 3, file)


def test_too_many_operators(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file, "MOST_NODES", 2)
    with pytest.raises(ValueError, match="expected at most 2 operators"):
        read_onnx(small_network(tmp_path / "a.onnx"))
