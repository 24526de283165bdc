"""What `ditta evaluate` does: methods over bags, labelled folders or videos, by the published protocol."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ditta_core.datasets.base import VideoSequence
from ditta_core.datasets.excerpt import Excerpt
from ditta_core.datasets.open import open_sequences
from ditta_core.evaluation.collect import FinishedEvaluation, collect, unfinished
from ditta_core.evaluation.corruptions import Corruption
from ditta_core.evaluation.methods.base import MethodSetup
from ditta_core.evaluation.methods.registry import METHODS
from ditta_core.evaluation.plan import EvaluationOptions, check_sequences, plan
from ditta_core.evaluation.runners import run_here, run_on_ray
from ditta_core.evaluation.store import TrialStore
from ditta_core.evaluation.trial import Trial, TrialRecord, TrialRunner, run_trial
from ditta_core.inference.config import AUTO_LONG_SIDE
from ditta_core.report.evaluation_page import report_steps, write_evaluation_report
from ditta_core.report.results import results_table, to_json
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.segmentation.registry import load_model
from ditta_core.segmentation.source import ModelSource
from ditta_core.teacher.config import TeacherConfig
from ditta_ros.bags.reader import is_bag
from ditta_ros.bags.sequence import BagSequence
from ditta_ros.evaluation.defaults import AUTO, NODE, QUICK_FRAMES, QUICK_LONG_SIDE

# --- from arguments to what is evaluated ---------------------------------------------------------------------------


def _open_inputs(options: argparse.Namespace) -> list[VideoSequence]:
    """The videos of all inputs.

    Raises:
        FileNotFoundError: there is nothing at a path.
        ValueError: a path holds nothing that can be evaluated.
    """
    sequences: list[VideoSequence] = []
    for path in options.input:
        if options.format == "bag" or (options.format == "auto" and is_bag(path)):
            sequences.append(BagSequence(path, options.image_topic, options.ground_truth_topic, options.slop))
        else:
            sequences += open_sequences(path, options.format, options.frame_rate, options.split)
    if options.max_frames is not None:
        sequences = [Excerpt(sequence, options.max_frames) for sequence in sequences]
    return sequences


def _fill_in(options: argparse.Namespace) -> None:
    """Fill in what was not given: the values of a quick look, or the usual ones."""
    if options.max_frames is None and options.quick:
        options.max_frames = QUICK_FRAMES
    if options.long_side is None:
        options.long_side = QUICK_LONG_SIDE if options.quick else AUTO_LONG_SIDE
    if options.threads is None:
        options.threads = os.cpu_count() or 1


def _evaluation_options(options: argparse.Namespace) -> EvaluationOptions:
    """What is compared.

    Raises:
        ValueError: a method or a corruption is unknown, or a number is out of its range.
    """
    methods = tuple(options.method)
    if options.node:
        methods = (*(name for name in methods if name != NODE), NODE)
    known = [*METHODS, NODE] if options.node else list(METHODS)
    unknown = [name for name in methods if name not in known]
    if unknown:
        raise ValueError(f"expected methods of {known}, but got {unknown}")
    download = options.allow_download
    teacher = TeacherConfig(
        options.teacher, options.teacher_checkpoint, options.teacher_image_size, allow_download=download
    )
    return EvaluationOptions(
        methods=methods,
        setup=MethodSetup(
            source=ModelSource(options.model, options.classes, options.device, download, options.allow_pickle),
            teacher=teacher,
            input_size=None if options.input_size is None else options.input_size[::-1],
            long_side=options.long_side,
            seed=options.seed,
        ),
        warmup_ratios=options.warmup_ratio,
        whole_video=options.whole_video,
        corruptions=tuple(None if name == "clean" else Corruption.parse(name) for name in options.corruption),
        repeats=options.repeats,
        windows=tuple(window for window in options.vc_windows if window),
        threads=options.threads,
    )


def _configuration(
    options: argparse.Namespace, evaluation: EvaluationOptions, sequences: Sequence[VideoSequence]
) -> dict[str, Any]:
    """What it takes to repeat the evaluation, as JSON values."""
    setup = evaluation.setup
    return {
        "command": shlex.join(["ditta", *sys.argv[1:]]),
        "inputs": [str(path) for path in options.input],
        "videos": {sequence.name: len(sequence) for sequence in sequences},
        "methods": list(evaluation.methods),
        "warmup_ratios": list(evaluation.warmup_ratios),
        "protocol": "whole" if evaluation.whole_video else "w2f",
        "corruptions": [None if corruption is None else str(corruption) for corruption in evaluation.corruptions],
        "repeats": evaluation.repeats,
        "seed": setup.seed,
        "model": setup.source.name,
        "classes": setup.source.classes,
        "device": setup.source.device,
        "teacher": asdict(setup.teacher),
        "input_size": None if setup.input_size is None else list(setup.input_size[::-1]),
        "long_side": None if setup.input_size is not None else _shown_side(setup.long_side),
        "quick": options.quick,
        "threads": evaluation.threads,
        "node": {"rate": options.rate, "lockstep": options.lockstep} if options.node else None,
    }


def _shown_side(long_side: int) -> int | str:
    return AUTO if long_side == AUTO_LONG_SIDE else long_side


def _run_key(config: dict[str, Any], sequences: Sequence[VideoSequence], setup: MethodSetup) -> str:
    """The name of an evaluation by everything that its numbers depend on: one never goes on with parts of another."""
    digest = hashlib.sha256(json.dumps({**config, "command": "", "inputs": []}, sort_keys=True).encode())
    for sequence in sequences:
        digest.update(f"{type(sequence).__name__} {sequence.name} {len(sequence)} {sequence.frame_rate}".encode())
        digest.update(sequence.image(0).tobytes())
    for text in (setup.source.name.partition(":")[2], setup.source.classes, setup.teacher.checkpoint):
        for file in _files_at(text):
            digest.update(file.read_bytes())
    for package in ("ditta_core", "ditta_ros"):
        for file in sorted((Path(__file__).parents[2] / package).rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _files_at(text: str) -> list[Path]:
    """The file, or the files of the folder, that an argument names; none where it names neither."""
    path = Path(text or "none").expanduser()
    if len(text) > 1000 or not path.exists():  # a class list may also be YAML
        return []
    return sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]


# --- the run -------------------------------------------------------------------------------------------------------


def evaluate(options: argparse.Namespace) -> FinishedEvaluation:
    """Run what is not done yet, and pool it.

    Raises:
        ValueError, OSError: an argument or an input is not what it should be.
        KeyboardInterrupt: what was done is kept for the next run.
    """
    if not options.input:
        raise ValueError("expected at least one bag, folder or video to evaluate, but got none")
    if options.node and options.engine == "ray":
        raise ValueError("expected --node in this process, but got --engine ray; run the two one after the other")
    _fill_in(options)
    evaluation = _evaluation_options(options)
    sequences = _open_inputs(options)
    model = load_model(evaluation.setup.source)
    check_sequences(evaluation, sequences, model)
    config = _configuration(options, evaluation, sequences)
    folder = options.work / _run_key(config, sequences, evaluation.setup)
    if options.fresh:
        shutil.rmtree(folder, ignore_errors=True)
    store = TrialStore(folder)
    planned = plan(evaluation, sequences, lambda name: name == NODE or METHODS[name].uses_warmup)
    waiting = unfinished(planned, store)
    every = {trial.key: trial for row in planned for repeat in row.trials for trial, _ in repeat}
    if len(waiting) < len(every):
        print(f"going on with {store.folder}: {len(every) - len(waiting)} of {len(every)} trials are done")
    total, done = sum(trial.steps for trial in every.values()), sum(trial.steps for trial in waiting)
    finished = len(every) - len(waiting)
    # Outside a terminal there is no bar, only a line for each trial that is done.
    with tqdm(total=total, initial=total - done, unit="frame", smoothing=0.05, dynamic_ncols=True, disable=None) as bar:
        begin = time.monotonic()
        for trial, record in _run_trials(options, evaluation, waiting, model, bar):
            store.put(trial, record)
            finished += 1
            tqdm.write(f"{finished}/{len(every)}  {trial.key}  after {time.monotonic() - begin:.0f} s", file=sys.stderr)
    return collect(evaluation, planned, store, model, config)


def _run_trials(
    options: argparse.Namespace,
    evaluation: EvaluationOptions,
    trials: Sequence[Trial],
    model: SegmentationModel,
    bar: Any,
) -> Iterator[tuple[Trial, TrialRecord]]:
    """Run trials where they were asked to run."""
    threads = evaluation.threads
    if options.engine == "ray":
        for trial, record in run_on_ray(trials, evaluation.setup, threads, options.workers, options.ray_address):
            bar.update(trial.steps)
            yield trial, record
        return
    runners: dict[str, TrialRunner] = {}
    if options.node:
        from ditta_ros.evaluation.node_trial import NodeRunner  # needs ROS

        runners[NODE] = NodeRunner(options.work / NODE, threads, options.rate, options.lockstep)

    def run(trial: Trial, model: SegmentationModel, step: Any) -> TrialRecord:
        bar.set_description(trial.key.replace("/", " "))
        return runners.get(trial.method, run_trial)(trial, model, step)

    yield from run_here(trials, model, threads, run, bar.update)


def write_results(options: argparse.Namespace, finished: FinishedEvaluation) -> None:
    """Print the table, write what was asked for, and forget the parts of the run."""
    print(f"\n{results_table(finished.result).to_text()}")
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(to_json(finished.result), encoding="utf-8")
    if options.report is not None:
        sequences = {trial.sequence.name: trial.sequence for row in finished.planned for trial, _ in row.trials[0]}
        total = report_steps(finished.result, sequences)
        with tqdm(total=total, desc="report", dynamic_ncols=True, disable=None) as bar:
            write_evaluation_report(finished.result, sequences, finished.mask, options.report, bar.update)
        print(f"report: {options.report / 'report.html'}")
    finished.store.remove()
