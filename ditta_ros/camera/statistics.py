"""Rates, latencies and counters of one camera."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

RATE_SECONDS = 5.0
LATENCY_FRAMES = 200
TROUBLE_SECONDS = 5.0
"""How long a rejected or failed frame keeps the diagnostics from being OK."""


class Rate:
    """Events per second over the last five seconds."""

    def __init__(self) -> None:
        self._times: deque[float] = deque()

    def add(self, now: float) -> None:
        """An event, at ``now`` seconds."""
        self._times.append(now)
        self._forget(now)

    def per_second(self, now: float) -> float:
        """The rate at ``now`` seconds."""
        self._forget(now)
        return len(self._times) / RATE_SECONDS

    def _forget(self, now: float) -> None:
        while self._times and self._times[0] <= now - RATE_SECONDS:
            self._times.popleft()


class StageTimes:
    """How long one image spends in each stage.

    Args:
        begin: When the image came, in seconds of ``time.perf_counter``.
    """

    def __init__(self, begin: float) -> None:
        self._begin = self._last = begin
        self._stages: dict[str, float] = {}

    def end(self, stage: str) -> None:
        """A stage ends now; it began where the last one ended."""
        now = time.perf_counter()
        self._stages[stage] = 1e3 * (now - self._last)
        self._last = now

    @property
    def milliseconds(self) -> dict[str, float]:
        """Milliseconds by stage, and of all stages as ``total``."""
        return {**self._stages, "total": 1e3 * (self._last - self._begin)}


@dataclass(frozen=True)
class StreamSnapshot:
    """The stream so far.

    Attributes:
        received: Number of images that arrived.
        published: Number of label images.
        rejected: Number of images that could not be used, unexpected failures included.
        dropped: Number of images that a newer one replaced before there was time for them, or that waited when the
            stream was stopped.
        skipped: Number of images that were left out: while the stream was paused, or above its largest rate.
        input_rate: Images that arrive per second.
        output_rate: Label images per second.
        silence: Seconds since the last image, or since the stream was started.
        latency: Times of the last images by stage, (p50, p95) in milliseconds.
        last_rejection: Why the last image was rejected; empty where none was.
        last_failure: The last unexpected exception; empty where there was none.
        rejecting: Whether an image was rejected within the last five seconds.
        failing: Whether there was an unexpected exception within the last five seconds.
    """

    received: int
    published: int
    rejected: int
    dropped: int
    skipped: int
    input_rate: float
    output_rate: float
    silence: float
    latency: Mapping[str, tuple[float, float]]
    last_rejection: str
    last_failure: str
    rejecting: bool
    failing: bool


class StreamStatistics:
    """Counts what happens to the images; any thread may tell it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._received = self._published = self._rejected = self._skipped = 0
        self._input, self._output = Rate(), Rate()
        self._latency: dict[str, deque[float]] = {}
        self._last_input = time.monotonic()
        self._rejection, self._failure = ("", -np.inf), ("", -np.inf)

    def start(self) -> None:
        """The stream begins (again): silence counts from here."""
        with self._lock:
            self._last_input = time.monotonic()

    def receive(self) -> None:
        """An image arrived."""
        with self._lock:
            self._last_input = time.monotonic()
            self._received += 1
            self._input.add(self._last_input)

    def skip(self) -> None:
        """An image that arrived is left out."""
        with self._lock:
            self._skipped += 1

    def publish(self, stages: Mapping[str, float]) -> None:
        """A label image went out; ``stages`` are the milliseconds it took by stage."""
        with self._lock:
            self._published += 1
            self._output.add(time.monotonic())
            for stage, milliseconds in stages.items():
                self._latency.setdefault(stage, deque(maxlen=LATENCY_FRAMES)).append(milliseconds)

    def reject(self, reason: str) -> None:
        """An image cannot be used."""
        with self._lock:
            self._rejected += 1
            self._rejection = reason, time.monotonic()

    def fail(self, reason: str) -> None:
        """An image could not be segmented, unexpectedly."""
        with self._lock:
            self._rejected += 1
            self._failure = reason, time.monotonic()

    def snapshot(self, dropped: int) -> StreamSnapshot:
        """All of it at this moment."""
        now = time.monotonic()
        with self._lock:
            percentiles = {stage: np.percentile(times, (50, 95)) for stage, times in self._latency.items()}
            return StreamSnapshot(
                received=self._received,
                published=self._published,
                rejected=self._rejected,
                dropped=dropped,
                skipped=self._skipped,
                input_rate=self._input.per_second(now),
                output_rate=self._output.per_second(now),
                silence=now - self._last_input,
                latency={stage: (float(p50), float(p95)) for stage, (p50, p95) in percentiles.items()},
                last_rejection=self._rejection[0],
                last_failure=self._failure[0],
                rejecting=now - self._rejection[1] < TROUBLE_SECONDS,
                failing=now - self._failure[1] < TROUBLE_SECONDS,
            )
