"""Files that others may be reading or replacing meanwhile."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
from pathlib import Path
from typing import BinaryIO


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
    """Replace a file in one step, and have both the bytes and the name on the disk before returning."""
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
