r"""Train the packaged ``street`` model: ESPNetv2 s=2.0, the 19 Cityscapes classes, made for 480 pixels.

    python tools/train_street.py --labelled ../shared/data/camvid/train \
        --unlabelled ../shared/data/davis16/{blackswan,bmx-trees,car-roundabout,car-shadow,cows} \
        --start ../shared/weights/espnetv2_s_2.0_city_1024x512.pth --out ditta_core/weights/street.safetensors \
        --cache ~/.cache/street

The Cityscapes weights were made for 1024 pixels. Their own answers there, averaged with those on the mirrored image at
640 pixels, are the targets on frames without labels. Where CamVid has a label, it decides between the groups of classes
that it knows, and the answers (at 640 pixels) only within the group: the loss is then that of the summed probability
of the merged classes plus the distillation inside of them. Frames are seen at 320 to 640 pixels of width, so that the
network learns to see at 480 what it sees at 1024. About half of the images are worsened at random (light, noise, veil,
blur, JPEG), by other code than ``ditta_core/evaluation/corruptions.py``. Neither the evaluation clip nor a mask of
DAVIS takes part. ``--hold-out`` leaves the last ten of every fifty labelled frames out of the training and prints the
score on them, for changing the recipe.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from training import Crop, Trainer, class_weights, normalised, relit, score

from ditta_core.classes import ClassList, ClassMap
from ditta_core.datasets.camvid import CamVidSequence
from ditta_core.datasets.images import read_image
from ditta_core.datasets.names import image_files
from ditta_core.datasets.paths import output_path
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.segmentation.espnetv2 import load_espnetv2
from ditta_core.types import UNLABELLED

INPUT_SIZE = (368, 480)
WIDTHS = (320.0, 640.0)
"""Width in pixels at which a whole frame is seen, least and most."""
CROPS = ((240, 320, 6), (288, 384, 4), (368, 480, 3))
"""Height and width of a step's crops and how many: about as many pixels in each."""
STRIDE = 2
"""Pixels of the input to one of the logits."""
View = tuple[int, bool]
"""Width of the whole image in pixels, and whether it is mirrored."""
UNLABELLED_VIEWS: tuple[View, ...] = ((1024, False), (640, True))
LABELLED_VIEWS: tuple[View, ...] = ((640, False),)
"""Where there are labels, only the classes within a group are asked for."""
ANSWER_WIDTH = 240
"""Width at which answers are kept: that of the logits of an image 480 pixels wide."""
UNLABELLED_SHARE = 0.33
"""Share of the images that have no labels."""
UNLABELLED_INTERVAL = 3
"""Of unlabelled video, every third frame: neighbours are alike."""
LEAST = 1e-3
"""Least probability of an allowed class before the answers are normalised within their group."""
MOMENTUM = 0.02
FROZEN_FROM = 0.6
"""Share of the schedule after which the statistics of the batch normalisation stay as they are."""


@dataclass(frozen=True)
class Frame:
    """An image [H, W, 3], its labels [H, W] where it has them, and the network's own answers uint8 [C, h, w]."""

    image: NDArray[np.uint8]
    labels: NDArray[np.uint8] | None
    answers: NDArray[np.uint8]


# --- the network's own answers ---------------------------------------------------------------------------------------


def answers(model: SegmentationModel, image: NDArray[np.uint8], views: Sequence[View]) -> NDArray[np.uint8]:
    """Probabilities times 255, [C, h, w]: the mean over the views."""
    height = round(image.shape[0] * ANSWER_WIDTH / image.shape[1])
    total = torch.zeros(1, len(model.outputs), height, ANSWER_WIDTH)
    for width, mirrored in views:
        view = np.ascontiguousarray(image[:, ::-1] if mirrored else image)
        pixels = model.preprocess(view[None], model.input_size(image.shape[:2], width), torch.device("cpu"))
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(pixels.contiguous(memory_format=torch.channels_last))
        probabilities = logits.float().softmax(1)
        probabilities = F.interpolate(probabilities, total.shape[-2:], mode="bilinear", antialias=True)
        total += probabilities.flip(-1) if mirrored else probabilities
    return total[0].mul(255 / len(views)).round().byte().numpy()


