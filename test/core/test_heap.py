from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from ditta_core.heap import TUNABLES, frugal_environment

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import numpy as np
from ditta_core.heap import LARGE_BLOCK, keep_large_blocks_apart
def resident(): return int(open("/proc/self/statm").read().split()[1]) * 4096
if {apart}: keep_large_blocks_apart()
np.ones(24 * 2**20, np.uint8)  # freed at once: from now on the C library itself takes blocks of its size from the heap
before = resident()
large, small = [], []
for _ in range(10):
    large.append(np.ones(20 * 2**20, np.uint8))
    small.append(np.ones(60_000, np.uint8))  # lies behind it
del large
print((resident() - before) / 2**20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_large_blocks_are_given_back_at_once() -> None:
    left = {}
    for apart in (False, True):
        program = PROGRAM.format(apart=apart)
        run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
        left[apart] = float(run.stdout)
    assert left[True] < 10
    assert left[False] > 100, "the C library gives them back by itself: keep_large_blocks_apart has no use any more"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_an_environment_in_which_large_blocks_are_given_back_at_once() -> None:
    assert frugal_environment({"HOME": "/root"}).keys() == {"HOME", TUNABLES}
    assert frugal_environment({TUNABLES: "glibc.cpu.x=1"})[TUNABLES].startswith("glibc.cpu.x=1:glibc.malloc.")
    program = PROGRAM.replace("24 * 2**20", "5 * 2**20").replace("20 * 2**20", "4 * 2**20").format(apart=False)
    command = [sys.executable, "-c", program]
    plain, frugal = (
        float(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=environment).stdout)
        for environment in (dict(os.environ), frugal_environment(os.environ))
    )
    assert frugal < 10 < plain


def test_imports_are_made_without_looking_for_garbage() -> None:
    program = """
import gc
from ditta_core.heap import end_imports, postpone_collections
postpone_collections()
assert not gc.isenabled()
import decimal
end_imports()
assert gc.isenabled() and gc.get_freeze_count() > 1000 and not gc.get_objects(2)
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
