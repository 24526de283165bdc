"""The trainers of the packaged models, in ``tools/``."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

from ditta_core.classes import ClassList, ClassMap
from ditta_core.segmentation.espnetv2 import ESPNetv2, load_espnetv2
from ditta_core.types import UNLABELLED

TOOLS = Path(__file__).resolve().parents[1] / "tools"
CITY, CAMVID = ClassList.packaged("cityscapes19"), ClassList.packaged("camvid11")


def tool(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(TOOLS)
    return importlib.import_module(name)


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return tool("training", monkeypatch)


@pytest.fixture
def street(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return tool("train_street", monkeypatch)


@pytest.mark.parametrize("scale", [0.6, 1.0, 1.5])
@pytest.mark.parametrize("seed", range(4))
def test_positions_are_where_the_crop_was_cut(training: ModuleType, scale: float, seed: int) -> None:
    """A picture of its own coordinates, cut as an image and looked up as a map of answers, is the same."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:90, 0:140].astype(np.uint8)
    image = np.stack([rows, columns, columns], -1)
    crop = training.Crop.draw(image.shape[:2], scale, (48, 64), random)
    cut = crop.of_image(image)[::2, ::2, :2]
    answers = torch.from_numpy(image[:, :, :2]).permute(2, 0, 1)[None].float()
    found = functional.grid_sample(answers, torch.from_numpy(crop.positions(2))[None], align_corners=False)
    found = found[0].permute(1, 2, 0).numpy()
    inside = (slice(1, -1), slice(1, -1))
    assert np.abs(found - cut.astype(float))[inside].max() < 1.5


def test_a_crop_larger_than_its_image(training: ModuleType) -> None:
    crop = training.Crop.draw((40, 60), 0.5, (48, 64), np.random.default_rng(0))
    assert crop.of_image(np.full((40, 60, 3), 7, np.uint8)).shape == (48, 64, 3)
    labels = crop.of_labels(np.full((40, 60), 3, np.uint8))
    assert labels.shape == (48, 64) and (labels == 3).sum() == 20 * 30 and (labels == UNLABELLED).sum() == 48 * 64 - 600


def test_rare_classes_weigh_more(training: ModuleType) -> None:
    labels = np.array([[0] * 16, [1] * 4 + [UNLABELLED] * 12], np.uint8)
    weights = training.class_weights([labels], 2)
    assert weights[1] == pytest.approx(2 * weights[0]) and 0.8 * weights[0] + 0.2 * weights[1] == pytest.approx(1)


def test_labels_decide_between_groups_and_answers_within(street: ModuleType) -> None:
    targets = street.Targets.between(CITY, CAMVID, torch.arange(1.0, 12.0))
    answers = torch.full((1, 19, 1, 3), 0.02)
    road, car, truck = (CITY.names.index(name) for name in ("road", "car", "truck"))
    answers[:, road] = 0.5
    answers[:, truck] = 0.3
    answers[:, car] = 0.1
    labels = torch.tensor([[[CAMVID.names.index("car"), CAMVID.names.index("sky"), UNLABELLED]]])
    wanted, weights = targets(labels, answers)
    torch.testing.assert_close(wanted.sum(1), torch.ones(1, 1, 3))
    assert wanted[0, truck, 0, 0] / wanted[0, car, 0, 0] == pytest.approx(3, rel=0.02) and wanted[0, road, 0, 0] == 0
    assert wanted[0, CITY.names.index("sky"), 0, 1] == 1  # though the network hardly believed it
    torch.testing.assert_close(wanted[0, :, 0, 2], answers[0, :, 0, 2] / answers[0, :, 0, 2].sum(), atol=1e-2, rtol=0)
    assert weights[0, 0, :2].tolist() == pytest.approx([9, 1]) and 1 < weights[0, 0, 2] < 11


def test_the_loss_of_a_labelled_pixel_is_that_of_the_summed_probability(street: ModuleType) -> None:
    """Up to what the answers ask for inside of the group: with those of the model itself, the gradient is the same."""
    torch.manual_seed(0)
    logits = torch.randn(1, 19, 2, 2, requires_grad=True)
    labels = torch.tensor([[[8, 6], [5, 0]]])
    targets = street.Targets.between(CITY, CAMVID, torch.ones(11))
    wanted, _ = targets(labels, logits.detach().softmax(1) * 1e6)
    (soft,) = torch.autograd.grad(-(wanted * logits.log_softmax(1)).sum(), logits)
    merged = ClassMap.between(CITY, CAMVID).merge_logits(logits)
    (hard,) = torch.autograd.grad(functional.cross_entropy(merged, labels, reduction="sum"), logits)
    torch.testing.assert_close(soft, hard, atol=1e-4, rtol=0)


