"""Runs a script in a process of its own, which may take so much memory and no more."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BYTES = 10**9


def limit_memory() -> None:
    """Let this process take a gigabyte of its own, code aside: what asks for more gets none."""
    resource.setrlimit(resource.RLIMIT_DATA, (BYTES, BYTES))


def tell(**found: Any) -> None:
    """Print what was found, and how many bytes were used at most."""
    # Not ru_maxrss, which a process inherits from the one that started it.
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    peak = 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    print(json.dumps({**found, "peak": peak}))


def ask(script: Path, *arguments: str) -> Any:
    """What a script tells."""
    path = os.pathsep.join(str(folder) for folder in (ROOT, Path(__file__).parent, script.parent))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), *arguments]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, errors="replace")
    assert result.returncode == 0, result.stderr[-2000:]  # decoders write there what they dislike
    return json.loads(result.stdout.splitlines()[-1])
