"""The network that serves, compiled: nothing of it changes until the next generation, so all of it can be.

That takes seconds, beside the stream, which uses eager torch meanwhile. Every generation and every size of the network
input has a compiled form of its own. Runtimes compared: docs/ablations.md#compiled-network.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from ditta_core.heap import return_memory, trim_heap
from ditta_core.inference.config import Runtime, RuntimeConfig
from ditta_core.inference.openvino_network import Blueprint, has_bfloat16
from ditta_core.inference.temporal_branch import NetworkOutput, TemporalSegmenter

Compiled = Callable[[Tensor], tuple[Tensor, ...]]
"""Pixels float [1, 3, H, W] -> the tensors of the module it was made from."""

SURE_LEAD = 0.2
"""Lead in probability of the likeliest class over the next from which a pixel counts as sure."""


@dataclass(frozen=True)
class Agreement:
    """How far a compiled network gives the classes of eager torch: docs/ablations.md#agreement-of-compiled-networks.

    Attributes:
        same: Share of the pixels with the same class, 0..1.
        undisputed: Share of the pixels with the same class, or whose class is not sure (``SURE_LEAD``), 0..1.
    """

    same: float
    undisputed: float

    def suffices(self, least: Agreement) -> bool:
        """Whether neither share is below that of ``least``."""
        return self.same >= least.same and self.undisputed >= least.undisputed

    def __str__(self) -> str:
        return f"{self.same:.2%} of the pixels ({self.undisputed:.2%} with those that are not sure)"

    @classmethod
    def of(cls, ours: Tensor, eager: Tensor) -> Agreement:
        """Of two logits float [1, C, h, w]; none where ours are not all finite."""
        if ours.shape != eager.shape or not bool(torch.isfinite(ours).all()):
            return cls(0.0, 0.0)
        same = ours.argmax(1) == eager.argmax(1)
        likeliest = eager.softmax(1).topk(min(2, eager.shape[1]), 1).values
        unsure = likeliest[:, 0] - likeliest[:, -1] <= SURE_LEAD
        return cls(float(same.float().mean()), float((same | unsure).float().mean()))


LEAST = {"float32": Agreement(0.999, 0.999), "bfloat16": Agreement(0.9, 0.99)}
"""Agreement that a compiled network must reach, by precision."""

LONGEST_REASON = 400
"""Number of characters of a runtime's own message that are passed on."""

KEPT_BLUEPRINTS = 4
"""Number of graphs that are kept, a few megabytes each, one a size of the network input: two each for two cameras."""


@dataclass(frozen=True)
class RuntimeStatus:
    """What runs a network at the moment.

    Attributes:
        runtime: "torch", "openvino" or "compile".
        reason: Reason why it is not what was asked for; empty where it is.
        precision: Precision of its arithmetic, "float32" or "bfloat16".
        compiling: Whether another one is on its way.
    """

    runtime: str
    reason: str = ""
    precision: str = "float32"
    compiling: bool = field(default=False, compare=False)

    def __str__(self) -> str:
        return f"{self.runtime} ({self.reason or self.precision})"


class WholeNetwork(nn.Module):
    """All that a frame needs of the network in one module: pixels -> logits, and what the temporal branch takes."""

    def __init__(self, segmenter: TemporalSegmenter, temporal_branch: bool) -> None:
        super().__init__()
        self.segmenter = segmenter
        self.temporal_branch = temporal_branch

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        model = self.segmenter.model
        embedding = model.decode(model.encode(pixels))
        logits = model.classify(embedding)
        if not self.temporal_branch:
            return (logits,)
        output = self.segmenter.forward_heads(embedding, logits)
        assert output.query is not None and output.memory is not None
        return logits, output.query, output.memory.key, output.memory.logits


def unsupported(config: RuntimeConfig, device: torch.device) -> str:
    """Why this runtime is not available here, in one sentence; empty where it is."""
    if config.runtime is Runtime.OPENVINO and device.type != "cpu":
        return f"OpenVINO runs the network on a CPU here, but the device is {device}"
    if config.runtime in (Runtime.OPENVINO, Runtime.AUTO) and device.type == "cpu" and find_spec("openvino") is None:
        return "openvino is not installed; pip install openvino"
    return ""


def precisions(config: RuntimeConfig, runtime: Runtime) -> tuple[str, ...]:
    """The precisions to try, one after the other."""
    if config.precision != "auto":
        return (config.precision,)
    on_gpu = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return ("bfloat16", "float32") if (has_bfloat16() if runtime is Runtime.OPENVINO else on_gpu) else ("float32",)


def compile_torch(module: nn.Module, pixels: Tensor, precision: str) -> Compiled:
    """torch.compile; the first run compiles."""
    optimised = torch.compile(module, dynamic=False)
    half = precision == "bfloat16"

    def run(pixels: Tensor) -> tuple[Tensor, ...]:
        with torch.inference_mode(), torch.autocast(pixels.device.type, torch.bfloat16, enabled=half):
            return tuple(output.float() for output in optimised(pixels))

    run(pixels)
    return run


