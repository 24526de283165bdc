"""Methods whose frozen networks are compiled give the masks of eager torch."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
from method_models import moving_frames

from ditta_core.evaluation.methods.base import Method, MethodSetup
from ditta_core.evaluation.methods.registry import build_method
from ditta_core.evaluation.methods.source import Source
from ditta_core.evaluation.methods.stream import StreamMethod
from ditta_core.inference.compiled_network import RuntimeStatus
from ditta_core.inference.config import Runtime
from ditta_core.segmentation.registry import load_model
from ditta_core.segmentation.source import ModelSource
from ditta_core.types import Frame, Segmentation

# Merged classes, and outputs in none of them: the two readings of the unadapted model differ.
SOURCE = ModelSource(classes="{ground: [road, pavement], building: [building], car: [car]}")
FRAMES = moving_frames(5)


def prepared(name: str, runtime: Runtime) -> Method:
    """A method after two frames of warm-up."""
    method = build_method(name, MethodSetup(SOURCE, long_side=64, runtime=runtime), load_model(SOURCE))
    if method.uses_warmup:
        method.prepare(FRAMES[:2])
    return method


def observed(name: str, runtime: Runtime) -> tuple[Method, list[Segmentation]]:
    """The same, and its masks of the other frames."""
    method = prepared(name, runtime)
    return method, [method.observe(frame) for frame in FRAMES[2:]]


def status_of(method: Method) -> RuntimeStatus:
    assert isinstance(method, Source | StreamMethod)
    network = method.network if isinstance(method, Source) else method.stream.network
    assert network is not None
    return network.status


@pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed")
@pytest.mark.parametrize("name", ["source", "source_merged", "ema_smoothing", "ditta_no_distillation"])
def test_compiled_methods_give_the_masks_of_eager_torch(name: str) -> None:
    method, compiled = observed(name, Runtime.OPENVINO)
    assert status_of(method) == RuntimeStatus("openvino")  # from the first frame on
    _, eager = observed(name, Runtime.TORCH)
    for ours, theirs in zip(compiled, eager, strict=True):
        assert np.mean(ours.class_ids == theirs.class_ids) > 0.999
        np.testing.assert_allclose(ours.confidence.astype(int), theirs.confidence.astype(int), atol=2)


@pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed")
@pytest.mark.parametrize("name", ["source", "bn_blend"])
def test_what_is_ready_is_compiled_before_its_first_frame(name: str) -> None:
    method = prepared(name, Runtime.OPENVINO)
    assert status_of(method) != RuntimeStatus("openvino")
    method.ready(FRAMES[2])
    assert status_of(method) == RuntimeStatus("openvino")
    assert isinstance(method, Source) or method.stream.memory is None, "it was not observed"  # type: ignore[attr-defined]


def test_a_method_leaves_the_classes_of_the_shared_model_alone() -> None:
    model = load_model(SOURCE)
    merged = model.class_map
    Source(MethodSetup(SOURCE, long_side=64), model).observe(Frame(FRAMES[0].image, 0, ""))
    assert model.class_map is merged
