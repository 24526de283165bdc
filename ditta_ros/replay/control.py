"""How a camera and a recorder are controlled, and how they are heard: lines on their standard input and output.

A closed standard input means: come to an end. So both end, whatever becomes of the process that started them.

The camera knows two commands:

    play <range>  play some frames of the sequence, after those asked for before
    stop          break off the range that is being played

After every range it holds: no frame comes, and the simulated clock stands still, until the next one is asked for.
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
        first: Index of the first frame in the sequence.
        end: Index of the frame after the last one.
        offset: Nanoseconds that are added to the stamps of the sequence.
        rate: Factor by which the frames are played faster than their stamps say.
        answer_seconds: Seconds that every frame waits in lockstep for the mask of the one before, which a rejected
            frame never gets; None for frames that come in time, whoever can follow.
        round: Number of times that the sequence was played before; written down with every frame.
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
        stopped: Event that is set while the range that is being played is to be broken off, and finally by the end.
        quit: Event that is set when standard input is closed.
    """

    def __init__(self) -> None:
        self.stopped = threading.Event()
        self.quit = threading.Event()
        self._ranges: queue.SimpleQueue[FrameRange | None] = queue.SimpleQueue()
        # A daemon: nothing can interrupt a thread that waits for a line.
        threading.Thread(target=self._listen, name="commands", daemon=True).start()

    def next_range(self) -> FrameRange | None:
        """Wait for the next range; None at the end."""
        return self._ranges.get()

    def _listen(self) -> None:
        for line in sys.stdin:
            command, _, values = line.strip().partition(" ")
            if command == "stop":
                self.stopped.set()
            elif command == "play":
                self.stopped.clear()
                self._ranges.put(FrameRange(**json.loads(values)))
            else:
                raise ValueError(f"expected play or stop, but got {command!r}")
        self.quit.set()
        self.stopped.set()
        self._ranges.put(None)


def emit(**values: Any) -> None:
    """Tell something to the process that controls this one."""
    print(json.dumps(values), flush=True)
