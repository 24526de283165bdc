from __future__ import annotations

import threading

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus

from ditta_core.stream.status import StreamStatus
from ditta_core.types import AdaptationReport, State
from ditta_ros.camera import statistics
from ditta_ros.camera.diagnostics import adaptation_diagnostic, stream_diagnostic
from ditta_ros.camera.statistics import Rate, StageTimes, StreamStatistics


def test_rate_counts_the_last_five_seconds() -> None:
    rate = Rate()
    for tick in range(100):
        rate.add(tick / 10)
    assert rate.per_second(9.9) == pytest.approx(10)
    assert rate.per_second(12.4) == pytest.approx(5)
    assert rate.per_second(100) == 0


def test_statistics_count_from_many_threads() -> None:
    stream = StreamStatistics()

    def work() -> None:
        for index in range(200):
            stream.receive()
            stream.publish({"convert": float(index)})
            stream.reject("too dark")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    snapshot = stream.snapshot(dropped=3)
    assert (snapshot.received, snapshot.published, snapshot.rejected, snapshot.dropped) == (800, 800, 800, 3)
    assert snapshot.last_rejection == "too dark"


def test_latency_is_that_of_the_last_frames() -> None:
    stream = StreamStatistics()
    times = np.random.default_rng(0).uniform(0, 100, 500)
    for milliseconds in times:
        stream.publish({"encode": milliseconds})
    p50, p95 = stream.snapshot(0).latency["encode"]
    assert p50 == pytest.approx(np.percentile(times[-200:], 50))
    assert p95 == pytest.approx(np.percentile(times[-200:], 95))


def test_stages_follow_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([1.5, 1.75, 3.75])
    monkeypatch.setattr(statistics.time, "perf_counter", lambda: next(clock))
    times = StageTimes(1.0)
    for stage in ("wait", "convert", "segment"):
        times.end(stage)
    assert times.milliseconds == {"wait": 500, "convert": 250, "segment": 2000, "total": 2750}


def test_the_worst_decides_about_the_stream() -> None:
    stream = StreamStatistics()
    calm = stream_diagnostic("ditta", "/camera", stream.snapshot(0), "")
    assert (calm.level, calm.name, calm.hardware_id) == (DiagnosticStatus.OK, "ditta: stream", "/camera")
    stream.reject("expected rgb8")
    rejecting = stream_diagnostic("ditta", "/camera", stream.snapshot(0), "")
    assert (rejecting.level, rejecting.message) == (DiagnosticStatus.WARN, "an image was rejected: expected rgb8")
    silent = stream_diagnostic("ditta", "/camera", stream.snapshot(0), "nobody publishes")
    assert (silent.level, silent.message) == (DiagnosticStatus.WARN, "nobody publishes")
    stream.fail("RuntimeError: out of memory")
    failing = stream_diagnostic("ditta", "/camera", stream.snapshot(0), "nobody publishes")
    assert failing.level == DiagnosticStatus.ERROR
    assert failing.message == "an image could not be segmented: RuntimeError: out of memory"


@pytest.mark.parametrize("state", State)
def test_a_failed_adaptation_is_a_warning(state: State) -> None:
    report = AdaptationReport(False, "no prompt found", seconds=2.5)
    status = StreamStatus(state, 3, message="what happened last", losses=(0.5, 0.25), report=report)
    diagnostic = adaptation_diagnostic("ditta", "/camera", status)
    assert diagnostic.level == (DiagnosticStatus.WARN if state is State.FAILED else DiagnosticStatus.OK)
    assert diagnostic.message == "what happened last"
    values = {each.key: each.value for each in diagnostic.values}
    assert (values["state"], values["generation"], values["losses"]) == (state.value, "3", "0.5 0.25")
    assert (values["last adaptation (s)"], values["last adaptation"]) == ("2.5", "no prompt found")
    assert not {"statistics share", "deployed share"} & values.keys()


@pytest.mark.parametrize(("state", "seconds", "warns"), [(State.ADAPTING, 31, True), (State.ADAPTING, 29, False)])
def test_an_adaptation_without_progress_is_a_warning(state: State, seconds: float, warns: bool) -> None:
    status = StreamStatus(state, message="adapting to 10 frames")
    diagnostic = adaptation_diagnostic("ditta", "/camera", status, idle_seconds=seconds)
    assert diagnostic.level == (DiagnosticStatus.WARN if warns else DiagnosticStatus.OK)
    assert diagnostic.message == f"adapting to 10 frames{'; no progress for 31 s' if warns else ''}"


def test_what_was_taken_of_the_last_adaptation_is_told() -> None:
    report = AdaptationReport(True, "the decoder was refused", statistics_share=0.254, deployed_share=0.0)
    diagnostic = adaptation_diagnostic("ditta", "/camera", StreamStatus(State.ADAPTED, 1, report=report))
    values = {each.key: each.value for each in diagnostic.values}
    assert (values["statistics share"], values["deployed share"]) == ("0.25", "0.00")


def test_the_size_of_the_network_input_is_told() -> None:
    report = AdaptationReport(True, "adapted", long_side=640, size_agreement=0.9564)
    status = StreamStatus(State.ADAPTED, 1, report=report, input_size=(480, 640))
    values = {each.key: each.value for each in adaptation_diagnostic("ditta", "/camera", status).values}
    assert (values["network input"], values["agreement of the network input"]) == ("640x480", "0.956")
