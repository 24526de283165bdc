"""The network that serves, compiled: nothing of it changes until the next generation, so all of it can be.

A :class:`ServingNetwork` has no answer until its compiled form is there, which takes seconds and happens beside the
stream; meanwhile the stream asks eager torch. A generation has BatchNorm statistics of its own, encoder included, and
so a compiled form of its own; so has every size of the network input.

ESPNetv2 on one core of a Zen 5, float32, against eager torch with the channels innermost: OpenVINO is 2.5 times as fast
at 480×368 and 1.9 times at 640×480, and gives the same class in every pixel of the frames tried (logits within 5e-5).
torch.compile gained nothing there and took minutes; ONNX's export has no adaptive pooling by other than whole factors,
and its encoder was as fast as torch's. A network takes 60 to 100 MB; the first is there after two to four seconds
of one core, those of later generations after half a second.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
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
"""By how much the likeliest class must lead the next, in probability, for a pixel to count as one that is sure."""


@dataclass(frozen=True)
class Agreement:
    """How far a compiled network gives the classes that eager torch gives.

    Rounding decides between classes that are about as likely, which harms nobody; a network that is wrong contradicts
    where there is no doubt. So both are asked. In bfloat16, 24 of CamVid's training frames clean and in four
    corruptions of severity 3, two models, up to 4.8 % of the pixels of a frame get another class, but at most 0.7 % do
    where eager torch is sure, 0.01 % in the mean; the mIoU of a row changes by at most 0.32 in noise and 0.2 elsewhere.

    Attributes:
        same: share of the pixels with the same class, 0..1.
        undisputed: share of the pixels with the same class, or whose class is not sure (``SURE_LEAD``), 0..1.
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
"""What is asked of a compiled network, by precision."""

LONGEST_REASON = 400
"""Characters of a runtime's own message that are passed on."""


@dataclass(frozen=True)
class RuntimeStatus:
    """What runs a network at the moment.

    Attributes:
        runtime: "torch", "openvino" or "compile".
        reason: why it is not what was asked for; empty where it is.
        precision: of its arithmetic, "float32" or "bfloat16".
    """

    runtime: str
    reason: str = ""
    precision: str = "float32"

    def __str__(self) -> str:
        return f"{self.runtime} ({self.reason or self.precision})"


class WholeNetwork(nn.Module):
    """All that a frame needs of the network, in one module: pixels -> logits, and what the temporal branch takes."""

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
        view = self.segmenter.forward_heads(embedding, logits)
        assert view.query is not None and view.memory is not None
        return logits, view.query, view.memory.key, view.memory.logits


def unsupported(config: RuntimeConfig, device: torch.device) -> str:
    """Why this runtime cannot be had here, in one sentence; empty where it can."""
    if config.runtime is Runtime.OPENVINO and device.type != "cpu":
        return f"OpenVINO runs the network on a CPU here, but the device is {device}"
    if config.runtime in (Runtime.OPENVINO, Runtime.AUTO) and device.type == "cpu" and find_spec("openvino") is None:
        return "openvino is not installed; pip install openvino"
    return ""