def cached_answers(model: SegmentationModel, path: Path, views: Sequence[View], folder: Path) -> NDArray[np.uint8]:
    """The answers on an image file, from the cache or put into it."""
    file = folder / path.parent.parent.name / f"{path.stem}.npy"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".partial")
        with partial.open("wb") as stream:
            np.save(stream, answers(model, read_image(path), views))
        partial.replace(file)
    return np.asarray(np.load(file, mmap_mode="r"))


def load_frames(arguments: argparse.Namespace) -> tuple[list[Frame], list[Frame]]:
    """Labelled and unlabelled frames."""
    teacher = load_espnetv2(arguments.start).eval().to(memory_format=torch.channels_last)
    cache = output_path(arguments.cache) / hashlib.sha256(Path(arguments.start).read_bytes()).hexdigest()[:16]
    sequence = CamVidSequence(arguments.labelled, frame_rate=1.0)
    labelled = [
        Frame(read_image(path), sequence.labels(index), cached_answers(teacher, path, LABELLED_VIEWS, cache))
        for index, path in enumerate(image_files(Path(arguments.labelled) / "images"))
    ]
    unlabelled = [
        Frame(read_image(path), None, cached_answers(teacher, path, UNLABELLED_VIEWS, cache))
        for folder in arguments.unlabelled
        for path in image_files(Path(folder) / "images")[::UNLABELLED_INTERVAL]
    ]
    return labelled, unlabelled


# --- worse images ----------------------------------------------------------------------------------------------------


def cloud(size: tuple[int, int], random: np.random.Generator) -> NDArray[np.float32]:
    """A smooth field at random, [H, W, 1] of 0..1."""
    field = np.zeros(size, np.float32)
    for cells in (2, 4, 8, 16):
        grid = random.random((cells, cells), np.float32)
        field += cv2.resize(grid, size[::-1], interpolation=cv2.INTER_CUBIC) / np.float32(cells**0.7)
    field -= field.min()
    return (field / max(float(field.max()), 1e-6))[:, :, None]


def veiled(image: NDArray[np.float32], random: np.random.Generator) -> NDArray[np.float32]:
    """Light scattered into the picture, as by fog, denser in some places."""
    thickness = random.uniform(0.5, 3.0)
    air = np.float32(random.uniform(0.7, 1.0)) * np.exp(random.normal(0, 0.04, 3)).astype(np.float32)
    density = cloud((image.shape[0], image.shape[1]), random) * random.uniform(0.3, 1.0)
    density += random.uniform(0, 1)
    return (image + np.float32(thickness) * density * air) / np.float32(1 + thickness)


def blurred(image: NDArray[np.float32], random: np.random.Generator) -> NDArray[np.float32]:
    """Out of focus, or moved along a line."""
    if random.random() < 0.5:
        return cv2.GaussianBlur(image, (0, 0), random.uniform(0.5, 2.5))
    length = int(random.integers(3, 20))
    kernel = np.zeros((length, length), np.float32)
    angle = random.uniform(0, math.pi)
    reach = (length - 1) / 2 * np.array([math.cos(angle), math.sin(angle)])
    first, last = ((length - 1) / 2 - reach).round().astype(int), ((length - 1) / 2 + reach).round().astype(int)
    cv2.line(kernel, first.tolist(), last.tolist(), 1.0)
    return cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REPLICATE)


def darkened(image: NDArray[np.float32], random: np.random.Generator) -> NDArray[np.float32]:
    """Too little light: a steeper curve, less of it, and the noise of counted photons and of reading them."""
    dark = image ** np.float32(random.uniform(1.0, 2.2)) * np.float32(random.uniform(0.25, 0.9))
    photons, reading = random.uniform(60, 500), random.uniform(0, 0.03)
    deviation = np.sqrt(dark / np.float32(photons) + np.float32(reading**2))
    return dark + deviation * random.standard_normal(image.shape, np.float32)


