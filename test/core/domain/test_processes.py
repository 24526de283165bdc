"""Two processes that train together give the weights of one with the same batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from ditta_core.domain.processes import Processes

PROGRAM = """
import sys, torch
from safetensors.numpy import save_file
from drives import ColourModel, PanningDrive
from ditta_core.domain.config import OfflineConfig
from ditta_core.domain.driver import adapt_offline
from ditta_core.domain.processes import joined_group
from ditta_core.domain.reading import read_drives
from ditta_core.domain.recipes.registry import RECIPES

torch.set_num_threads(1)
config = OfflineConfig(steps=5, batch=4, window=(48, 64), learning_rate=1e-3, guarded=False)
with joined_group(config.batch) as processes:
    drive = read_drives([PanningDrive(12, noise=10)], (96, 128), 100)
    result = adapt_offline(ColourModel(), RECIPES[sys.argv[2]], drive, config)
    if processes.first:
        save_file(result.tensors, sys.argv[1])
"""


def adapted(out: Path, method: str, processes: int) -> dict[str, np.ndarray]:
    """The tensors that so many processes come to."""
    script = out.with_suffix(".py")
    script.write_text(PROGRAM)
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [*launcher, str(script), str(out), method]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    return load_file(out)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ur", "stpl"])
def test_two_processes_are_one(method: str, tmp_path: Path) -> None:
    one = adapted(tmp_path / "one.safetensors", method, 1)
    two = adapted(tmp_path / "two.safetensors", method, 2)
    assert one.keys() == two.keys()
    for name, value in one.items():
        np.testing.assert_allclose(two[name], value, atol=1e-5, err_msg=name)


def test_windows_are_dealt_out() -> None:
    places = [Processes(rank, 3, 6).places for rank in range(3)]
    assert sorted(place for each in places for place in each) == list(range(6))
    assert Processes.of_group(5).places == range(5)


def by_two_processes(script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What came of a script that torch's launcher runs twice."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [*launcher, str(script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=110, check=False)


@pytest.mark.slow
def test_a_process_that_is_lost_is_named_as_that(tmp_path: Path) -> None:
    script = tmp_path / "lost.py"
    script.write_text(
        "import os, signal, torch\n"
        "from ditta_core.domain.processes import ProcessLost, joined_group\n"
        # The launcher ends the other process as soon as it misses this one, on a busy machine before it has said so.
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "try:\n"
        "    with joined_group(2) as processes:\n"
        "        processes.agreed(1.0)\n"
        "        if not processes.first:\n"
        "            os._exit(3)\n"
        "        processes.mean({'loss': torch.ones(())})\n"
        "except ProcessLost as error:\n"
        "    print(f'lost: {error}', flush=True)\n"
    )
    done = by_two_processes(script)
    assert "lost: expected all processes that train together to stay, but lost one" in done.stdout, done.stderr


@pytest.mark.slow
def test_a_state_that_the_first_machine_alone_has_is_refused(tmp_path: Path) -> None:
    script = tmp_path / "apart.py"
    script.write_text(
        "import os, sys\n"
        "from pathlib import Path\n"
        "from ditta_core.domain.processes import joined_group\n"
        "with joined_group(2) as processes:\n"
        "    assert not processes.expect_same(Path(sys.argv[1], 'nowhere'))\n"
        "    assert processes.expect_same(Path(sys.argv[1]))\n"
        "    file = Path(sys.argv[1], str(processes.rank))\n"
        "    try:\n"
        "        processes.expect_same(file)\n"
        "    except ValueError as error:\n"
        "        print(f'apart: {error}', flush=True)\n"
    )
    (tmp_path / "0").write_text("")
    done = by_two_processes(script, str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("apart: ") == 1 and "/1 on every machine as on that of the first" in done.stdout
