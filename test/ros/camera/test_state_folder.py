from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ditta_core.adaptation.state import AdaptedState
from ditta_core.stream.generation_file import save_generation
from ditta_core.stream.generations import Generation
from ditta_core.types import AdaptationReport
from ditta_ros.camera.state_folder import StateFolder

BASE = "b" * 64


def generation(number: int, size: int = 4) -> Generation:
    state = AdaptedState({"weight": np.full((size, size), number, np.float32)}, False)
    return Generation(number, state, AdaptationReport(True, "adapted"))


@pytest.fixture
def folder(tmp_path: Path) -> StateFolder:
    """With one generation, number 1."""
    folder = StateFolder(tmp_path, "", BASE, 2**20)
    folder.save(generation(1))
    return folder


def numbers(folder: StateFolder) -> list[int]:
    return [each.number for each in folder.read(4).generations]


def test_what_is_no_regular_file_is_left_out(folder: StateFolder) -> None:
    names = [folder.path / f"generation-{number:04d}.safetensors" for number in range(2, 8)]
    os.mkfifo(names[0])
    names[1].mkdir()
    names[2].symlink_to("/dev/zero")
    names[3].symlink_to(names[3])
    names[4].symlink_to("/nowhere")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(names[5]))
        read = folder.read(10)
    assert [each.number for each in read.generations] == [1]
    assert len(read.refusals) == 6
    assert sum("it is no regular file" in refusal for refusal in read.refusals) == 4


def test_a_link_to_a_generation_is_read(folder: StateFolder) -> None:
    (folder.path / "generation-0002.safetensors").symlink_to("generation-0001.safetensors")
    assert numbers(folder) == [1, 1]


def test_what_takes_more_memory_than_there_is_costs_that_file_alone(folder: StateFolder) -> None:
    folder.save(generation(2, size=5000))  # 100 MB
    program = (
        "import resource, sys; from pathlib import Path; from ditta_ros.camera.state_folder import StateFolder\n"
        "pages = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (pages + 150_000_000,) * 2)\n"
        "read = StateFolder(Path(sys.argv[1]), '', 'b' * 64).read(4)\n"
        "print([each.number for each in read.generations], *read.refusals)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, folder.path], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.startswith("[1] expected memory for the generation in")


def test_leftovers_of_killed_saves_are_removed_and_nothing_else(folder: StateFolder) -> None:
    def put(name: str) -> Path:
        path = folder.path / name
        path.write_bytes(b"half")
        return path

    kept = [
        put(".front-generation-0001.safetensors.7.0123abcd"),
        put(".generation-0001.safetensors.swp"),
        put("generation-0001.safetensors.7.0123abcd"),
        put(".generation-notes.safetensors.7.0123abcd"),
    ]
    under_way = put(".generation-0009.safetensors.8.0123abcd")
    leftovers = [put(".generation-0001.safetensors.7.0123abcd"), put(".generation-0012.safetensors.4242.ffffffff")]
    with under_way.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert numbers(folder) == [1]
        assert not any(path.exists() for path in leftovers)
        leftovers[0].write_bytes(b"half again")
        folder.save(generation(2))
        assert not leftovers[0].exists()
        assert under_way.exists()
    folder.read(1)
    assert not under_way.exists()
    assert all(path.exists() for path in kept)


def test_a_save_that_is_killed_leaves_nothing_for_long(folder: StateFolder) -> None:
    program = (
        "import os, sys; from pathlib import Path; import ditta_core.stream.generation_file as files\n"
        "files.os.fsync = lambda _: os.kill(os.getpid(), 9)\n"
        "files.write_atomically(Path(sys.argv[1]) / 'generation-0002.safetensors', b'content')"
    )
    subprocess.run([sys.executable, "-c", program, folder.path], timeout=60, check=False)
    assert len(list(folder.path.iterdir())) == 2
    assert numbers(folder) == [1]
    assert [path.name for path in folder.path.iterdir()] == ["generation-0001.safetensors"]


def test_of_many_foreign_files_only_some_are_told_of(folder: StateFolder) -> None:
    for number in range(2, 40):
        save_generation(folder.path / f"generation-{number:04d}.safetensors", generation(number), "c" * 64)
    read = folder.read(4)
    assert [each.number for each in read.generations] == [1]
    assert len(read.refusals) == 11
    assert read.refusals[-1] == "28 more files were left out"


def test_what_was_not_read_is_never_written_over(tmp_path: Path) -> None:
    """Neither that of another model or other classes, nor one for which there was no room."""
    other, ours = (StateFolder(tmp_path, "", letter * 64, 2**20) for letter in "ab")
    files = [other.save(generation(1)), ours.save(generation(1))]
    assert [file.name for file in files] == ["generation-0001.safetensors", "generation-0002.safetensors"]
    contents = [file.read_bytes() for file in files]
    for count, known, number, file in ((0, [], 1, 3), (4, [1, 3], 4, 4)):
        again = StateFolder(tmp_path, "", "a" * 64, 2**20)
        assert [each.number for each in again.read(count).generations] == known
        for _ in range(2):
            assert again.save(generation(number)).name == f"generation-{file:04d}.safetensors"
    assert [file.read_bytes() for file in files] == contents
    assert [each.number for each in other.read(4).generations] == [1, 3, 4]
    assert [each.number for each in ours.read(4).generations] == [2]


def test_what_was_read_is_written_over_by_itself(folder: StateFolder) -> None:
    again = StateFolder(folder.path, "", BASE, 2**20)
    assert [each.number for each in again.read(4).generations] == [1]
    assert again.save(generation(1)).name == "generation-0001.safetensors"
    assert len(list(folder.path.iterdir())) == 1


def test_a_folder_that_is_not_there_has_none(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path / "states", "front", BASE)
    assert not folder.read(4).generations
    folder.save(generation(3))
    assert numbers(folder) == [3]
