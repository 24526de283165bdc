"""The network that serves, compiled: nothing of it changes until the next generation, so all of it can be.

A :class:`ServingNetwork` has no answer until its compiled form is there, which takes seconds and happens beside the
stream; meanwhile the stream asks eager torch. A generation has BatchNorm statistics of its own, encoder included, and
so a compiled form of its own; so has every size of the network input.

ESPNetv2 on one core of a Zen 5, float32, against eager torch with the channels innermost: OpenVINO is 2.5 times as fast
at 480×368 and 1.9 times at 640×480, and gives the same class in every pixel of the frames tried (logits within 5e-5).
torch.compile gained nothing there and took minutes; ONNX's export has no adaptive pooling by other than whole factors,
and its encoder was as fast as torch's. A network takes 60 to 100 MB and two to four seconds of one core to compile.
"""

from __future__ import annotations

import sys
import threading
import warnings
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from ditta_core.fusion import FrameView, TemporalSegmenter
from ditta_core.memory import return_memory

Compiled = Callable[[Tensor], tuple[Tensor, ...]]
"""Pixels float [1, 3, H, W] -> the tensors of the module it was made from."""

AGREEMENT = {"float32": 0.999, "bfloat16": 0.99}
"""Share of the pixels to which a compiled network must give the class that eager torch gives, by precision."""


LONGEST_REASON = 400
"""Characters of a runtime's own message that are passed on."""


class Runtime(Enum):
    """What runs the network of a stream."""

    AUTO = "auto"
    """OpenVINO on a CPU where it is installed, else torch; torch.compile on a GPU."""
    TORCH = "torch"
    """Eager torch."""
    OPENVINO = "openvino"
    """OpenVINO; on a CPU alone."""
    COMPILE = "compile"
    """torch.compile."""


@dataclass(frozen=True)
class RuntimeConfig:
    """How the network that serves is run.

    Attributes:
        runtime: what runs it.
        precision: "float32" or "bfloat16". The latter is for hardware that has it: on a Zen 5 with AVX-512 BF16
            OpenVINO takes 0.75 of the time; 0.13 % of the pixels get another class with the packaged model, 0.4 % with
            the Cityscapes weights, and the mIoU on CamVid changes by −0.10 and +0.06.
        wait: whether the first frame of a size waits for the compiled network, so that all frames are answered by the
            same one, as an evaluation wants it; off, eager torch answers until then.
    """

    runtime: Runtime = Runtime.AUTO
    precision: str = "float32"
    wait: bool = False

    def __post_init__(self) -> None:
        if self.precision not in AGREEMENT:
            raise ValueError(f"expected a precision of {sorted(AGREEMENT)}, but got {self.precision!r}")


@dataclass(frozen=True)
class RuntimeStatus:
    """What runs a network at the moment: "torch", "openvino" or "compile", and why it is not what was asked for."""

    runtime: str
    reason: str = ""


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
        view = self.segmenter.look(embedding, logits)
        assert view.query is not None and view.memory is not None
        return logits, view.query, view.memory.key, view.memory.logits


def unsupported(config: RuntimeConfig, device: torch.device) -> str:
    """Why this runtime cannot be had here, in one sentence; empty where it can."""
    if config.runtime is Runtime.OPENVINO and device.type != "cpu":
        return f"OpenVINO runs the network on a CPU here, but the device is {device}"
    if config.runtime in (Runtime.OPENVINO, Runtime.AUTO) and device.type == "cpu" and find_spec("openvino") is None:
        return "openvino is not installed; pip install openvino"
    return ""


def compile_network(module: nn.Module, pixels: Tensor, runtime: Runtime, precision: str) -> Compiled:
    """The compiled form of a module in evaluation mode for pixels of this size.

    Raises:
        Exception: whatever the runtime came up with; none of them says which.
    """
    if runtime is Runtime.OPENVINO:
        return compile_openvino(module, pixels, precision)
    return compile_torch(module, pixels, precision)


