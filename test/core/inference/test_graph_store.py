from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ditta_core.inference import graph_store
from ditta_core.inference.agreement import Agreement
from ditta_core.inference.compiled_network import Compiled, Compiler, ServingNetwork, WholeNetwork
from ditta_core.inference.config import InferenceConfig, RuntimeConfig
from ditta_core.inference.graph_store import GraphStore, default_graph_folder, module_fingerprint
from ditta_core.inference.openvino_network import Blueprint
from ditta_core.inference.temporal_branch import TemporalSegmenter
from ditta_core.segmentation.registry import load_model
from ditta_core.segmentation.source import ModelSource

if find_spec("openvino") is None:
    pytest.skip("needs openvino", allow_module_level=True)

SIZE = (16, 24)
PIXELS = torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(0)).to(memory_format=torch.channels_last)


class Small(nn.Module):
    """A convolution, BatchNorm, a table of whole numbers and a setting."""

    def __init__(self, scale: float = 1.0, order: tuple[int, ...] = (1, 0, 3, 2)) -> None:
        super().__init__()
        self.scale = scale
        self.convolution = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.register_buffer("order", torch.tensor(order))
        self.eval()

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        return (self.norm(self.convolution(pixels))[:, self.order] * self.scale,)


def answers(blueprint: Blueprint, module: nn.Module) -> None:
    """The graph gives what the module gives."""
    with torch.no_grad():
        expected = module(PIXELS)
    torch.testing.assert_close(blueprint.compile(module, "float32")(PIXELS), expected, atol=1e-5, rtol=1e-5)


@pytest.fixture
def traces(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """The modules that were traced in this process."""
    traced: list[nn.Module] = []
    trace = Blueprint.__init__

    def counted(self: Blueprint, module: nn.Module, size: tuple[int, int], resizable: bool = False) -> None:
        traced.append(module)
        trace(self, module, size, resizable)

    monkeypatch.setattr(Blueprint, "__init__", counted)
    return traced


def test_the_next_process_traces_nothing(tmp_path: Path, traces: list[nn.Module]) -> None:
    folder = tmp_path / "graphs"
    modules = [Small(), Small()]  # with other weights, as of another generation
    for module in modules:
        answers(GraphStore(folder).blueprint(module, SIZE), module)
    assert traces == modules[:1]
    assert folder.stat().st_mode & 0o777 == 0o700
    assert sorted(file.suffix for file in folder.iterdir()) == [".graph", ".size"]


def test_the_size_used_last_comes_first(tmp_path: Path) -> None:
    module = Small()
    store = GraphStore(tmp_path)
    for index, size in enumerate([(16, 24), (24, 16), (16, 24)]):
        store.blueprint(module, size)
        for file in tmp_path.glob(f"*-{size[0]}x{size[1]}.size"):
            os.utime(file, (index, index))
    assert GraphStore(tmp_path).sizes(module) == [(16, 24), (24, 16)]
    assert GraphStore(tmp_path).sizes(Small(scale=2.0)) == []
    assert GraphStore().sizes(module) == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
        lambda data: b"",
        lambda data: b"<net>" * 1000,
        lambda data: graph_store.packed(b"no graph, but with the right checksum"),
    ],
    ids=["cut off", "one bit", "empty", "something else", "no graph"],
)
def test_a_damaged_file_is_traced_anew(
    tmp_path: Path, traces: list[nn.Module], damage: Callable[[bytes], bytes]
) -> None:
    module = Small()
    GraphStore(tmp_path).blueprint(module, SIZE)
    (file,) = tmp_path.glob("*.graph")
    file.write_bytes(damage(file.read_bytes()))
    answers(GraphStore(tmp_path).blueprint(module, SIZE), module)
    answers(GraphStore(tmp_path).blueprint(module, SIZE), module)
    assert len(traces) == 2, "the good file is back"


def test_what_is_no_regular_file_is_left_alone(tmp_path: Path, traces: list[nn.Module]) -> None:
    module = Small()
    store = GraphStore(tmp_path)
    store.blueprint(module, SIZE)
    (file,) = tmp_path.glob("*.graph")
    data = file.read_bytes()
    file.unlink()
    os.mkfifo(file)
    answers(GraphStore(tmp_path).blueprint(module, SIZE), module)
    file.unlink()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(data)
    file.symlink_to(elsewhere)
    answers(GraphStore(tmp_path).blueprint(module, SIZE), module)
    assert len(traces) == 3


def test_a_folder_that_others_may_write_to_is_not_used(tmp_path: Path, traces: list[nn.Module]) -> None:
    module = Small()
    GraphStore(tmp_path).blueprint(module, SIZE)
    tmp_path.chmod(0o777)
    store = GraphStore(tmp_path)
    assert "nobody else to write to it" in store.problem() and not store.sizes(module)
    answers(store.blueprint(module, SIZE), module)
    assert len(traces) == 2
    (tmp_path / "file").touch()
    assert "expected to write to the folder" in GraphStore(tmp_path / "file" / "graphs").problem()
    assert GraphStore().problem() == ""


