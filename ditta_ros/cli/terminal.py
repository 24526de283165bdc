"""What the command does for the terminal that it runs in."""

from __future__ import annotations

import codecs
import io
import sys

_PLAIN = {"✓": "+", "✗": "x", "·": "-", "–": "-", "×": "x", "±": "+-", "…": "...", "→": "->", "≥": ">=", "’": "'"}
"""What stands for characters that a terminal does not have; a question mark for all others."""


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
