from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ditta_core.adaptation.state import AdaptedState
from ditta_core.classes import ClassList
from ditta_core.inference import compiled_network as serving
from ditta_core.inference.compiled_network import Compiler, RuntimeStatus, unsupported
from ditta_core.inference.config import InferenceConfig, Runtime, RuntimeConfig
from ditta_core.inference.frame_segmenter import FrameSegmenter
from ditta_core.inference.openvino_network import Blueprint, OpenVINONetwork
from ditta_core.inference.temporal_branch import TemporalSegmenter
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.segmentation.registry import load_model
from ditta_core.segmentation.source import ModelSource
from ditta_core.types import Frame

needs_openvino = pytest.mark.skipif(find_spec("openvino") is None, reason="needs openvino")
WAIT = RuntimeConfig(precision="float32", wait=True)


class Small(SegmentationModel):
    """Two convolutions with a BatchNorm between them, and one more operation of the test's choice on the logits."""

    embedding_dim = 8

    def __init__(self, also: Callable[[Tensor], Tensor] = lambda logits: logits) -> None:
        super().__init__(ClassList.of_names([f"class {index}" for index in range(5)]))
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4, padding=1), nn.BatchNorm2d(8), nn.PReLU(8))
        self.head = nn.Conv2d(8, 5, 1)
        self.also = also

    @property
    def encoder(self) -> nn.Module:
        return self.backbone

    def encode(self, pixels: Tensor) -> tuple[Tensor, ...]:
        return (self.backbone(pixels),)

    def decode(self, features: Sequence[Tensor]) -> Tensor:
        return features[0]

    def classify_outputs(self, embedding: Tensor) -> Tensor:
        return self.also(self.head(embedding))


def small(also: Callable[[Tensor], Tensor] = lambda logits: logits) -> TemporalSegmenter:
    torch.manual_seed(0)
    return TemporalSegmenter(Small(also).eval().requires_grad_(False))


def pixels_of(size: tuple[int, int] = (32, 48), seed: int = 1) -> Tensor:
    pixels = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(seed))
    return pixels.to(memory_format=torch.channels_last)


def logits_of(segmenter: TemporalSegmenter, pixels: Tensor) -> Tensor:
    with torch.no_grad():
        return segmenter.model.classify(segmenter.model.decode(segmenter.model.encode(pixels)))


@needs_openvino
def test_compiled_packaged_model_equals_torch_on_real_frames(camvid_clip: Path) -> None:
    """The whole stream: labels, and through them logits, keys and queries of frame after frame."""
    base = TemporalSegmenter(load_model(ModelSource()))
    config = InferenceConfig(reliability_threshold=0.8)
    ours = FrameSegmenter(base, config, True, Compiler(WAIT))
    eager = FrameSegmenter(base, config, True)
    paths = sorted((camvid_clip / "images").iterdir())[:9:2]
    for index, path in enumerate(paths):
        frame = Frame(cv2.imread(str(path))[:, :, ::-1].copy(), index * 100_000_000)
        fast, plain = ours.segment(frame, (368, 480), 1), eager.segment(frame, (368, 480), 1)
        assert np.mean(fast.class_ids == plain.class_ids) >= 0.999
        assert np.abs(fast.confidence.astype(int) - plain.confidence).mean() < 0.1
        assert ours.memory is not None and ours.memory.temporal is not None
        assert eager.memory is not None and eager.memory.temporal is not None
        torch.testing.assert_close(ours.memory.temporal.key, eager.memory.temporal.key, atol=1e-3, rtol=1e-4)
        torch.testing.assert_close(ours.memory.temporal.logits, eager.memory.temporal.logits, atol=1e-3, rtol=1e-4)
    assert ours.runtime == RuntimeStatus("openvino") and "network" in fast.latency_ms
    assert eager.runtime == RuntimeStatus("torch") and "encode" in plain.latency_ms


