"""Files that are there whole or not at all, and by whom they are written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ditta_core.segmentation.files import (
    objection_to_folder,
    remove_leftovers,
    sole_writer,
    write_atomically,
    write_output,
)


def test_what_cannot_be_written_leaves_what_was_there(tmp_path: Path) -> None:
    file = tmp_path / "new" / "file"
    write_atomically(file, b"one")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match=r"expected to write 3 bytes to .*folder, but got: .*; make room there or name"):
        write_atomically(tmp_path / "folder", b"two")
    with pytest.raises(OSError, match="below, but got: "):
        write_atomically(file / "below", b"two")
    assert file.read_bytes() == b"one"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder", "new"]


def test_only_what_killed_writers_left_is_removed(tmp_path: Path) -> None:
    left, others = ".a.st.77.0123abcd", [".b.st.77.0123abcd", "a.st", ".a.st.77.0123abcx", ".a.st"]
    for name in (left, *others):
        (tmp_path / name).write_text("")
    remove_leftovers(tmp_path, r"a\.st")
    remove_leftovers(tmp_path / "gone", r"a\.st")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(others)


def test_one_process_at_a_time_writes_a_file(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "file"
    code = "import sys; from pathlib import Path; from ditta_core.segmentation.files import sole_writer\n"
    code += "with sole_writer(Path(sys.argv[1])) as alone: print(alone)"

    def another() -> str:
        return subprocess.run(
            [sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=True
        ).stdout.strip()

    with sole_writer(file) as alone:
        assert alone and another() == "False"
        with sole_writer(tmp_path / "deep" / "other") as other:
            assert other
    assert another() == "True" and not list(tmp_path.glob("deep/.*"))


def test_an_output_goes_where_it_was_asked_for(tmp_path: Path) -> None:
    link, real = tmp_path / "link", tmp_path / "real"
    link.symlink_to(real)
    write_output(link, "road \udcff\n")
    assert link.is_symlink() and real.read_text(encoding="utf-8") == "road ?\n"
    code = (
        "from pathlib import Path; from ditta_core.segmentation.files import write_output; print('one', flush=True); "
    )
    code += "write_output(Path('/dev/stdout'), 'two\\n'); print('three')"
    with (tmp_path / "log").open("w") as log:
        subprocess.run([sys.executable, "-c", code], stdout=log, check=True)
    assert (tmp_path / "log").read_text(encoding="utf-8") == "one\ntwo\nthree\n"
    with pytest.raises(OSError, match="No space left"):
        write_output(Path("/dev/full"), "road")
    assert not Path("/dev/full").is_file()


def test_why_a_folder_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "round").symlink_to(tmp_path / "round")
    assert objection_to_folder(tmp_path) == objection_to_folder(tmp_path / "new" / "newer") == ""
    assert objection_to_folder(tmp_path / "file" / "below") == f"{tmp_path / 'file'} is none"
    assert objection_to_folder(tmp_path / "round") == f"{tmp_path / 'round'} is none"
    assert "/proc cannot be written to (" in objection_to_folder(Path("/proc/here"))
    assert "(File name too long)" in objection_to_folder(tmp_path / ("long" * 99))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "round"]
