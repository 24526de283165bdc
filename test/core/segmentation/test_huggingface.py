"""Networks of transformers with small random weights, saved to a folder and loaded from it.

The independent reference is the network's own forward pass.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from huggingface_models import ARCHITECTURES, CLASSES, EVERY, LABELS, SEGFORMER, Architecture, pixels_of
from moving_scenes import moving_square
from stream_settings import stream_config

from ditta_core.adaptation.config import AdaptationConfig
from ditta_core.adaptation.job import AdaptationJob
from ditta_core.domain.warmup_job import run_job
from ditta_core.inference.temporal_branch import TemporalSegmenter
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.segmentation.huggingface import load_huggingface
from ditta_core.segmentation.registry import load_model
from ditta_core.segmentation.segformer import FoldedSegformer
from ditta_core.segmentation.source import ModelSource
from ditta_core.segmentation.transformers_split import SplitTransformer
from ditta_core.stream.video_segmenter import VideoSegmenter
from ditta_core.teacher.config import TeacherConfig
from ditta_core.types import Frame, State


@dataclass(frozen=True)
class Loaded:
    """A network, and the model that was loaded from where it was saved."""

    architecture: Architecture
    network: Any
    model: SegmentationModel


@pytest.fixture(scope="module", params=EVERY)
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    architecture = EVERY[request.param]
    network, folder = architecture.build(), tmp_path_factory.mktemp("network")
    network.save_pretrained(folder)
    return Loaded(architecture, network, load_huggingface(str(folder)))


def test_logits_are_those_of_the_network(loaded: Loaded) -> None:
    architecture, model = loaded.architecture, loaded.model
    pixels = pixels_of(architecture.size, 2)
    with torch.no_grad():
        logits = loaded.network(pixels).logits
        expected = F.interpolate(logits, architecture.size, mode="bilinear", align_corners=False)
        torch.testing.assert_close(model(pixels), expected, atol=1e-5, rtol=1e-5)
        features = model.encode(pixels)
        embedding = model.decode(features)
        logits = model.classify(embedding)
    height, width = (side // architecture.stride for side in architecture.size)
    assert embedding.shape == (2, model.embedding_dim, height, width)
    assert logits.shape == (2, CLASSES, height, width)
    assert model.temporal_pool == max(1, 4 // architecture.stride)
    assert model.classes.names == tuple(LABELS.values())
    assert all(len(level) == 2 for level in features)


def test_features_of_frames_can_be_joined_and_parted(loaded: Loaded) -> None:
    model, pixels = loaded.model, pixels_of(loaded.architecture.size, 2)
    with torch.no_grad():
        single = [model.encode(pixels[index : index + 1]) for index in range(2)]
        joined = tuple(torch.cat(level) for level in zip(*single, strict=True))
        second = model.decode([level[1:2] for level in joined])
        torch.testing.assert_close(second, model.decode(single[1]))
        torch.testing.assert_close(second, model.decode(model.encode(pixels))[1:], atol=1e-3, rtol=1e-3)


def test_the_decoder_alone_is_trained(loaded: Loaded) -> None:
    """Every parameter on the way to the logits is the encoder's or learns, and there are no auxiliary heads."""
    assert (getattr(loaded.network, "auxiliary_head", None) is not None) == loaded.architecture.auxiliary
    pixels = pixels_of(loaded.architecture.size)
    model, network = copy.deepcopy(loaded.model), copy.deepcopy(loaded.network)
    assert not any("auxiliary" in name for name, _ in model.named_parameters())
    with torch.no_grad():
        features = model.encode(pixels)
    for parameter in model.decoder_parameters():
        parameter.requires_grad_(True)
    model.classify(model.decode(features)).square().sum().backward()
    assert all(parameter.grad is None for parameter in model.encoder.parameters())
    network.zero_grad()
    network(pixels).logits.square().sum().backward()
    encoder = network.backbone if hasattr(network, "backbone") else network.base_model
    of_encoder = {id(parameter) for parameter in encoder.parameters()}
    learning = [value for value in network.parameters() if value.grad is not None and id(value) not in of_encoder]
    decoder = [value for value in model.decoder_parameters() if value.grad is not None]
    if isinstance(model, FoldedSegformer):
        assert 0 < count(decoder) < count(learning)
    else:
        assert count(decoder) == count(learning)


def count(parameters: Iterable[torch.Tensor]) -> int:
    """How many numbers they hold."""
    return sum(parameter.numel() for parameter in parameters)


def test_fixed_sizes_are_known(loaded: Loaded) -> None:
    architecture, model = loaded.architecture, loaded.model
    assert (model.fixed_input_size is not None) == architecture.fixed or architecture.fixed is None
    if model.fixed_input_size is None:
        assert model.input_size((360, 640), 320) == (176 if model.size_multiple == 16 else 192, 320)
        return
    assert model.input_size((360, 640), 320) == architecture.size
    images = np.zeros((1, 40, 60, 3), np.uint8)
    assert model.preprocess(images, architecture.size, torch.device("cpu")).shape == (1, 3, *architecture.size)
    with pytest.raises(ValueError, match="the only one that this model admits"):
        model.preprocess(images, (32, 64), torch.device("cpu"))


