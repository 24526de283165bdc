"""What the commands share: kinds of arguments, exit codes, and the message where ROS is missing."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import re
import select
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from importlib import util
from pathlib import Path
from typing import TextIO

from ditta_core.datasets.paths import output_path
from ditta_core.inference.config import AUTO_LONG_SIDE
from ditta_core.segmentation.files import objection_to_folder
from ditta_ros.doctor.installation import INSTALL_ROS
from ditta_ros.evaluation.defaults import AUTO, NothingAdaptedError
from ditta_ros.process.children import ReplayError
from ditta_ros.process.stop import end_at_once_on_signals

LARGEST_SIDE = 8192
"""Longest side of a network input in pixels, as of the node's parameters."""


_OUT_OF_MEMORY = re.compile(r"out of memory|can't allocate memory|insufficient memory", re.IGNORECASE)
"""What torch on a GPU, torch on a CPU, and OpenCV say where there is no more."""
_SMALLER = "take a smaller network input, fewer or smaller images, or another machine"


def exit_code(command: str, run: Callable[[], None], extra: str) -> int:
    """Run a command, and print in one line why it fails.

    SIGTERM, and the SIGHUP of a closed window, are as good as Ctrl-C: nothing unfinished stays behind.

    Args:
        run: may raise a KeyboardInterrupt that says what is kept.

    Returns:
        0; 1 for a replay that did not come to its end, or a method whose adaptations all failed; 2 for bad input, or
        where a package is missing that pip installs with ``extra``; 130 after Ctrl-C; 141 where nobody reads any more.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
    try:
        with _warnings_in_one_line(command):
            run()
        return 0
    except KeyboardInterrupt as error:
        code, problem = 130, str(error) or "interrupted"
    except (ReplayError, NothingAdaptedError) as error:
        code, problem = 1, str(error)
    except ModuleNotFoundError as error:
        code, problem = 2, f"{error}: pip install 'ditta_ros[{extra}]' (from a checkout: '.[{extra}]')"
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for what Python still writes at its end
            return 128 + signal.SIGPIPE
        code, problem = 2, _problem_of_system(error)
    except (ValueError, ImportError) as error:
        code, problem = 2, str(error)
    except Exception as error:
        if not (isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(str(error))):
            raise
        said = str(error).strip().partition("\n")[0]
        code, problem = 2, f"expected more memory, but got: {said or 'none'}; {_SMALLER}"
    print(f"ditta {command}: {problem}", file=sys.stderr)
    return code


@contextlib.contextmanager
def importing(command: str) -> Iterator[None]:
    """Inside, Ctrl-C ends the process at once: an exception amid the imports of torch may get lost, or abort it."""
    before = end_at_once_on_signals(130, f"ditta {command}: interrupted")
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _nobody_reads() -> bool:
    """Whether standard output leads to nobody any more: who read it, as ``head`` does, has seen enough."""
    output = select.poll()
    output.register(1, 0)
    return any(state & select.POLLERR for _, state in output.poll(0))


def _problem_of_system(error: OSError) -> str:
    """The message of ours that an error has, or one in place of the system's."""
    if error.errno is None:
        return str(error)
    if error.filename is None:
        return f"expected to read and write, but got: {error.strerror}; look at where its output goes"
    return f"expected to use {str(error.filename)[:200]}, but got: {error.strerror}; look at that place"


@contextlib.contextmanager
def _warnings_in_one_line(command: str) -> Iterator[None]:
    """Print warnings about data as errors are printed, rather than with a line of code."""
    with warnings.catch_warnings():
        others = warnings.showwarning

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            from ditta_core.datasets.names import DataWarning  # whoever warns has it; help is to answer without it

            if issubclass(category, DataWarning):
                print(f"ditta {command}: warning: {message}", file=sys.stderr)
            else:
                others(message, category, filename, lineno, file, line)

        warnings.showwarning = show
        yield


def has_ros(command: str) -> bool:
    """Whether ROS can be imported; where it cannot, print how to get it for ``command``."""
    if util.find_spec("rclpy") is not None:
        return True
    print(f"ditta {command}: expected ROS 2, but rclpy cannot be imported: {INSTALL_ROS}", file=sys.stderr)
    return False


