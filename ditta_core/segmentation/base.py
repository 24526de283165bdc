"""One protocol for every image segmentation model: encode, decode, classify."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ditta_core.classes import ClassList, ClassMap
from ditta_core.datasets.paths import expanded

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class PixelFormat:
    """What a network takes for pixels.

    Attributes:
        mean, std: Mean and deviation of the channels for values in 0..1, in the network's channel order.
        blue_first: Whether the network was trained with BGR images.
    """

    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    blue_first: bool = False


class SegmentationModel(nn.Module):
    """An image segmentation model split where adaptation needs it split.

    ``encode`` is the part that stays frozen, ``decode`` and ``classify`` the part that adapts. A frame is encoded once;
    its features serve every pass of an adaptation.

    Class attributes:
        size_multiple: Number that the sides of the network input must be multiples of.
        embedding_dim: Channels of the embedding, D.
        temporal_pool: Factor from the stride of the logits to that of the temporal add-on's maps, which is about 4.
        decodes_crops: Whether a crop of the features, all maps [N, channels, h, w], decodes to about that crop of the
            logits, so that an adaptation may train on parts of frames; not where positions or sizes count.
        compilable: Whether the network may be traced and compiled; not where something else than torch runs it.
        reentrant: Whether two threads may run it at once; not where it keeps something during a pass.
        logits_align_corners: Convention in which the logits are enlarged to the network input.

    Attributes:
        fixed_input_size: Network input (H, W) where the network admits only that one, else None.
        adapts: What an adaptation changes of this model, in a sentence, where that is less than of others; else empty.
        statistics_share: Share, 0..1, of other statistics than the training's that BatchNorm layers took in earlier
            adaptations; 0 for a model as it was trained.
        add_on_weights: Initial weights of the temporal add-on by their names in ``TemporalSegmenter``, where the
            model's file has them; empty for random ones.
    """

    size_multiple: int = 32
    embedding_dim: int
    temporal_pool: int = 1
    decodes_crops: bool = False
    compilable: bool = True
    reentrant: bool = True
    logits_align_corners: bool = False
    mean: Tensor
    std: Tensor

    def __init__(self, outputs: ClassList, pixel_format: PixelFormat | None = None) -> None:
        super().__init__()
        self.outputs = outputs
        self.class_map = ClassMap.identity(outputs)
        self.pixel_format = pixel_format or PixelFormat()
        self.fixed_input_size: tuple[int, int] | None = None
        self.adapts = ""
        self.statistics_share = 0.0
        self.add_on_weights: dict[str, Tensor] = {}
        self.register_buffer("mean", torch.tensor(self.pixel_format.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(self.pixel_format.std).view(1, 3, 1, 1), persistent=False)

    # --- what a model implements ---------------------------------------------------------------------------------

    @property
    @abstractmethod
    def encoder(self) -> nn.Module:
        """The frozen part; every other parameter of the model belongs to the decoder."""

    @abstractmethod
    def encode(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Normalised pixels float [N, 3, H, W] -> features, batch first."""

    @abstractmethod
    def decode(self, features: Sequence[Tensor]) -> Tensor:
        """Features -> embedding Z, float [N, D, h, w]."""

    @abstractmethod
    def classify_outputs(self, embedding: Tensor) -> Tensor:
        """Embedding -> logits of the model's own outputs, float [N, len(outputs), h, w]."""

    @property
    def output_bias(self) -> Tensor | None:
        """What the last layer adds to the logits of the outputs, float [len(outputs)] or more; None without one."""
        return None

    # --- what every model shares -----------------------------------------------------------------------------------

    @property
    def classes(self) -> ClassList:
        """The classes published: the model's own outputs, or the user's subset or merge of them."""
        return self.class_map.classes

    def set_classes(self, class_map: ClassMap) -> None:
        """Publish the classes of ``class_map`` in place of the model's own outputs.

        Raises:
            ValueError: the map was made for other outputs.
        """
        outputs, given = list(self.outputs.names), list(class_map.source.names)
        if given != outputs:
            raise ValueError(f"expected a class map over the model's outputs {outputs}, but got one over {given}")
        self.class_map = class_map

    def classify(self, embedding: Tensor) -> Tensor:
        """Embedding -> logits of the published classes, float [N, C', h, w].

        Merged classes are log-sum-exp of their members, so that their softmax is the sum of the members'
        probabilities. Where outputs belong to no published class, C' = C + 1 and the last channel holds them.
        """
        return self.class_map.merge_logits(self.classify_outputs(embedding))

    def decoder_parameters(self) -> list[nn.Parameter]:
        """All parameters that are not the encoder's."""
        frozen = {id(parameter) for parameter in self.encoder.parameters()}
        return [parameter for parameter in self.parameters() if id(parameter) not in frozen]

    def preprocess(self, images: NDArray[np.uint8], input_size: tuple[int, int], device: torch.device) -> Tensor:
        """RGB uint8 [N, H0, W0, 3] -> normalised pixels float32 [N, 3, H, W] on ``device``, resized bilinearly.

        The sides of ``input_size``, (H, W), are multiples of ``size_multiple``.

        Raises:
            ValueError: the model takes images of one size, and ``input_size`` is another.
        """
        if self.fixed_input_size not in (None, tuple(input_size)):
            raise ValueError(
                f"expected the network input {self.fixed_input_size} (height, width), the only one that this "
                f"model admits, but got {tuple(input_size)}; leave the input size to the model"
            )
        pixels = torch.from_numpy(np.ascontiguousarray(images)).to(device).permute(0, 3, 1, 2)
        if tuple(pixels.shape[-2:]) != tuple(input_size):
            # Antialiased and rounded to whole numbers, as PIL did in training and in the published figures:
            # docs/ablations.md#rounding-of-resized-pixels. The CPU resizes uint8 as it is and rounds; CUDA cannot.
            if pixels.device.type != "cpu":
                pixels = pixels.float()
            pixels = F.interpolate(pixels, tuple(input_size), mode="bilinear", align_corners=False, antialias=True)
            if pixels.is_floating_point():
                pixels = pixels.round()
        if self.pixel_format.blue_first:
            pixels = pixels.flip(1)
        return pixels.float().div_(255.0).sub_(self.mean).div_(self.std)

    def input_size(self, image_size: tuple[int, int], long_side: int) -> tuple[int, int]:
        """Network input (H, W) for an image: longest side ``long_side``, aspect kept, sides rounded to multiples.

        ``long_side`` 0 keeps the image's own scale. A model of one size has that one, whatever the image.
        """
        if self.fixed_input_size is not None:
            return self.fixed_input_size
        height, width = image_size
        scale = long_side / max(height, width) if long_side else 1.0
        multiple = self.size_multiple
        rounded = [max(multiple, int(side * scale / multiple + 0.5) * multiple) for side in (height, width)]
        return rounded[0], rounded[1]

    def common_size(self, input_size: tuple[int, int]) -> tuple[int, int] | None:
        """Network input (H, W) to trace at for one graph of all inputs for which it is given, this one among them.

        None where the trace depends on the size, such as by a loop or a number that is worked out in Python: every size
        is traced by itself then.
        """
        return None

    def check_input_size(self, input_size: tuple[int, int]) -> None:
        """Raise a ValueError with a remedy where the model takes no network input of this size (H, W)."""
        height, width = input_size
        if self.fixed_input_size is not None and self.fixed_input_size != (height, width):
            own_height, own_width = self.fixed_input_size
            raise ValueError(
                f"expected a network input of {own_width}x{own_height} pixels, the only one that this "
                f"model admits, but got {width}x{height}; leave the input size to the model"
            )
        if self.fixed_input_size is None and (height % self.size_multiple or width % self.size_multiple):
            near_height, near_width = self.input_size(input_size, 0)
            raise ValueError(
                f"expected a network input with sides in multiples of {self.size_multiple} pixels for this model, but "
                f"got {width}x{height}; take {near_width}x{near_height}"
            )

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalised pixels [N, 3, H, W] -> logits enlarged to [N, C', H, W]."""
        logits = self.classify(self.decode(self.encode(pixels)))
        return self.enlarge_logits(logits, (pixels.shape[-2], pixels.shape[-1]))

    def enlarge_logits(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Logits [N, C', h, w] -> [N, C', H, W] in the model's own resize convention."""
        logits = self.prepare_enlargement(logits)
        return F.interpolate(logits, size, mode="bilinear", align_corners=self.logits_align_corners)

    def prepare_enlargement(self, logits: Tensor) -> Tensor:
        """What of :meth:`enlarge_logits` comes before the interpolation to the size asked for."""
        return logits


def existing_file(path: str | Path) -> Path:
    """The path of a weight file, ``~`` expanded; a FileNotFoundError where there is no such file."""
    path = expanded(path)
    if not path.is_file():
        raise FileNotFoundError(f"expected a weight file, but {path} does not exist")
    return path


def available_device(name: str) -> torch.device:
    """The device of torch of that name; a ValueError where it is not there."""
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"expected a torch device that is there, but got {name!r}: {error}") from error
    if device.type == "meta":  # tensors without values
        raise ValueError(f"expected a torch device that computes, such as cpu or cuda:0, but got {name!r}")
    return device


def load_state_dict_file(path: str | Path, nested: Sequence[str] = ()) -> dict[str, Tensor]:
    """Tensors of a ``.safetensors`` file or of a ``torch.save``d state dict, on the CPU, without unpickling code.

    Args:
        nested: names under which a ``torch.save``d file may hold the state dict among other things.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file cannot be read as weights.
    """
    path = existing_file(path)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path, device="cpu")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # both readers raise a dozen types for a damaged file
        raise ValueError(f"expected a readable weight file, but {path} is not one: {error}") from error
    if isinstance(state, dict):
        state = next((state[name] for name in nested if name in state), state)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"expected a flat dictionary of tensors in {path}, but got {type(state).__name__}")
    return dict(state)
