"""Tracing in a process of its own, which ends with it.

It would hold the interpreter of the stream for seconds, and leave behind memory that nothing frees.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading

import torch
from torch import nn

from ditta_core.heap import end_imports
from ditta_core.inference.openvino_network import Blueprint, hollow

NICENESS = 5
"""Serving comes first, as before the adaptation."""
LONGEST_TRACE = 120.0
"""Seconds that a trace may take, imports included: a busy robot with a memory card needs half a minute for these."""


class TracingFailed(RuntimeError):
    """The other process gave no graph; the message says why."""


class GraphTracer:
    """Traces graphs, each in a process of its own.

    Attributes:
        closed: Whether nothing is traced any more.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self.closed = False

    def start(self) -> None:
        """Start the process ahead of its task; does nothing where one waits, or no process can be had."""
        with self._lock:
            if self._process is not None or self.closed:
                return
            program = (
                f"import os, sys; os.nice({NICENESS}); sys.path[:] = {sys.path!r}; "
                f"from ditta_core.heap import postpone_collections; postpone_collections(); "
                f"from ditta_core.inference.graph_tracer import serve; serve()"
            )
            # Ctrl-C in a terminal signals the whole process group; the child ends with its parent's end of the pipe.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-c", program],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                )
            except OSError:
                pass
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def trace(self, module: nn.Module, size: tuple[int, int], resizable: bool = False) -> bytes:
        """The graph of a module in evaluation mode for pixels [1, 3, H, W], see :class:`Blueprint`, as a file holds it.

        Raises:
            TracingFailed: the module cannot be sent, or the process did not answer with a graph.
        """
        try:
            task = pickle.dumps((hollow(module), size, resizable, torch.get_num_threads()))
        except Exception as error:  # such as of a class inside a function
            raise TracingFailed(f"expected a module that can be pickled, but got: {error}") from error
        self.start()
        process = self._process
        if process is None:
            raise TracingFailed("expected a process that traces, but none could be started")
        try:
            graph, _ = process.communicate(task, timeout=LONGEST_TRACE)
        except (OSError, ValueError, subprocess.TimeoutExpired) as error:
            raise TracingFailed(f"expected a graph, but got: {error}") from error
        finally:
            self._end(process)
        if process.returncode != 0 or not graph:
            raise TracingFailed(f"expected a graph, but the process ended with exit code {process.returncode}")
        return graph

    def close(self) -> None:
        """End the process where one runs; nothing is traced any more."""
        self.closed = True
        self.dismiss()

    def dismiss(self) -> None:
        """End the process where one runs: there is no task for it after all."""
        process = self._process
        if process is not None:
            self._end(process)

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        with self._lock:
            self._process = None
        process.kill()
        process.wait()


def serve() -> None:
    """In the child: one task on standard input, its graph on standard output."""
    end_imports()
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no part of the answer
    task = sys.stdin.buffer.read()
    if not task:
        return  # the parent has ended, or needs no trace after all
    module, size, resizable, threads = pickle.loads(task)
    torch.set_num_threads(threads)
    graph = Blueprint(module, size, resizable).to_bytes()
    with answer:
        answer.write(graph)
