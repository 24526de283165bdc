"""Adaptations in a process of their own, so that the stream shares neither threads nor the interpreter lock with them.

The process is started when a job is expected, and ends with the last job in the line: on a robot most of the time
nothing is adapted, and an idle worker holds more memory than the imports cost time. It is started afresh, never forked
from a process full of threads, and not by ``multiprocessing``, which would import the parent's main module and with it
all of rclpy. Jobs, cancellations, progress and results travel over one socket. At its end of file the worker exits, and
the parent reports a failed adaptation. Nor does the parent wait for ever for a worker that lives and does nothing: its
start, every message and the progress of a job have their time, after which the job has failed and the next one gets a
new process.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from enum import Enum
from multiprocessing.connection import Connection

import cv2
import torch

from ditta_core.adaptation.job import AdaptationJob, AdaptationProgress, AdaptationResult, News
from ditta_core.domain.warmup_job import run_job
from ditta_core.heap import end_imports, frugal_environment, return_memory, trim_heap
from ditta_core.types import AdaptationReport

CANCEL = b""
"""The message that cancels the job in hand; every other message is a pickled job."""
READY = "ready"
"""The first message of a worker, once everything is imported. What is sent before that, nobody takes in."""

POLL_SECONDS = 0.05
CANCEL_SECONDS = 2.0
"""How long a cancelled job has to end by itself before its process is killed."""
START_SECONDS = 120.0
"""How long a worker may take to be ready: importing torch takes a busy robot half a minute from a memory card."""
IDLE_SECONDS = 60.0
"""How long a worker waits for a job that was expected, such as of a warm-up that is given up after all."""
STALL_SECONDS = 10.0
"""How long not one byte of a message may get through; a worker takes in what comes in a thread of its own."""


class WorkerStuck(RuntimeError):
    """The worker lives, but does not do what it should; the message says what."""


# --- in the child ---------------------------------------------------------------------------------------------------


def serve(descriptor: int, threads: int, niceness: int) -> None:
    """Run jobs until the other end of the connection is closed."""
    end_imports()
    os.nice(niceness)
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    connection: Connection = Connection(descriptor)
    jobs: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    cancelled = threading.Event()

    def listen() -> None:
        try:
            while True:
                message = connection.recv_bytes()
                if message == CANCEL:
                    cancelled.set()
                else:
                    cancelled.clear()
                    jobs.put(message)
        finally:  # also where there is no memory for a job: a worker that does not listen must not live on
            os._exit(0)  # at once, also in the midst of a job: nobody is left to take its result

    threading.Thread(target=listen, daemon=True).start()
    with contextlib.suppress(OSError):
        connection.send(READY)
        while True:
            job: AdaptationJob = pickle.loads(jobs.get())
            connection.send(run_job(job, connection.send, cancelled.is_set))
            del job
            return_memory()


# --- in the parent --------------------------------------------------------------------------------------------------


def connected_pair() -> tuple[Connection, socket.socket]:
    """Our end of a connection, on which no message is waited for longer than ``STALL_SECONDS``, and the other end.

    What takes longer raises BlockingIOError. The system measures the time in which no byte gets through, so that a
    large clip may take as long as it needs.
    """
    ours, theirs = socket.socketpair()
    limit = struct.pack("@ll", int(STALL_SECONDS), int(STALL_SECONDS % 1 * 1e6))
    for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
        ours.setsockopt(socket.SOL_SOCKET, option, limit)
    return Connection(ours.detach()), theirs


class AdaptationProcess:
    """A worker process and the connection to it. The system kills it when the thread that made it ends."""

    def __init__(self, threads: int, niceness: int) -> None:
        self.connection, theirs = connected_pair()
        self._begin = time.monotonic()
        self._ready = False
        program = (
            f"import sys; sys.path[:] = {sys.path!r}; "
            f"from ditta_core.heap import postpone_collections; postpone_collections(); "
            f"from ditta_ros.process.stop import end_with_parent; end_with_parent({os.getpid()}); "
            f"from ditta_ros.adaptation.worker import serve; serve({theirs.fileno()}, {threads}, {niceness})"
        )
        # Ctrl-C in a terminal signals the whole process group. The child must leave the reaction to its parent, and
        # inherits the blocked signal. (A session of its own would do that too, but a session is scheduled as a group
        # of its own, in which its niceness no longer counts against the stream.)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with theirs:
                self.process = subprocess.Popen(
                    [sys.executable, "-c", program],
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    env=frugal_environment(os.environ),
                )
        except BaseException:
            self.connection.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    @property
    def alive(self) -> bool:
        """Whether it takes jobs, or will."""
        return not self.connection.closed and self.process.poll() is None

    def ready(self) -> bool:
        """Whether it takes jobs now; waits for a moment where it does not.

        Raises:
            WorkerStuck: it has been starting for too long.
            EOFError, OSError: it has ended.
        """
        if not self._ready and self.connection.poll(POLL_SECONDS):
            self._ready = self.connection.recv() == READY
        if not self._ready and time.monotonic() - self._begin > START_SECONDS:
            raise WorkerStuck(f"the adaptation process did not start within {START_SECONDS:g} s")
        return self._ready

    def end(self, patience: float = 1.0) -> str:
        """Close the connection, on which the process exits; kill it where it does not; say how it ended."""
        self.connection.close()
        try:
            code = self.process.wait(patience)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        if code < 0:
            return f"the adaptation process was killed by {signal.Signals(-code).name}; was there enough memory?"
        return f"the adaptation process ended with exit code {code}"


def ends_job(news: News | str) -> bool:
    """Whether nothing follows these news of a job."""
    return isinstance(news, AdaptationResult) and news.final


class SubmittedJob:
    """A job, the newest news of it, and whether it still counts."""

    def __init__(self, job: AdaptationJob) -> None:
        self.frames = len(job.clip)
        self.cancelled = threading.Event()
        self._job: AdaptationJob | None = job
        self._lock = threading.Lock()
        self._progress: AdaptationProgress | None = None
        self._results: list[AdaptationResult] = []  # that nobody has taken yet
        self._moved: float | None = None

    def take_job(self) -> AdaptationJob | None:
        """The job, once: its clip of some ten megabytes is not kept for as long as there is news of it."""
        job, self._job = self._job, None
        return job

    def begin(self) -> None:
        """It is this job's turn: from now on it has to get on. Again, once the worker has it."""
        self._moved = time.monotonic()

    @property
    def idle_seconds(self) -> float:
        """Seconds since its turn came or the last news of it; 0 before and after."""
        moved = self._moved
        return 0.0 if moved is None else time.monotonic() - moved

    def cancel(self) -> None:
        """Nothing more is heard of it."""
        with self._lock:
            self.cancelled.set()
            self._progress = self._job = self._moved = None
            self._results.clear()

    def put_news(self, news: News) -> None:
        """Put news in the place of older ones; a result that was not taken yet stays before a later one."""
        with self._lock:
            if self.cancelled.is_set():
                return
            self._progress = None
            if isinstance(news, AdaptationResult):
                self._results.append(news)
            else:
                self._progress = news
            self._moved = None if ends_job(news) else time.monotonic()

    def fail(self, reason: str) -> None:
        """It did not succeed."""
        self.put_news(AdaptationResult(None, AdaptationReport(False, reason, self.frames)))

    def latest(self) -> News | None:
        """A result, exactly once and in order; else the newest progress, or None."""
        with self._lock:
            if self._results:
                return self._results.pop(0)
            progress, self._progress = self._progress, None
            return progress


