from __future__ import annotations

import threading
from collections.abc import Iterator
from importlib.util import find_spec

import pytest
import torch
from moving_scenes import moving_square

from ditta_core.adaptation.config import AdaptationConfig
from ditta_core.inference.compiled_network import Compiler
from ditta_core.inference.config import InferenceConfig, RuntimeConfig
from ditta_core.stream import heir
from ditta_core.stream.config import StreamConfig, WarmupTrigger
from ditta_core.stream.video_segmenter import VideoSegmenter
from ditta_core.types import Frame, Segmentation, State

if find_spec("openvino") is None:
    pytest.skip("needs openvino", allow_module_level=True)

pytestmark = pytest.mark.timeout(300)  # it compiles, which takes a busy machine its time

FRAMES = moving_square(12, side=8, pan=3).clip


class Waiting:
    """A stream whose adaptation has ended, while the thread that compiles is kept busy."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.compiler = Compiler(RuntimeConfig(precision="float32"))
        config = StreamConfig(
            InferenceConfig(long_side=96), warmup_frames=2, warmup_on=WarmupTrigger.STARTUP, remembered_scenes=1
        )
        adaptation = AdaptationConfig(passes=1, guarded=False)
        self.stream = VideoSegmenter("camvid", config, adaptation=adaptation, compiler=self.compiler)
        self.pushed = 0
        self.push()
        assert self.stream.status.collected == 0, "the clip waits for the compiled network"
        assert self.compiler.wait(100)
        self.push()
        self.compiler.submit(self.gate.wait)  # type: ignore[arg-type]
        self.push()

    def push(self) -> Segmentation:
        frame = Frame(FRAMES[self.pushed], self.pushed * 100_000_000)
        self.pushed += 1
        return self.stream.push(frame)


@pytest.fixture
def waiting(few_threads: None) -> Iterator[Waiting]:
    torch.set_num_threads(1)
    waiting = Waiting()
    yield waiting
    waiting.gate.set()
    waiting.compiler.close()


def test_the_model_before_serves_on_until_the_next_one_is_compiled(waiting: Waiting) -> None:
    for _ in range(2):
        segmentation = waiting.push()
        assert waiting.stream.status.state is State.ADAPTING and segmentation.generation == 0
        assert "network" in segmentation.latency_ms, "by its compiled network"
    waiting.gate.set()
    assert waiting.compiler.wait(100)
    segmentation = waiting.push()
    assert waiting.stream.status.state is State.ADAPTED and segmentation.generation == 1
    assert "network" in segmentation.latency_ms, "so is the first frame of the next one"


def test_whoever_asks_for_another_model_meanwhile_gets_that(waiting: Waiting) -> None:
    waiting.stream.reset()
    waiting.push()
    waiting.gate.set()
    assert waiting.compiler.wait(100)
    assert waiting.push().generation == 0 and waiting.stream.status.state is State.BASE


def test_it_is_not_waited_for_for_ever(waiting: Waiting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heir, "COMPILE_SECONDS", 0.0)
    segmentation = waiting.push()
    assert segmentation.generation == 1 and "encode" in segmentation.latency_ms, "by eager torch"


def test_the_base_model_stays_compiled_and_what_is_restored_serves_once_it_is(waiting: Waiting) -> None:
    waiting.gate.set()
    assert waiting.compiler.wait(100)
    assert waiting.push().generation == 1
    gate = threading.Event()
    waiting.compiler.submit(gate.wait)  # type: ignore[arg-type]
    waiting.stream.reset()
    segmentation = waiting.push()
    assert segmentation.generation == 0 and "network" in segmentation.latency_ms, "the base model stayed compiled"
    waiting.stream.request_restore()
    for _ in range(2):
        segmentation = waiting.push()
        assert segmentation.generation == 0 and "network" in segmentation.latency_ms, "it serves on"
    waiting.stream.resume()  # begins no warm-up, which would give up what was asked for
    assert waiting.push().generation == 0 and waiting.stream.status.state is State.BASE
    gate.set()
    assert waiting.compiler.wait(100)
    segmentation = waiting.push()
    assert segmentation.generation == 1 and "network" in segmentation.latency_ms
    assert waiting.stream.status.state is State.ADAPTED and "restored" in waiting.stream.status.message
