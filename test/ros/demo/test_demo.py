"""The demo: all of it with the real node on a small clip."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from ros_harness import ROOT, texture, wait_until
from sklearn import metrics as sklearn_metrics

from ditta_core.classes import ClassList
from ditta_core.datasets.open import open_video
from ditta_core.evaluation.scenes import SceneSequence
from ditta_core.inference.frame_segmenter import segment_frame
from ditta_core.segmentation.registry import load_model
from ditta_core.segmentation.source import ModelSource
from ditta_ros.demo.run import SCENES, DemoOptions, default_video, run_demo
from ditta_ros.replay.recording import Recording

CLIP_FRAMES, WARMUP = 16, 3
SIZE = 64, 96


def clip_labels(index: int) -> NDArray[np.uint8]:
    """Some labels: stripes of road, car and void that move with the texture."""
    columns = (np.arange(SIZE[1]) + index) // 16 % 3
    return np.broadcast_to(np.array([3, 8, 11], np.uint8)[columns], SIZE).copy()


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small labelled clip."""
    folder = tmp_path_factory.mktemp("clip")
    for part in ("images", "labels"):
        (folder / part).mkdir()
    for index in range(CLIP_FRAMES):
        name = f"{index:02}.png"
        cv2.imwrite(str(folder / "images" / name), cv2.cvtColor(texture(index, SIZE), cv2.COLOR_RGB2BGR))
        cv2.imwrite(str(folder / "labels" / name), clip_labels(index))
    return folder