class Order(Enum):
    """What the supervising thread is told besides jobs."""

    START = "start"
    """A job is expected."""
    CLOSE = "close"


class AdaptationWorker:
    """The worker process and the queue of jobs before it: one at a time, first come, first served.

    Several streams share it, each through a :class:`ProcessRunner`. A stream has one job in the queue at the most and
    its next one goes to the end, so that none is kept waiting by the others for more than one job of each.

    A process that dies, whatever of, or that is stuck, ends its job with a result that says so; the next job gets a new
    process.

    Args:
        threads: CPU threads of the process.
        niceness: Niceness of the process, 0..19.
        patience: Seconds without progress after which a job has failed.
    """

    def __init__(self, threads: int, niceness: int, patience: float = 600.0) -> None:
        self._start_process: Callable[[], AdaptationProcess] = lambda: AdaptationProcess(threads, niceness)
        self._patience = patience
        self._process: AdaptationProcess | None = None
        self._queue: queue.SimpleQueue[SubmittedJob | Order] = queue.SimpleQueue()
        self._closing = threading.Event()
        # A clip of some ten megabytes is not written in no time, least of all to a worker that is still starting: a
        # thread does it, so that submit returns at once.
        self._thread = threading.Thread(target=self._supervise, name="adaptation", daemon=True)
        self._thread.start()

    def expect(self) -> None:
        """A job will be submitted soon: the process starts up meanwhile. Never waits; may be said again and again."""
        if self._process is None:
            self._queue.put(Order.START)

    def submit(self, submitted: SubmittedJob) -> None:
        """Put a job at the end of the queue. Never waits."""
        self._queue.put(submitted)

    def close(self) -> None:
        """Give up the job in hand and end the process."""
        self._closing.set()
        self._queue.put(Order.CLOSE)
        process = self._process
        if process is not None:
            process.process.kill()  # it holds nothing worth saving, and may be in the midst of a job
        self._thread.join()

    # --- in the supervising thread ----------------------------------------------------------------------------------

    def _supervise(self) -> None:
        while (order := self._next_order()) is not Order.CLOSE:
            if isinstance(order, Order):
                with contextlib.suppress(Exception):  # the job tries again, and says what is wrong
                    self._running_process()
            elif not order.cancelled.is_set():
                try:
                    self._execute(order)
                except Exception as error:  # whatever went wrong, this thread has to be there for the next job
                    order.fail(self._end_process(error))
        self._end_process()

    def _next_order(self) -> SubmittedJob | Order:
        """The next one; a process for which there is none for ``IDLE_SECONDS`` is ended."""
        with contextlib.suppress(queue.Empty):
            return self._queue.get(timeout=None if self._process is None else IDLE_SECONDS)
        self._end_process()
        return self._queue.get()

    def _running_process(self) -> AdaptationProcess:
        """The process, which may still be starting up; raises whatever keeps it from being started."""
        process = self._process
        if process is None or not process.alive:
            self._end_process()
            process = self._process = self._start_process()
        return process

    def _execute(self, submitted: SubmittedJob) -> None:
        """Have a job done; raises whatever is wrong with the process, which then is in no known state."""
        submitted.begin()

        def given_up() -> bool:
            return submitted.cancelled.is_set() or self._closing.is_set()

        process = self._running_process()
        while not process.ready():
            if given_up():
                return
        job = submitted.take_job()
        if job is None:  # cancelled meanwhile
            return
        connection = process.connection
        connection.send(job)
        del job
        trim_heap()
        submitted.begin()
        while not given_up():
            if connection.poll(POLL_SECONDS):
                news = connection.recv()
                if ends_job(news) and self._queue.empty():
                    self._end_process()  # before the result is made use of, which takes memory again
                submitted.put_news(news)
                if ends_job(news):
                    return
            elif submitted.idle_seconds > self._patience:
                raise WorkerStuck(
                    f"the adaptation made no progress for {self._patience:g} s, so that its process was ended; raise "
                    f"the parameter adaptation_timeout where the teacher takes longer"
                )
        connection.send_bytes(CANCEL)
        deadline = time.monotonic() + CANCEL_SECONDS
        while (left := deadline - time.monotonic()) > 0 and not self._closing.is_set():
            if connection.poll(min(left, POLL_SECONDS)) and ends_job(connection.recv()):
                return
        self._end_process()

    def _end_process(self, error: Exception | None = None) -> str:
        """Let go of the process, so that the next job gets a new one; returns what was wrong, in a sentence."""
        process, self._process = self._process, None
        if isinstance(error, (EOFError, ConnectionError)) and process is not None:
            return process.end()
        if process is not None:
            process.end(patience=0)
        if isinstance(error, BlockingIOError):
            return f"the adaptation process took in or gave out nothing for {STALL_SECONDS:g} s, so that it was ended"
        return str(error) if isinstance(error, WorkerStuck) else f"{type(error).__name__}: {error}"


class ProcessRunner:
    """The :class:`~ditta_core.stream.runner.AdaptationRunner` of one stream, whose jobs run in a worker process.

    No method waits. The worker may have jobs of other streams before this one's; it is its owner's to close.
    """

    def __init__(self, worker: AdaptationWorker) -> None:
        self._worker = worker
        self._submitted: SubmittedJob | None = None

    def expect(self) -> None:
        """A job will be submitted soon."""
        self._worker.expect()

    def submit(self, job: AdaptationJob) -> None:
        """Queue a job; the one before is cancelled first."""
        self.cancel()
        self._submitted = SubmittedJob(job)
        self._worker.submit(self._submitted)

    def poll(self) -> News | None:
        """A result, exactly once and in order; else the newest progress, or None."""
        return None if self._submitted is None else self._submitted.latest()

    @property
    def idle_seconds(self) -> float:
        """Seconds without progress of the job that is being run; 0 where none is, or others are before it."""
        submitted = self._submitted
        return 0.0 if submitted is None else submitted.idle_seconds

    def cancel(self) -> None:
        """Give up the job; no more is heard of it."""
        if self._submitted is not None:
            self._submitted.cancel()
            self._submitted = None

    def close(self) -> None:
        """Cancel."""
        self.cancel()
