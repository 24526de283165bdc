"""Splits any network of the package transformers that labels pixels, without knowing its architecture.

Its forward pass is an encoder, a decoder to one map of features, a convolution to one channel per class, and at most an
enlargement. A :class:`Gate` in the encoder's place ends a pass with its answer, or gives the answer of an earlier one;
another in the classifier's place ends a pass with its input. So the decoder's code is the network's own, whatever the
version of the package, and auxiliary heads never run. The parts must give the network's logits on a random image.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ditta_core.classes import ClassList
from ditta_core.segmentation.base import PixelFormat, SegmentationModel

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PLAIN_PATCH = 8
"""A patch of at least this many pixels is that of a plain vision transformer, whose maps are the image's size divided
by it. Smaller ones are the first of several halvings, after which the stride is 32."""

TOLERANCE = 1e-4
"""Of the parts' logits against the network's, relative to the largest."""


class UnsplittableError(ValueError):
    """The network has no encoder, decoder and per-pixel classifier to tell apart."""


class Reached(Exception):
    """Ends a forward pass at a gate."""

    def __init__(self, value: Any) -> None:
        super().__init__("the pass has reached what it was run for")
        self.value = value


class _Answer(threading.local):
    """What a gate answers in this thread: the network serves frames in one and is compiled in another.

    A copy begins without, as nobody in it would take the answer away.
    """

    value: Any = None

    def __reduce__(self) -> tuple[type[_Answer], tuple[()]]:
        return _Answer, ()


class Gate(nn.Module):
    """Stands in a network where a part of it stood, and ends the forward pass there.

    Args:
        part: the module that stood there.
        stop_before: end with the part's input, without running it; otherwise with its output.
    """

    def __init__(self, part: nn.Module, stop_before: bool) -> None:
        super().__init__()
        self.part = part
        self.stop_before = stop_before
        self._answer = _Answer()

    def __getattr__(self, name: str) -> Any:
        """Whatever else the network asks of the part, such as the stride of a convolution."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("part"), name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self._answer.value is not None:
            return self._answer.value
        raise Reached(args[0] if self.stop_before else self.part(*args, **kwargs))

    def forward_with_filtered_kwargs(self, *args: Any, **kwargs: Any) -> Any:
        """The other way in which a network calls its backbone."""
        if self._answer.value is not None:
            return self._answer.value
        raise Reached(self.part.forward_with_filtered_kwargs(*args, **kwargs))  # type: ignore[operator]

    @contextmanager
    def answering(self, answer: Any) -> Iterator[None]:
        """Let passes through, with ``answer`` for the part's output."""
        self._answer.value = answer
        try:
            yield
        finally:
            self._answer.value = None


