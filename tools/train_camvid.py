r"""Train the packaged ``camvid`` model: ESPNetv2 s=2.0 from the Cityscapes weights to CamVid's 11 classes.

    python tools/train_camvid.py --data ../shared/data/camvid/train \
        --start ../shared/weights/espnetv2_s_2.0_city_1024x512.pth --out ditta_core/weights/camvid.safetensors

One fixed recipe, nothing chosen on the evaluation clip. The classifier starts from the Cityscapes classifier (mean over
the members of each CamVid class), so training starts at a useful model. AdamW, decoder 5x the encoder's rate, cosine
schedule with warm-up, square-root class balancing, random flip, scale, crop, brightness, contrast, gamma and colour
cast (adaptation is there for what is left), weights averaged exponentially over steps. ``--hold-out`` leaves the last
ten of every fifty frames out of the training and prints the score on them, for changing the recipe.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import save_file

from ditta_core.classes import ClassList, ClassMap
from ditta_core.datasets.camvid import CamVidSequence
from ditta_core.segmentation.espnetv2 import ESPNetv2, load_espnetv2
from ditta_core.types import UNLABELLED

INPUT_SIZE = (368, 480)


def starting_model(path: str) -> ESPNetv2:
    """The Cityscapes network with its classifier folded onto CamVid's classes."""
    city = load_espnetv2(path)
    camvid = ClassList.packaged("camvid11")
    assignment = ClassMap.between(city.outputs, camvid).assignment
    state = city.state_dict()
    for key in ("bu_dec_l4.merge_layer.3.weight", "bu_dec_l4.merge_layer.3.bias"):
        members = [[i for i, owner in enumerate(assignment) if owner == target] for target in range(len(camvid))]
        state[key] = torch.stack([state[key][rows].mean(0) for rows in members])
    model = ESPNetv2(camvid)
    model.load_state_dict(state)
    return model


