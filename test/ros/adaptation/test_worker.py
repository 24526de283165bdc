from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from ros_harness import texture, wait_until

from ditta_core.adaptation.config import AdaptationConfig
from ditta_core.adaptation.job import AdaptationJob, AdaptationProgress, AdaptationResult
from ditta_core.classes import ClassList
from ditta_core.domain.warmup import SMALLEST_LESSON
from ditta_core.domain.warmup_job import run_job
from ditta_core.segmentation.espnetv2 import ESPNetv2
from ditta_core.segmentation.source import ModelSource
from ditta_ros.adaptation import worker as worker_module
from ditta_ros.adaptation.worker import AdaptationWorker, ProcessRunner


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "random.pth"
    torch.save(ESPNetv2(ClassList.packaged("camvid11")).state_dict(), path)
    return path


def make_job(weights: Path, passes: int = 2) -> AdaptationJob:
    clip = np.stack([texture(index) for index in range(3)])
    source = ModelSource(f"espnetv2:{weights}")
    adaptation = AdaptationConfig(self_training_steps=0, passes=passes, guarded=False)
    return AdaptationJob(clip, (64, 96), source, adaptation=adaptation)


@pytest.fixture
def line() -> Iterator[AdaptationWorker]:
    """A worker and the line before it."""
    line = AdaptationWorker(threads=1, niceness=3)
    yield line
    line.close()


@pytest.fixture
def runner(line: AdaptationWorker) -> ProcessRunner:
    return ProcessRunner(line)


def next_news(runner: ProcessRunner) -> AdaptationProgress | AdaptationResult:
    return wait_until(runner.poll, "news of the adaptation", 60)


def result_of(runner: ProcessRunner) -> AdaptationResult:
    while not isinstance(news := next_news(runner), AdaptationResult):
        pass
    return news