def test_of_many_files_those_go_that_were_not_used_for_longest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_store, "KEPT_FILES", 3)
    for width in (8, 16, 24):
        GraphStore(tmp_path).blueprint(Small(), (8, width))
        for file in tmp_path.glob("*-8x8.*"):
            os.utime(file, (0, 0))
    names = {file.name.rpartition("-")[2] for file in tmp_path.iterdir()}
    assert names == {"8x16.graph", "8x16.size", "8x24.graph", "8x24.size"}


def test_the_fingerprint_is_of_all_that_the_trace_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    module = Small()
    first = module_fingerprint(module)
    assert module_fingerprint(Small()) == first, "weights do not count"
    module(PIXELS)
    assert module_fingerprint(module) == first, "nor does use"
    others = [Small(scale=2.0), Small(order=(0, 1, 2, 3)), Small().train(), copy.deepcopy(module)]
    others[-1].convolution = nn.Conv2d(3, 4, 3, padding=1, dilation=(1, 1), padding_mode="reflect")
    assert len({module_fingerprint(other) for other in others} | {first}) == 5
    monkeypatch.setattr(torch, "__version__", "1.0")
    assert module_fingerprint(module) != first


@pytest.mark.parametrize("name", ["camvid", "street"])
def test_the_fingerprint_of_a_packaged_model_is_the_same_in_every_process(name: str) -> None:
    program = f"""
import torch
from ditta_core.inference.compiled_network import WholeNetwork
from ditta_core.inference.graph_store import module_fingerprint
from ditta_core.inference.temporal_branch import TemporalSegmenter
from ditta_core.segmentation.registry import load_model
from ditta_core.segmentation.source import ModelSource
module = WholeNetwork(TemporalSegmenter(load_model(ModelSource({name!r}))), False).eval()
print(module_fingerprint(module))
"""
    elsewhere = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=300)
    module = WholeNetwork(TemporalSegmenter(load_model(ModelSource(name))), False).eval()
    with torch.inference_mode():
        module(torch.zeros(1, 3, 64, 96))
    assert elsewhere.stdout.strip() == module_fingerprint(module)


def test_tracing_elsewhere_gives_the_same_graph(tmp_path: Path, traces: list[nn.Module]) -> None:
    module = Small()
    store = GraphStore(tmp_path, elsewhere=True)
    store.expect_trace()
    answers(store.blueprint(module, SIZE), module)
    assert not traces
    answers(GraphStore(tmp_path).blueprint(module, SIZE), module)
    assert not traces, "it is on disk"
    store.close()


def test_what_cannot_be_sent_is_traced_here(traces: list[nn.Module]) -> None:
    class Local(Small):
        pass

    module = Local()
    store = GraphStore(elsewhere=True)
    answers(store.blueprint(module, SIZE), module)
    assert traces == [module]
    store.close()
    with pytest.raises(Exception, match="expected a module that can be pickled"):
        store.blueprint(Local(scale=2.0), SIZE)  # the node is ending: seconds of tracing would hold it up


def test_a_process_that_is_not_needed_ends(tmp_path: Path) -> None:
    module = Small()
    GraphStore(tmp_path).blueprint(module, SIZE)
    store = GraphStore(tmp_path, elsewhere=True)
    store.expect_trace()
    assert store._tracer is not None
    process = store._tracer._process
    assert process is not None and process.poll() is None
    store.blueprint(module, SIZE)
    assert process.poll() is not None and store._tracer._process is None


def test_folder_by_the_environment() -> None:
    home = Path.home()
    assert default_graph_folder({}) == home / ".cache/ditta_ros/graphs"
    assert default_graph_folder({"ROS_HOME": "/robot/ros"}) == Path("/robot/ros/ditta_ros/graphs")
    both = {"XDG_CACHE_HOME": "~/cache", "ROS_HOME": "/robot/ros"}
    assert default_graph_folder(both) == home / "cache/ditta_ros/graphs"


@pytest.mark.parametrize("branch", [False, True], ids=["frame", "with the temporal branch"])
def test_one_graph_of_a_packaged_model_serves_many_sizes(
    tmp_path: Path, base: TemporalSegmenter, traces: list[nn.Module], branch: bool
) -> None:
    module = WholeNetwork(base, branch).eval()
    for size in ((160, 176), (208, 192), (176, 208), (192, 224)):  # one, no or both sides even at a sixteenth
        common = module.common_size(size)
        assert common is not None and common == base.model.common_size((272, 480))
        network = GraphStore(tmp_path).blueprint(module, size, common).compile(module, "float32", size)
        pixels = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            torch.testing.assert_close(network(pixels), module(pixels), atol=2e-4, rtol=1e-4)
    assert len(traces) == 1
    assert GraphStore(tmp_path).sizes(module)[0] == size
    assert module.common_size((64, 96)) is None, "where the pyramid does not get smaller any more"


# --- through the compiler --------------------------------------------------------------------------------------------

FLOAT32 = RuntimeConfig(precision="float32")


@pytest.fixture(scope="module")
def base() -> TemporalSegmenter:
    return TemporalSegmenter(load_model(ModelSource()))


