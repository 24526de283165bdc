"""Networks of transformers with small random weights, saved to a folder and loaded from it.

The independent reference is the network's own forward pass.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from moving_scenes import moving_square
from stream_settings import stream_config

from ditta_core.adaptation.config import AdaptationConfig
from ditta_core.adaptation.job import AdaptationJob
from ditta_core.adaptation.run import run_job
from ditta_core.classes import ClassList
from ditta_core.inference.frame_segmenter import segment_frame
from ditta_core.inference.temporal_branch import TemporalSegmenter
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.segmentation.huggingface import load_huggingface, pixel_format_of
from ditta_core.segmentation.registry import load_model
from ditta_core.segmentation.segformer import FoldedSegformer
from ditta_core.segmentation.source import ModelSource
from ditta_core.segmentation.transformers_split import SplitTransformer, UnsplittableError
from ditta_core.stream.video_segmenter import VideoSegmenter
from ditta_core.teacher.config import TeacherConfig
from ditta_core.types import Frame, State

transformers = pytest.importorskip("transformers", reason="needs the package transformers")

CLASSES = 7
LABELS = {index: f"thing {index}" for index in range(CLASSES)}
FPN = {"out_indices": [1, 2, 3, 4], "pool_scales": [1, 2]}
TINY = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 24}
DPT = {
    **TINY,
    "image_size": 64,
    "patch_size": 16,
    "backbone_out_indices": [0, 1, 2, 3],
    "neck_hidden_sizes": [8, 12, 16, 16],
    "fusion_hidden_size": 16,
}


def convnext() -> Any:
    return transformers.ConvNextConfig(
        hidden_sizes=[8, 12, 16, 24], depths=[1, 1, 1, 1], out_features=["stage1", "stage2", "stage3", "stage4"]
    )


def swin() -> Any:
    return transformers.SwinConfig(
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 2, 2, 2],
        window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )


def tips() -> Any:
    return transformers.Tipsv2VisionConfig(
        **TINY,
        patch_size=16,
        image_size=64,
        out_indices=[1, 2, 3, 4],
        apply_layernorm=True,
        reshape_hidden_states=False,
    )


@dataclass(frozen=True)
class Architecture:
    """A small network.

    Attributes:
        name: the configuration without "Config".
        settings: of the configuration; values may be functions that make them.
        size: an input (height, width) that it takes.
        stride: of its embedding.
        fixed: whether it takes no other size; None where that depends on the version of transformers.
        auxiliary: whether it has an auxiliary head.
    """

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    size: tuple[int, int] = (64, 96)
    stride: int = 4
    fixed: bool | None = False
    auxiliary: bool = False

    def build(self) -> Any:
        """The network, with statistics that differ from those of an untrained one."""
        make = getattr(transformers, f"{self.name}Config", None)
        if make is None:
            pytest.skip(f"this version of transformers has no {self.name}")
        torch.manual_seed(3)
        settings = {name: value() if callable(value) else value for name, value in self.settings.items()}
        network = getattr(transformers, f"{self.name}ForSemanticSegmentation")(make(**settings, id2label=LABELS))
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
                torch.nn.init.uniform_(module.weight, 0.5, 1.5)
                torch.nn.init.normal_(module.bias)
        return network.eval()


SEGFORMER = Architecture(
    "Segformer",
    {
        "hidden_sizes": [8, 16, 20, 32],
        "depths": [1, 1, 2, 1],
        "num_attention_heads": [1, 2, 2, 4],
        "decoder_hidden_size": 24,
    },
)
ARCHITECTURES = {
    "upernet-convnext": Architecture(
        "UperNet", {"backbone_config": convnext, "hidden_size": 16, "auxiliary_channels": 8}, auxiliary=True
    ),
    "upernet-swin": Architecture("UperNet", {"backbone_config": swin, "hidden_size": 16, "use_auxiliary_head": False}),
    "dpt": Architecture("DPT", DPT, (64, 64), stride=2, fixed=True, auxiliary=True),
    "beit": Architecture(
        "Beit",
        {**TINY, **FPN, "image_size": 64, "patch_size": 16, "use_relative_position_bias": True},
        (64, 64),
        fixed=None,
        auxiliary=True,
    ),
    "data2vec": Architecture(
        "Data2VecVision",
        {**TINY, **FPN, "image_size": 64, "patch_size": 16, "use_absolute_position_embeddings": True},
        (64, 64),
        fixed=True,
        auxiliary=True,
    ),
    "mobilevit": Architecture(
        "MobileViT",
        {
            "hidden_sizes": [16, 20, 24],
            "neck_hidden_sizes": [4, 4, 8, 8, 12, 12, 16],
            "num_attention_heads": 2,
            "aspp_out_channels": 8,
            "output_stride": 16,
            "expand_ratio": 1.0,
        },
        stride=16,
    ),
    "mobilevitv2": Architecture("MobileViTV2", {"width_multiplier": 0.25, "aspp_out_channels": 8}, stride=32),
    "mobilenetv2": Architecture("MobileNetV2", {"depth_multiplier": 0.25, "output_stride": 8}, stride=8),
    "sapiens2": Architecture(
        "Sapiens2",
        {
            **TINY,
            "num_attention_heads": 2,
            "num_key_value_attention_heads": 1,
            "num_register_tokens": 1,
            "head_config": {
                "upsample_out_channels": [16, 12],
                "upsample_kernel_sizes": [4, 4],
                "conv_out_channels": [12],
                "conv_kernel_sizes": [1],
            },
        },
    ),
    "tipsv2-dpt": Architecture(
        "Tipsv2Dpt",
        {"backbone_config": tips, "neck_hidden_sizes": [8, 12, 16, 16], "fusion_hidden_size": 16},
        stride=2,
    ),
}
EVERY = {"segformer": SEGFORMER, **ARCHITECTURES}


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


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[Any], str]:
    """Saves a network to a folder and tells its name."""

    def save(network: Any) -> str:
        network.save_pretrained(tmp_path / "network")
        return str(tmp_path / "network")

    return save


def pixels_of(size: tuple[int, int], count: int = 1) -> torch.Tensor:
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(1))


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
    with pytest.raises(ValueError, match="the only one that the position embeddings of this model admit"):
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


def test_gradients_after_a_pass_in_inference_mode(saved: Callable[[Any], str]) -> None:
    """BEiT keeps indices of the first pass over a size, for every network of its class."""
    model = load_huggingface(saved(ARCHITECTURES["beit"].build()))
    pixels = pixels_of(model.fixed_input_size or (96, 160))
    with torch.inference_mode():
        model(pixels)
    model.requires_grad_(True)
    model(pixels).square().sum().backward()
    assert any(parameter.grad is not None for parameter in model.encoder.parameters())


# --- what a checkpoint says of itself --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": [0.5] * 3,
            "image_std": [0.25] * 3,
        },
        {"do_rescale": False, "do_normalize": True, "image_mean": [120.0, 110.0, 100.0], "image_std": [50.0] * 3},
        {
            "do_rescale": True,
            "rescale_factor": 1 / 127.5,
            "do_normalize": True,
            "image_mean": [1.0] * 3,
            "image_std": [1.0] * 3,
        },
        {"do_rescale": True, "do_normalize": False, "image_mean": [0.5] * 3, "image_std": [0.5] * 3},
        {"do_rescale": True, "do_flip_channel_order": True},
    ],
)
def test_normalisation_of_the_preprocessor(
    settings: dict[str, Any], tmp_path: Path, saved: Callable[[Any], str]
) -> None:
    folder = saved(SEGFORMER.build())
    (tmp_path / "network" / "preprocessor_config.json").write_text(json.dumps(settings))
    image = np.random.default_rng(0).integers(0, 256, (1, 32, 64, 3), np.uint8)
    expected = image.astype(np.float64)
    if settings["do_rescale"]:
        expected = expected * settings.get("rescale_factor", 1 / 255)
    if settings.get("do_normalize"):
        expected = (expected - settings["image_mean"]) / settings["image_std"]
    if settings.get("do_flip_channel_order"):
        expected = expected[..., ::-1]
    pixels = load_huggingface(folder).preprocess(image, (32, 64), torch.device("cpu"))
    np.testing.assert_allclose(pixels.permute(0, 2, 3, 1), expected, atol=1e-5)


def test_normalisation_of_an_image_processor_of_transformers(tmp_path: Path, saved: Callable[[Any], str]) -> None:
    """What a real image processor writes is read as it means it."""
    pytest.importorskip("PIL", reason="transformers' image processors need Pillow")
    make = getattr(transformers, "SegformerImageProcessorPil", None) or transformers.SegformerImageProcessor
    try:
        processor = make(do_resize=False, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.4])
    except ImportError as error:
        pytest.skip(f"needs what transformers' image processors need: {error}")
    folder = saved(SEGFORMER.build())
    processor.save_pretrained(folder)
    image = np.random.default_rng(0).integers(0, 256, (32, 64, 3), np.uint8)
    expected = np.asarray(processor(image, return_tensors="np")["pixel_values"])
    pixels = load_huggingface(folder).preprocess(image[None], (32, 64), torch.device("cpu"))
    np.testing.assert_allclose(pixels, expected, atol=1e-5)


def test_without_a_preprocessor_the_normalisation_is_imagenets() -> None:
    assert pixel_format_of({}).mean == pytest.approx((0.485, 0.456, 0.406))


def test_labels_become_the_class_list(saved: Callable[[Any], str]) -> None:
    network = SEGFORMER.build()
    network.config.id2label = {index: "door" if index in (2, 5) else f"thing {index}" for index in range(CLASSES)}
    model = load_huggingface(saved(network))
    assert model.classes.names == ("thing 0", "thing 1", "door", "thing 3", "thing 4", "door 5", "thing 6")


def test_registry_merges_and_segments(saved: Callable[[Any], str]) -> None:
    folder = saved(SEGFORMER.build())
    model = load_model(ModelSource(f"hf:{folder}", "{a: [thing 0, thing 1], b: [thing 2]}"))
    assert not model.training and not any(parameter.requires_grad for parameter in model.parameters())
    class_ids, confidence = segment_frame(model, np.zeros((40, 60, 3), np.uint8), (32, 64))
    assert set(np.unique(class_ids)) <= {0, 1, 255}
    assert class_ids.shape == confidence.shape == (40, 60)


# --- what cannot be loaded -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Mask2Former", "MaskFormer", "OneFormer", "Eomt"])
def test_mask_classification_is_refused_with_the_reason(kind: str, tmp_path: Path) -> None:
    make = getattr(transformers, f"{kind}Config", None)
    if make is None:
        pytest.skip(f"this version of transformers has no {kind}")
    make().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=rf"is of type {make.model_type}, which classifies whole masks by queries"):
        load_huggingface(str(tmp_path))


def test_other_tasks_are_refused(tmp_path: Path) -> None:
    transformers.BertConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"of one of the types \['beit', .*'upernet'\], but .* is of type bert"):
        load_huggingface(str(tmp_path))


def test_a_single_score_is_refused(tmp_path: Path) -> None:
    transformers.SegformerConfig(num_labels=1).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="at least two labels"):
        load_huggingface(str(tmp_path))


def test_a_head_that_would_be_made_up_is_refused(saved: Callable[[Any], str]) -> None:
    config = SEGFORMER.build().config
    folder = saved(transformers.SegformerForImageClassification(config))
    with pytest.raises(ValueError, match=r"a checkpoint of SegformerForImageClassification, lacks \d+"):
        load_huggingface(folder)


def test_pickled_weights_only_where_allowed(tmp_path: Path) -> None:
    network = SEGFORMER.build()
    network.config.save_pretrained(tmp_path)
    torch.save(network.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"expected weights in model\.safetensors"):
        load_huggingface(str(tmp_path))
    model = load_huggingface(str(tmp_path), allow_pickle=True)
    pixels = pixels_of((64, 96))
    with torch.inference_mode():
        expected = F.interpolate(network(pixels).logits, (64, 96), mode="bilinear", align_corners=False)
        torch.testing.assert_close(model(pixels), expected, atol=1e-5, rtol=1e-5)


def test_weights_of_another_shape(tmp_path: Path, saved: Callable[[Any], str]) -> None:
    folder = saved(SEGFORMER.build())
    config = json.loads((tmp_path / "network" / "config.json").read_text())
    config["decoder_hidden_size"] = 40
    (tmp_path / "network" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="do not fit its configuration"):
        load_huggingface(folder)


def test_weights_that_are_damaged(tmp_path: Path, saved: Callable[[Any], str]) -> None:
    folder = saved(SEGFORMER.build())
    (tmp_path / "network" / "model.safetensors").write_bytes(b"not weights at all")
    with pytest.raises(ValueError, match=r"expected weights in model\.safetensors"):
        load_huggingface(folder)


def test_nothing_is_downloaded_unless_allowed() -> None:
    with pytest.raises(FileNotFoundError, match="'hf download nobody/nothing-of-that-name'"):
        load_huggingface("nobody/nothing-of-that-name")


def test_folder_without_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        load_huggingface(str(tmp_path))


class WithoutClassifier(torch.nn.Module):
    """Stands in for a decoder whose last layer is no convolution: scores are distances to class means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.means = torch.nn.Parameter(torch.randn(CLASSES, channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -(x[:, None] - self.means[:, :, None, None]).square().sum(2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda n: setattr(n.decode_head, "classifier", WithoutClassifier(16)), "no convolution with one output per"),
        (
            lambda n: setattr(
                n.decode_head, "classifier", torch.nn.Sequential(n.decode_head.classifier, torch.nn.Softmax(1))
            ),
            r"more than the output of UperNetForSemanticSegmentation's classifier 'decode_head\.classifier\.0'",
        ),
        (
            lambda n: setattr(n.decode_head, "classifier", torch.nn.Conv2d(16, CLASSES, 2, 2)),
            "a classifier over maps of features that keeps their size",
        ),
    ],
)
def test_networks_that_cannot_be_split_say_why(change: Callable[[Any], None], message: str) -> None:
    network = ARCHITECTURES["upernet-convnext"].build()
    change(network)
    with pytest.raises(UnsplittableError, match=message):
        SplitTransformer(network, ClassList.of_names(list(LABELS.values())))