class BatchNormOfOne(nn.BatchNorm2d):
    """BatchNorm that takes its running statistics, in training too, where there is but one value per channel.

    Many heads pool the whole map to one pixel; a warm-up trains on one frame at a time, of which such a pixel has no
    statistics, and the plain layer refuses.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.numel() == x.shape[1]:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        return super().forward(x)


def _reach(network: nn.Module, pixels: Tensor) -> Any:
    """Run the network up to the first gate that ends the pass."""
    gradients = torch.is_grad_enabled()
    try:
        # Some networks keep tensors from one pass to the next, BEiT its position indices for all of its copies. Made in
        # inference mode, these would spoil every later pass that is to have gradients.
        with torch.inference_mode(False), torch.set_grad_enabled(gradients):
            network(pixels)
    except Reached as end:
        return end.value
    raise UnsplittableError(f"{type(network).__name__} does not pass through its own encoder and classifier")


def _map_tensors(value: Any, function: Callable[[Tensor], Any]) -> Any:
    """A copy of nested tuples, lists and mappings (such as transformers' outputs), each tensor replaced."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, dict):
        return type(value)(**{key: _map_tensors(entry, function) for key, entry in value.items()})
    if isinstance(value, (tuple, list)):
        return type(value)(_map_tensors(entry, function) for entry in value)
    return value


@dataclass(frozen=True)
class Anatomy:
    """Where the parts of a network are.

    Attributes:
        encoder, classifier: Names of the parts in the network.
        unused: Children of the network that its logits do not depend on, such as auxiliary heads.
        enlargement: Factor by which the logits are enlarged after the classifier with aligned corners; 1 where they are
            not, or in the usual convention.
        stride: Stride of the classifier's output.
        channels_last: Whether the classifier is a linear layer over maps [N, h, w, channels].
        embedding_dim: Channels of the classifier's input.
    """

    encoder: str
    classifier: str
    unused: tuple[str, ...]
    enlargement: int
    stride: int
    channels_last: bool
    embedding_dim: int


def _find_encoder(network: PreTrainedModel) -> str:
    """Name of the part that is pre-trained on its own."""
    for name in (network.base_model_prefix, "backbone"):
        if name and isinstance(getattr(network, name, None), nn.Module):
            return name
    names = f"{network.base_model_prefix!r} or 'backbone'"
    raise UnsplittableError(f"{type(network).__name__} has no part named {names}, which would be its encoder")


def _dissect(network: PreTrainedModel, classes: int, pixels: Tensor) -> Anatomy:
    """Find the parts of a network by a pass over ``pixels``, float [N, 3, H, W]."""
    name = type(network).__name__
    encoder = _find_encoder(network)
    candidates: dict[nn.Module, str] = {
        module: path
        for path, module in network.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear))
        and not path.startswith(f"{encoder}.")
        and classes == (module.out_channels if isinstance(module, nn.Conv2d) else module.out_features)
    }
    calls: list[tuple[nn.Module, Tensor, Tensor]] = []

    def record(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        calls.append((module, args[0], output))

    handles = [module.register_forward_hook(record) for module in candidates]
    try:
        with torch.enable_grad():
            logits = network(pixels).logits
    finally:
        for handle in handles:
            handle.remove()

    def reached(tensors: list[Tensor]) -> list[bool]:
        """Which tensors the logits depend on."""
        if not tensors:
            return []
        gradients = torch.autograd.grad(logits.sum(), tensors, retain_graph=True, allow_unused=True)
        return [gradient is not None for gradient in gradients]

    with torch.enable_grad():
        heads = {path: list(child.parameters()) for path, child in network.named_children() if path != encoder}
        unused = tuple(path for path, parameters in heads.items() if parameters and not any(reached(parameters)))
        reaching = reached([output for _, _, output in calls])
    through = [call for call, reaches in zip(calls, reaching, strict=True) if reaches]
    if not through:
        raise UnsplittableError(f"{name} has no convolution with one output per class ({classes}) in its decoder")
    module, embedding, scores = through[-1]
    channels_last = isinstance(module, nn.Linear)
    if embedding.ndim == 4 and channels_last:
        embedding, scores = embedding.movedim(-1, 1), scores.movedim(-1, 1)
    if embedding.ndim != 4 or embedding.shape[-2:] != scores.shape[-2:]:
        raise UnsplittableError(
            f"expected a classifier over maps of features that keeps their size, but {candidates[module]!r} of {name} "
            f"makes {list(scores.shape)} of {list(embedding.shape)}"
        )
    return Anatomy(
        encoder,
        candidates[module],
        unused,
        _enlargement_of(scores.detach(), logits.detach(), f"{name}'s classifier {candidates[module]!r}"),
        round(pixels.shape[-2] / scores.shape[-2]),
        channels_last,
        embedding.shape[1],
    )


def _enlargement_of(scores: Tensor, logits: Tensor, origin: str) -> int:
    """By how much the scores [N, C, h, w] were enlarged with aligned corners to become the logits [N, C, H, W].

    1 also where they were enlarged in the usual convention, which is how a model's logits are enlarged anyway.
    """
    size = logits.shape[-2:]
    if size == scores.shape[-2:] and _close(scores, logits):
        return 1
    for align_corners in (False, True):
        if _close(F.interpolate(scores, size, mode="bilinear", align_corners=align_corners), logits):
            return size[0] // scores.shape[-2] if align_corners else 1
    raise UnsplittableError(f"the logits are more than the output of {origin}, bilinearly enlarged")


def _close(ours: Tensor, theirs: Tensor) -> bool:
    """Whether two maps are equal but for rounding."""
    if ours.shape != theirs.shape:
        return False
    return bool((ours - theirs).abs().max() <= TOLERANCE * theirs.abs().max().clamp_min(1e-3))


class SplitTransformer(SegmentationModel):
    """A network of transformers, split by gates, behind :class:`SegmentationModel`.

    Features are those of the encoder's answer that the decoder reads, and before them a map of the network input's size
    without channels, because some decoders ask for that size. One thread at a time may use a model.

    Args:
        network: in evaluation mode; taken over and changed.
        outputs: names of its classes.

    Raises:
        UnsplittableError: the parts cannot be told apart, or do not give the network's logits.
    """

    reentrant = False

    def __init__(self, network: PreTrainedModel, outputs: ClassList, pixel_format: PixelFormat | None = None) -> None:
        super().__init__(outputs, pixel_format)
        self.network = network
        for module in network.modules():
            if type(module) is nn.BatchNorm2d:
                module.__class__ = BatchNormOfOne
        network.get_submodule(_find_encoder(network)).requires_grad_(False)
        self.size_multiple = _stride_of(network)
        pixels, anatomy = self._probe()
        with torch.no_grad():
            logits = network(pixels).logits
        self.encoder_name, self.classifier_name = anatomy.encoder, anatomy.classifier
        self.enlargement = anatomy.enlargement
        self.maps_channels_last = anatomy.channels_last
        self.temporal_pool = max(1, 4 // anatomy.stride)
        self.embedding_dim = anatomy.embedding_dim
        for name in anatomy.unused:
            setattr(network, name, None)
        for name, stop_before in ((anatomy.encoder, False), (anatomy.classifier, True)):
            parent, _, child = name.rpartition(".")
            setattr(network.get_submodule(parent), child, Gate(network.get_submodule(name), stop_before))
        self._find_features(pixels)
        self._compare(pixels, logits)

    def _probe(self) -> tuple[Tensor, Anatomy]:
        """A random image that the network takes, and what is found with it: two by three multiples, or its own size."""
        multiple, own = self.size_multiple, getattr(self.network.config, "image_size", None)
        generator = torch.Generator().manual_seed(0)
        sizes = [(2 * multiple, 3 * multiple)]
        if own is not None:
            sizes.append((own, own) if isinstance(own, int) else (own[0], own[1]))
        for size in sizes:
            pixels = torch.randn(1, 3, *size, generator=generator)
            try:
                anatomy = _dissect(self.network, len(self.outputs), pixels)
            except UnsplittableError:
                raise
            except (ValueError, RuntimeError, AssertionError) as error:
                # Position embeddings of one size are told by the network itself, in as many ways as there are networks.
                failure = error
                continue
            self.fixed_input_size = size if size != sizes[0] else None
            return pixels, anatomy
        tried = " nor its own image_size ".join(f"{height}×{width}" for height, width in sizes)
        raise UnsplittableError(f"{type(self.network).__name__} takes no image of {tried}: {failure}") from failure

    def _find_features(self, pixels: Tensor) -> None:
        """Note which tensors of the encoder's answer the decoder reads."""
        with torch.no_grad():
            answer = _reach(self.network, pixels)
        tensors: list[Tensor] = []
        _map_tensors(answer, tensors.append)
        leaves = [tensor.detach().clone().requires_grad_(tensor.is_floating_point()) for tensor in tensors]
        floating = [leaf for leaf in leaves if leaf.requires_grad]
        queue = iter(leaves)
        self.template = _map_tensors(answer, lambda tensor: tensor.new_empty(0))
        self.used = [True] * len(tensors)
        with torch.enable_grad():
            embedding = self._run_decoder(_map_tensors(answer, lambda _: next(queue)), pixels)
            gradients = iter(torch.autograd.grad(embedding.sum(), floating, allow_unused=True))
        self.used = [leaf.requires_grad and next(gradients) is not None for leaf in leaves]
        wrong = [list(leaf.shape) for leaf, used in zip(leaves, self.used, strict=True) if used and len(leaf) != 1]
        if wrong:
            name = type(self.network).__name__
            raise UnsplittableError(f"expected features of one image, but the encoder of {name} gives {wrong[0]}")

    def _compare(self, pixels: Tensor, logits: Tensor) -> None:
        """Raise an UnsplittableError unless the parts give the network's logits."""
        with torch.no_grad():
            ours = self.classify_outputs(self.decode(self.encode(pixels)))
            ours = self.enlarge_logits(ours, (logits.shape[-2], logits.shape[-1]))
        if not _close(ours, logits):
            raise UnsplittableError(
                f"expected the logits of {type(self.network).__name__} from its encoder {self.encoder_name!r}, decoder "
                f"and classifier {self.classifier_name!r} one after the other, but they differ by up to "
                f"{float((ours - logits).abs().max()):.2g}"
            )

    def _gate(self, name: str) -> Gate:
        """The gate of that name in the network."""
        gate = self.network.get_submodule(name)
        assert isinstance(gate, Gate)
        return gate

    @property
    def encoder(self) -> nn.Module:
        return self._gate(self.encoder_name).part

    def encode(self, pixels: Tensor) -> tuple[Tensor, ...]:
        tensors: list[Tensor] = []
        _map_tensors(_reach(self.network, pixels), tensors.append)
        size = pixels.new_empty(len(pixels), 0, *pixels.shape[-2:])
        return size, *(tensor for tensor, used in zip(tensors, self.used, strict=True) if used)

    def decode(self, features: Sequence[Tensor]) -> Tensor:
        size, *tensors = features
        queue = iter(tensors)
        used = iter(self.used)
        answer = _map_tensors(self.template, lambda empty: next(queue) if next(used) else empty)
        return self._run_decoder(answer, size.new_zeros(()).expand(len(size), 3, *size.shape[-2:]))

    def _run_decoder(self, answer: Any, pixels: Tensor) -> Tensor:
        """The classifier's input for an answer of the encoder; of the pixels only the size matters."""
        with self._gate(self.encoder_name).answering(answer):
            embedding = _reach(self.network, pixels)
        return embedding.movedim(-1, 1) if self.maps_channels_last else embedding

    def classify_outputs(self, embedding: Tensor) -> Tensor:
        classifier = self._gate(self.classifier_name).part
        if self.maps_channels_last:
            return classifier(embedding.movedim(1, -1)).movedim(-1, 1)
        return classifier(embedding)

    @property
    def output_bias(self) -> Tensor | None:
        bias = getattr(self._gate(self.classifier_name).part, "bias", None)
        return bias if isinstance(bias, nn.Parameter) and len(bias) == len(self.outputs) else None

    def prepare_enlargement(self, logits: Tensor) -> Tensor:
        if self.enlargement > 1:
            logits = F.interpolate(logits, scale_factor=self.enlargement, mode="bilinear", align_corners=True)
        return logits


def _stride_of(network: PreTrainedModel) -> int:
    """Sides of the network input must be multiples of this: the patch of a plain vision transformer, otherwise 32."""
    config = getattr(network.config, "backbone_config", None) or network.config
    patch = getattr(config, "patch_size", None)
    patch = max(patch) if isinstance(patch, (tuple, list)) else patch
    return patch if isinstance(patch, int) and patch >= PLAIN_PATCH else 32
