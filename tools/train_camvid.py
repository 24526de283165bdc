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
import math
import time

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from training import Crop, Trainer, class_weights, normalised, relit, score

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


def augmented(
    image: NDArray[np.uint8], labels: NDArray[np.uint8], random: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Image and labels [H, W] -> float32 0..1 and labels at INPUT_SIZE; flip, scale, crop and light at random."""
    scale = float(np.exp(random.uniform(math.log(0.75), math.log(1.7))))
    crop = Crop.draw(image.shape[:2], scale, INPUT_SIZE, random)
    return relit(crop.of_image(image), random), crop.of_labels(labels)


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

    model = starting_model(arguments.start)
    weights = class_weights([labels[i] for i in training], len(model.classes))
    steps = arguments.epochs * (len(training) // arguments.batch)
    trainer = Trainer(model, arguments.rate, encoder_share=1 / 5, steps=steps)
    for epoch in range(arguments.epochs):
        start, total = time.perf_counter(), 0.0
        model.train()
        order = random.permutation(training)
        for batch in order[: len(order) // arguments.batch * arguments.batch].reshape(-1, arguments.batch):
            examples = [augmented(images[i], labels[i], random) for i in batch]
            pixels = normalised(model, [image for image, _ in examples])
            targets = torch.from_numpy(np.stack([label for _, label in examples])).long()
            # bfloat16 halves the time of a step on CPUs that have it; the loss and the weights stay float32.
            with torch.autocast("cpu", dtype=torch.bfloat16):
                logits = model(pixels)
            loss = F.cross_entropy(logits.float(), targets, weights, ignore_index=UNLABELLED, label_smoothing=0.02)
            total += trainer.train(loss) or 0.0
        mean_loss = total / (len(training) // arguments.batch)
        line = f"epoch {epoch + 1} loss {mean_loss:.4f} {time.perf_counter() - start:.0f} s"
        if held_out and (epoch % 5 == 4 or epoch + 1 == arguments.epochs):
            frames, truth = [images[i] for i in held_out], [labels[i] for i in held_out]
            line += f" held-out mIoU {score(trainer.averaged, frames, truth, INPUT_SIZE):.2f}"
        print(line, flush=True)
        trainer.save(arguments.out, classes="camvid11", epochs=str(epoch + 1))


if __name__ == "__main__":
    main()
