"""Where trials run: in this process, or spread over a Ray cluster."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence

import torch

from ditta_core.evaluation.input_sizes import InputSizes
from ditta_core.evaluation.methods.base import MethodSetup
from ditta_core.evaluation.trial import Trial, TrialRecord, TrialRunner, run_trial
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.segmentation.registry import load_model


def run_here(
    trials: Sequence[Trial],
    model: SegmentationModel,
    threads: int,
    run: TrialRunner = run_trial,
    step: Callable[[], object] = lambda: None,
) -> Iterator[tuple[Trial, TrialRecord]]:
    """Run trials one after the other in this process."""
    before, sizes = torch.get_num_threads(), InputSizes()
    torch.set_num_threads(threads)
    try:
        for trial in trials:
            yield trial, run(sizes.settle(trial, model), model, step)
    finally:
        torch.set_num_threads(before)


class _TrialWorker:
    """Runs trials in a process of its own, with the model of the setup, loaded once, and so many threads of torch."""

    def __init__(self, setup: MethodSetup, threads: int) -> None:
        torch.set_num_threads(threads)
        self.model = load_model(setup.source)
        self.sizes = InputSizes()

    def run(self, number: int, trial: Trial) -> tuple[int, TrialRecord]:
        """Run a trial; its number comes back with the record, as trials end in any order."""
        return number, run_trial(self.sizes.settle(trial, self.model), self.model)


def run_on_ray(
    trials: Sequence[Trial], setup: MethodSetup, threads: int, workers: int, address: str | None = None
) -> Iterator[tuple[Trial, TrialRecord]]:
    """Run trials on a Ray cluster, in the order in which they come to their end.

    Videos and weights are opened by the workers: their paths must be the same on every machine of the cluster.

    Args:
        workers: Number of processes at once; each takes ``threads`` cores, and a GPU where the model's device is one.
        address: Address of the cluster; None for a local one that lives as long as the evaluation.

    Raises:
        ImportError: the package ray is missing.
    """
    import ray
    from ray.util import ActorPool

    local = address is None
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # CPU workers on a GPU machine stay as they are
    ray.init(
        address="local" if local else address,
        num_cpus=workers * threads if local else None,
        include_dashboard=False if local else None,
        log_to_driver=False,
        logging_level=logging.WARNING,
    )
    try:
        on_gpu = torch.device(setup.source.device).type == "cuda"
        worker = ray.remote(num_cpus=threads, num_gpus=1 if on_gpu else 0)(_TrialWorker)
        pool = ActorPool([worker.remote(setup, threads) for _ in range(min(workers, len(trials)))])

        for number, record in pool.map_unordered(lambda actor, job: actor.run.remote(*job), list(enumerate(trials))):
            yield trials[number], record
    finally:
        ray.shutdown()