def precisions(config: RuntimeConfig, runtime: Runtime) -> tuple[str, ...]:
    """Those to be tried, one after the other."""
    if config.precision != "auto":
        return (config.precision,)
    fast = (
        has_bfloat16() if runtime is Runtime.OPENVINO else torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    )
    return ("bfloat16", "float32") if fast else ("float32",)


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
    """One generation, serving.

    Args:
        segmenter: in evaluation mode; must not change any more.
        temporal_branch: whether frames are looked at for the temporal branch too.
        config: how it is to run.
        background: runs what it is given later, one after the other.
        make: the compiled form of a module for pixels of one size, by a runtime, in a precision; raises whatever the
            runtime came up with.
    """

    def __init__(
        self,
        segmenter: TemporalSegmenter,
        temporal_branch: bool,
        config: RuntimeConfig,
        background: Callable[[Callable[[], None]], Future[None]],
        make: Callable[[WholeNetwork, Tensor, Runtime, str], Compiled],
    ) -> None:
        self.module = WholeNetwork(segmenter, temporal_branch).eval()
        self.config = config
        self.background = background
        self.make = make
        device = segmenter.model.mean.device
        reason = "" if config.runtime is Runtime.TORCH else unsupported(config, device)
        self.runtime = Runtime.TORCH if reason else config.runtime
        if self.runtime is Runtime.AUTO:
            self.runtime = Runtime.OPENVINO if device.type == "cpu" else Runtime.COMPILE
        self.size: tuple[int, ...] = ()
        self.compiled: Compiled | None = None
        self.succeeds_torch = False
        self.lock = threading.Lock()
        self.status = RuntimeStatus("torch", reason)

    def __call__(self, pixels: Tensor) -> NetworkOutput | None:
        """What the compiled network says of normalised pixels float [1, 3, H, W]; None where torch has to say it."""
        if self.runtime is Runtime.TORCH:
            return None
        if tuple(pixels.shape) != self.size:
            self.prepare(pixels)
        with self.lock:
            compiled = self.compiled if tuple(pixels.shape) == self.size else None
        if compiled is None:
            self.succeeds_torch = True
            return None
        view = NetworkOutput.of(*compiled(pixels))
        if self.succeeds_torch:
            # What eager torch needed for the frames until now is free only now, 35 to 60 MB at 480×368.
            self.succeeds_torch = False
            self.background(trim_heap)
        return view

    def prepare(self, pixels: Tensor) -> None:
        """Compile for the size of these pixels; the form for another size is given up."""
        with self.lock:
            if tuple(pixels.shape) == self.size:
                return
            self.size, self.compiled = tuple(pixels.shape), None
            self.status = RuntimeStatus("torch", f"{self.runtime.value} is being compiled")
        job = self.background(partial(self.compile, pixels))
        if self.config.wait:
            job.result()

    @torch.inference_mode(False)
    def compile(self, pixels: Tensor) -> None:
        """Compile, and go over to the result if it gives the classes that eager torch gives."""
        if tuple(pixels.shape) != self.size:
            return  # the stream has another size by now
        reasons: list[str] = []
        try:
            pixels = pixels.clone(memory_format=torch.channels_last)  # tracing takes no tensor of inference mode
            for precision in precisions(self.config, self.runtime):
                compiled = self.make(self.module, pixels, self.runtime, precision)
                with torch.no_grad():
                    agreement = Agreement.of(compiled(pixels)[0], self.module(pixels)[0])
                least = LEAST[precision]
                if agreement.suffices(least):
                    self.take(pixels, compiled, RuntimeStatus(self.runtime.value, precision=precision))
                    break
                reasons.append(f"in {precision} it agrees with torch in {agreement} only, not in {least}")
            else:
                self.give_up(pixels, "; ".join(reasons))
        except Exception as error:  # runtimes raise whatever they like, and torch can always serve instead
            # OpenVINO's messages are of many lines, of which the first names a line of its own code.
            self.give_up(pixels, " ".join(f"{type(error).__name__}: {error}".split())[:LONGEST_REASON])
        return_memory()

    def take(self, pixels: Tensor, compiled: Compiled | None, status: RuntimeStatus) -> None:
        """Answer with this network from now on, or not at all, if the stream still has the size of these pixels."""
        with self.lock:
            if tuple(pixels.shape) == self.size:
                self.compiled, self.status = compiled, status

    def give_up(self, pixels: Tensor, reason: str) -> None:
        """Leave it to torch."""
        self.take(pixels, None, RuntimeStatus("torch", f"{self.runtime.value} cannot run this network: {reason}"))


KEPT_BLUEPRINTS = 4
"""Sizes of the network input whose graphs are kept: streams of two cameras, and a change of resolution there and back.
One of ESPNetv2 takes a few megabytes."""


class Compiler:
    """Makes serving networks; the streams of a process share one, and with it the network of their base model.

    All of them are generations of one base model.
    """

    def __init__(self, config: RuntimeConfig | None = None) -> None:
        self.config = config or RuntimeConfig()
        self.executor = ThreadPoolExecutor(1, "compile")
        self.jobs: list[Future[None]] = []
        # A network keeps its segmenter alive, so that no other one gets its id as long as it is in here.
        self.known: weakref.WeakValueDictionary[tuple[int, bool], ServingNetwork] = weakref.WeakValueDictionary()
        self.blueprints: dict[tuple[bool, tuple[int, ...]], Blueprint] = {}

    def network(self, segmenter: TemporalSegmenter, temporal_branch: bool) -> ServingNetwork:
        """The network of a generation, the same one for the same generation while anybody holds it."""
        key = id(segmenter), temporal_branch
        network = self.known.get(key)
        if network is None:
            network = ServingNetwork(segmenter, temporal_branch, self.config, self.submit, self.make)
            self.known[key] = network
        return network

    def make(self, module: WholeNetwork, pixels: Tensor, runtime: Runtime, precision: str) -> Compiled:
        """The compiled form of a module in evaluation mode for pixels of this size; runs in the thread that compiles.

        Raises:
            Exception: whatever the runtime came up with; none of them says which.
        """
        if runtime is Runtime.COMPILE:
            return compile_torch(module, pixels, precision)
        key = module.temporal_branch, tuple(pixels.shape)
        blueprint = self.blueprints.pop(key, None) or Blueprint(module, pixels)
        self.blueprints[key] = blueprint  # as the one used last
        for oldest in list(self.blueprints)[:-KEPT_BLUEPRINTS]:
            del self.blueprints[oldest]
        return blueprint.compile(module, precision)

    def submit(self, job: Callable[[], None]) -> Future[None]:
        """Run a job in the thread that compiles; once closed, it is given up at once."""
        self.jobs = [job for job in self.jobs if not job.done()]
        try:
            self.jobs.append(self.executor.submit(job))
        except RuntimeError:  # closed while a stream has a last frame
            self.jobs.append(Future())
            self.jobs[-1].cancel()
        return self.jobs[-1]

    def close(self) -> bool:
        """Give up what is not compiled yet; whether a network is in the midst of it, which nothing can interrupt."""
        self.executor.shutdown(wait=False, cancel_futures=True)
        return not all(job.done() for job in self.jobs)
