from __future__ import annotations

import copy
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ditta_core.inference.openvino_network import Blueprint, weights_of

if find_spec("openvino") is None:
    pytest.skip("needs openvino", allow_module_level=True)

ROOT = Path(__file__).resolve().parents[3]


class Tied(nn.Module):
    """Convolutions with BatchNorm and a buffer, two of the convolutions with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 4, 1)
        self.third = nn.Conv2d(4, 4, 1, bias=False)
        self.third.weight = self.second.weight
        self.register_buffer("scale", torch.tensor(1.5), persistent=False)
        self.register_buffer("order", torch.tensor([1, 0, 3, 2]))

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        inner = self.norm(self.first(pixels)).relu()
        return inner, self.third(self.second(inner))[:, self.order] * self.scale


def tied(seed: int) -> Tied:
    """With random weights and statistics."""
    torch.manual_seed(seed)
    module = Tied().eval()
    for value in weights_of(module).values():
        value.copy_(torch.rand_like(value) + 0.1)
    return module


SIZE = (16, 24)
PIXELS = torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(0)).to(memory_format=torch.channels_last)


def test_one_blueprint_serves_modules_with_other_weights() -> None:
    modules = [tied(seed) for seed in range(3)]
    before = copy.deepcopy(modules[0].state_dict())
    blueprint = Blueprint(modules[0], SIZE)
    for module in modules:
        network = blueprint.compile(module, "float32")
        with torch.no_grad():
            torch.testing.assert_close(network(PIXELS), module(PIXELS), atol=1e-4, rtol=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in modules[0].state_dict().items())
    assert list(modules[0].state_dict()) == list(before)


def test_shared_weights_are_named_as_often_as_they_are_used() -> None:
    names = weights_of(Tied())
    assert {"second.weight", "third.weight", "scale", "norm.running_mean"} <= set(names)
    assert "order" not in names and "norm.num_batches_tracked" not in names


def test_another_network_is_refused() -> None:
    blueprint = Blueprint(Tied().eval(), SIZE)
    other = Tied().eval()
    other.second = nn.Conv2d(4, 4, 3, padding=1)
    with pytest.raises(ValueError, match="expected the weights of the network that was traced"):
        blueprint.compile(other, "float32")


@pytest.mark.slow
def test_generation_after_generation_takes_no_more_memory() -> None:
    """Each trace of ESPNetv2 leaves 24 MB in TorchScript; traced once, 8 more stay within the 60 MB of noise."""
    program = """
import copy, torch
from ditta_core.inference.temporal_branch import TemporalSegmenter
from ditta_core.segmentation.registry import load_model
from ditta_core.segmentation.source import ModelSource
from ditta_core.inference.compiled_network import Compiler
from ditta_core.inference.config import RuntimeConfig
torch.set_num_threads(1)
base = TemporalSegmenter(load_model(ModelSource()))
compiler = Compiler(RuntimeConfig(precision="float32", wait=True))
pixels = torch.rand(1, 3, 96, 128)
for generation in range(12):
    network = compiler.network(copy.deepcopy(base), False)
    assert network(pixels) is not None, network.status
    if generation in (3, 11):
        print(int(open("/proc/self/statm").read().split()[1]) * 4096 / 1e6)
"""
    printed = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True, timeout=300
    ).stdout.split()
    before, after = map(float, printed)
    assert after - before < 60


def test_openvino_tells_nobody() -> None:
    program = (
        "import sys; from ditta_core.segmentation.openvino_runtime import import_openvino; import_openvino(); "
        "from openvino.tools.ovc import telemetry_utils; print(telemetry_utils.tm.__name__)"
    )
    told = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout.strip().endswith("telemetry_stub")
