"""How the demo steers its camera and its recorder, and hears from them: lines on their standard input and output.

A closed standard input means: come to an end. So both end, whatever becomes of the process that started them.
"""

from __future__ import annotations

import json
import sys
import threading
from typing import Any


class Commands:
    """The commands that came in on standard input.

    Attributes:
        play: set by the line ``play``: begin.
        finish: set by the line ``finish``: play the sequence for the last time, from its beginning.
        quit: set when standard input is closed.
    """

    def __init__(self) -> None:
        self.play = threading.Event()
        self.finish = threading.Event()
        self.quit = threading.Event()
        # A daemon: nothing can interrupt a thread that waits for a line.
        threading.Thread(target=self._listen, name="commands", daemon=True).start()

    def _listen(self) -> None:
        for line in sys.stdin:
            {"play": self.play, "finish": self.finish}[line.strip()].set()
        self.quit.set()
        self.play.set()  # whoever waits for it sees that it is over


def tell(**values: Any) -> None:
    """Tell the demo something."""
    print(json.dumps(values), flush=True)