def augment(
    image: NDArray[np.uint8], labels: NDArray[np.uint8], random: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Image and labels [H, W] -> float32 0..255 and labels at INPUT_SIZE; flip, scale, crop and light at random."""
    height, width = INPUT_SIZE
    scale = float(np.exp(random.uniform(math.log(0.75), math.log(1.7))))
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    labels = cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST)
    pad = (max(0, height - size[1]), max(0, width - size[0]))
    image = cv2.copyMakeBorder(image, 0, pad[0], 0, pad[1], cv2.BORDER_REFLECT_101)
    labels = cv2.copyMakeBorder(labels, 0, pad[0], 0, pad[1], cv2.BORDER_CONSTANT, value=UNLABELLED)
    top = random.integers(0, image.shape[0] - height + 1)
    left = random.integers(0, image.shape[1] - width + 1)
    image = image[top : top + height, left : left + width]
    labels = labels[top : top + height, left : left + width]
    if random.random() < 0.5:
        image, labels = image[:, ::-1], labels[:, ::-1]
    lit = image.astype(np.float32) / 255
    lit = np.clip(lit, 0, 1) ** np.float32(np.exp(random.normal(0, 0.25)))
    lit = lit * np.exp(random.normal(0, 0.15)) * np.exp(random.normal(0, 0.05, 3)).astype(np.float32)
    lit = (lit - lit.mean()) * np.float32(np.exp(random.normal(0, 0.15))) + lit.mean()
    return np.clip(lit, 0, 1).astype(np.float32) * 255, np.ascontiguousarray(labels)


def class_weights(labels: list[NDArray[np.uint8]], classes: int) -> torch.Tensor:
    """Square root of the inverse frequency, mean weight of a pixel 1."""
    counts = sum(np.bincount(image[image != UNLABELLED], minlength=classes) for image in labels).astype(np.float64)
    share = counts / counts.sum()
    weights = 1 / np.sqrt(share)
    return torch.tensor(weights / (weights * share).sum(), dtype=torch.float32)


def score(model: ESPNetv2, images: list[NDArray[np.uint8]], labels: list[NDArray[np.uint8]]) -> float:
    """Mean IoU in percent over the classes present."""
    classes = len(model.classes)
    confusion = np.zeros((classes, classes))
    model.eval()
    for image, label in zip(images, labels, strict=True):
        with torch.inference_mode():
            logits = model(model.preprocess(image[None], INPUT_SIZE, torch.device("cpu")))
            predicted = F.interpolate(logits, label.shape, mode="bilinear")[0].argmax(0).numpy()
        valid = label != UNLABELLED
        confusion += np.bincount(classes * label[valid].astype(int) + predicted[valid], minlength=classes**2).reshape(
            classes, classes
        )
    union = confusion.sum(0) + confusion.sum(1) - np.diag(confusion)
    present = confusion.sum(1) > 0
    return float(100 * (np.diag(confusion)[present] / union[present]).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with images/ and labels/")
    parser.add_argument("--start", required=True, help="Cityscapes weight file")
    parser.add_argument("--out", required=True, help="safetensors file to write")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=1.5e-3, help="peak learning rate of the decoder")
    parser.add_argument("--seed", type=int, default=5123)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--hold-out", action="store_true")
    arguments = parser.parse_args()

    torch.manual_seed(arguments.seed)
    torch.set_num_threads(arguments.threads)
    cv2.setNumThreads(1)
    random = np.random.default_rng(arguments.seed)
    sequence = CamVidSequence(arguments.data, frame_rate=1.0)
    images = [sequence.image(index) for index in range(len(sequence))]
    labels = [sequence.labels(index) for index in range(len(sequence))]
    held_out = [i for i in range(len(images)) if arguments.hold_out and i % 50 >= 40]
    training = [i for i in range(len(images)) if i not in held_out]

    model = starting_model(arguments.start).to(memory_format=torch.channels_last)
    averaged = copy.deepcopy(model)
    weights = class_weights([labels[i] for i in training], len(model.classes))
    optimizer = torch.optim.AdamW(
        [
            {"params": model.decoder_parameters(), "rate": arguments.rate},
            {"params": list(model.encoder.parameters()), "rate": arguments.rate / 5},
        ],
        weight_decay=0.01,
    )
    steps = arguments.epochs * (len(training) // arguments.batch)
    step = 0
    for epoch in range(arguments.epochs):
        start, total = time.perf_counter(), 0.0
        model.train()
        order = random.permutation(training)
        for batch in order[: len(order) // arguments.batch * arguments.batch].reshape(-1, arguments.batch):
            augmented = [augment(images[i], labels[i], random) for i in batch]
            pixels = torch.from_numpy(np.stack([image for image, _ in augmented])).permute(0, 3, 1, 2)
            pixels = pixels.div(255).sub(model.mean).div(model.std).contiguous(memory_format=torch.channels_last)
            targets = torch.from_numpy(np.stack([label for _, label in augmented])).long()
            factor = min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / steps))
            for group in optimizer.param_groups:
                group["lr"] = group["rate"] * factor
            # bfloat16 halves the time of a step on CPUs that have it; the loss and the weights stay float32.
            with torch.autocast("cpu", dtype=torch.bfloat16):
                logits = model(pixels)
            loss = F.cross_entropy(logits.float(), targets, weights, ignore_index=UNLABELLED, label_smoothing=0.02)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
            if not torch.isfinite(norm):  # 3 of 540 steps under bfloat16; one such step would end the training
                print(f"step {step} left out: its gradient is not finite", flush=True)
                continue
            optimizer.step()
            decay = min(0.99, (step + 1) / (step + 10))
            with torch.no_grad():
                for mean, value in zip(averaged.state_dict().values(), model.state_dict().values(), strict=True):
                    mean.lerp_(value, 1 - decay) if mean.is_floating_point() else mean.copy_(value)
            total += loss.item()
            step += 1
        mean_loss = total / (len(training) // arguments.batch)
        line = f"epoch {epoch + 1} loss {mean_loss:.4f} {time.perf_counter() - start:.0f} s"
        if held_out and (epoch % 5 == 4 or epoch + 1 == arguments.epochs):
            line += (
                f" held-out mIoU {score(averaged, [images[i] for i in held_out], [labels[i] for i in held_out]):.2f}"
            )
        print(line, flush=True)
        save_file(
            {key: value.contiguous() for key, value in averaged.state_dict().items()},
            Path(arguments.out),
            metadata={"model": "espnetv2", "scale": "2.0", "classes": "camvid11", "epochs": str(epoch + 1)},
        )


if __name__ == "__main__":
    main()
