"""Adaptations in a process of their own, so that the stream shares neither threads nor the interpreter lock with them.

The process is started once, ahead of the first job, and imports torch at once. It is started afresh (never forked from
a process full of threads), and not by ``multiprocessing``: that would import the parent's main module in the child, and
with it all of rclpy. What the child needs is ``ditta_core`` alone.

Jobs, cancellations, progress and results travel over one socket. Its end of file tells either side that the other is
gone: the worker then exits, whatever killed the parent; the parent reports a failed adaptation.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection

import cv2
import torch

from ditta_core.adaptation import AdaptationJob, AdaptationProgress, AdaptationResult, run_job
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


def return_memory() -> None:
    """Give back what the job has freed.

    The allocators keep it for the next one: after SAM 2 at 512 pixels that is 640 MB instead of 310, in a process that
    may wait for hours.
    """
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc; other C libraries have none
    if trim is not None:
        trim(0)


# --- in the parent --------------------------------------------------------------------------------------------------


class AdaptationProcess:
    """A worker process and the connection to it."""

    def __init__(self, threads: int, niceness: int) -> None:
        self.connection, theirs = Pipe()
        program = (
            f"import sys; sys.path[:] = {sys.path!r}; "
            f"from ditta_ros.adaptation_worker import serve; serve({theirs.fileno()}, {threads}, {niceness})"
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


@dataclass
class Run:
    """A job that was submitted, and whether it still counts."""

    job: AdaptationJob
    cancelled: threading.Event = field(default_factory=threading.Event)


class ProcessRunner:
    """An :class:`~ditta_core.engine.AdaptationRunner` whose jobs run in a worker process.

    No method waits but ``close``. A worker that dies, whatever of, ends its job with a result that says so; the next
    job gets a new worker.

    Args:
        threads: of the worker.
        niceness: of the worker, 0..19.
    """

    def __init__(self, threads: int = 1, niceness: int = 10) -> None:
        self._threads = threads
        self._niceness = niceness
        self._worker = AdaptationProcess(threads, niceness)
        self._lock = threading.Lock()
        self._news: AdaptationProgress | AdaptationResult | None = None
        self._run: Run | None = None
        self._runs: queue.SimpleQueue[Run | None] = queue.SimpleQueue()
        # A clip of some ten megabytes is not written in no time, least of all to a worker that is still starting: a
        # thread does it, so that submit returns at once.
        self._thread = threading.Thread(target=self._supervise, name="adaptation", daemon=True)
        self._thread.start()

    def submit(self, job: AdaptationJob) -> None:
        """Start a job; one in flight is cancelled first."""
        self.cancel()
        self._run = Run(job)
        self._runs.put(self._run)

    def poll(self) -> AdaptationProgress | AdaptationResult | None:
        """The newest news, or None; a result exactly once."""
        with self._lock:
            news, self._news = self._news, None
            return news

    def cancel(self) -> None:
        """Give up the job in flight; no more is heard of it."""
        with self._lock:
            if self._run is not None:
                self._run.cancelled.set()
            self._news = None

    def close(self) -> None:
        """Cancel, and end the worker."""
        self.cancel()
        self._runs.put(None)
        self._worker.process.kill()  # it holds nothing worth saving, and may be in the midst of a job
        self._thread.join()

    # --- in the supervising thread ----------------------------------------------------------------------------------

    def _supervise(self) -> None:
        while (run := self._runs.get()) is not None:
            if run.cancelled.is_set():
                continue
            try:
                if not self._worker.alive:
                    self._worker.end()
                    self._worker = AdaptationProcess(self._threads, self._niceness)
                self._execute(run)
            except (EOFError, OSError):  # the worker is gone, or could not be started
                reason = self._worker.end()
                self._tell(run, AdaptationResult(None, AdaptationReport(False, reason, len(run.job.clip))))
        self._worker.end()

    def _execute(self, run: Run) -> None:
        connection = self._worker.connection
        connection.send(run.job)
        while not run.cancelled.is_set():
            if connection.poll(POLL_SECONDS):
                news = connection.recv()
                self._tell(run, news)
                if isinstance(news, AdaptationResult):
                    return
        connection.send_bytes(CANCEL)
        deadline = time.monotonic() + CANCEL_SECONDS
        while (left := deadline - time.monotonic()) > 0:
            if connection.poll(left) and isinstance(connection.recv(), AdaptationResult):
                return
        self._worker.end(patience=0)

    def _tell(self, run: Run, news: AdaptationProgress | AdaptationResult) -> None:
        with self._lock:
            if not run.cancelled.is_set():
                self._news = news