def frame(base: TemporalSegmenter, seed: int = 0) -> Tensor:
    """Pixels of an image of noise."""
    image = np.random.default_rng(seed).integers(0, 256, (1, 64, 96, 3), np.uint8)
    return base.model.preprocess(image, (64, 96), torch.device("cpu"))


def test_the_size_used_last_is_compiled_before_the_first_frame(tmp_path: Path, base: TemporalSegmenter) -> None:
    settings = InferenceConfig(long_side=96)
    first = Compiler(FLOAT32, GraphStore(tmp_path))
    network = first.network(base, False)
    first.prepare(base, settings)
    assert first.wait(10) and network.compiled is None, "no size is known yet"
    assert network(frame(base)) is None and first.wait(100) and network(frame(base)) is not None

    again = Compiler(FLOAT32, GraphStore(tmp_path))
    network = again.network(base, False)
    again.prepare(base, settings)
    assert again.wait(100)
    output = network(frame(base))
    assert output is not None, "the first frame"
    with torch.no_grad():
        expected = base.model.classify(base.model.decode(base.model.encode(frame(base))))
    torch.testing.assert_close(output.logits, expected, atol=1e-3, rtol=1e-3)

    other = Compiler(FLOAT32, GraphStore(tmp_path))
    network = other.network(base, False)
    other.prepare(base, InferenceConfig(long_side=64))
    assert other.wait(10) and network.compiled is None, "of another longest side"


def test_what_was_compared_with_eager_torch_is_not_compared_again(
    tmp_path: Path, base: TemporalSegmenter, traces: list[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[Tensor] = []
    agreement = ServingNetwork._agreement

    def counted(self: ServingNetwork, compiled: Compiled, pixels: Tensor) -> Agreement:
        compared.append(pixels)
        return agreement(self, compiled, pixels)

    monkeypatch.setattr(ServingNetwork, "_agreement", counted)

    def comparisons(segmenter: TemporalSegmenter) -> int:
        compared.clear()
        traces.clear()
        compiler = Compiler(FLOAT32, GraphStore(tmp_path))
        network = compiler.network(segmenter, False)
        compiler.prepare(segmenter, InferenceConfig(input_size=(64, 96)))
        assert compiler.wait(100)
        output = network(frame(base))
        assert output is not None and compiler.wait(100)
        with torch.no_grad():
            expected = segmenter.model.classify(segmenter.model.decode(segmenter.model.encode(frame(base))))
        torch.testing.assert_close(output.logits, expected, atol=1e-3, rtol=1e-3)
        return len(compared)

    other = copy.deepcopy(base)
    next(other.parameters()).data.mul_(1.01)
    assert comparisons(base) == 1, "traced just now"
    assert comparisons(base) == 0
    assert comparisons(other) == 1, "other weights"
    assert [comparisons(other), comparisons(base)] == [0, 0]
    for file in tmp_path.glob("*.compiled"):
        file.write_bytes(file.read_bytes()[:-1])
    assert [comparisons(base), comparisons(base)] == [1, 0], "damaged"
    (file,) = tmp_path.glob("*.graph")
    file.unlink()
    assert comparisons(base) == 0 and not traces, "nor traced"


def test_a_graph_of_many_sizes_is_traced_before_any_is_known(base: TemporalSegmenter, traces: list[nn.Module]) -> None:
    compiler = Compiler(FLOAT32)
    network = compiler.network(base, False)
    compiler.prepare(base, InferenceConfig(long_side=224))
    assert compiler.wait(100) and len(traces) == 1
    likely = torch.zeros(1, 3, 176, 224)
    assert network(likely) is not None, "the size of most cameras is compiled already"
    assert network(likely.mT) is None and compiler.wait(100) and network(likely.mT) is not None
    assert len(traces) == 1


def test_the_size_of_the_settings_is_compiled_before_the_first_frame(base: TemporalSegmenter) -> None:
    compiler = Compiler(FLOAT32)
    network = compiler.network(base, False)
    compiler.prepare(base, InferenceConfig(input_size=(64, 96)))
    assert compiler.wait(100) and network(frame(base)) is not None


def test_a_graph_of_another_network_is_found_out_by_the_first_frame(tmp_path: Path, base: TemporalSegmenter) -> None:
    """A file that belongs to other code, as if the fingerprint had missed a change of it."""
    wrong = copy.deepcopy(base)
    wrong.model.classify_outputs = lambda embedding: -base.model.classify_outputs(embedding)  # type: ignore[method-assign]
    compiler = Compiler(FLOAT32, GraphStore(tmp_path))
    right = compiler.network(base, False)._module
    key = module_fingerprint(right)
    (tmp_path / f"{key}-64x96.graph").write_bytes(
        graph_store.packed(Blueprint(WholeNetwork(wrong, False).eval(), (64, 96)).to_bytes())
    )
    (tmp_path / f"{key}-64x96.size").touch()
    network = compiler.network(base, False)
    compiler.prepare(base, InferenceConfig(long_side=96))
    assert compiler.wait(100) and network.compiled is not None
    assert network(frame(base)) is None, "eager torch answers"
    assert compiler.wait(100)
    assert network(frame(base)) is not None and network.status.runtime == "openvino"
