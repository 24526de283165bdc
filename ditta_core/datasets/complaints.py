"""What decoders say on standard error, which is all that libjpeg and FFmpeg say of what they had to make up."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

LIBJPEG = re.compile(r"Corrupt JPEG data: .*")
FFMPEG = re.compile(r"\[[\w ,]+ @ 0x[0-9a-f]+\] .*")

_MOST_BYTES = 65536
"""As many as a pipe holds; more are not kept."""

_one_listener = threading.Lock()


@contextmanager
def complaints(pattern: re.Pattern[str]) -> Iterator[list[str]]:
    """The lines of a pattern that are written to standard error inside, there when it is left. Other lines go on.

    Standard error is that of the whole process, so that one thread at a time may listen.
    """
    heard: list[str] = []
    with _one_listener:
        try:
            kept = os.dup(2)
        except OSError:  # there is none, as in some services
            yield heard
            return
        source, sink = os.pipe()
        for end in (source, sink):
            os.set_blocking(end, False)
        try:
            os.dup2(sink, 2)
            yield heard
        finally:
            os.dup2(kept, 2)
            os.close(sink)
            text = b""
            with suppress(BlockingIOError):
                text = os.read(source, _MOST_BYTES)
            for line in text.decode(errors="replace").splitlines(keepends=True):
                if pattern.match(line):
                    heard.append(line.strip())
                else:
                    os.write(kept, line.encode())
            os.close(source)
            os.close(kept)
