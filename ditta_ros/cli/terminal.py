"""What the command does for the terminal that it runs in."""

from __future__ import annotations

import codecs
import io
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_PLAIN = {"✓": "+", "✗": "x", "·": "-", "–": "-", "×": "x", "±": "+-", "…": "...", "→": "->", "≥": ">=", "’": "'"}
"""What stands for characters that a terminal does not have; a question mark for all others."""

_OF_A_DECODER = re.compile(rb"\[[\w,.:-]+ @ 0x[0-9a-f]+\] (.*)")
"""A line of FFmpeg, which writes one for each damaged block."""


def write_what_the_terminal_has() -> None:
    """Have characters that the encoding of the terminal lacks written as others, rather than fail."""
    codecs.register_error("ditta", lambda error: (_plain(error), getattr(error, "end", 0)))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="ditta")


def _plain(error: UnicodeError) -> str:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_PLAIN.get(each, "?") for each in error.object[error.start : error.end])


@contextmanager
def decoder_lines_counted(command: str) -> Iterator[None]:
    """Keep the lines of FFmpeg from standard error, and say in one line how many there were.

    They come from C, so that the descriptor itself goes through a pipe; Python writes to the terminal as before.
    """
    if sys.stderr is not sys.__stderr__ or sys.stderr is None or sys.stderr.fileno() != 2:
        yield  # somebody else minds it
        return
    sys.stderr.flush()
    terminal = os.dup(2)
    receiving, sending = os.pipe()
    os.dup2(sending, 2)
    os.close(sending)
    python_stderr = sys.stderr
    sys.stderr = os.fdopen(
        os.dup(terminal), "w", buffering=1, encoding=python_stderr.encoding, errors=python_stderr.errors
    )
    counted: list[str] = []

    def sort_out() -> None:
        with os.fdopen(receiving, "rb") as lines:
            for line in lines:
                found = _OF_A_DECODER.match(line)
                if found is None:
                    os.write(terminal, line)
                else:
                    counted.append(found[1].decode(errors="replace"))

    thread = threading.Thread(target=sort_out, daemon=True)
    thread.start()
    try:
        yield
    finally:
        os.dup2(terminal, 2)  # the end of the pipe, unless a process that was left behind holds it
        thread.join(timeout=1.0)
        if counted:
            print(
                f"ditta {command}: warning: FFmpeg found {len(counted)} faults in the video, such as {counted[0]!r}: "
                f"frames may be damaged; copy the file again, or repair it with ffmpeg",
                file=sys.stderr,
            )
        sys.stderr.close()
        sys.stderr = python_stderr
        os.close(terminal)
