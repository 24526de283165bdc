"""What the commands share: kinds of arguments, exit codes, and the message where ROS is missing."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable
from importlib import util

from ditta_core.inference.config import AUTO_LONG_SIDE
from ditta_ros.doctor.installation import INSTALL_ROS
from ditta_ros.evaluation.defaults import AUTO
from ditta_ros.process.children import ReplayError


def exit_code(command: str, run: Callable[[], None], extra: str, interrupted: str = "interrupted") -> int:
    """Run a command, and print in one line why it fails. SIGTERM is as good as Ctrl-C: nothing unfinished stays behind.

    Returns:
        0; 1 for a replay that did not come to its end; 2 for bad input, or where a package is missing that pip installs
        with ``extra``; 130 after Ctrl-C.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        run()
        return 0
    except KeyboardInterrupt:
        code, problem = 130, interrupted
    except ReplayError as error:
        code, problem = 1, str(error)
    except ModuleNotFoundError as error:
        code, problem = 2, f"{error}: pip install 'ditta_ros[{extra}]' (from a checkout: '.[{extra}]')"
    except (ValueError, OSError, ImportError) as error:
        code, problem = 2, str(error)
    print(f"ditta {command}: {problem}", file=sys.stderr)
    return code


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
    if not (width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f"expected WIDTHxHEIGHT such as 640x480, but got {text!r}")
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
    if not all(word.isdigit() for word in words):
        raise argparse.ArgumentTypeError(f"expected whole numbers with a comma between them, but got {text!r}")
    return tuple(int(word) for word in words)


def long_side(text: str) -> int:
    """Pixels, or ``auto``.

    >>> long_side("480"), long_side("auto")
    (480, -1)
    """
    if text != AUTO and not text.isdigit():
        raise argparse.ArgumentTypeError(f"expected a number of pixels or {AUTO}, but got {text!r}")
    return AUTO_LONG_SIDE if text == AUTO else int(text)
