"""The program `ditta`, also by `python -m ditta_ros.cli`: quiet where Ctrl-C comes while it begins or ends."""

import signal
import sys

from ditta_ros.process.stop import end_at_once_on_signals


def run() -> int:
    """Run the command of the arguments; its exit code."""
    numbers = end_at_once_on_signals(130, "ditta: interrupted")
    from ditta_ros.cli.main import main  # takes half a second

    code = main()
    for number in numbers:  # whoever presses Ctrl-C twice means the same
        signal.signal(number, signal.SIG_IGN)
    return code


if __name__ == "__main__":
    sys.exit(run())
