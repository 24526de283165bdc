"""The network that serves, compiled: nothing of it changes until the next generation, so all of it can be.

That takes seconds, beside the stream, which uses eager torch meanwhile. Every generation and every size of the network
input has a compiled form of its own, and those of a few sizes are kept, so that cameras of different sizes do not
displace each other's. Runtimes compared: docs/ablations.md#compiled-network.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from ditta_core.heap import return_memory, trim_heap
from ditta_core.inference.agreement import LEAST, Agreement
from ditta_core.inference.config import DEFAULT_LONG_SIDE, InferenceConfig, Runtime, RuntimeConfig
from ditta_core.inference.graph_store import GraphStore
from ditta_core.inference.openvino_network import OpenVINONetwork, has_bfloat16
from ditta_core.inference.temporal_branch import NetworkOutput, TemporalSegmenter

Compiled = Callable[[Tensor], tuple[Tensor, ...]]
"""Pixels float [1, 3, H, W] -> the tensors of the module it was made from."""

LIKELY_IMAGE = (480, 640)
"""Size (H, W) of the images that most cameras give, for where nothing says what this one gives."""

KEPT_SIZES = 4
"""Number of sizes of the input for which a network's compiled forms are kept, some 30 MB each: two each for two
cameras. The one used longest ago goes first."""

LONGEST_REASON = 400
"""Number of characters of a runtime's own message that are passed on."""


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

    def common_size(self, size: tuple[int, int]) -> tuple[int, int] | None:
        """See :meth:`SegmentationModel.common_size`."""
        return self.segmenter.model.common_size(size)

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


@dataclass
class Form:
    """The compiled form of a network for one size of its input.

    Attributes:
        status: What answers at the moment, and why.
        compiled: None while there is none.
        unproven: Whether it was compiled before there was a frame on which it could be compared with torch.
    """

    status: RuntimeStatus
    compiled: Compiled | None = None
    unproven: bool = False