class Demo:
    """`ditta demo` as users start it, in a process."""

    def __init__(self, out: Path, *arguments: str) -> None:
        self.out = out
        quick = ["--input-size", f"{SIZE[1]}x{SIZE[0]}", "--warmup-frames", str(WARMUP), "--out", str(out)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ditta_ros.cli", "demo", *quick, *arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self, timeout: float = 100.0) -> tuple[int, str, str]:
        """Exit code, standard output and standard error."""
        output, errors = self.process.communicate(timeout=timeout)
        return self.process.returncode, output, errors

    def processes(self) -> dict[int, str]:
        """Command lines of its processes that still run: they carry the folder of their logs."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                environment = (folder / "environ").read_bytes()
                command = (folder / "cmdline").read_bytes()
            except OSError:
                continue  # gone meanwhile, or another user's
            if f"ROS_LOG_DIR={self.out}/".encode() in environment:
                found[int(folder.name)] = command.replace(b"\0", b" ").decode()
        return found

    def wait_for_masks(self) -> None:
        """Wait until masks flow."""
        recording = Recording(self.out / "recording")
        wait_until(lambda: recording.masks() or self.process.poll() is not None, "masks", 60)
        assert self.process.poll() is None, self.finish()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """torch on one thread: two that spin for each other are slow where the machine does other things too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_the_demo_shows_what_the_node_does(clip: Path, tmp_path: Path) -> None:
    demo = Demo(tmp_path / "out", "--clip", str(clip))
    code, output, errors = demo.finish()
    assert code == 0, errors
    assert demo.processes() == {}

    summary = json.loads((demo.out / "summary.json").read_text())
    assert summary["states"] == ["BASE", "COLLECTING", "ADAPTING", "ADAPTED"]
    assert summary["generation"] == 1
    assert summary["dropped"] == summary["lost"] == 0
    assert summary["frames_in"] == summary["masks_out"] >= CLIP_FRAMES + WARMUP  # lockstep: every frame is answered
    assert summary["warmup_frames"] == WARMUP
    assert summary["compared_frames"] == CLIP_FRAMES - WARMUP
    assert summary["adaptation_seconds"] > 0
    latencies = summary["latency_ms"]
    counts = [latencies[phase]["masks"] for phase in ("base", "adapting", "adapted")]
    assert sum(counts) == summary["masks_out"]
    assert counts[1] == summary["masks_during_adaptation"] > 0
    assert 0 < latencies["adapted"]["p50"] <= latencies["adapted"]["p95"]
    for stream in ("source", "ditta"):
        assert 0 < summary["consistency"][stream] <= 100
        assert summary["accuracy"][stream]["vc8"] is not None
        assert summary["accuracy"][stream]["vc16"] is None  # 13 frames are too few

    model = load_model(ModelSource())
    recording = Recording(demo.out / "recording")
    rounds = [[frame for frame in recording.frames() if frame.round == number] for number in range(summary["passes"])]
    for played in rounds:  # all but the last are broken off as soon as the node is adapted
        assert [frame.index for frame in played] == list(range(len(played)))
    assert len(rounds[0]) >= WARMUP
    assert len(rounds[-1]) == CLIP_FRAMES
    for earlier, later in pairwise(rounds):
        assert later[0].stamp - earlier[-1].stamp >= 2_000_000_000
        assert later[0].time - earlier[-1].time >= 2
    last = rounds[-1][WARMUP:]
    for stream, masks in (
        ("source", [segment_frame(model, texture(frame.index, SIZE), SIZE)[0] for frame in last]),
        ("ditta", [recording.read_mask(frame.stamp) for frame in last]),
    ):
        truth, predicted = np.stack([clip_labels(frame.index) for frame in last]), np.stack(masks)
        weighted = sklearn_metrics.jaccard_score(
            truth[truth != 11], predicted[truth != 11], average="weighted", zero_division=0
        )
        assert summary["accuracy"][stream]["wiou"] == pytest.approx(100 * weighted, abs=0.02), stream

    sent = [frame for frame in recording.frames() if frame.round in (0, last[0].round)]
    overlay = open_video(demo.out / "overlay.mp4")
    assert len(overlay) == len(sent)
    assert overlay.frame_rate == 15
    assert overlay.image(0).shape == cv2.imread(str(demo.out / "preview.jpg")).shape
    assert cv2.imread(str(demo.out / "timeline.png")) is not None
    html = (demo.out / "report.html").read_text(encoding="utf-8")
    for name in ("mIoU", "wIoU", "VC8", "VC16", "flow-warped consistency"):
        (line,) = re.findall(f"^{name} .*$", output, re.MULTILINE)
        cells = "".join(f"<td>{cell}</td>" for cell in re.split(r"\s{2,}", line.strip()))
        assert cells in html


def interrupt(demo: Demo) -> None:
    demo.wait_for_masks()
    demo.process.send_signal(signal.SIGINT)


def kill_it(demo: Demo) -> None:
    demo.wait_for_masks()
    demo.process.kill()


def kill_the_node(demo: Demo) -> None:
    demo.wait_for_masks()
    # A process that it is starting has its command line until it runs its own.
    os.kill(min(pid for pid, command in demo.processes().items() if " ditta_ros.node " in command), signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "happens", "code", "message"),
    [
        # Slow enough that it has not come to its end before.
        (("--frame-rate", "2"), interrupt, 130, "interrupted"),
        (("--frame-rate", "2"), kill_it, -9, ""),
        (("--frame-rate", "2"), kill_the_node, 1, r"the node process ended with exit code -9; the end of .*node\.log:"),
        (("--timeout", "0.1"), lambda _: None, 1, r"the adaptation did not finish within 0\.1 s: the node is "),
    ],
    ids=["ctrl-c", "killed", "dead node", "time limit"],
)
def test_a_demo_that_ends_early_says_why_and_leaves_no_process_behind(
    clip: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
    happens: Callable[[Demo], None],
    code: int,
    message: str,
) -> None:
    demo = Demo(tmp_path / "out", "--video", str(clip / "images"), *arguments)
    watcher = threading.Thread(target=happens, args=(demo,))
    watcher.start()
    returned, _, errors = demo.finish()
    watcher.join()
    assert returned == code, errors
    assert re.search(message, errors), errors
    wait_until(lambda: demo.processes() == {}, lambda: f"the end of {demo.processes()}")
    assert not (demo.out / "summary.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--video", "nowhere.mp4"), "nowhere.mp4 does not exist"),
        (("--model", "yolo"), "expected the model .* but got 'yolo'"),
        (("--video", "{clip}/images", "--warmup-frames", "16"), "expected a warm-up shorter than the video"),
        (("--video", "{night}"), "all 9 frames of night are of one colour or mere noise"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_starts(
    clip: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    night = tmp_path / "night"
    night.mkdir()
    for index in range(9):
        cv2.imwrite(str(night / f"{index}.png"), np.full((64, 96, 3), 7, np.uint8))
    demo = Demo(tmp_path / "out", *(argument.format(clip=clip, night=night) for argument in arguments))
    code, _, errors = demo.finish()
    assert code == 2
    assert re.search(f"(?m)^ditta demo: .*{message}", errors), errors
    assert not (demo.out / "log").exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_scenes_are_adapted_to_changed_and_restored(tmp_path: Path) -> None:
    """What `make demo` plays."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "ditta_ros.cli", "demo", "--out", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=500)
    summary = json.loads((out / "summary.json").read_text())
    states = summary["states"]
    assert states.count("ADAPTING") >= 2 and states[-1] == "ADAPTED"
    # Ten frames of half a second: the scene is known again where the camera is near them when the change is believed.
    assert summary["generation"] == (1 if states[-2] == "COLLECTING" else states.count("ADAPTING"))
    dusk, day, again = summary["scenes"]
    assert again["name"] == f"{dusk['name']}, again"
    # By day the model is at home: the statistics cost 0.3 to 1.7, smoothing gives as much. On a busy machine half of
    # the eight labelled frames have no mask, and which of them do moves the figure by one more.
    for scene, least in (dusk, 10.0), (day, -3.0), (again, 10.0):
        gain = scene["accuracy"]["ditta"]["miou"] - scene["accuracy"]["source"]["miou"]
        assert gain > least and scene["labelled"] > 0, scene
        assert scene["consistency"]["ditta"] > scene["consistency"]["source"]
    assert summary["accuracy"]["ditta"]["miou"] > summary["accuracy"]["source"]["miou"] + 10
    assert len(re.findall("mIoU [0-9.]+ frame by frame", (out / "report.html").read_text(encoding="utf-8"))) == 3


@pytest.mark.parametrize("classes", ["camvid11", "cityscapes19"])
def test_eight_frames_of_the_scenes_are_labelled(classes: str) -> None:
    scenes = SceneSequence(default_video(), SCENES, ClassList.packaged(classes))
    filmed = {scenes.origin(index): scenes.labels(index) for index in range(len(scenes))}
    labelled = [labels for labels in filmed.values() if labels is not None]
    assert len(labelled) == 8
    for labels in labelled:
        values, counts = np.unique(labels, return_counts=True)
        assert len(values) >= 5 and 0.4 < counts[:-1].sum() / labels.size < 0.8 and values[-1] == 255


@pytest.mark.parametrize("video", ["overlay.mp4", "recording/images", "link/images", "mine.mp4"])
def test_the_video_that_is_played_is_not_written_over(clip: Path, tmp_path: Path, video: str) -> None:
    out = tmp_path / "out"
    (out / "recording/masks").mkdir(parents=True)
    shutil.copytree(clip / "images", out / "recording/images")
    (out / "link").symlink_to(clip)
    film = cv2.VideoWriter(str(out / "overlay.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10, (96, 64))
    for image in sorted((clip / "images").iterdir()):
        film.write(cv2.resize(cv2.imread(str(image)), (96, 64)))
    film.release()
    (tmp_path / "mine.mp4").write_bytes((out / "overlay.mp4").read_bytes())
    if video == "mine.mp4":  # what would be written is the video itself, which lies elsewhere
        (out / "overlay.mp4").unlink()
        (out / "overlay.mp4").symlink_to(tmp_path / "mine.mp4")
    before = {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}
    options = DemoOptions((tmp_path if video == "mine.mp4" else out) / video, out, True, warmup_frames=2)
    with pytest.raises(ValueError, match="expected a folder of its own for what the demo writes, but the video"):
        run_demo(options)
    assert {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()} == before


def test_somebody_elses_files_are_not_written_over(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(ValueError, match=r"but .* holds summary.json of somebody else; choose another with --out"):
        run_demo(DemoOptions(clip / "images", tmp_path, True, warmup_frames=2))
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]


def test_the_default_video_is_there() -> None:
    video = open_video(default_video())
    assert (len(video), video.frame_rate, video.image(0).shape) == (250, 25.0, (272, 640, 3))