def import_openvino() -> Any:
    """The package ``openvino``, without its telemetry, which tells its makers of every import and conversion.

    It is another package, and openvino does without where it is missing: as such it stands in ``sys.modules`` unless
    somebody has imported it already.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def compile_openvino(module: nn.Module, pixels: Tensor, precision: str) -> Compiled:
    """OpenVINO on as many threads as torch uses."""
    openvino = import_openvino()
    with warnings.catch_warnings(), torch.no_grad():
        # Tracing warns of every size that becomes a constant, which is what is wanted here.
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(module, pixels, check_trace=False)
        converted = openvino.convert_model(traced, input=[openvino.PartialShape(list(pixels.shape))])
    # torch's maps have their channels innermost; told so, OpenVINO reads them where they lie instead of from a copy.
    steps = openvino.preprocess.PrePostProcessor(converted)
    steps.input().tensor().set_layout(openvino.Layout("NHWC"))
    steps.input().model().set_layout(openvino.Layout("NCHW"))
    settings = {
        "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
    }
    return OpenVINONetwork(openvino.Core().compile_model(steps.build(), "CPU", settings))


class OpenVINONetwork:
    """A compiled model of OpenVINO with one input, as :data:`Compiled`."""

    def __init__(self, compiled: Any) -> None:
        self.compiled = compiled
        self.request = compiled.create_infer_request()
        self.lock = threading.Lock()  # streams of one process share a network

    def __call__(self, pixels: Tensor) -> tuple[Tensor, ...]:
        with self.lock:
            self.request.infer([pixels.permute(0, 2, 3, 1).contiguous().numpy()], share_inputs=True)
            # Copied out, since the next frame is written to the same place while this one's keys are still needed.
            outputs = [self.request.get_output_tensor(index).data.copy() for index in range(len(self.compiled.outputs))]
        return tuple(torch.from_numpy(output) for output in outputs)


def compile_torch(module: nn.Module, pixels: Tensor, precision: str) -> Compiled:
    """torch.compile; the first run compiles."""
    optimised = torch.compile(module, dynamic=False)
    half = precision == "bfloat16"

    def run(pixels: Tensor) -> tuple[Tensor, ...]:
        with torch.inference_mode(), torch.autocast(pixels.device.type, torch.bfloat16, enabled=half):
            return tuple(output.float() for output in optimised(pixels))

    run(pixels)
    return run


def agreement(ours: Tensor, eager: Tensor) -> float:
    """Share of the pixels with the same class in both logits [1, C, h, w]; 0 where ours are not all finite."""
    if ours.shape != eager.shape or not bool(torch.isfinite(ours).all()):
        return 0.0
    return float((ours.argmax(1) == eager.argmax(1)).float().mean())


class ServingNetwork:
    """One generation, serving.

    Args:
        segmenter: in evaluation mode; must not change any more.
        temporal_branch: whether frames are looked at for the temporal branch too.
        config: how it is to run.
        background: runs what it is given later, one after the other.
    """

    def __init__(
        self,
        segmenter: TemporalSegmenter,
        temporal_branch: bool,
        config: RuntimeConfig,
        background: Callable[[Callable[[], None]], Future[None]],
    ) -> None:
        self.module = WholeNetwork(segmenter, temporal_branch).eval()
        self.config = config
        self.background = background
        device = segmenter.model.mean.device
        reason = "" if config.runtime is Runtime.TORCH else unsupported(config, device)
        self.runtime = Runtime.TORCH if reason else config.runtime
        if self.runtime is Runtime.AUTO:
            self.runtime = Runtime.OPENVINO if device.type == "cpu" else Runtime.COMPILE
        self.size: tuple[int, ...] = ()
        self.compiled: Compiled | None = None
        self.lock = threading.Lock()
        self.status = RuntimeStatus("torch", reason)

    def __call__(self, pixels: Tensor) -> FrameView | None:
        """What the compiled network says of normalised pixels float [1, 3, H, W]; None where torch has to say it."""
        if self.runtime is Runtime.TORCH:
            return None
        if tuple(pixels.shape) != self.size:
            self.prepare(pixels)
        with self.lock:
            compiled = self.compiled if tuple(pixels.shape) == self.size else None
        return None if compiled is None else FrameView.of(*compiled(pixels))

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
        size = tuple(pixels.shape)
        if size != self.size:
            return  # the stream has another size by now
        compiled: Compiled | None = None
        try:
            pixels = pixels.clone(memory_format=torch.channels_last)  # tracing takes no tensor of inference mode
            compiled = compile_network(self.module, pixels, self.runtime, self.config.precision)
            with torch.no_grad():
                same = agreement(compiled(pixels)[0], self.module(pixels)[0])
            least = AGREEMENT[self.config.precision]
            reason = (
                "" if same >= least else f"it agrees with torch in {same:.2%} of the pixels only, not in {least:.1%}"
            )
        except Exception as error:  # runtimes raise whatever they like, and torch can always serve instead
            # OpenVINO's messages are of many lines, of which the first names a line of its own code.
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:LONGEST_REASON]
        return_memory()
        with self.lock:
            if size != self.size:
                return
            if reason:
                self.status = RuntimeStatus("torch", f"{self.runtime.value} cannot run this network: {reason}")
            else:
                self.compiled = compiled
                self.status = RuntimeStatus(self.runtime.value)


class Compiler:
    """Makes serving networks; the streams of a process share one, and with it the network of their base model."""

    def __init__(self, config: RuntimeConfig | None = None) -> None:
        self.config = config or RuntimeConfig()
        self.executor = ThreadPoolExecutor(1, "compile")
        self.jobs: list[Future[None]] = []
        # A network keeps its segmenter alive, so that no other one gets its id as long as it is in here.
        self.known: weakref.WeakValueDictionary[tuple[int, bool], ServingNetwork] = weakref.WeakValueDictionary()

    def network(self, segmenter: TemporalSegmenter, temporal_branch: bool) -> ServingNetwork:
        """The network of a generation, the same one for the same generation while anybody holds it."""
        key = id(segmenter), temporal_branch
        network = self.known.get(key)
        if network is None:
            network = self.known[key] = ServingNetwork(segmenter, temporal_branch, self.config, self.submit)
        return network

    def submit(self, job: Callable[[], None]) -> Future[None]:
        """Run a job in the thread that compiles."""
        self.jobs = [job for job in self.jobs if not job.done()]
        self.jobs.append(self.executor.submit(job))
        return self.jobs[-1]

    def close(self) -> bool:
        """Give up what is not compiled yet; whether a network is in the midst of it, which nothing can interrupt."""
        self.executor.shutdown(wait=False, cancel_futures=True)
        return not all(job.done() for job in self.jobs)