class ServingNetwork:
    """The network of one generation, compiled when its first frame comes, or before for a size that is known.

    Args:
        segmenter: in evaluation mode; must not change any more.
        temporal_branch: whether the outputs of the temporal branch are computed too.
        compiler: makes the compiled forms.
    """

    def __init__(
        self,
        segmenter: TemporalSegmenter,
        temporal_branch: bool,
        compiler: Compiler,
    ) -> None:
        self._module = WholeNetwork(segmenter, temporal_branch).eval()
        self._compiler = compiler
        self._config = config = compiler.config
        device = segmenter.model.mean.device
        reason = "" if config.runtime is Runtime.TORCH else unsupported(config, device)
        if not segmenter.model.compilable:
            reason = "the network is run by OpenVINO as its file has it"
        self._runtime = Runtime.TORCH if reason else config.runtime
        if self._runtime is Runtime.AUTO:
            self._runtime = Runtime.OPENVINO if device.type == "cpu" else Runtime.COMPILE
        self._without = RuntimeStatus("torch", reason)  # where nothing is compiled, or is being
        self._forms: dict[tuple[int, ...], Form] = {}  # an LRU cache: the one used last comes last
        self._replaces_torch = False
        self._lock = threading.Lock()

    @property
    def status(self) -> RuntimeStatus:
        """What answers for the size used last, and why."""
        form = self._last_form
        return self._without if form is None else form.status

    @property
    def compiled(self) -> Compiled | None:
        """Compiled form for the size used last; None while there is none."""
        form = self._last_form
        return None if form is None else form.compiled

    @property
    def _last_form(self) -> Form | None:
        with self._lock:
            return next(reversed(self._forms.values()), None)

    def status_at(self, size: tuple[int, int]) -> RuntimeStatus:
        """What answers for pixels of a size (H, W), and why."""
        with self._lock:
            form = self._forms.get((1, 3, *size))
        return self._without if form is None else form.status

    def __call__(self, pixels: Tensor) -> NetworkOutput | None:
        """The compiled network's output for normalised pixels float [1, 3, H, W]; None where torch has to answer."""
        if self._runtime is Runtime.TORCH:
            return None
        self._prepare(pixels)
        with self._lock:
            form = self._forms.pop(tuple(pixels.shape), None)  # none where compiling ahead has just failed
            if form is not None:
                self._forms[tuple(pixels.shape)] = form
        compiled = None if form is None else form.compiled
        if form is None or compiled is None or (form.unproven and not self._proves(form, compiled, pixels)):
            self._replaces_torch = True
            return None
        output = NetworkOutput.of(*compiled(pixels))
        if self._replaces_torch:  # only now is free what eager torch needed for the frames until now
            self._replaces_torch = False
            self._compiler.submit(trim_heap)
        return output

    @property
    def compiles_ahead(self) -> bool:
        """Whether it is compiled before there is a frame: torch.compile takes minutes, and eager torch needs none."""
        return self._runtime is Runtime.OPENVINO

    def used_sizes(self) -> list[tuple[int, int]]:
        """Sizes (H, W) of its input that were used, in earlier processes too, the last one first."""
        return self._compiler.graphs.sizes(self._module)

    def prepare(self, size: tuple[int, int]) -> None:
        """Compile for pixels of a size (H, W) still to come; the first of them are compared with eager torch."""
        pixels = torch.zeros(1, 3, *size).contiguous(memory_format=torch.channels_last)
        self._begin(pixels, self._compile_unproven)

    def begin(self, pixels: Tensor) -> None:
        """Compile for the size of these pixels now, not with their frame; where that one waits anyway, do nothing."""
        if self._runtime is not Runtime.TORCH and not self._config.wait:
            self._prepare(pixels)

    def _prepare(self, pixels: Tensor) -> None:
        """Compile for the size of these pixels, unless that is begun."""
        job = self._begin(pixels, self._compile)
        if job is not None and self._config.wait:
            job.result()

    def _begin(self, pixels: Tensor, compile_form: Callable[[Form, Tensor], None]) -> Future[None] | None:
        """Have it compiled for the size of these pixels, unless that is begun."""
        size = tuple(pixels.shape)
        with self._lock:
            if size in self._forms:
                return None
            reason = f"{self._runtime.value} is being compiled"
            form = self._forms[size] = Form(RuntimeStatus("torch", reason, compiling=True))
            for oldest in list(self._forms)[:-KEPT_SIZES]:
                del self._forms[oldest]
        return self._compiler.submit(partial(compile_form, form, pixels))

    def _proves(self, form: Form, compiled: Compiled, pixels: Tensor) -> bool:
        """Compare with eager torch for once; where they differ, compile anew as for any frame."""
        if self._agreement(compiled, pixels).suffices(LEAST[form.status.precision]):
            form.unproven, self._replaces_torch = False, True
            self._compiler.submit(partial(self._compiler.keep, self._module, pixels, form.status.precision, compiled))
            return True
        self._drop(form, pixels)
        self._prepare(pixels)
        return False

    def _keeps(self, form: Form, pixels: Tensor) -> bool:
        """Whether a form has not been displaced by those of other sizes."""
        with self._lock:
            return self._forms.get(tuple(pixels.shape)) is form

    def _drop(self, form: Form, pixels: Tensor) -> None:
        if self._keeps(form, pixels):
            with self._lock:
                self._forms.pop(tuple(pixels.shape), None)

    def _agreement(self, compiled: Compiled, pixels: Tensor) -> Agreement:
        with torch.no_grad():
            return Agreement.of(compiled(pixels)[0], self._module(pixels)[0])

    @torch.inference_mode(False)
    def _compile_unproven(self, form: Form, pixels: Tensor) -> None:
        """Compile in the fastest precision that there is. What goes wrong is told with the first frame.

        Where an earlier process has compiled just this and compared it with eager torch, neither is done again.
        """
        try:
            precision = precisions(self._config, self._runtime)[0]
            kept = self._compiler.kept(self._module, pixels, precision)
            compiled = kept or self._compiler.make(self._module, pixels, self._runtime, precision)
            compiled(pixels)  # the first run allocates
        except Exception:  # runtimes raise whatever they like, and there will be a frame to try again with
            self._drop(form, pixels)
            return
        with self._lock:
            form.compiled, form.unproven = compiled, kept is None
            form.status = RuntimeStatus(self._runtime.value, precision=precision)
        return_memory()

    @torch.inference_mode(False)
    def _compile(self, form: Form, pixels: Tensor) -> None:
        """Compile, and use the result if it gives the classes that eager torch gives."""
        if not self._keeps(form, pixels):
            return
        compiled, precision, reasons = None, "", list[str]()
        try:
            pixels = pixels.clone(memory_format=torch.channels_last)  # tracing takes no tensor of inference mode
            compiled, precision, reasons = self._agreeing(pixels)
            if compiled is None and self._compiler.distrust(self._module, pixels):
                compiled, precision, reasons = self._agreeing(pixels)
        except Exception as error:  # runtimes raise whatever they like, and torch can always serve instead
            # OpenVINO's messages are of many lines, of which the first names a line of its own code.
            reasons = [" ".join(f"{type(error).__name__}: {error}".split())[:LONGEST_REASON]]
        status = RuntimeStatus(self._runtime.value, precision=precision)
        if compiled is None:
            status = RuntimeStatus("torch", f"{status.runtime} cannot run this network: {'; '.join(reasons)}")
        with self._lock:
            form.compiled, form.status = compiled, status
        return_memory()

    def _agreeing(self, pixels: Tensor) -> tuple[Compiled | None, str, list[str]]:
        """The compiled form in the fastest precision in which it agrees with torch, and why others do not."""
        reasons: list[str] = []
        for precision in precisions(self._config, self._runtime):
            candidate = self._compiler.make(self._module, pixels, self._runtime, precision)
            agreement = self._agreement(candidate, pixels)
            if agreement.suffices(LEAST[precision]):
                return candidate, precision, reasons
            reasons.append(f"in {precision} it agrees with torch in {agreement} only, not in {LEAST[precision]}")
        return None, "", reasons


