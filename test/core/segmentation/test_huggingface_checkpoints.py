"""What a checkpoint of transformers says of itself, and what cannot be loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from huggingface_models import ARCHITECTURES, CLASSES, LABELS, SEGFORMER, pixels_of, transformers

from ditta_core.classes import ClassList
from ditta_core.inference.frame_segmenter import segment_frame
from ditta_core.segmentation.huggingface import load_huggingface, pixel_format_of
from ditta_core.segmentation.registry import load_model
from ditta_core.segmentation.source import ModelSource
from ditta_core.segmentation.transformers_split import SplitTransformer, UnsplittableError


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
    with pytest.raises(ValueError, match=r"expected weights in model\.safetensors .*--allow-pickle"):
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
