"""What the trainers of the packaged models share: augmentation, balancing of classes, optimisation and scores."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from ditta_core.segmentation.base import SegmentationModel
from ditta_core.types import UNLABELLED

WARM_UP_STEPS = 50


@dataclass(frozen=True)
class Crop:
    """Where a crop lies in an image that was resized, padded at the bottom and right, cropped and perhaps mirrored.

    Attributes:
        scaled: height and width of the resized image.
        offset: row and column of the crop's first pixel in it.
        size: height and width of the crop.
        mirrored: whether the crop was mirrored left to right.
    """

    scaled: tuple[int, int]
    offset: tuple[int, int]
    size: tuple[int, int]
    mirrored: bool

    @classmethod
    def draw(
        cls, image_size: tuple[int, int], scale: float, size: tuple[int, int], random: np.random.Generator
    ) -> Crop:
        """A crop at random of an image of ``image_size`` resized by ``scale``."""
        scaled = max(1, round(image_size[0] * scale)), max(1, round(image_size[1] * scale))
        top, left = (int(random.integers(0, max(0, a - b) + 1)) for a, b in zip(scaled, size, strict=True))
        return cls(scaled, (top, left), size, bool(random.random() < 0.5))

    def of_image(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Cut from an image [H, W, 3]; reflected where it is too small."""
        method = cv2.INTER_AREA if self.scaled[0] < image.shape[0] else cv2.INTER_LINEAR
        return self._cut(cv2.resize(image, self.scaled[::-1], interpolation=method), cv2.BORDER_REFLECT_101)

    def of_labels(self, labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Cut from a label image [H, W]; unlabelled where it is too small."""
        return self._cut(cv2.resize(labels, self.scaled[::-1], interpolation=cv2.INTER_NEAREST), cv2.BORDER_CONSTANT)

    def _cut(self, image: NDArray[np.uint8], border: int) -> NDArray[np.uint8]:
        (height, width), (top, left) = self.size, self.offset
        below, beside = max(0, height - image.shape[0]), max(0, width - image.shape[1])
        image = cv2.copyMakeBorder(image, 0, below, 0, beside, border, value=(UNLABELLED,) * 3)
        image = image[top : top + height, left : left + width]
        return np.ascontiguousarray(image[:, ::-1] if self.mirrored else image)

    def positions(self, stride: int) -> NDArray[np.float32]:
        """Where every ``stride``-th pixel lies in the whole image: [h, w, 2], -1..1, as ``grid_sample`` takes it."""
        rows, columns = (
            (np.arange(0, length, stride) + offset + 0.5) * 2 / whole - 1
            for length, offset, whole in zip(self.size, self.offset, self.scaled, strict=True)
        )
        if self.mirrored:
            _, left = self.offset
            columns = (self.size[1] - 1 - np.arange(0, self.size[1], stride) + left + 0.5) * 2 / self.scaled[1] - 1
        return np.stack(np.broadcast_arrays(columns[None, :], rows[:, None]), -1).astype(np.float32)


def relit(image: NDArray[np.uint8], random: np.random.Generator, strength: float = 1.0) -> NDArray[np.float32]:
    """Gamma, gain, colour cast and contrast at random: an image [H, W, 3] -> float32 of 0..1."""
    lit = image.astype(np.float32) / 255
    lit = lit ** np.float32(np.exp(random.normal(0, 0.25 * strength)))
    lit = lit * np.float32(np.exp(random.normal(0, 0.15 * strength)))
    lit = lit * np.exp(random.normal(0, 0.05 * strength, 3)).astype(np.float32)
    mean = lit.mean()
    lit = (lit - mean) * np.float32(np.exp(random.normal(0, 0.15 * strength))) + mean
    return np.clip(lit, 0, 1, dtype=np.float32)


def class_weights(labels: Sequence[NDArray[np.uint8]], classes: int) -> Tensor:
    """Square root of the inverse frequency, mean weight of a pixel 1; 0 for a class that no image shows."""
    counts = sum(np.bincount(image[image != UNLABELLED], minlength=classes) for image in labels)
    share = np.asarray(counts, np.float64) / np.sum(counts)
    weights = np.divide(1, np.sqrt(share), out=np.zeros_like(share), where=share > 0)
    return torch.tensor(weights / (weights * share).sum(), dtype=torch.float32)


def normalised(model: SegmentationModel, images: Sequence[NDArray[np.float32]]) -> Tensor:
    """Images [H, W, 3] of 0..1 -> what the model reads, [N, 3, H, W]."""
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).sub(model.mean).div(model.std)
    return pixels.contiguous(memory_format=torch.channels_last)


class Trainer:
    """AdamW with a rate of its own for the encoder, a cosine schedule and weights averaged exponentially over steps.

    Args:
        rate: peak learning rate of the decoder.
        encoder_share: the encoder's rate as a share of the decoder's.
        steps: length of the schedule.
    """

    def __init__(self, model: SegmentationModel, rate: float, encoder_share: float, steps: int) -> None:
        self.model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.averaged = copy.deepcopy(self.model)
        self.steps = steps
        self.step = 0
        self._rates = (rate, rate * encoder_share)
        parameters = (model.decoder_parameters(), list(model.encoder.parameters()))
        self._optimizer = torch.optim.AdamW([{"params": group} for group in parameters], weight_decay=0.01)

    def train(self, loss: Tensor) -> float | None:
        """One step down the gradient of a loss, whose value is given back; None where the step is left out.

        It is where the gradient is not finite.

        The schedule can be cut short or drawn out by setting ``steps``.
        """
        factor = min(1.0, (self.step + 1) / WARM_UP_STEPS)
        factor *= 0.5 * (1 + math.cos(math.pi * min(1.0, self.step / self.steps)))
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), max_norm=1.0)
        if not torch.isfinite(norm):  # 3 of 540 steps under bfloat16; one such step would end the training
            print(f"step {self.step} left out: its gradient is not finite", flush=True)
            return None
        self._optimizer.step()
        decay = min(0.99, (self.step + 1) / (self.step + 10))
        with torch.no_grad():
            for mean, value in zip(self.averaged.state_dict().values(), self.model.state_dict().values(), strict=True):
                mean.lerp_(value, 1 - decay) if mean.is_floating_point() else mean.copy_(value)
        self.step += 1
        return loss.item()

    def save(self, path: str | Path, **metadata: str) -> None:
        """Write the averaged weights as safetensors; the file is never half written."""
        path = Path(path)
        partial = path.with_name(f".{path.name}.partial")
        state = {key: value.contiguous() for key, value in self.averaged.state_dict().items()}
        save_file(state, partial, metadata={"model": "espnetv2", "scale": "2.0", **metadata})
        partial.replace(path)


def score(
    model: SegmentationModel,
    images: Sequence[NDArray[np.uint8]],
    labels: Sequence[NDArray[np.uint8]],
    input_size: tuple[int, int],
) -> float:
    """Mean IoU in percent over the classes present."""
    classes = len(model.classes)
    confusion = np.zeros((classes, classes))
    model.eval()
    for image, label in zip(images, labels, strict=True):
        with torch.inference_mode():
            logits = model(model.preprocess(image[None], input_size, torch.device("cpu")))
            predicted = F.interpolate(logits, label.shape, mode="bilinear")[0].argmax(0).numpy()
        valid = label != UNLABELLED
        confusion += np.bincount(classes * label[valid].astype(int) + predicted[valid], minlength=classes**2).reshape(
            classes, classes
        )
    union = confusion.sum(0) + confusion.sum(1) - np.diag(confusion)
    present = confusion.sum(1) > 0
    return float(100 * (np.diag(confusion)[present] / union[present]).mean())
