"""Checks in a process of their own: a package whose import ends the interpreter does not end the doctor."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from ditta_ros.doctor.findings import Finding, Level, error

FINDINGS_SECONDS = 300.0
"""Longest time for findings: seven seconds for what runs, three for the packaged model, where the machine is free."""


class ChildFailed(RuntimeError):
    """The process did not answer; the message says why, in one line."""


def ask_python(arguments: Sequence[str], environment: Mapping[str, str], seconds: float) -> Any:
    """Run this Python with ``arguments`` and return the JSON in the last line that it prints.

    Raises:
        ChildFailed: It ended with an error or a signal, or took too long.
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
    except OSError as problem:  # no memory, too many processes
        raise ChildFailed(f"Python does not start: {problem}") from problem
    if result.returncode:
        lines = re.sub(r"\x1b\[[0-9;]*m", "", result.stderr).strip().splitlines()  # Fast DDS writes in colour
        reason = lines[-1] if lines else "it said nothing"
        how = f"it was ended by signal {-result.returncode}: " if result.returncode < 0 else ""
        raise ChildFailed(f"{how}{reason}")
    answer = result.stdout.strip().rpartition("\n")[2]
    try:
        return json.loads(answer)
    except ValueError as problem:
        raise ChildFailed(f"it did not answer, but wrote {answer[:80]!r}") from problem


def ask_findings(module: str, question: Any, environment: Mapping[str, str], remedy: str) -> list[Finding]:
    """What a module of the doctor finds when it is asked; where it does not answer, that, with the remedy."""
    try:
        answer = ask_python(["-m", f"ditta_ros.doctor.{module}", json.dumps(question)], environment, FINDINGS_SECONDS)
    except ChildFailed as problem:
        return [error(module, f"it cannot be examined: {problem}", remedy)]
    return [Finding(**{**values, "level": Level(values["level"])}) for values in answer]
