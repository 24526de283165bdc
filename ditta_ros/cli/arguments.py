"""What the commands share: kinds of arguments, exit codes, and the message where ROS is missing."""

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import util
from pathlib import Path
from typing import TextIO

from ditta_core.inference.config import AUTO_LONG_SIDE
from ditta_ros.doctor.installation import INSTALL_ROS
from ditta_ros.evaluation.defaults import AUTO, NothingAdaptedError
from ditta_ros.process.children import ReplayError

LARGEST_SIDE = 8192
"""Longest side of a network input in pixels, as of the node's parameters."""


def exit_code(command: str, run: Callable[[], None], extra: str, interrupted: str = "interrupted") -> int:
    """Run a command, and print in one line why it fails. SIGTERM is as good as Ctrl-C: nothing unfinished stays behind.

    Returns:
        0; 1 for a replay that did not come to its end, or a method whose adaptations all failed; 2 for bad input, or
        where a package is missing that pip installs with ``extra``; 130 after Ctrl-C.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with _warnings_in_one_line(command):
            run()
        return 0
    except KeyboardInterrupt:
        code, problem = 130, interrupted
    except (ReplayError, NothingAdaptedError) as error:
        code, problem = 1, str(error)
    except ModuleNotFoundError as error:
        code, problem = 2, f"{error}: pip install 'ditta_ros[{extra}]' (from a checkout: '.[{extra}]')"
    except (ValueError, OSError, ImportError) as error:
        code, problem = 2, str(error)
    print(f"ditta {command}: {problem}", file=sys.stderr)
    return code


@contextmanager
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


def output_folder(text: str) -> Path:
    """A folder that can be written to, or made; it is not made here."""
    path = Path(text).expanduser()
    existing = next(place for place in (path, *path.absolute().parents) if os.path.lexists(place))
    if not existing.is_dir():
        raise argparse.ArgumentTypeError(f"expected a folder to write to, but {existing} is none; choose another")
    try:
        tempfile.TemporaryDirectory(dir=existing).cleanup()
    except OSError as error:
        raise argparse.ArgumentTypeError(
            f"expected a folder to write to, but {existing} cannot be written to ({error.strerror}); choose another"
        ) from error
    return path


def output_file(text: str) -> Path:
    """A file that can be written, or made; it is not made here."""
    path = Path(text).expanduser()
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"expected a file to write, but {path} is a folder; name a file in it")
    if not path.exists():
        output_folder(str(path.parent))
    elif not os.access(path, os.W_OK):
        raise argparse.ArgumentTypeError(f"expected a file to write, but {path} is not writable; choose another")
    return path


def long_side(text: str) -> int:
    """Pixels, or ``auto``.

    >>> long_side("480"), long_side("auto")
    (480, -1)
    """
    return AUTO_LONG_SIDE if text == AUTO else whole_number(0, LARGEST_SIDE)(text)