class ServingNetwork:
    """The network of one generation, compiled when its first frame comes.

    Args:
        segmenter: in evaluation mode; must not change any more.
        temporal_branch: whether the outputs of the temporal branch are computed too.
        config: runtime and precision.
        background: runs jobs later, one after the other.
        make: the compiled form of a module for pixels of one size, by a runtime, in a precision; raises anything.

    Attributes:
        status: What answers at the moment, and why.
        compiled: Compiled form for the last frame's size; None while there is none.
    """

    def __init__(
        self,
        segmenter: TemporalSegmenter,
        temporal_branch: bool,
        config: RuntimeConfig,
        background: Callable[[Callable[[], None]], Future[None]],
        make: Callable[[WholeNetwork, Tensor, Runtime, str], Compiled],
    ) -> None:
        self._module = WholeNetwork(segmenter, temporal_branch).eval()
        self._config = config
        self._background = background
        self._make = make
        device = segmenter.model.mean.device
        reason = "" if config.runtime is Runtime.TORCH else unsupported(config, device)
        if not segmenter.model.compilable:
            reason = "the network is run by OpenVINO as its file has it"
        self._runtime = Runtime.TORCH if reason else config.runtime
        if self._runtime is Runtime.AUTO:
            self._runtime = Runtime.OPENVINO if device.type == "cpu" else Runtime.COMPILE
        self._size: tuple[int, ...] = ()
        self._replaces_torch = False
        self._lock = threading.Lock()
        self.compiled: Compiled | None = None
        self.status = RuntimeStatus("torch", reason)

    def __call__(self, pixels: Tensor) -> NetworkOutput | None:
        """The compiled network's output for normalised pixels float [1, 3, H, W]; None where torch has to answer."""
        if self._runtime is Runtime.TORCH:
            return None
        if tuple(pixels.shape) != self._size:
            self._prepare(pixels)
        with self._lock:
            compiled = self.compiled if tuple(pixels.shape) == self._size else None
        if compiled is None:
            self._replaces_torch = True
            return None
        output = NetworkOutput.of(*compiled(pixels))
        if self._replaces_torch:  # only now is free what eager torch needed for the frames until now
            self._replaces_torch = False
            self._background(trim_heap)
        return output

    def _prepare(self, pixels: Tensor) -> None:
        """Compile for the size of these pixels; the form for another size is given up."""
        with self._lock:
            if tuple(pixels.shape) == self._size:
                return
            self._size, self.compiled = tuple(pixels.shape), None
            self.status = RuntimeStatus("torch", f"{self._runtime.value} is being compiled", compiling=True)
        job = self._background(partial(self._compile, pixels))
        if self._config.wait:
            job.result()

    @torch.inference_mode(False)
    def _compile(self, pixels: Tensor) -> None:
        """Compile, and use the result if it gives the classes that eager torch gives."""
        if tuple(pixels.shape) != self._size:
            return  # the stream has another size by now
        compiled, precision, reasons = None, "", list[str]()
        try:
            pixels = pixels.clone(memory_format=torch.channels_last)  # tracing takes no tensor of inference mode
            for precision in precisions(self._config, self._runtime):
                candidate = self._make(self._module, pixels, self._runtime, precision)
                with torch.no_grad():
                    agreement = Agreement.of(candidate(pixels)[0], self._module(pixels)[0])
                if agreement.suffices(LEAST[precision]):
                    compiled = candidate
                    break
                reasons.append(f"in {precision} it agrees with torch in {agreement} only, not in {LEAST[precision]}")
        except Exception as error:  # runtimes raise whatever they like, and torch can always serve instead
            # OpenVINO's messages are of many lines, of which the first names a line of its own code.
            reasons = [" ".join(f"{type(error).__name__}: {error}".split())[:LONGEST_REASON]]
        status = RuntimeStatus(self._runtime.value, precision=precision)
        if compiled is None:
            status = RuntimeStatus("torch", f"{status.runtime} cannot run this network: {'; '.join(reasons)}")
        with self._lock:
            if tuple(pixels.shape) == self._size:
                self.compiled, self.status = compiled, status
        return_memory()


class Compiler:
    """Makes the serving networks of all generations of one base model; the streams of a process share it."""

    def __init__(self, config: RuntimeConfig | None = None) -> None:
        self.config = config or RuntimeConfig()
        self._executor = ThreadPoolExecutor(1, "compile")
        self._jobs: list[Future[None]] = []
        # A network keeps its segmenter alive, so that no other one gets its id as long as it is in here.
        self._networks: weakref.WeakValueDictionary[tuple[int, bool], ServingNetwork] = weakref.WeakValueDictionary()
        self._blueprints: dict[tuple[bool, tuple[int, ...]], Blueprint] = {}

    def network(self, segmenter: TemporalSegmenter, temporal_branch: bool) -> ServingNetwork:
        """The network of a generation, the same one for the same generation while anybody holds it."""
        key = id(segmenter), temporal_branch
        network = self._networks.get(key)
        if network is None:
            network = ServingNetwork(segmenter, temporal_branch, self.config, self.submit, self._make)
            self._networks[key] = network
        return network

    def _make(self, module: WholeNetwork, pixels: Tensor, runtime: Runtime, precision: str) -> Compiled:
        """Compile a module in evaluation mode for pixels of this size, in the thread that compiles; raises anything."""
        if runtime is Runtime.COMPILE:
            return compile_torch(module, pixels, precision)
        key = module.temporal_branch, tuple(pixels.shape)
        blueprint = self._blueprints.pop(key, None) or Blueprint(module, pixels)
        self._blueprints[key] = blueprint  # an LRU cache: the one used last comes last
        for oldest in list(self._blueprints)[:-KEPT_BLUEPRINTS]:
            del self._blueprints[oldest]
        return blueprint.compile(module, precision)

    def submit(self, job: Callable[[], None]) -> Future[None]:
        """Run a job in the thread that compiles; once closed, it is cancelled at once."""
        self._jobs = [job for job in self._jobs if not job.done()]
        try:
            self._jobs.append(self._executor.submit(job))
        except RuntimeError:  # closed while a stream has a last frame
            self._jobs.append(Future())
            self._jobs[-1].cancel()
        return self._jobs[-1]

    def close(self) -> bool:
        """Cancel what is not compiled yet; returns whether a network is being compiled, which nothing interrupts."""
        self._executor.shutdown(wait=False, cancel_futures=True)
        return not all(job.done() for job in self._jobs)