class Compiler:
    """Makes the serving networks of all generations of one base model; the streams of a process share it.

    Args:
        config: runtime and precision.
        graphs: where traced graphs are found and kept; in memory alone by default.
    """

    def __init__(self, config: RuntimeConfig | None = None, graphs: GraphStore | None = None) -> None:
        self.config = config or RuntimeConfig()
        self.graphs = graphs or GraphStore()
        self._executor = ThreadPoolExecutor(1, "compile")
        self._jobs: list[Future[None]] = []
        # A network keeps its segmenter alive, so that no other one gets its id as long as it is in here.
        self._networks: weakref.WeakValueDictionary[tuple[int, bool], ServingNetwork] = weakref.WeakValueDictionary()

    def network(self, segmenter: TemporalSegmenter, temporal_branch: bool) -> ServingNetwork:
        """The network of a generation, the same one for the same generation while anybody holds it."""
        key = id(segmenter), temporal_branch
        network = self._networks.get(key)
        if network is None:
            network = self._networks[key] = ServingNetwork(segmenter, temporal_branch, self)
        return network

    def make(self, module: WholeNetwork, pixels: Tensor, runtime: Runtime, precision: str) -> Compiled:
        """Compile a module in evaluation mode for pixels of this size, in the thread that compiles; raises anything."""
        if runtime is Runtime.COMPILE:
            return compile_torch(module, pixels, precision)
        size = pixels.shape[-2], pixels.shape[-1]
        return self.graphs.blueprint(module, size, module.common_size(size)).compile(module, precision, size)

    def distrust(self, module: WholeNetwork, pixels: Tensor) -> bool:
        """What was compiled for these pixels is wrong; returns whether another attempt may give something else."""
        size = pixels.shape[-2], pixels.shape[-1]
        return self.graphs.distrust(module, size, module.common_size(size))

    def kept(self, module: WholeNetwork, pixels: Tensor, precision: str) -> Compiled | None:
        """See :meth:`GraphStore.compiled`."""
        return self.graphs.compiled(module, (pixels.shape[-2], pixels.shape[-1]), precision)

    def keep(self, module: WholeNetwork, pixels: Tensor, precision: str, compiled: Compiled) -> None:
        """See :meth:`GraphStore.keep_compiled`."""
        if isinstance(compiled, OpenVINONetwork):
            self.graphs.keep_compiled(module, (pixels.shape[-2], pixels.shape[-1]), precision, compiled)

    def prepare(self, segmenter: TemporalSegmenter, config: InferenceConfig) -> None:
        """Compile the base model ahead of its first frame, for the size of its input that is known.

        That is the one that the settings give, or the one of this model that was used last. Where there is none, what
        the first frame will need is started up. Does not wait.

        Args:
            segmenter: the base model; the stream that it is for has its network already, or it would not be kept.
            config: how frames are segmented.
        """
        network = self.network(segmenter, False)  # the temporal branch is trained by an adaptation
        if not network.compiles_ahead:
            return
        size = self._known_size(network, segmenter, config) or self._likely_size(segmenter, config)
        if size is None:
            self.graphs.expect_trace()
        else:
            network.prepare(size)

    def _known_size(
        self, network: ServingNetwork, segmenter: TemporalSegmenter, config: InferenceConfig
    ) -> tuple[int, int] | None:
        model = segmenter.model
        given = config.input_size or model.fixed_input_size
        if given is not None:
            return given
        side = DEFAULT_LONG_SIDE if config.finds_input_size else config.long_side
        used = network.used_sizes()
        return next((size for size in used if not side or model.input_size(size, side) == size), None)

    def _likely_size(self, segmenter: TemporalSegmenter, config: InferenceConfig) -> tuple[int, int] | None:
        """A size to begin with; None where its graph would serve no other one."""
        side = DEFAULT_LONG_SIDE if config.finds_input_size else config.long_side
        likely = segmenter.model.input_size(LIKELY_IMAGE, side)
        return None if segmenter.model.common_size(likely) is None else likely

    def wait(self, seconds: float) -> bool:
        """Wait until all that is being compiled is done; returns whether it is in this time."""
        return not futures.wait(self._jobs, seconds).not_done

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
        self.graphs.close()
        return not all(job.done() for job in self._jobs)
