"""Adaptations in a process of their own, so that the stream shares neither threads nor the interpreter lock with them.

The process is started once, ahead of the first job: afresh, never forked from a process full of threads, and not by
``multiprocessing``, which would import the parent's main module and with it all of rclpy. Jobs, cancellations, progress
and results travel over one socket. At its end of file the worker exits, and the parent reports a failed adaptation.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
from multiprocessing import Pipe
from multiprocessing.connection import Connection

import cv2
import torch

from ditta_core.adaptation.job import AdaptationJob, AdaptationProgress, AdaptationResult
from ditta_core.adaptation.run import run_job
from ditta_core.heap import return_memory, trim_heap
from ditta_core.types import AdaptationReport

CANCEL = b""
"""The message that cancels the job in hand; every other message is a pickled job."""

POLL_SECONDS = 0.05
CANCEL_SECONDS = 2.0
"""How long a cancelled job has to end by itself before its process is killed."""


# --- in the child ---------------------------------------------------------------------------------------------------


def serve(descriptor: int, threads: int, niceness: int) -> None:
    """Run jobs until the other end of the connection is closed."""
    os.nice(niceness)
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    connection: Connection = Connection(descriptor)
    jobs: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    cancelled = threading.Event()

    def listen() -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                message = connection.recv_bytes()
                if message == CANCEL:
                    cancelled.set()
                else:
                    cancelled.clear()
                    jobs.put(message)
        os._exit(0)  # at once, also in the midst of a job: nobody is left to take its result

    threading.Thread(target=listen, daemon=True).start()
    with contextlib.suppress(OSError):
        while True:
            job: AdaptationJob = pickle.loads(jobs.get())
            connection.send(run_job(job, connection.send, cancelled.is_set))
            del job
            return_memory()


# --- in the parent --------------------------------------------------------------------------------------------------


class AdaptationProcess:
    """A worker process and the connection to it."""

    def __init__(self, threads: int, niceness: int) -> None:
        self.connection, theirs = Pipe()
        program = (
            f"import sys; sys.path[:] = {sys.path!r}; "
            f"from ditta_ros.adaptation.worker import serve; serve({theirs.fileno()}, {threads}, {niceness})"
        )
        # Ctrl-C in a terminal signals the whole process group. The child must leave the reaction to its parent, and
        # inherits the blocked signal. (A session of its own would do that too, but a session is scheduled as a group
        # of its own, in which its niceness no longer counts against the stream.)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with theirs:
                self.process = subprocess.Popen(
                    [sys.executable, "-c", program], stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()]
                )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    @property
    def alive(self) -> bool:
        """Whether it takes jobs."""
        return not self.connection.closed and self.process.poll() is None

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


class SubmittedJob:
    """A job, the newest news of it, and whether it still counts."""

    def __init__(self, job: AdaptationJob) -> None:
        self.frames = len(job.clip)
        self.cancelled = threading.Event()
        self._job: AdaptationJob | None = job
        self._lock = threading.Lock()
        self._news: AdaptationProgress | AdaptationResult | None = None

    def take_job(self) -> AdaptationJob | None:
        """The job, once: its clip of some ten megabytes is not kept for as long as there is news of it."""
        job, self._job = self._job, None
        return job

    def cancel(self) -> None:
        """Nothing more is heard of it."""
        with self._lock:
            self.cancelled.set()
            self._news = self._job = None

    def put_news(self, news: AdaptationProgress | AdaptationResult) -> None:
        """Put news in the place of older ones."""
        with self._lock:
            if not self.cancelled.is_set():
                self._news = news

    def latest(self) -> AdaptationProgress | AdaptationResult | None:
        """The newest news, or None; a result exactly once."""
        with self._lock:
            news, self._news = self._news, None
            return news


class AdaptationWorker:
    """The worker process and the queue of jobs before it: one at a time, first come, first served.

    Several streams share it, each through a :class:`ProcessRunner`. A stream has one job in the queue at the most and
    its next one goes to the end, so that none is kept waiting by the others for more than one job of each.

    A process that dies, whatever of, ends its job with a result that says so; the next job gets a new process, with so
    many CPU threads and a niceness of 0..19.
    """

    def __init__(self, threads: int, niceness: int) -> None:
        self._threads = threads
        self._niceness = niceness
        self._process = AdaptationProcess(threads, niceness)
        self._queue: queue.SimpleQueue[SubmittedJob | None] = queue.SimpleQueue()
        self._running: SubmittedJob | None = None
        # A clip of some ten megabytes is not written in no time, least of all to a worker that is still starting: a
        # thread does it, so that submit returns at once.
        self._thread = threading.Thread(target=self._supervise, name="adaptation", daemon=True)
        self._thread.start()

    def submit(self, submitted: SubmittedJob) -> None:
        """Put a job at the end of the queue. Never waits."""
        self._queue.put(submitted)

    def close(self) -> None:
        """Give up the job in hand and end the process."""
        running = self._running
        if running is not None:
            running.cancel()
        self._queue.put(None)
        self._process.process.kill()  # it holds nothing worth saving, and may be in the midst of a job
        self._thread.join()

    # --- in the supervising thread ----------------------------------------------------------------------------------

    def _supervise(self) -> None:
        while (submitted := self._queue.get()) is not None:
            if submitted.cancelled.is_set():
                continue
            self._running = submitted
            try:
                if not self._process.alive:
                    self._process.end()
                    self._process = AdaptationProcess(self._threads, self._niceness)
                self._execute(submitted)
            except (EOFError, OSError):  # the process is gone, or could not be started
                reason = self._process.end()
                submitted.put_news(AdaptationResult(None, AdaptationReport(False, reason, submitted.frames)))
        self._process.end()

    def _execute(self, submitted: SubmittedJob) -> None:
        connection = self._process.connection
        job = submitted.take_job()
        if job is None:  # cancelled meanwhile
            return
        connection.send(job)
        del job
        trim_heap()
        while not submitted.cancelled.is_set():
            if connection.poll(POLL_SECONDS):
                news = connection.recv()
                submitted.put_news(news)
                if isinstance(news, AdaptationResult):
                    return
        connection.send_bytes(CANCEL)
        deadline = time.monotonic() + CANCEL_SECONDS
        while (left := deadline - time.monotonic()) > 0:
            if connection.poll(left) and isinstance(connection.recv(), AdaptationResult):
                return
        self._process.end(patience=0)


class ProcessRunner:
    """The :class:`~ditta_core.stream.runner.AdaptationRunner` of one stream, whose jobs run in a worker process.

    No method waits. The worker may have jobs of other streams before this one's; it is its owner's to close.
    """

    def __init__(self, worker: AdaptationWorker) -> None:
        self._worker = worker
        self._submitted: SubmittedJob | None = None

    def submit(self, job: AdaptationJob) -> None:
        """Queue a job; the one before is cancelled first."""
        self.cancel()
        self._submitted = SubmittedJob(job)
        self._worker.submit(self._submitted)

    def poll(self) -> AdaptationProgress | AdaptationResult | None:
        """The newest news, or None; a result exactly once."""
        return None if self._submitted is None else self._submitted.latest()

    def cancel(self) -> None:
        """Give up the job; no more is heard of it."""
        if self._submitted is not None:
            self._submitted.cancel()
            self._submitted = None

    def close(self) -> None:
        """Cancel."""
        self.cancel()
