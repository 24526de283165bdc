"""Networks in ONNX against the networks that they were exported from."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

onnx = pytest.importorskip("onnx", reason="needs the package onnx")

from onnx import helper
from onnx_networks import SIZE, export, random_segformer, small_network

from ditta_core.adaptation.config import AdaptationConfig
from ditta_core.adaptation.job import AdaptationJob
from ditta_core.catalog.checkpoints import CheckpointKind, identify, try_model
from ditta_core.domain.warmup_job import run_job
from ditta_core.inference.compiled_network import Compiler
from ditta_core.inference.config import InferenceConfig, RuntimeConfig
from ditta_core.inference.temporal_branch import TemporalSegmenter
from ditta_core.segmentation.onnx_model import OnnxNetwork, compare_with_openvino, load_onnx
from ditta_core.segmentation.registry import load_model
from ditta_core.segmentation.source import ModelSource
from ditta_core.stream.config import StreamConfig, WarmupTrigger
from ditta_core.stream.video_segmenter import VideoSegmenter
from ditta_core.types import Frame


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("onnx")


@pytest.fixture(scope="module")
def espnetv2() -> torch.nn.Module:
    return load_model(ModelSource("camvid")).to(memory_format=torch.contiguous_format)


@pytest.fixture(scope="module")
def espnetv2_apart(folder: Path, espnetv2: torch.nn.Module) -> Path:
    """With BatchNorm apart, as the exporter leaves it where it does not optimise."""
    pytest.importorskip("onnxscript", reason="needs the package onnxscript")
    return export(espnetv2, folder / "espnetv2_apart.onnx", optimize=False)


@pytest.fixture(scope="module")
def espnetv2_folded(folder: Path, espnetv2: torch.nn.Module) -> Path:
    """With what BatchNorm layers follow a convolution folded into it."""
    pytest.importorskip("onnxscript", reason="needs the package onnxscript")
    return export(espnetv2, folder / "espnetv2_folded.onnx")


@pytest.fixture(scope="module")
def segformer() -> torch.nn.Module:
    pytest.importorskip("transformers", reason="needs the package transformers")
    return random_segformer()


@pytest.fixture(scope="module")
def segformer_file(folder: Path, segformer: torch.nn.Module) -> Path:
    pytest.importorskip("onnxscript", reason="needs the package onnxscript")
    return export(segformer, folder / "segformer.onnx", sizes_free=True)


def clip_of(frames: int, size: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
    noise = np.random.default_rng(0).integers(0, 256, (frames, *size, 3), np.uint8)
    return np.stack([cv2.GaussianBlur(image, (0, 0), 3) for image in noise])


@torch.no_grad()
def difference(model: OnnxNetwork, original: torch.nn.Module, size: tuple[int, int], images: int) -> float:
    pixels = torch.randn(images, 3, *size)
    theirs = original(pixels)
    ours = model.classify_outputs(model.decode(model.encode(pixels)))
    return float((model.enlarge_logits(ours, tuple(theirs.shape[-2:])) - theirs).abs().max())


@pytest.mark.slow
@pytest.mark.parametrize("file", ["espnetv2_apart", "espnetv2_folded"])
def test_the_logits_of_espnetv2(file: str, espnetv2: torch.nn.Module, request: pytest.FixtureRequest) -> None:
    model = load_onnx(request.getfixturevalue(file))
    assert difference(model, espnetv2, SIZE, 1) < 1e-4
    assert difference(model, espnetv2, SIZE, 3) < 1e-4, "several images at once, of a file for one"
    assert model.fixed_input_size == SIZE and model.outputs == espnetv2.outputs
    assert model.logits_align_corners and model.temporal_pool == 2
    decoder = sum(parameter.numel() for parameter in model.decoder_parameters())
    assert 10_000 < decoder <= 0.15 * sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.slow
def test_the_logits_of_segformer(segformer: torch.nn.Module, segformer_file: Path) -> None:
    model = load_onnx(segformer_file)
    for size in (SIZE, (96, 160), (128, 128)):
        assert difference(model, segformer, size, 2) < 1e-4
    assert model.fixed_input_size is None and model.size_multiple == 32
    assert model.embedding_dim == 16 and model.temporal_pool == 1
    assert model.output_bias is not None and model.output_bias.shape == (5,)
    assert "no statistics" in model.adapts and "the last layers" in model.adapts


def result_of(file: Path, frames: int = 3) -> Any:
    source = ModelSource(f"onnx:{file}")
    config = AdaptationConfig(self_training_steps=0, passes=1, guarded=False)
    result = run_job(AdaptationJob(clip_of(frames), SIZE, source, adaptation=config))
    assert result.state is not None, result.report.reason
    return result


@pytest.mark.slow
def test_statistics_that_are_apart_are_adapted(espnetv2_apart: Path, espnetv2: torch.nn.Module) -> None:
    """As those of the same network of ours: the first layers have the same inputs, so that they come to the same."""
    result = result_of(espnetv2_apart)
    assert result.report.statistics_share == 0.3
    moved = {name: value for name, value in result.state.tensors.items() if "running_mean" in name}
    assert len(moved) > 20
    assert any(name.startswith(("model.tail", "model.classifier")) for name in result.state.tensors)
    assert not any(name.startswith("model.trunk.weight") for name in result.state.tensors), "the encoder stays frozen"

    config = AdaptationConfig(self_training_steps=0, passes=1, guarded=False)
    ours = run_job(AdaptationJob(clip_of(3), SIZE, ModelSource("camvid"), adaptation=config))
    assert ours.state is not None
    first = ours.state.tensors["model.base_net.level1.bn.running_mean"]
    (same,) = (value for name, value in moved.items() if name.endswith("norms.0.running_mean"))
    np.testing.assert_allclose(same, first, atol=1e-4)


@pytest.mark.slow
def test_the_last_layers_are_trained_without_statistics(segformer_file: Path) -> None:
    result = result_of(segformer_file)
    assert result.report.statistics_share == 0.0
    names = list(result.state.tensors)
    trained = ("model.tail", "model.classifier", "model.offset")
    assert len(names) > 5 and all(name.startswith(trained) for name in names)
    base = TemporalSegmenter(load_model(ModelSource(f"onnx:{segformer_file}")))
    adapted = result.state.apply(base)
    assert adapted.model.encoder is base.model.encoder, "shared with the base model"
    pixels = torch.randn(1, 3, *SIZE)
    with torch.no_grad():
        assert not torch.equal(adapted.model(pixels), base.model(pixels))


@pytest.mark.slow
def test_openvino_compiles_what_was_converted(segformer_file: Path) -> None:
    pytest.importorskip("openvino", reason="needs openvino")
    compiler = Compiler(RuntimeConfig(precision="float32", wait=True))
    model = load_model(ModelSource(f"onnx:{segformer_file}"))
    network = compiler.network(TemporalSegmenter(model).eval(), temporal_branch=False)
    with torch.inference_mode():
        pixels = torch.randn(1, 3, *SIZE)
        output = network(pixels)
        assert network.status.runtime == "openvino" and output is not None, network.status
        torch.testing.assert_close(output.logits, model.classify(model.decode(model.encode(pixels))), atol=1e-3, rtol=0)
    compiler.close()


# --- networks that are not converted, or only in part -----------------------------------------------------------------


def with_an_operator_of_its_own(path: Path) -> Path:
    return small_network(path, inner=[helper.make_node("Selu", ["a"], ["b"])])


def test_a_network_that_cannot_be_converted_is_served_as_it_is(tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="needs openvino")
    from onnx.reference import ReferenceEvaluator

    file = with_an_operator_of_its_own(tmp_path / "a.onnx")
    model = load_onnx(file)
    assert not model.compilable and "the operators Selu" in model.adapts and "smoothing and restoration" in model.adapts
    pixels = torch.randn(2, 3, 64, 96)
    (theirs,) = zip(
        *(ReferenceEvaluator(str(file)).run(None, {"image": each[None].numpy()}) for each in pixels), strict=True
    )
    with torch.no_grad():
        ours = model.classify_outputs(model.decode(model.encode(pixels)))
    np.testing.assert_allclose(ours, np.concatenate(theirs), atol=1e-4)
    assert copy.deepcopy(model).encoder is model.encoder
    assert compare_with_openvino(file, model) == ""

    result = result_of(file)
    assert set(result.state.tensors) <= {"model.offset"}
    config = StreamConfig(InferenceConfig(long_side=0), warmup_on=WarmupTrigger.SERVICE)
    stream = VideoSegmenter(ModelSource(f"onnx:{file}"), config, compiler=Compiler())
    for index, image in enumerate(clip_of(2)):
        assert stream.push(Frame(image, index * 10**8)).class_ids.shape == SIZE
    assert "OpenVINO as its file has it" in str(stream.runtime), "nothing traces it, which would keep its first answer"


def test_what_is_needed_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    with pytest.raises(ValueError, match="has the operators Selu; pip install openvino"):
        load_onnx(with_an_operator_of_its_own(tmp_path / "a.onnx"))


def test_a_network_for_one_image_that_mixes_images_takes_them_one_by_one(tmp_path: Path) -> None:
    """Its reshapes are right for one image alone; several at once would be another image's pixels."""
    inner = [
        helper.make_node("Transpose", ["a"], ["t"], perm=[1, 0, 2, 3]),
        helper.make_node("Constant", [], ["shape"], value_ints=[1, 4, 32, 48]),
        helper.make_node("Reshape", ["t", "shape"], ["b"]),
    ]
    model = load_onnx(small_network(tmp_path / "a.onnx", inner, sides=(1, 3, 64, 96)))
    assert not model.batched
    pixels = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        both = model.decode(model.encode(pixels))
        alone = torch.cat([model.decode(model.encode(each[None])) for each in pixels])
    torch.testing.assert_close(both, alone)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"outputs": 1, "shape": (1, 1, "h", "w")}, "expected at least two outputs, but .* has one"),
        ({"metadata": {"names": "[a, b]"}}, "names of 3 outputs"),
        (
            {
                "last": [helper.make_node("Transpose", ["scores"], ["out"], perm=[0, 2, 3, 1])],
                "shape": (1, "h", "w", 3),
            },
            r"with channels first, but .* gives \[1, 32, 48, 3\]|export it before classes are chosen",
        ),
    ],
)
def test_what_is_no_network_for_pixels(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_onnx(small_network(tmp_path / "a.onnx", **options))


def test_a_promise_of_any_size_that_is_not_kept(tmp_path: Path) -> None:
    inner = [
        helper.make_node("Constant", [], ["shape"], value_ints=[1, 4, 32, 48]),
        helper.make_node("Reshape", ["a", "shape"], ["b"]),
    ]
    with pytest.raises(ValueError, match=r"runs at one size alone: .*; export it with the fixed size"):
        load_onnx(small_network(tmp_path / "a.onnx", inner))


# --- in the catalogue ------------------------------------------------------------------------------------------------


def test_a_file_is_told_and_tried(tmp_path: Path) -> None:
    file = small_network(tmp_path / "a.onnx", metadata={"names": "[road, sky, car]"})
    checkpoint = identify(file)
    assert (checkpoint.kind, checkpoint.name) == (CheckpointKind.ONNX, f"onnx:{file}")
    assert checkpoint.parameters == 4 * 27 + 4 + 12 + 3
    trial = try_model(ModelSource(checkpoint.name, "[road, {else: [sky, car]}]"))
    assert trial.outputs == ("road", "sky", "car") and trial.published[1] == ("else", ("sky", "car"))
    assert trial.adapts.startswith("no statistics, as BatchNorm is folded")
    if trial.compared:
        assert trial.compared.startswith("the logits are those of OpenVINO")


def test_a_conversion_that_is_wrong_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino", reason="needs openvino")
    from ditta_core.segmentation.onnx_graph import TABLE

    monkeypatch.setitem(TABLE, "Relu", lambda inputs, _: inputs[0])
    with pytest.raises(ValueError, match=r"expected the logits that OpenVINO makes of .*, but the converted network"):
        try_model(ModelSource(f"onnx:{small_network(tmp_path / 'a.onnx')}"))
