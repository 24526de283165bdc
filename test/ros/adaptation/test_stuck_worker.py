"""A worker that lives and does nothing, and jobs that cannot be handed to one: each ends in a result that says why."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ros_harness import texture, wait_until

from ditta_core.adaptation.config import AdaptationConfig
from ditta_core.adaptation.job import AdaptationJob, AdaptationProgress, AdaptationResult
from ditta_core.segmentation.source import ModelSource
from ditta_ros.adaptation import worker as worker_module
from ditta_ros.adaptation.worker import AdaptationWorker, ProcessRunner


def make_job(passes: int = 1, **fields: Any) -> AdaptationJob:
    """A job whose clip is more than a socket holds."""
    clip = np.stack([np.tile(texture(index), (5, 5, 1)) for index in range(3)])
    adaptation = AdaptationConfig(self_training_steps=0, passes=passes, guarded=False)
    return AdaptationJob(clip, (64, 96), ModelSource(), adaptation=adaptation, **fields)


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> Iterator[ProcessRunner]:
    """Of a worker that is soon given up."""
    monkeypatch.setattr(worker_module, "STALL_SECONDS", 0.5)
    monkeypatch.setattr(worker_module, "CANCEL_SECONDS", 0.5)
    worker = AdaptationWorker(threads=1, niceness=0, patience=5.0)
    yield ProcessRunner(worker)
    worker.close()


def children() -> list[int]:
    """Process ids of the workers, stopped or not."""
    files = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    pids = [int(pid) for file in files for pid in file.read_text().split()]
    return [pid for pid in pids if b"adaptation.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def idle(pid: int) -> bool:
    """Whether no thread of a process computes."""
    states = [file.read_text().rpartition(")")[2].split()[0] for file in Path(f"/proc/{pid}/task").glob("*/stat")]
    return "R" not in states


def result_of(runner: ProcessRunner) -> AdaptationResult:
    """The result of the job in hand."""

    def result() -> AdaptationResult | None:
        news = runner.poll()
        return news if isinstance(news, AdaptationResult) else None

    return wait_until(result, "the result of the adaptation", 60)


def assert_next_job_succeeds(runner: ProcessRunner) -> None:
    runner.submit(make_job())
    assert result_of(runner).report.succeeded
    assert runner.idle_seconds == 0


def stop_worker() -> int:
    (pid,) = wait_until(children, "the worker")
    os.kill(pid, signal.SIGSTOP)
    return pid


def test_a_worker_that_takes_no_job_is_replaced(runner: ProcessRunner) -> None:
    runner.submit(make_job(passes=10_000))
    wait_until(lambda: isinstance(runner.poll(), AdaptationProgress), "progress", 60)
    runner.cancel()
    wait_until(lambda: idle(children()[0]), "the worker to have no job")
    pid = stop_worker()
    runner.submit(make_job())
    report = result_of(runner).report
    assert not report.succeeded
    assert report.reason == "the adaptation process took in or gave out nothing for 0.5 s, so that it was ended"
    assert report.frames == 3
    assert_next_job_succeeds(runner)
    assert pid not in children()


@pytest.mark.slow
def test_an_adaptation_without_progress_is_given_up(runner: ProcessRunner) -> None:
    runner.submit(make_job(passes=10_000))
    wait_until(lambda: isinstance(runner.poll(), AdaptationProgress), "progress", 60)
    assert runner.idle_seconds < 5
    pid = stop_worker()
    wait_until(lambda: runner.idle_seconds > 1, "idle seconds")
    report = result_of(runner).report
    assert not report.succeeded
    assert "no progress for 5 s" in report.reason
    assert "adaptation_timeout" in report.reason
    assert_next_job_succeeds(runner)
    assert pid not in children()


def test_a_job_that_is_cancelled_while_its_worker_is_stopped_costs_the_next_one_nothing(runner: ProcessRunner) -> None:
    runner.submit(make_job(passes=10_000))
    wait_until(lambda: isinstance(runner.poll(), AdaptationProgress), "progress", 60)
    stop_worker()
    runner.cancel()
    assert runner.idle_seconds == 0
    assert_next_job_succeeds(runner)


def test_a_worker_that_never_gets_ready_fails_its_job(runner: ProcessRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "START_SECONDS", 0.5)
    runner.expect()
    stop_worker()
    runner.submit(make_job())
    assert result_of(runner).report.reason == "the adaptation process did not start within 0.5 s"
    monkeypatch.undo()
    assert_next_job_succeeds(runner)


def test_cancelling_while_the_worker_starts_does_not_start_another(runner: ProcessRunner) -> None:
    runner.expect()
    (pid,) = wait_until(children, "the worker")
    for _ in range(20):
        runner.submit(make_job(passes=10_000))
    wait_until(lambda: isinstance(runner.poll(), AdaptationProgress), "progress", 60)
    assert children() == [pid]


def test_a_job_that_cannot_be_sent_fails_and_the_next_one_is_done(runner: ProcessRunner) -> None:
    runner.submit(make_job(teacher=threading.Lock()))  # as MemoryError, raised while the job is pickled
    assert "cannot pickle" in result_of(runner).report.reason
    assert_next_job_succeeds(runner)


def test_a_worker_that_cannot_be_started_fails_its_job(runner: ProcessRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_next_job_succeeds(runner)
    with monkeypatch.context() as context:
        context.setattr(worker_module.sys, "executable", "/nowhere/python")
        runner.expect()
        runner.submit(make_job())
        assert "/nowhere/python" in result_of(runner).report.reason
    assert_next_job_succeeds(runner)


def test_closing_does_not_wait_for_a_stopped_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = AdaptationWorker(threads=1, niceness=0)
    runner = ProcessRunner(worker)
    runner.submit(make_job(passes=10_000))
    wait_until(lambda: isinstance(runner.poll(), AdaptationProgress), "progress", 60)
    stop_worker()
    for _ in range(3):
        runner.submit(make_job())
    closer = threading.Thread(target=worker.close, daemon=True)
    closer.start()
    closer.join(5)
    assert not closer.is_alive()
    assert not children()
