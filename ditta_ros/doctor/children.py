"""Checks in a process of their own: a package whose import ends the interpreter does not end the doctor."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
"""With which Fast DDS writes its errors."""


class ChildFailed(RuntimeError):
    """The process did not answer; the message says why, in one line."""


def ask_python(arguments: Sequence[str], environment: Mapping[str, str], seconds: float) -> Any:
    """Run this Python with ``arguments`` and return the JSON in the last line that it prints.

    Raises:
        ChildFailed: it ended with an error or a signal, or took too long.
    """
    try:
        result = subprocess.run(
            [sys.executable, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            env=dict(environment),
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as problem:
        raise ChildFailed(f"no answer within {seconds:.0f} s") from problem
    if result.returncode:
        lines = COLOUR.sub("", result.stderr).strip().splitlines()
        reason = lines[-1] if lines else "it said nothing"
        how = f"it was ended by signal {-result.returncode}: " if result.returncode < 0 else ""
        raise ChildFailed(f"{how}{reason}")
    return json.loads(result.stdout.strip().splitlines()[-1])
