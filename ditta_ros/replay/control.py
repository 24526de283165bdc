"""How a camera and a recorder are controlled, and how they are heard: lines on their standard input and output.

A closed standard input means: come to an end. So both end, whatever becomes of the process that started them.

The camera knows two commands:

    play <stretch>  play some frames of the sequence, after those asked for before
    stop            break off the stretch that is being played

After every stretch it holds: no frame comes, and the simulated clock stands still, until the next one is asked for.
"""

from __future__ import annotations

import json
import queue
import sys
import threading
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class FrameRange:
    """Frames to be played one after another.

    Attributes:
        first, end: index of the first frame in the sequence, and of the one after the last.
        offset: added to the stamps of the sequence, nanoseconds.
        rate: how many times as fast as their stamps say the frames are played.
        answer_seconds: lockstep: how long every frame waits for the mask of the one before, which a rejected frame
            never gets. None: frames come in time, whoever can follow.
        round: which time the sequence is played; written down with every frame.
    """

    first: int
    end: int
    offset: int
    rate: float = 1.0
    answer_seconds: float | None = None
    round: int = 0

    def command(self) -> str:
        """The line that asks for it."""
        return f"play {json.dumps(asdict(self))}"


class Commands:
    """The commands that came in on standard input.

    Attributes:
        stopped: set while the stretch that is being played is to be broken off, and for good by the end.
        quit: set when standard input is closed.
    """

    def __init__(self) -> None:
        self.stopped = threading.Event()
        self.quit = threading.Event()
        self._stretches: queue.SimpleQueue[FrameRange | None] = queue.SimpleQueue()
        # A daemon: nothing can interrupt a thread that waits for a line.
        threading.Thread(target=self._listen, name="commands", daemon=True).start()

    def next_stretch(self) -> FrameRange | None:
        """Wait for the next stretch; None at the end."""
        return self._stretches.get()

    def _listen(self) -> None:
        for line in sys.stdin:
            command, _, values = line.strip().partition(" ")
            if command == "stop":
                self.stopped.set()
            elif command == "play":
                self.stopped.clear()
                self._stretches.put(FrameRange(**json.loads(values)))
            else:
                raise ValueError(f"expected play or stop, but got {command!r}")
        self.quit.set()
        self.stopped.set()
        self._stretches.put(None)


def tell(**values: Any) -> None:
    """Tell something to the process that steers this one."""
    print(json.dumps(values), flush=True)