@needs_openvino
def test_each_generation_and_each_size_has_a_network_of_its_own() -> None:
    base = small()
    state = AdaptedState({"model.backbone.1.running_mean": np.full(8, 0.5, np.float32)}, temporal_branch=False)
    adapted = state.apply(base)
    compiler = Compiler(WAIT)
    networks = [compiler.network(segmenter, False) for segmenter in (base, adapted)]
    answers = []
    for size in ((32, 48), (48, 32), (32, 48)):
        for segmenter, network in zip((base, adapted), networks, strict=True):
            view = network(pixels_of(size))
            assert view is not None and network.status == RuntimeStatus("openvino")
            torch.testing.assert_close(view.logits, logits_of(segmenter, pixels_of(size)), atol=1e-5, rtol=1e-5)
            answers.append(view.logits)
    assert not torch.allclose(answers[0], answers[1])
    assert compiler.network(base, False) is networks[0] is not compiler.network(base, True)


@needs_openvino
def test_two_sizes_do_not_displace_each_other_and_no_more_than_a_few_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "KEPT_SIZES", 2)
    made = []

    def noted(self: Blueprint, module: nn.Module, precision: str, size: tuple[int, int]) -> OpenVINONetwork:
        made.append(precision)
        return compile_blueprint(self, module, precision, size)

    compile_blueprint = Blueprint.compile
    monkeypatch.setattr(Blueprint, "compile", noted)
    network = Compiler(WAIT).network(small(), False)
    for size in ((32, 48), (48, 32), (32, 48), (48, 32), (32, 48)):
        answer = network(pixels_of(size))
        assert answer is not None and answer.logits.shape[-2:] == (size[0] // 4, size[1] // 4)
        assert network.status_at(size) == RuntimeStatus("openvino") and len(made) <= 2
    network(pixels_of((32, 32)))  # in the place of the one used longest ago
    assert len(made) == 3 and network.status_at((48, 32)) == RuntimeStatus("torch")
    assert network(pixels_of((32, 48))) is not None and len(made) == 3


@needs_openvino
def test_an_answer_outlives_the_next_frame() -> None:
    segmenter = small()
    network = Compiler(WAIT).network(segmenter, True)
    first = network(pixels_of(seed=1))
    network(pixels_of(seed=2))
    assert first is not None and first.memory is not None and first.query is not None
    embedding = segmenter.model.decode(segmenter.model.encode(pixels_of(seed=1)))
    expected = segmenter.forward_heads(embedding, segmenter.model.classify(embedding))
    assert expected.memory is not None and expected.query is not None
    torch.testing.assert_close(first.memory.key, expected.memory.key, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(first.query, expected.query, atol=1e-5, rtol=1e-5)


@needs_openvino
@pytest.mark.parametrize("threads", [1, 2])
def test_as_many_threads_as_torch_uses(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        network = Compiler(WAIT).network(small(), False)
        network(pixels_of())
    finally:
        torch.set_num_threads(before)
    assert isinstance(network.compiled, OpenVINONetwork)
    assert network.compiled.compiled.get_property("INFERENCE_NUM_THREADS") == threads


@needs_openvino
def test_torch_answers_until_the_network_is_compiled() -> None:
    compiler, gate = Compiler(RuntimeConfig(precision="float32")), threading.Event()
    network = compiler.network(small(), False)
    compiler._executor.submit(gate.wait)  # the one thread that compiles is busy
    assert network(pixels_of()) is None
    assert network.status == RuntimeStatus("torch", "openvino is being compiled")
    gate.set()
    compiler._executor.shutdown(wait=True)
    assert network(pixels_of()) is not None and network.status == RuntimeStatus("openvino")


@needs_openvino
def test_memory_of_eager_torch_is_given_back_once_it_serves_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    trimmed = []
    monkeypatch.setattr(serving, "trim_heap", lambda: trimmed.append(threading.current_thread().name))
    compiler = Compiler(RuntimeConfig(precision="float32"))
    network = compiler.network(small(), False)
    assert network(pixels_of()) is None
    compiler.submit(lambda: None).result()
    assert not trimmed, "a frame of eager torch may still be under way"
    for _ in range(3):
        assert network(pixels_of()) is not None
    compiler.submit(lambda: None).result()
    assert len(trimmed) == 1 and trimmed[0].startswith("compile"), "once, and not in the thread that serves"
    compiler.close()


@needs_openvino
def test_closed_torch_serves_on() -> None:
    compiler = Compiler(RuntimeConfig(precision="float32"))
    network = compiler.network(small(), False)
    compiler.close()
    assert network(pixels_of()) is None


def test_closing_gives_up_what_has_not_begun() -> None:
    compiler, begun, gate = Compiler(), threading.Event(), threading.Event()
    assert not compiler.close()
    compiler = Compiler()

    def job() -> None:
        begun.set()
        gate.wait()

    running, waiting = compiler.submit(job), compiler.submit(job)
    begun.wait()
    assert compiler.close(), "a job is under way"
    assert waiting.cancelled()
    gate.set()
    running.result()


@needs_openvino
@pytest.mark.parametrize(
    ("also", "reason"),
    [
        (torch.special.bessel_j0, "cannot run this network: .*bessel"),
        (
            lambda logits: logits + 1e3 * torch.rand_like(logits),
            r"agrees with torch in [0-9.]+% of the pixels \([0-9.]+% with .*\) only",
        ),
    ],
    ids=["an operation it does not know", "other results"],
)
def test_torch_serves_where_the_compiled_network_does_not(also: Callable[[Tensor], Tensor], reason: str) -> None:
    network = Compiler(WAIT).network(small(also), False)
    for _ in range(2):
        assert network(pixels_of()) is None
        assert network.status.runtime == "torch" and re.search(reason, network.status.reason)


def test_without_the_package_torch_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    for runtime in (Runtime.AUTO, Runtime.OPENVINO):
        network = Compiler(RuntimeConfig(runtime, wait=True)).network(small(), False)
        assert network(pixels_of()) is None
        assert network.status == RuntimeStatus("torch", "openvino is not installed; pip install openvino")
    assert Compiler(RuntimeConfig(Runtime.TORCH)).network(small(), False).status == RuntimeStatus("torch")


def test_what_runs_where() -> None:
    cuda = torch.device("cuda")
    assert "the device is cuda" in unsupported(RuntimeConfig(Runtime.OPENVINO), cuda)
    assert unsupported(RuntimeConfig(Runtime.AUTO), cuda) == ""
    assert unsupported(RuntimeConfig(Runtime.COMPILE), torch.device("cpu")) == ""
    with pytest.raises(ValueError, match="expected a precision of"):
        RuntimeConfig(precision="float16")


@needs_openvino
def test_the_fastest_precision_that_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits at 100 ± 0.01 round to one bfloat16: where the hardware would do that, float32 is taken instead."""
    monkeypatch.setattr(serving, "has_bfloat16", lambda: True)

    def blurred(
        self: Blueprint, module: nn.Module, precision: str, size: tuple[int, int]
    ) -> Callable[[Tensor], tuple[Tensor, ...]]:
        network = compile_blueprint(self, module, "float32", size)
        return lambda pixels: tuple(
            output.bfloat16().float() if precision == "bfloat16" else output for output in network(pixels)
        )

    compile_blueprint = Blueprint.compile
    monkeypatch.setattr(Blueprint, "compile", blurred)
    automatic = RuntimeConfig(Runtime.OPENVINO, "auto", wait=True)
    for segmenter, precision in ((small(), "bfloat16"), (small(lambda logits: 100 + 0.01 * logits), "float32")):
        network = Compiler(automatic).network(segmenter, False)
        assert network(pixels_of()) is not None and network.status == RuntimeStatus("openvino", precision=precision)
    strict = Compiler(RuntimeConfig(Runtime.OPENVINO, "bfloat16", wait=True)).network(segmenter, False)
    assert strict(pixels_of()) is None and "in bfloat16 it agrees with torch in" in strict.status.reason
    monkeypatch.setattr(serving, "has_bfloat16", lambda: False)
    network = Compiler(automatic).network(small(), False)
    assert network(pixels_of()) is not None and network.status == RuntimeStatus("openvino", precision="float32")