def workers() -> list[int]:
    """Process ids of the workers, which have this process's command line until they are executed."""
    children = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    pids = {int(pid) for file in children for pid in file.read_text().split()}
    return [pid for pid in pids if b"adaptation.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def worker() -> int:
    """Process id of the worker."""
    return wait_until(lambda: next(iter(workers()), None), "the worker", 20)


def test_the_same_comes_out_as_in_this_process(runner: ProcessRunner, weights: Path) -> None:
    job = make_job(weights)
    before = time.perf_counter()
    runner.submit(job)
    submitted = time.perf_counter() - before
    fractions = []
    while isinstance(news := next_news(runner), AdaptationProgress):
        fractions.append(news.fraction)
    assert submitted < 0.1 * (time.perf_counter() - before), "submit waited"
    assert fractions
    assert fractions == sorted(fractions)
    assert fractions[0] > 0
    assert fractions[-1] <= 1
    assert isinstance(news, AdaptationResult)
    assert news.report.succeeded
    assert runner.poll() is None, "a result came twice"

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the worker, so that sums run in the same order
    expected = run_job(job)
    torch.set_num_threads(threads)
    assert news.state is not None
    assert expected.state is not None
    assert news.report.losses == pytest.approx(expected.report.losses, rel=1e-4)
    assert set(news.state.tensors) == set(expected.state.tensors)
    for name, tensor in expected.state.tensors.items():
        np.testing.assert_allclose(news.state.tensors[name], tensor, rtol=1e-3, atol=1e-4)


def test_what_serves_before_the_training_comes_first_and_is_not_lost(runner: ProcessRunner) -> None:
    clip = np.stack([texture(index) for index in range(SMALLEST_LESSON)])
    settings = AdaptationConfig(self_training_steps=3, guarded=False)
    runner.submit(AdaptationJob(clip, (64, 96), ModelSource(), adaptation=settings))
    worker()
    wait_until(lambda: not workers(), "the end of the job", 60)  # nobody has asked for news so far
    first, last = runner.poll(), result_of(runner)
    assert isinstance(first, AdaptationResult) and not first.final and first.state is not None
    assert last.final and last.state is not None
    assert (first.report.steps, last.report.steps) == (0, 3)
    assert runner.poll() is None


def test_a_worker_that_dies_in_the_training_leaves_what_it_had(runner: ProcessRunner) -> None:
    clip = np.stack([texture(index) for index in range(SMALLEST_LESSON)])
    settings = AdaptationConfig(self_training_steps=10_000, guarded=False)
    runner.submit(AdaptationJob(clip, (64, 96), ModelSource(), adaptation=settings))
    first = result_of(runner)
    assert first.state is not None and not first.final
    os.kill(worker(), signal.SIGKILL)
    last = result_of(runner)
    assert last.final and last.state is None and "killed by SIGKILL" in last.report.reason


def test_the_worker_yields_and_knows_nothing_of_ros(runner: ProcessRunner, weights: Path) -> None:
    runner.submit(make_job(weights, passes=10_000))
    next_news(runner)
    pid = worker()
    assert os.getpriority(os.PRIO_PROCESS, pid) == os.getpriority(os.PRIO_PROCESS, 0) + 3
    assert "rclpy" not in Path(f"/proc/{pid}/maps").read_text()


def test_a_worker_is_there_from_when_a_job_is_expected_until_none_is_left(runner: ProcessRunner, weights: Path) -> None:
    assert not workers()
    runner.expect()
    pid = worker()
    runner.expect()
    runner.submit(make_job(weights, passes=1))
    while not isinstance(news := next_news(runner), AdaptationResult):
        assert worker() == pid
    assert news.report.succeeded
    assert not workers(), "it holds memory beside the network that is compiled now"
    runner.submit(make_job(weights, passes=1))
    assert result_of(runner).report.succeeded


def test_a_worker_for_which_there_is_no_job_ends(runner: ProcessRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "IDLE_SECONDS", 0.5)
    runner.expect()
    worker()
    wait_until(lambda: not workers(), "the worker's end")


def test_a_cancelled_job_is_never_heard_of_again(runner: ProcessRunner, weights: Path) -> None:
    runner.submit(make_job(weights, passes=10_000))
    next_news(runner)
    pid = worker()
    runner.cancel()
    assert runner.poll() is None
    runner.submit(make_job(weights, passes=2))
    next_news(runner)
    assert worker() == pid, "a job that ends by itself costs no new process"
    result = result_of(runner)
    assert result.report.succeeded
    assert result.report.steps == 6


def test_a_new_job_takes_the_place_of_the_old_one(runner: ProcessRunner, weights: Path) -> None:
    runner.submit(make_job(weights, passes=10_000))
    next_news(runner)
    runner.submit(make_job(weights, passes=1))
    assert result_of(runner).report.steps == 3


def test_a_job_that_fails_says_why(runner: ProcessRunner, tmp_path: Path) -> None:
    runner.submit(make_job(tmp_path / "missing.pth"))
    result = result_of(runner)
    assert result.state is None
    assert not result.report.succeeded
    assert "missing.pth does not exist" in result.report.reason


def test_a_killed_worker_fails_its_job_and_the_next_job_gets_a_new_one(runner: ProcessRunner, weights: Path) -> None:
    runner.submit(make_job(weights, passes=10_000))
    next_news(runner)
    os.kill(worker(), signal.SIGKILL)
    result = result_of(runner)
    assert result.state is None
    assert "killed by SIGKILL" in result.report.reason
    assert result.report.frames == 3
    runner.submit(make_job(weights, passes=1))
    assert result_of(runner).report.succeeded


def test_a_worker_that_died_idle_is_replaced(runner: ProcessRunner, weights: Path) -> None:
    runner.expect()
    os.kill(worker(), signal.SIGKILL)
    runner.submit(make_job(weights, passes=1))
    result = result_of(runner)
    if not result.report.succeeded:  # the job went to the worker before its death was noticed
        runner.submit(make_job(weights, passes=1))
        result = result_of(runner)
    assert result.report.succeeded


def test_close_ends_the_worker_in_the_midst_of_a_job(weights: Path) -> None:
    line = AdaptationWorker(threads=1, niceness=5)
    runner = ProcessRunner(line)
    runner.submit(make_job(weights, passes=10_000))
    next_news(runner)
    pid = worker()
    line.close()
    assert not Path(f"/proc/{pid}").exists()
    runner.close()


def test_streams_take_turns(line: AdaptationWorker, weights: Path) -> None:
    front, rear = ProcessRunner(line), ProcessRunner(line)
    front.submit(make_job(weights, passes=40))
    rear.submit(make_job(weights, passes=1))
    while not isinstance(news := next_news(front), AdaptationResult):
        assert rear.poll() is None, "two jobs at once"
    front.submit(make_job(weights, passes=2))  # behind the job of the rear
    steps = [news.report.steps, result_of(rear).report.steps, result_of(front).report.steps]
    assert steps == [120, 3, 6]


def test_a_job_that_is_cancelled_in_the_line_costs_the_others_nothing(line: AdaptationWorker, weights: Path) -> None:
    front, rear = ProcessRunner(line), ProcessRunner(line)
    front.submit(make_job(weights, passes=5))
    rear.submit(make_job(weights, passes=10_000))
    rear.cancel()
    rear.submit(make_job(weights, passes=1))
    assert result_of(front).report.steps == 15
    assert result_of(rear).report.steps == 3


def test_an_interrupt_is_left_to_the_parent(runner: ProcessRunner, weights: Path) -> None:
    runner.expect()
    os.kill(worker(), signal.SIGINT)
    runner.submit(make_job(weights, passes=1))
    assert result_of(runner).report.succeeded


@pytest.mark.parametrize("stopped", [False, True])
def test_the_worker_follows_its_parent_into_death(stopped: bool) -> None:
    program = (
        "from ditta_ros.adaptation.worker import AdaptationWorker; "
        "AdaptationWorker(threads=1, niceness=5).expect(); input()"
    )
    root = Path(__file__).resolve().parents[3]
    parent = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, cwd=root)
    children = Path(f"/proc/{parent.pid}/task")
    found = wait_until(
        lambda: [file.read_text() for file in children.glob("*/children") if file.read_text()], "a worker"
    )
    pid = int(found[0])
    # Until it has become a program of its own, it shows the memory of its parent.
    wait_until(lambda: "import serve" in Path(f"/proc/{pid}/cmdline").read_text(), "the worker's program")
    wait_until(lambda: "torch" in Path(f"/proc/{pid}/maps").read_text(), "the worker's imports")
    if stopped:
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: status(pid) == "T", "the worker to be stopped")
    parent.kill()
    parent.wait()
    wait_until(lambda: status(pid) in ("", "Z"), "the worker's end")


def status(pid: int) -> str:
    """Letter of what a process does: T where it is stopped, Z where it is dead and not yet reaped; empty for none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return ""