def test_answers_on_a_mirrored_view_lie_where_the_image_does(street: ModuleType) -> None:
    torch.manual_seed(1)
    model = ESPNetv2(CITY, outputs=20).eval()
    image = np.random.default_rng(0).integers(0, 256, (60, 96, 3), np.uint8)
    plain = street.answers(model, image, ((96, False),))
    mirrored = street.answers(model, np.ascontiguousarray(image[:, ::-1]), ((96, True),))
    assert plain.shape == (19, 150, 240)
    assert np.abs(plain.astype(int) - mirrored).max() <= 1
    np.testing.assert_allclose(plain.sum(0, dtype=int), 255, atol=10)


@pytest.mark.parametrize("seed", range(5))
def test_every_fault_leaves_an_image(street: ModuleType, seed: int) -> None:
    random = np.random.default_rng(seed)
    image = random.random((37, 50, 3), np.float32)
    for worsen, _ in street.WORSENINGS:
        worse = worsen(image, random)
        assert worse.shape == image.shape and worse.dtype == np.float32 and np.isfinite(worse).all()
        assert np.abs(worse - image).max() > 0
    pixels = (image * 255).astype(np.uint8)
    worse = street.worsened(pixels, random)
    assert worse.shape == image.shape and worse.min() >= 0 and worse.max() <= 1


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["street", "camvid"])
def test_a_training_from_beginning_to_end(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A few steps on a few small frames write a file that loads, differs from the start and is scored."""
    random = np.random.default_rng(0)
    for number in range(2):
        for folder, high in (("drive/images", 256), ("drive/labels", 12), ("video/images", 256)):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            shape = (45, 60) if folder.endswith("labels") else (45, 60, 3)
            cv2.imwrite(str(tmp_path / folder / f"{number}.png"), random.integers(0, high, shape, np.uint8))
    torch.manual_seed(0)
    start, out = tmp_path / "start.safetensors", tmp_path / "out.safetensors"
    save_file(ESPNetv2(CITY, outputs=20).state_dict(), start)
    module = tool(f"train_{name}", monkeypatch)
    monkeypatch.setattr(module, "INPUT_SIZE", (48, 64))
    if name == "street":
        monkeypatch.setattr(module, "CROPS", ((48, 64, 2),))
        monkeypatch.setattr(module, "UNLABELLED_VIEWS", ((96, False), (64, True)))
        monkeypatch.setattr(module, "LABELLED_VIEWS", ((64, False),))
        arguments = ["--labelled", "drive", "--unlabelled", "video", "--cache", "cache", "--steps", "3"]
    else:
        arguments = ["--data", "drive", "--epochs", "2", "--batch", "2", "--threads", "1"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [name, *arguments, "--start", str(start), "--out", str(out)])
    threads = torch.get_num_threads()
    try:
        module.main()
    finally:
        torch.set_num_threads(threads)
    first, last = load_espnetv2(start), load_espnetv2(out)
    assert last.outputs.names == (CITY if name == "street" else CAMVID).names
    assert not torch.equal(first.base_net.level1.conv.weight, last.base_net.level1.conv.weight)
    assert all(torch.isfinite(value).all() for value in last.state_dict().values())
    assert re.search(r"loss \d+\.\d{4}", capsys.readouterr().out)
    assert not list(tmp_path.glob(".*.partial"))


def test_a_class_that_no_image_shows_has_no_weight(training: ModuleType) -> None:
    labels = [np.array([[0, 0, 0, 1], [0, UNLABELLED, 3, 3]], np.uint8)]
    weights = training.class_weights(labels, 4)
    share = torch.tensor([4, 1, 0, 2]) / 7
    assert weights[2] == 0 and bool(weights.isfinite().all())
    assert float((weights * share).sum()) == pytest.approx(1)
    assert (weights[1] / weights[0]).item() == pytest.approx(2)