@pytest.mark.parametrize("mode", ["live", "parity"])
@pytest.mark.parametrize("name", ["segformer", "upernet-convnext", "dpt"])
def test_adaptation_leaves_the_encoder_alone(name: str, mode: str, saved: Callable[[Any], str]) -> None:
    architecture = EVERY[name]
    source = ModelSource(f"hf:{saved(architecture.build())}")
    clip = moving_square(frames=2, size=(72, 96)).clip
    adaptation = AdaptationConfig(passes=1) if mode == "live" else AdaptationConfig.parity(passes=1)
    result = run_job(AdaptationJob(clip, architecture.size, source, TeacherConfig("flow"), adaptation))
    assert result.report.succeeded, result.report.reason
    assert result.state is not None
    base = TemporalSegmenter(load_model(source))
    adapted = result.state.apply(base)
    assert adapted.model.encoder is base.model.encoder  # none of these has BatchNorm in its encoder
    before = dict(base.model.named_parameters())
    trained = {id(parameter) for parameter in base.model.decoder_parameters()}
    moved = [name for name, value in adapted.model.named_parameters() if not torch.equal(value, before[name])]
    assert len(moved) > 0.9 * len(trained)
    assert all(id(before[name]) in trained for name in moved)


def test_adaptation_to_a_single_frame(saved: Callable[[Any], str]) -> None:
    """A head that pools the map to one pixel has no statistics of one frame, which BatchNorm alone refuses."""
    source = ModelSource(f"hf:{saved(ARCHITECTURES['upernet-convnext'].build())}")
    clip = moving_square(frames=1, size=(72, 96)).clip
    result = run_job(AdaptationJob(clip, (64, 96), source, adaptation=AdaptationConfig(passes=1)))
    assert result.report.succeeded, result.report.reason


@pytest.mark.parametrize("teacher", ["flow", "object_vote:flow"])
def test_segformer_live_from_end_to_end(teacher: str, saved: Callable[[Any], str]) -> None:
    source = ModelSource(f"hf:{saved(SEGFORMER.build())}")
    scene = moving_square(frames=6, size=(72, 96))
    engine = VideoSegmenter(
        source,
        stream_config(warmup_frames=3),
        adaptation=AdaptationConfig(passes=1),
        teacher=TeacherConfig(teacher),
    )
    generations = []
    for index, image in enumerate(scene.clip):
        segmentation = engine.push(Frame(image, index * 100_000_000, "camera"))
        assert segmentation.class_ids.shape == (72, 96)
        generations.append(segmentation.generation)
    # Random weights give the object vote nothing that it could trust, which is a failed adaptation, not a crash.
    if teacher == "flow":
        assert engine.status.state is State.ADAPTED and generations == [0, 0, 0, 1, 1, 1]
    else:
        assert engine.status.state in (State.ADAPTED, State.FAILED)


def test_copies_of_a_split_network_do_not_share_their_decoders(saved: Callable[[Any], str]) -> None:
    model = load_huggingface(saved(ARCHITECTURES["upernet-convnext"].build()))
    assert isinstance(model, SplitTransformer)
    twin = copy.deepcopy(model, {id(model.encoder): model.encoder})
    assert twin.encoder is model.encoder
    pixels = pixels_of((64, 96))
    with torch.inference_mode():
        before = model(pixels)
        for parameter in twin.decoder_parameters():
            parameter.zero_()
        assert torch.equal(model(pixels), before)
        assert not torch.equal(twin(pixels), before)


@pytest.mark.parametrize("name", ["upernet-convnext", "dpt"])
def test_another_thread_may_encode_and_copy_while_one_decodes(name: str, saved: Callable[[Any], str]) -> None:
    """A network is compiled in one thread while it serves frames in another."""
    model = load_huggingface(saved(ARCHITECTURES[name].build()))
    assert isinstance(model, SplitTransformer)
    served, compiled = pixels_of(ARCHITECTURES[name].size), pixels_of(ARCHITECTURES[name].size).flip(-1)
    with torch.no_grad():
        expected, other = model(served), model(compiled)
        features = model.encode(served)
    found: list[torch.Tensor] = []

    def meanwhile(*_: object) -> None:
        handle.remove()
        with torch.no_grad(), ThreadPoolExecutor(1) as pool:
            found.append(pool.submit(model, compiled).result())
            found.append(pool.submit(copy.deepcopy(model), compiled).result())

    handle = model.network.get_submodule(model.classifier_name).register_forward_pre_hook(meanwhile)
    with torch.no_grad():
        logits = model.classify(model.decode(features))
        logits = F.interpolate(logits, served.shape[-2:], mode="bilinear", align_corners=False)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    for answer in found:
        torch.testing.assert_close(answer, other, atol=1e-5, rtol=1e-5)
    assert len(found) == 2


def test_gradients_after_a_pass_in_inference_mode(saved: Callable[[Any], str]) -> None:
    """BEiT keeps indices of the first pass over a size, for every network of its class."""
    model = load_huggingface(saved(ARCHITECTURES["beit"].build()))
    pixels = pixels_of(model.fixed_input_size or (96, 160))
    with torch.inference_mode():
        model(pixels)
    model.requires_grad_(True)
    model(pixels).square().sum().backward()
    assert any(parameter.grad is not None for parameter in model.encoder.parameters())
