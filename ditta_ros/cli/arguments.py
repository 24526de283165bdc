"""What the commands share: kinds of arguments, exit codes, and the message where ROS is missing."""

from __future__ import annotations

import argparse
import sys
from importlib import util

from ditta_ros.doctor.installation import INSTALL_ROS

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


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
