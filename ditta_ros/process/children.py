"""The processes of a replay: started in isolation, watched, and ended together, whatever happens."""

from __future__ import annotations

import json
import os
import queue
import random
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ditta_ros.process.shared_memory import shared_memory_environment

END_SECONDS = 10.0
"""How long a process may take to come to its end."""


class ReplayError(RuntimeError):
    """A replay did not come to its end; the message says why."""


class ProcessDied(ReplayError):
    """A process ended by itself; the message holds its last words."""


def first_port(domain: int) -> int:
    """The UDP port of the first ROS process in a domain (RTPS 2.2, section 9.6.1.1)."""
    return 7410 + 250 * domain


def free_domain() -> int:
    """A ROS domain that no other ROS process of this machine is in, as far as can be seen."""
    domains = random.sample(range(1, 102), 101)  # the numbers whose ports lie below the ephemeral ones everywhere
    for domain in domains:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(("", first_port(domain)))
            except OSError:
                continue
            return domain
    return domains[0]


def isolated_environment(log_folder: Path) -> dict[str, str]:
    """The environment of processes that hear each other, and nobody else on this machine or beyond it."""
    environment = {
        **os.environ,
        "ROS_DOMAIN_ID": str(free_domain()),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "ROS_LOG_DIR": str(log_folder),
        "PYTHONUNBUFFERED": "1",
    }
    return {**environment, **shared_memory_environment(environment)}


PROGRAM = """import runpy, sys
from ditta_ros.process.stop import end_with_parent
end_with_parent(int(sys.argv[1]))
sys.argv = sys.argv[2:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""
"""``python -m``, of a process that ends with its parent however that ends, and in whichever session it is."""


class Child:
    """A Python module as a process. What it says goes into a log, or comes as events.

    Args:
        name: Name of the process, for messages.
        log: File that takes standard error, and standard output where there are no ``events``.
        events: Queue that takes every line of standard output, which is JSON, as (name, values).
    """

    def __init__(
        self,
        name: str,
        module: str,
        arguments: Iterable[str],
        environment: Mapping[str, str],
        log: Path,
        events: queue.Queue[tuple[str, dict[str, Any]]] | None = None,
    ) -> None:
        self.name = name
        self.log = log
        with log.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(os.getpid()), module, *arguments],
                stdin=subprocess.PIPE if events else subprocess.DEVNULL,
                stdout=subprocess.PIPE if events else file,
                stderr=file,
                env=dict(environment),
                text=True,
                # Out of the terminal's reach: a Ctrl-C there is for the parent, which then ends its children in order.
                start_new_session=True,
            )
        if events is not None:
            threading.Thread(target=self._listen, args=(events,), name=f"listen to {name}", daemon=True).start()

    def _listen(self, events: queue.Queue[tuple[str, dict[str, Any]]]) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            events.put((self.name, json.loads(line)))

    def send(self, command: str) -> None:
        """Write a line to its standard input."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(command + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            self.check()
            raise

    def last_words(self, lines: int = 12) -> str:
        """The end of its log, with the name of the file."""
        text = self.log.read_text(encoding="utf-8", errors="replace")
        return "\n".join([f"the end of {self.log}:", *text.splitlines()[-lines:]])

    def check(self) -> None:
        """Raise ProcessDied where it has ended."""
        code = self.process.poll()
        if code is not None:
            raise ProcessDied(f"the {self.name} process ended with exit code {code}; {self.last_words()}")

    def ask_to_end(self) -> None:
        """Ask it to end, without waiting."""
        if self.process.stdin is not None:
            with suppress(BrokenPipeError):
                self.process.stdin.close()
        else:
            self.process.send_signal(signal.SIGINT)

    def stop(self) -> None:
        """Ask it to end, and see to it."""
        self.ask_to_end()
        self.wait_for_end()

    def wait_for_end(self) -> None:
        """Wait until it has ended; where it does not, end it, and whatever it left behind."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(END_SECONDS)
        with suppress(ProcessLookupError):  # all gone by themselves
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Processes:
    """Several children that end together, with their logs in a folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.environment = isolated_environment(folder)
        self.events: queue.Queue[tuple[str, dict[str, Any]]] = queue.Queue()
        self.children: list[Child] = []

    def start(self, name: str, module: str, *arguments: str, controlled: bool = True) -> Child:
        """Start a module; ``controlled`` ones speak the protocol of :mod:`ditta_ros.replay.control`."""
        log = self.folder / f"{name}.log"
        child = Child(name, module, arguments, self.environment, log, self.events if controlled else None)
        self.children.append(child)
        return child

    def next_event(self, seconds: float = 0.2) -> tuple[str, dict[str, Any]] | None:
        """The next thing that a child tells; None after some time without one.

        Raises:
            ProcessDied: one of them has.
        """
        for child in self.children:
            child.check()
        try:
            return self.events.get(timeout=seconds)
        except queue.Empty:
            return None

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        """End all at the same time. A second Ctrl-C does not interrupt that."""
        in_main_thread = threading.current_thread() is threading.main_thread()
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN) if in_main_thread else None
        try:
            for child in self.children:
                child.ask_to_end()
            for child in self.children:
                child.wait_for_end()
        finally:
            if in_main_thread:
                signal.signal(signal.SIGINT, handler)
