"""Files that others may be reading or replacing meanwhile."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

STREAMS = {"/dev/stdout": 1, "/dev/stderr": 2}
"""Descriptors of what a process writes to, by the names that shells give."""


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading; OSError where it is none. Opening a pipe would wait, and opening a device do something.

    Raises:
        OSError: It cannot be opened, or is a folder, a pipe, a device or a socket.
    """
    if stat.S_ISREG(path.stat().st_mode):
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):  # it may have been replaced meanwhile
            return file
        file.close()
    raise OSError(errno.EINVAL, "it is no regular file")


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file in one step, and have both the bytes and the name on the disk before returning.

    Its folder is made where it is missing.

    Raises:
        OSError: It cannot be written, and is what it was before; the message names it, and what to do.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, data)
    except OSError as error:
        raise OSError(
            f"expected to write {len(data)} bytes to {path}, but got: {error.strerror or error}; make room there or "
            f"name another place"
        ) from error


def objection_to_folder(path: Path) -> str:
    """Why a folder cannot be written to, or made, as "but …" goes on; empty where it can. Nothing is left there."""
    place = path
    try:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path.lstat()  # which says what no system takes, such as too long a name
        place = next(each for each in (path, *path.absolute().parents) if os.path.lexists(each))
        if not place.is_dir():
            return f"{place} is none"
        tempfile.TemporaryDirectory(dir=place).cleanup()
    except OSError as error:
        return f"{place} cannot be written to ({error.strerror})"
    return ""


def write_output(path: Path, text: str) -> None:
    """Write a text, in UTF-8, where somebody asked for it: into a pipe or a device too; a file at once.

    Raises:
        OSError: It cannot be written.
    """
    data = text.encode("utf-8", "replace")  # the name of a file may be any bytes
    stream = STREAMS.get(str(path))
    if stream is not None:  # which may lead to a file, and is to be gone on with where it is
        with os.fdopen(os.dup(stream), "wb") as file:
            file.write(data)
    elif path.exists() and not path.is_file():
        path.write_bytes(data)
    else:
        write_atomically(path.resolve() if path.is_symlink() else path, data)


def _replace(path: Path, data: bytes) -> None:
    # Locked, so that whoever removes what killed saves left behind knows that this one is under way.
    # In the same folder, since only within a file system is renaming one step. Not by tempfile, whose files are for
    # their owner alone: the mode is the user's umask, as for any file.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        with temporary.open("xb") as file:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def remove_leftovers(folder: Path, names: str) -> None:
    """Remove what :func:`write_atomically` left in a folder where it was killed, of files with certain names.

    Those under way, in whatever process, are left alone. A folder that is not there or cannot be changed stays as it
    is.

    Args:
        names: regular expression of the names of the files that were to be written.
    """
    pattern = re.compile(rf"\.(?:{names})\.\d+\.[0-9a-f]{{8}}")
    with contextlib.suppress(OSError):
        for temporary in [file for file in folder.iterdir() if pattern.fullmatch(file.name)]:
            with contextlib.suppress(OSError), open_regular(temporary) as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                temporary.unlink()


@contextlib.contextmanager
def sole_writer(path: Path) -> Iterator[bool]:
    """Whether no other process is inside with the same path, by a hidden file beside it, which is there meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f".{path.name}.lock")
    file = lock.open("wb")
    held = True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The one who held it may have removed it since it was opened here, so that somebody else holds a new one.
        held = os.path.samestat(os.fstat(file.fileno()), lock.stat())
    except (BlockingIOError, FileNotFoundError):
        held = False
    except OSError:  # a file system without locks: as good as it gets
        pass
    try:
        yield held
    finally:
        if held:
            lock.unlink(missing_ok=True)
        file.close()