def size(text: str) -> tuple[int, int]:
    """WIDTHxHEIGHT.

    >>> size("640x480")
    (640, 480)
    """
    width, _, height = text.partition("x")
    if not (_is_number(width) and _is_number(height) and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f"expected WIDTHxHEIGHT such as 640x480, but got {text!r}")
    if max(int(width), int(height)) > LARGEST_SIDE:
        raise argparse.ArgumentTypeError(f"expected sides of at most {LARGEST_SIDE} pixels, but got {text!r}")
    return int(width), int(height)


def split_list(text: str) -> tuple[str, ...]:
    """Words between commas.

    >>> split_list("source,ditta")
    ('source', 'ditta')
    """
    words = tuple(word.strip() for word in text.split(","))
    if not all(words):
        raise argparse.ArgumentTypeError(f"expected words with a comma between them, but got {text!r}")
    return words


def number_list(text: str) -> tuple[int, ...]:
    """Whole numbers between commas.

    >>> number_list("10,25")
    (10, 25)
    """
    words = split_list(text)
    if not all(map(_is_number, words)):
        raise argparse.ArgumentTypeError(f"expected whole numbers with a comma between them, but got {text!r}")
    return tuple(int(word) for word in words)


def _is_number(text: str) -> bool:
    """Whether a text is a whole number in the digits 0 to 9, and short enough for one."""
    return text.isascii() and text.isdigit() and len(text) < 19


def whole_number(least: int, most: int | None = None) -> Callable[[str], int]:
    """The kind of argument that is a whole number within limits.

    >>> whole_number(1)("8")
    8
    """

    def parse(text: str) -> int:
        if not _is_number(text.removeprefix("-")) or int(text) < least or (most is not None and int(text) > most):
            limits = f"of at least {least}" if most is None else f"of {least} to {most}"
            raise argparse.ArgumentTypeError(f"expected a whole number {limits}, but got {text!r}")
        return int(text)

    return parse


def positive(text: str) -> float:
    """A finite number above 0."""
    return _real_number(text, lambda value: value > 0, "above 0")


def nonnegative(text: str) -> float:
    """A finite number of at least 0."""
    return _real_number(text, lambda value: value >= 0, "of at least 0")


def _real_number(text: str, fits: Callable[[float], bool], limits: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and fits(value)):
        raise argparse.ArgumentTypeError(f"expected a number {limits}, but got {text!r}")
    return value


def _output_path(text: str) -> Path:
    try:
        return output_path(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def output_folder(text: str) -> Path:
    """A folder that can be written to, or made; it is not made here."""
    path = _output_path(text)
    objection = objection_to_folder(path)
    if objection:
        raise argparse.ArgumentTypeError(f"expected a folder to write to, but {objection}; choose another")
    return path


def output_file(text: str) -> Path:
    """A file that can be written, or made; it is not made here. A file takes a new one beside it, a pipe does not."""
    path = _output_path(text)
    try:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path.stat()
    except OSError as error:  # too long a name, a link to itself
        raise argparse.ArgumentTypeError(
            f"expected a file to write, but got {text[:80]!r}: {error.strerror}; choose another"
        ) from error
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"expected a file to write, but {path} is a folder; name a file in it")
    if path.exists() and not os.access(path, os.W_OK):
        raise argparse.ArgumentTypeError(f"expected a file to write, but {path} is not writable; choose another")
    if path.is_file() or not path.exists():
        output_folder(str(path.resolve().parent))
    return path


def replaced_file(text: str) -> Path:
    """As :func:`output_file`, but no pipe or device; where it is a link, the file that it leads to."""
    path = output_file(text)
    if path.exists() and not path.is_file():
        raise argparse.ArgumentTypeError(f"expected a regular file to write, but {path} is none; choose another")
    return path.resolve() if path.is_symlink() else path


def long_side(text: str) -> int:
    """Pixels, or ``auto``.

    >>> long_side("480"), long_side("auto")
    (480, -1)
    """
    return AUTO_LONG_SIDE if text == AUTO else whole_number(0, LARGEST_SIDE)(text)
