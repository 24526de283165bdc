"""What `ditta evaluate` does: methods over bags, labelled folders or videos, by the published protocol."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ditta_core.datasets.annotated import annotated_frames
from ditta_core.datasets.base import VideoSequence
from ditta_core.datasets.excerpt import Excerpt
from ditta_core.datasets.open import open_sequences
from ditta_core.evaluation.collect import FinishedEvaluation, collect, unfinished
from ditta_core.evaluation.corruptions import Corruption
from ditta_core.evaluation.fingerprint import evaluation_fingerprint
from ditta_core.evaluation.methods.base import MethodSetup
from ditta_core.evaluation.methods.registry import METHODS, check_labelled
from ditta_core.evaluation.plan import EvaluationOptions, PlannedResult, check_sequences, plan
from ditta_core.evaluation.runners import run_here, run_on_ray
from ditta_core.evaluation.store import TrialStore
from ditta_core.evaluation.trial import Trial, TrialRecord, TrialRunner, run_trial
from ditta_core.inference.config import AUTO_LONG_SIDE, Runtime
from ditta_core.report.evaluation_page import report_steps, write_evaluation_report
from ditta_core.report.pages import files_at_once
from ditta_core.report.results import listed, problem_lines, results_table, to_json, unadapted_methods
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.segmentation.files import write_output
from ditta_core.segmentation.registry import load_model
from ditta_core.segmentation.source import ModelSource
from ditta_core.teacher.build import build_teacher
from ditta_core.teacher.config import TeacherConfig
from ditta_ros.adaptation.drives import open_drives
from ditta_ros.bags.files import is_bag
from ditta_ros.bags.sequence import BagSequence
from ditta_ros.evaluation.defaults import AUTO, NODE, QUICK_FRAMES, QUICK_LONG_SIDE, NothingAdaptedError

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
    return annotated_frames(sequences) if options.annotated_frames else sequences


def _fill_in(options: argparse.Namespace) -> None:
    """Fill in what was not given: the values of a quick look, or the usual ones."""
    if options.max_frames is None and options.quick:
        options.max_frames = QUICK_FRAMES
    if options.long_side is None:
        options.long_side = QUICK_LONG_SIDE if options.quick else AUTO_LONG_SIDE
    if options.annotated_frames:
        options.whole_video, options.vc_windows = True, ()
    if options.threads is None:
        options.threads = os.cpu_count() or 1


def _evaluation_options(options: argparse.Namespace) -> EvaluationOptions:
    """What is compared.

    Raises:
        FileNotFoundError: there is nothing at the path of a source.
        ValueError: a method or a corruption is unknown, a method lacks its labelled source, or a number is out of its
            range.
    """
    methods = tuple(options.method)
    if options.node:
        methods = (*(name for name in methods if name != NODE), NODE)
    known = [*METHODS, NODE] if options.node else list(METHODS)
    unknown = [name for name in methods if name not in known]
    if unknown:
        raise ValueError(f"expected methods of {known}, but got {unknown}")
    warming = [name for name in methods if name == NODE or METHODS[name].uses_warmup]
    if options.annotated_frames and warming:
        raise ValueError(
            f"expected methods without a warm-up for annotated frames alone, but got {', '.join(warming)}; give "
            f"--method source_merged, and --model adapted:FILE for what `ditta adapt` has learned"
        )
    download = options.allow_download
    teacher = TeacherConfig(
        options.teacher, options.teacher_checkpoint, options.teacher_image_size, allow_download=download
    )
    labelled = open_drives(
        options.source, options.image_topic, options.ground_truth_topic, options.frame_rate, options.source_split
    )
    setup = MethodSetup(
        source=ModelSource(options.model, options.classes, options.device, download, options.allow_pickle),
        teacher=teacher,
        input_size=None if options.input_size is None else options.input_size[::-1],
        long_side=options.long_side,
        seed=options.seed,
        runtime=Runtime.TORCH if options.eager else Runtime.OPENVINO,
        labelled=tuple(labelled),
    )
    check_labelled(methods, setup)
    return EvaluationOptions(
        methods=methods,
        setup=setup,
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
        "labelled": {sequence.name: len(sequence) for sequence in setup.labelled},
        "device": setup.source.device,
        "teacher": asdict(setup.teacher),
        "input_size": None if setup.input_size is None else list(setup.input_size[::-1]),
        "long_side": None if setup.input_size is not None else _shown_side(setup.long_side),
        "quick": options.quick,
        "eager": setup.runtime is Runtime.TORCH,
        "threads": evaluation.threads,
        "node": {"rate": options.rate, "lockstep": options.lockstep} if options.node else None,
    }


def _shown_side(long_side: int) -> int | str:
    return AUTO if long_side == AUTO_LONG_SIDE else long_side


_NOT_IN_THE_NUMBERS = (
    "command",
    "input",
    "source",
    "list_methods",
    "rest",
    "allow_download",
    "engine",
    "workers",
    "ray_address",
    "json",
    "report",
    "work",
    "fresh",
)
"""Options that the numbers do not depend on; the inputs are known by their files."""


def _claim_store(
    options: argparse.Namespace, evaluation: EvaluationOptions, sequences: Sequence[VideoSequence]
) -> TrialStore:
    """The store of this very evaluation; one of its own where the same one is under way already."""
    values = {name: value for name, value in vars(options).items() if name not in _NOT_IN_THE_NUMBERS}
    packages = [Path(__file__).parents[2] / package for package in ("ditta_core", "ditta_ros")]
    name = evaluation_fingerprint(values, (*sequences, *evaluation.setup.labelled), evaluation.setup, packages)
    store = TrialStore.claim(options.work, name)
    if store.folder.name != name:
        print(f"the same evaluation is under way in {options.work / name}: this one keeps its parts in {store.folder}")
    if options.fresh:
        store.clear()
    return store


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
    if any(name == NODE or METHODS[name].uses_teacher for name in evaluation.methods):
        build_teacher(evaluation.setup.teacher, model.mean.device)  # what it lacks is told before hours of work
    config = _configuration(options, evaluation, sequences)
    store = _claim_store(options, evaluation, sequences)
    planned = plan(evaluation, sequences, lambda name: name == NODE or METHODS[name].uses_warmup)
    try:
        _run_waiting(options, evaluation, planned, store, model)
        return collect(evaluation, planned, store, model, config)
    except BaseException:  # Ctrl-C too: the next run goes on with the store
        store.close()
        raise


def _run_waiting(
    options: argparse.Namespace,
    evaluation: EvaluationOptions,
    planned: Sequence[PlannedResult],
    store: TrialStore,
    model: SegmentationModel,
) -> None:
    """Run the trials that have no record yet, with a progress bar."""
    waiting = unfinished(planned, store)
    every = {trial.key: trial for row in planned for repeat in row.trials for trial, _ in repeat}
    if len(waiting) < len(every):
        print(f"going on with {store.folder}: {len(every) - len(waiting)} of {len(every)} trials are done")
    total, done = sum(trial.steps for trial in every.values()), sum(trial.steps for trial in waiting)
    finished = len(every) - len(waiting)
    # Outside a terminal there is no bar, only a line for each trial that is done.
    with tqdm(total=total, initial=total - done, unit="frame", smoothing=0.05, dynamic_ncols=True, disable=None) as bar:
        begin = time.monotonic()
        node_folder = store.folder.with_name(f"{store.folder.name}-{NODE}")
        for trial, record in _run_trials(options, evaluation, waiting, model, bar, node_folder):
            store.put(trial, record)
            finished += 1
            tqdm.write(f"{finished}/{len(every)}  {trial.key}  after {time.monotonic() - begin:.0f} s", file=sys.stderr)


def _run_trials(
    options: argparse.Namespace,
    evaluation: EvaluationOptions,
    trials: Sequence[Trial],
    model: SegmentationModel,
    bar: Any,
    node_folder: Path,
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

        runners[NODE] = NodeRunner(node_folder, threads, options.rate, options.lockstep)

    def run(trial: Trial, model: SegmentationModel, step: Any) -> TrialRecord:
        bar.set_description(trial.key.replace("/", " "))
        return runners.get(trial.method, run_trial)(trial, model, step)

    yield from run_here(trials, model, threads, run, bar.update)


def write_results(options: argparse.Namespace, finished: FinishedEvaluation) -> None:
    """Print the table, write what was asked for, and forget the parts of the run.

    Raises:
        OSError: a file cannot be written; the parts are kept.
        NothingAdaptedError: every adaptation of a method failed, so that its rows are not its own; all was written.
    """
    lines = [results_table(finished.result).to_text(), *(f"! {line}" for line in problem_lines(finished.result))]
    print("\n" + "\n".join(lines), flush=True)
    try:
        if options.json is not None:
            write_output(options.json, to_json(finished.result))
        if options.report is not None:
            _write_report(options.report, finished)
        finished.store.remove()
    finally:
        finished.store.close()
    if failed := unadapted_methods(finished.result):
        raise NothingAdaptedError(f"every adaptation of {listed(failed)} failed; the reasons stand under the table")


def _write_report(folder: Path, finished: FinishedEvaluation) -> None:
    """Write the report, with a progress bar, each of its files whole or not at all."""
    sequences = {trial.sequence.name: trial.sequence for row in finished.planned for trial, _ in row.trials[0]}
    total = report_steps(finished.result, sequences)
    with (
        files_at_once(folder) as unfinished_report,
        tqdm(total=total, desc="report", dynamic_ncols=True, disable=None) as bar,
    ):
        write_evaluation_report(finished.result, sequences, finished.mask, unfinished_report, bar.update)
    print(f"report: {folder / 'report.html'}")
