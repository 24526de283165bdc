"""What the node says of its own health on /diagnostics: the stream, and its adaptation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from ditta_core.inference.compiled_network import RuntimeStatus
from ditta_core.stream.status import StreamStatus
from ditta_core.types import State
from ditta_ros.camera.statistics import StreamSnapshot

IDLE_SECONDS = 30.0
"""How long an adaptation may make no progress before that is a warning."""


def status_message(
    level: bytes, name: str, message: str, hardware: str, values: Mapping[str, object]
) -> DiagnosticStatus:
    """A diagnostic status."""
    return DiagnosticStatus(
        level=level,
        name=name,
        message=message,
        hardware_id=hardware,
        values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
    )


def stream_diagnostic(
    name: str,
    topic: str,
    stream: StreamSnapshot,
    input_problem: str,
    runtime: RuntimeStatus | None = None,
    paused: bool = False,
) -> DiagnosticStatus:
    """How the stream of a node from a topic is; ``input_problem`` says what is wrong with its input, if anything."""
    if paused:
        level, message = DiagnosticStatus.OK, f"paused, {stream.input_rate:.1f} Hz in; ~/enable with true goes on"
    elif stream.failing:
        level, message = DiagnosticStatus.ERROR, f"an image could not be segmented: {stream.last_failure}"
    elif input_problem:
        level, message = DiagnosticStatus.WARN, input_problem
    elif stream.rejecting:
        level, message = DiagnosticStatus.WARN, f"an image was rejected: {stream.last_rejection}"
    else:
        level, message = DiagnosticStatus.OK, f"{stream.input_rate:.1f} Hz in, {stream.output_rate:.1f} Hz out"
    values: dict[str, object] = {
        "input rate (Hz)": f"{stream.input_rate:.2f}",
        "output rate (Hz)": f"{stream.output_rate:.2f}",
        "received": stream.received,
        "published": stream.published,
        "dropped": stream.dropped,
        "skipped": stream.skipped,
        "rejected": stream.rejected,
        "last rejection": stream.last_rejection,
        "last failure": stream.last_failure,
    }
    if runtime is not None:
        values["runtime"] = str(runtime)
    for stage, (p50, p95) in stream.latency.items():
        values[f"latency {stage} p50 (ms)"] = f"{p50:.2f}"
        values[f"latency {stage} p95 (ms)"] = f"{p95:.2f}"
    return status_message(level, f"{name}: stream", message, topic, values)


def adaptation_diagnostic(
    name: str, topic: str, status: StreamStatus, refusals: Sequence[str] = (), idle_seconds: float = 0.0
) -> DiagnosticStatus:
    """How the adaptation of a node to a topic is.

    Args:
        refusals: Sentences that say why saved generations could not be read.
        idle_seconds: Seconds without progress of the adaptation that runs; 0 where none does.
    """
    values: dict[str, object] = {
        "state": status.state.value,
        "generation": status.generation,
        "collected": status.collected,
        "warm-up frames": status.warmup_frames,
        "training": status.training,
        "progress": f"{status.progress:.2f}",
        "losses": " ".join(f"{loss:.4g}" for loss in status.losses),
        "remembered generations": status.remembered,
        "network input": f"{status.input_size[1]}x{status.input_size[0]}",
    }
    for number, refusal in enumerate(refusals, start=1):
        values[f"saved generation left out ({number})"] = refusal
    if status.report is not None:
        values["last adaptation (s)"] = f"{status.report.seconds:.1f}"
        values["last adaptation"] = status.report.reason
        if status.report.statistics_share is not None:
            values["statistics share"] = f"{status.report.statistics_share:.2f}"
        if status.report.deployed_share is not None:
            values["deployed share"] = f"{status.report.deployed_share:.2f}"
        if status.report.size_agreement is not None:
            values["agreement of the network input"] = f"{status.report.size_agreement:.3f}"
    level, message = DiagnosticStatus.OK, status.message
    if status.state is State.FAILED:
        level = DiagnosticStatus.WARN
    elif (status.training or status.state is State.ADAPTING) and idle_seconds > IDLE_SECONDS:
        level, message = DiagnosticStatus.WARN, f"{message}; no progress for {idle_seconds:.0f} s"
    return status_message(level, f"{name}: adaptation", message, topic, values)
