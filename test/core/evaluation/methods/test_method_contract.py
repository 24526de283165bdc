"""What every method promises, by its interface."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from method_models import SIZE, LabelledDrive, TinyModel, changed, copied, moving_frames
from torch import Tensor, nn

from ditta_core.evaluation.methods.base import Method, MethodSetup
from ditta_core.evaluation.methods.online import OnlineMethod
from ditta_core.evaluation.methods.registry import METHODS, build_method, describe_methods
from ditta_core.evaluation.methods.stream import StreamMethod
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.segmentation.registry import load_model
from ditta_core.segmentation.source import ModelSource
from ditta_core.types import UNLABELLED, Frame, Segmentation

FRAMES = moving_frames(6)
WARMUP, LATER = FRAMES[:2], FRAMES[2:5]
SETUP = MethodSetup(
    ModelSource(classes="{ground: [road, pavement], building: [building], car: [car]}"),
    long_side=0,
    labelled=(LabelledDrive(),),
)
ADVERSARIAL = ("da_vsn", "vat", "rda")
"""Their discriminators are of the published size however small the model is."""
NAMES = [pytest.param(name, marks=pytest.mark.slow) if name in ADVERSARIAL else name for name in METHODS]
WITH_WARMUP = [
    pytest.param(name, marks=pytest.mark.slow) if name in ADVERSARIAL else name
    for name, entry in METHODS.items()
    if entry.uses_warmup
]
ONLINE = [name for name in METHODS if name.endswith("_online")]


def model_for(name: str) -> SegmentationModel:
    """The adaptation job of DiTTA loads the model of the setup; the others take any."""
    return load_model(SETUP.source) if name.startswith("ditta") else TinyModel()


def method_for(name: str, model: SegmentationModel | None = None) -> Method:
    return build_method(name, SETUP, model or model_for(name))


def observe(method: Method, frames: Sequence[Frame]) -> list[Segmentation]:
    return [method.observe(frame) for frame in frames]


def assert_same(first: Sequence[Segmentation], second: Sequence[Segmentation]) -> None:
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one.class_ids, other.class_ids)
        np.testing.assert_array_equal(one.confidence, other.confidence)
        assert (one.generation, one.fused_share) == (other.generation, other.fused_share)


def differ(first: Sequence[Segmentation], second: Sequence[Segmentation]) -> bool:
    return any((one.confidence != other.confidence).any() for one, other in zip(first, second, strict=True))


def weights(method: Method) -> dict[str, Tensor]:
    """All tensors of all models that a method holds."""
    if isinstance(method, StreamMethod):
        return copied(method.stream.segmenter)
    if isinstance(method, OnlineMethod):
        assert method.learner is not None
        parts = {name: part for name, part in vars(method.learner).items() if isinstance(part, nn.Module)}
        return {f"{name}.{key}": value for name, part in parts.items() for key, value in copied(part).items()}
    return copied(method.model)


@pytest.mark.parametrize("name", NAMES)
def test_answers_before_and_after_the_warmup(name: str) -> None:
    model = model_for(name)
    method = method_for(name, model)
    before = observe(method, WARMUP)
    report = method.prepare(WARMUP)
    after = observe(method, LATER)
    for segmentation in (*before, *after):
        assert segmentation.class_ids.shape == segmentation.confidence.shape == SIZE
        assert segmentation.class_ids.dtype == segmentation.confidence.dtype == np.uint8
        assert set(np.unique(segmentation.class_ids)) <= {*range(len(model.classes)), UNLABELLED}
        assert 0 <= segmentation.fused_share <= 1
    if name not in ONLINE:
        assert {segmentation.generation for segmentation in before} == {0}
    assert (report is not None) == method.uses_warmup == METHODS[name].uses_warmup
    if report is not None:
        assert report.succeeded, report.reason
        assert report.frames == len(WARMUP)
        assert report.seconds > 0
        assert {segmentation.generation for segmentation in after} == {1}


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_WARMUP)
def test_the_warmup_makes_a_difference_and_nothing_else_does(name: str) -> None:
    """What follows depends neither on frames nor on a warm-up before it, nor on the instance."""
    unadapted = observe(method_for(name), LATER)
    prepared = method_for(name)
    prepared.prepare(WARMUP)
    expected = observe(prepared, LATER)
    assert differ(expected, unadapted)

    method = method_for(name)
    method.prepare(FRAMES[5:])
    observe(method, FRAMES[3:])
    method.prepare(WARMUP)
    assert_same(observe(method, LATER), expected)


@pytest.mark.parametrize("name", NAMES)
def test_reset_returns_to_the_beginning(name: str) -> None:
    method = method_for(name)
    expected = observe(method, FRAMES[:4])
    method.prepare(WARMUP)
    observe(method, LATER)
    method.reset()
    assert_same(observe(method, FRAMES[:4]), expected)


@pytest.mark.parametrize("name", NAMES)
def test_shared_model_is_not_changed(name: str) -> None:
    model = model_for(name)
    before = copied(model)
    flags = [(module.training, len(module._forward_pre_hooks)) for module in model.modules()]
    method = method_for(name, model)
    observe(method, WARMUP)
    method.prepare(WARMUP)
    observe(method, LATER)
    assert not changed(before, model.state_dict())
    assert [(module.training, len(module._forward_pre_hooks)) for module in model.modules()] == flags
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("name", WITH_WARMUP)
def test_frozen_after_the_warmup(name: str) -> None:
    method = method_for(name)
    method.prepare(WARMUP)
    before = weights(method)
    observe(method, LATER)
    assert not changed(before, weights(method))


@pytest.mark.parametrize("name", ONLINE)
def test_online_methods_learn_from_every_frame(name: str) -> None:
    method = method_for(name)
    for index, frame in enumerate(FRAMES[:3]):
        before = weights(method) if index else None
        assert method.observe(frame).generation == index
        assert before is None or changed(before, weights(method))


@pytest.mark.parametrize("name", ["tent", "cotta", "auxadapt"])
def test_frozen_methods_are_the_unadapted_model_before_the_warmup(name: str) -> None:
    assert_same(observe(method_for(name), FRAMES), observe(method_for("source_merged"), FRAMES))


# --- what goes wrong ---


def bright(frame: Frame) -> Frame:
    return Frame(np.full_like(frame.image, 255), frame.stamp, frame.frame_id)


@pytest.mark.parametrize("name", ["tent", "cotta", "auxadapt"])
def test_loss_that_is_not_finite_leaves_the_unadapted_model(name: str) -> None:
    method = method_for(name, TinyModel(brightest=2.0))
    report = method.prepare([FRAMES[0], bright(FRAMES[1]), FRAMES[2]])
    assert report is not None and not report.succeeded
    assert (report.frames, report.steps) == (3, 1)
    assert "expected a finite loss, but got nan" in report.reason
    assert_same(observe(method, LATER), observe(method_for("source_merged"), LATER))


@pytest.mark.parametrize("name", ONLINE)
def test_online_methods_leave_out_a_step_that_is_not_finite(name: str) -> None:
    method = method_for(name, TinyModel(brightest=2.0))
    method.observe(FRAMES[0])
    before = weights(method)
    assert method.observe(bright(FRAMES[1])).class_ids.shape == SIZE
    assert not changed(before, weights(method))
    assert method.observe(FRAMES[2]).generation == 1


def test_unknown_method_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected a method of \['source', .*'ditta'.*\], but got 'dita'"):
        build_method("dita", SETUP)


@pytest.mark.parametrize("name", [name for name, entry in METHODS.items() if entry.uses_labelled])
def test_methods_with_a_source_are_refused_without_one(name: str) -> None:
    with pytest.raises(ValueError, match=f"expected labelled drives for {name}, but got none; give --source"):
        build_method(name, MethodSetup(SETUP.source, long_side=0), TinyModel())


def test_model_is_loaded_where_it_is_not_given() -> None:
    ours = build_method("source", SETUP).observe(FRAMES[0])
    assert_same([ours], [build_method("source", SETUP, load_model(SETUP.source)).observe(FRAMES[0])])


@pytest.mark.parametrize("name", NAMES)
def test_described_in_a_line(name: str) -> None:
    (line,) = (line for line in describe_methods().splitlines() if line.split()[0] == name)
    description = line.removeprefix(name).strip()
    assert 10 < len(description) <= 110 and description.endswith(".")


def test_network_input_of_the_setup_is_used() -> None:
    masks = [
        build_method("source", MethodSetup(input_size=size, long_side=side), TinyModel()).observe(FRAMES[0])
        for size, side in ((None, 0), ((32, 48), 0), (None, 48), (SIZE, 48))
    ]
    assert_same([masks[1], masks[3]], [masks[2], masks[0]])
    assert differ(masks[:1], masks[1:2])


def test_results_do_not_depend_on_the_global_random_state() -> None:
    expected = method_for("cotta")
    expected.prepare(WARMUP)
    torch.manual_seed(99)
    other = method_for("cotta")
    other.prepare(WARMUP)
    assert not changed(weights(expected), weights(other))