def noisy(image: NDArray[np.float32], random: np.random.Generator) -> NDArray[np.float32]:
    """Noise of any strength, coloured or grey, fine or in grains of two pixels."""
    height, width, channels = image.shape
    grain = 2 if random.random() < 0.2 else 1
    shape = (-(-height // grain), -(-width // grain), 1 if random.random() < 0.25 else channels)
    noise = random.standard_normal(shape, np.float32).repeat(grain, 0).repeat(grain, 1)[:height, :width]
    return image + noise * np.float32(random.uniform(0.02, 0.22))


def compressed(image: NDArray[np.float32], random: np.random.Generator) -> NDArray[np.float32]:
    """JPEG of low quality."""
    pixels = (np.clip(image, 0, 1) * 255).astype(np.uint8)
    _, encoded = cv2.imencode(".jpg", pixels[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, int(random.integers(8, 60))])
    decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    assert decoded is not None  # what was encoded just now
    return decoded[:, :, ::-1].astype(np.float32) / 255


WORSENINGS = ((veiled, 0.2), (blurred, 0.12), (darkened, 0.2), (noisy, 0.2), (compressed, 0.12))
"""In the order in which they happen between scene and file, and how often."""


def worsened(image: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.float32]:
    """Light and colour at random, and in about half of the images one or several faults: float32 of 0..1."""
    lit = relit(image, random, strength=1.4)
    if random.random() < 0.05:
        lit = np.repeat(lit.mean(2, keepdims=True), 3, 2)
    for worsen, probability in WORSENINGS:
        if random.random() < probability:
            lit = worsen(np.clip(lit, 0, 1), random)
    return np.clip(lit, 0, 1).astype(np.float32)


# --- the loss --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Targets:
    """Makes the distribution that the network is to give, from labels and answers.

    Attributes:
        allowed: for each label, and last for pixels without one, the outputs that belong to it, float [G + 1, C].
        weights: for each label the weight of its pixels, [G].
    """

    allowed: Tensor
    weights: Tensor

    @classmethod
    def between(cls, outputs: ClassList, labels: ClassList, weights: Tensor) -> Targets:
        """For a model of ``outputs`` and label images of ``labels``."""
        owners = torch.tensor(ClassMap.between(outputs, labels).assignment)
        allowed = (owners[None] == torch.arange(len(labels))[:, None]).float()
        return cls(torch.cat([allowed, torch.ones(1, len(outputs))]), weights)

    def __call__(self, labels: Tensor, answers: Tensor) -> tuple[Tensor, Tensor]:
        """Labels int64 [N, h, w] and answers [N, C, h, w] -> probabilities [N, C, h, w], weights of pixels [N, h, w].

        Where a pixel has a label, the outputs outside of its group get nothing.
        """
        groups = self.allowed.shape[0] - 1
        rows = torch.where(labels == UNLABELLED, groups, labels)
        wanted = (answers + LEAST) * F.embedding(rows, self.allowed).permute(0, 3, 1, 2)
        wanted = wanted / wanted.sum(1, keepdim=True)
        weights = torch.einsum("nchw,c->nhw", wanted, self.allowed[:groups].T @ self.weights)
        return wanted, weights


def loss_on(model: SegmentationModel, targets: Targets, frames: Sequence[Frame], random: np.random.Generator) -> Tensor:
    """Weighted cross entropy of one crop of each frame."""
    height, width, count = CROPS[int(random.integers(len(CROPS)))]
    images, labels, given = [], [], []
    for frame in frames[:count]:
        seen = math.exp(random.uniform(math.log(WIDTHS[0]), math.log(WIDTHS[1])))
        # A crop smaller than the frame by more than a third would show parts of things more often than things.
        seen = min(seen, 1.6 * width)
        crop = Crop.draw(frame.image.shape[:2], seen / frame.image.shape[1], (height, width), random)
        images.append(worsened(crop.of_image(frame.image), random))
        if frame.labels is None:
            labels.append(np.full((height // STRIDE, width // STRIDE), UNLABELLED, np.uint8))
        else:
            labels.append(crop.of_labels(frame.labels)[::STRIDE, ::STRIDE])
        answered = torch.tensor(frame.answers)[None].float() / 255
        grid = torch.from_numpy(crop.positions(STRIDE))[None]
        given.append(F.grid_sample(answered, grid, padding_mode="reflection", align_corners=False)[0])
    wanted, weights = targets(torch.from_numpy(np.stack(labels)).long(), torch.stack(given))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model.classify_outputs(model.decode(model.encode(normalised(model, images))))
    entropy = -(wanted * logits.float().log_softmax(1)).sum(1)
    return (weights * entropy).sum() / weights.sum()


def freeze_statistics(model: SegmentationModel, momentum: float, frozen: bool) -> None:
    """Train with the statistics of the batch, which move the running ones by ``momentum``, or with the running ones."""
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = momentum
            module.train(not frozen)


def draw(labelled: Sequence[Frame], unlabelled: Sequence[Frame], random: np.random.Generator) -> list[Frame]:
    """The frames of one step."""
    count = max(count for *_, count in CROPS)
    sources = [unlabelled if random.random() < UNLABELLED_SHARE else labelled for _ in range(count)]
    return [source[int(random.integers(len(source)))] for source in sources]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--labelled", required=True, help="folder of CamVid with images/ and labels/")
    add("--unlabelled", required=True, nargs="+", help="folders with images/; whatever else they hold is not read")
    add("--start", required=True, help="Cityscapes weight file")
    add("--out", required=True, help="safetensors file to write, every few minutes")
    add("--cache", required=True, help="folder for the answers of the network")
    add("--steps", type=int, default=900)
    add("--minutes", type=float, default=math.inf, help="shorten the schedule so that training ends in this time")
    add("--rate", type=float, default=1e-3, help="peak learning rate of the decoder")
    add("--seed", type=int, default=5123)
    add("--threads", type=int, default=1)
    add("--hold-out", action="store_true")
    arguments = parser.parse_args()

    torch.manual_seed(arguments.seed)
    torch.set_num_threads(arguments.threads)
    cv2.setNumThreads(1)
    random = np.random.default_rng(arguments.seed)
    labelled, unlabelled = load_frames(arguments)
    held_out = [frame for index, frame in enumerate(labelled) if arguments.hold_out and index % 50 >= 40]
    labelled = [frame for index, frame in enumerate(labelled) if not (arguments.hold_out and index % 50 >= 40)]
    print(f"{len(labelled)} labelled frames, {len(unlabelled)} without labels, {len(held_out)} held out", flush=True)

    model = load_espnetv2(arguments.start)
    camvid = ClassList.packaged("camvid11")
    weights = class_weights([frame.labels for frame in labelled if frame.labels is not None], len(camvid))
    targets = Targets.between(model.outputs, camvid, weights)
    trainer = Trainer(model, arguments.rate, encoder_share=1 / 3, steps=arguments.steps)
    trainer.averaged.set_classes(ClassMap.between(model.outputs, camvid))
    frozen = False
    freeze_statistics(model, MOMENTUM, frozen)
    start, last, losses = time.monotonic(), time.monotonic(), []
    while trainer.step < trainer.steps:
        loss = trainer.train(loss_on(model, targets, draw(labelled, unlabelled, random), random))
        if loss is not None:
            losses.append(loss)
        minutes = (time.monotonic() - start) / 60
        if not frozen and trainer.step >= FROZEN_FROM * trainer.steps:
            frozen = True
            freeze_statistics(model, MOMENTUM, frozen)
        if losses and (trainer.step % 20 == 0 or trainer.step == trainer.steps):
            trainer.steps = int(min(arguments.steps, trainer.step * arguments.minutes / minutes + 1))
            print(f"step {trainer.step}/{trainer.steps} loss {np.mean(losses):.4f} {minutes:.1f} min", flush=True)
            losses.clear()
        if trainer.step >= trainer.steps or time.monotonic() - last > 240:
            last = time.monotonic()
            trainer.save(arguments.out, classes="cityscapes19", steps=str(trainer.step))
    if held_out:
        images = [frame.image for frame in held_out]
        labels = [frame.labels for frame in held_out if frame.labels is not None]
        print(f"held-out mIoU {score(trainer.averaged, images, labels, INPUT_SIZE):.2f}", flush=True)


if __name__ == "__main__":
    main()
