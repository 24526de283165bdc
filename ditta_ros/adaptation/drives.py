"""What `ditta adapt` does: bags, folders and videos in; a model that the node serves, and a summary, out."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import signal
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from tqdm import tqdm

from ditta_core.adaptation.job import Cancelled
from ditta_core.datasets.base import VideoSequence
from ditta_core.datasets.open import open_sequences
from ditta_core.domain.adapt_drives import AdaptedDrives, DrivesJob, adapt_to_drives
from ditta_core.domain.config import OfflineConfig
from ditta_core.domain.driver import OfflineProgress
from ditta_core.report.adapt_page import facts, write_adapt_report
from ditta_core.segmentation.files import remove_leftovers, sole_writer
from ditta_core.segmentation.source import ModelSource
from ditta_core.types import AdaptationFailed
from ditta_ros.bags.files import is_bag
from ditta_ros.bags.sequence import BagSequence

STEPS = 1000
"""Steps where neither steps nor minutes are given."""
ENDLESS = 10**9
"""Steps where minutes alone are given."""
SAME_WISH = 2.0
"""Seconds within which another signal means what the last one meant."""


def open_drives(
    paths: list[Path],
    image_topic: str | None,
    label_topic: str | None,
    frame_rate: float | None,
    split: str | None = None,
    labelled: bool = True,
) -> list[VideoSequence]:
    """The videos of bags, folders and files; of bags that are not labelled the labels are not looked at.

    Raises:
        FileNotFoundError: there is nothing at a path.
        ValueError: a path holds no video.
    """
    drives: list[VideoSequence] = []
    for path in paths:
        if is_bag(path):
            drives.append(BagSequence(path, image_topic, label_topic, labelled=labelled))
        else:
            drives += open_sequences(path, frame_rate=frame_rate, split=split)
    return drives


class Interruption:
    """Ctrl-C and SIGTERM: during the steps they end the training after the one under way; else, or again, at once.

    What comes within two seconds is the same wish: fingers, terminals and launchers say it twice.
    """

    def __init__(self) -> None:
        self.asked = self.stepping = False
        self._asked_at = 0.0

    def __enter__(self) -> Interruption:
        self._before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.asked and time.monotonic() - self._asked_at < SAME_WISH:
            return
        if self.asked or not self.stepping:
            raise KeyboardInterrupt
        self.asked, self._asked_at = True, time.monotonic()


def adapt_drives(options: argparse.Namespace) -> None:
    """Run the command; see ``ditta adapt --help``.

    Args:
        options: those of the command, ``report`` filled in.

    Raises:
        ValueError, OSError: an argument or an input is not what it should be, or offers nothing to learn.
        KeyboardInterrupt: what was reached is kept for the next run.
    """
    state_file = options.out.with_name(f"{options.out.name}.training")
    try:
        first = os.environ.get("RANK", "0") == "0"  # of those that torchrun starts, the one that writes
        with sole_writer(options.out) if first else nullcontext(True) as alone:
            if not alone:
                raise ValueError(
                    f"expected {options.out} for this adaptation alone, but another one is under way that writes it; "
                    f"wait for its end, or choose another --out"
                )
            remove_leftovers(options.out.parent, rf"{re.escape(options.out.name)}(?:\.training)?")
            adapted = _adapt(options, state_file)
    except KeyboardInterrupt as error:
        kept = f"what was reached is kept in {state_file}: the same command goes on with it"
        raise KeyboardInterrupt(f"interrupted; {kept if state_file.exists() else 'nothing was kept'}") from error
    if adapted.first:
        try:
            _tell(options, adapted)
        except KeyboardInterrupt as error:
            raise KeyboardInterrupt(f"interrupted; {options.out} is written, but its summary is not") from error
        except OSError as error:
            raise OSError(f"{options.out} is written, but not its summary: {error}") from error


def _adapt(options: argparse.Namespace, state_file: Path) -> AdaptedDrives:
    """Read drives and source, adapt, and write the file.

    Raises:
        ValueError, OSError, KeyboardInterrupt: see :func:`adapt_drives`.
    """
    drives = open_drives(options.drive, options.image_topic, None, options.frame_rate, labelled=False)
    source = open_drives(
        options.source, options.image_topic, options.ground_truth_topic, options.frame_rate, options.source_split
    )
    if options.fresh:
        state_file.unlink(missing_ok=True)
    elif state_file.exists():
        print(f"going on with {state_file}", file=sys.stderr)
    with Interruption() as interruption:
        bars = Bars(interruption)
        try:
            return adapt_to_drives(
                _job(options), drives, options.out, source, state_file, bars.read, bars.show, lambda: interruption.asked
            )
        except Cancelled as error:
            raise KeyboardInterrupt from error
        except AdaptationFailed as error:
            raise ValueError(str(error)) from error
        finally:
            bars.close()


def _job(options: argparse.Namespace) -> DrivesJob:
    steps = options.steps if options.steps is not None else (ENDLESS if options.minutes is not None else STEPS)
    config = OfflineConfig(
        steps=steps,
        minutes=options.minutes,
        batch=options.batch,
        train=options.train,
        rounds=options.rounds,
        stronger_view=options.stronger_view,
        published=options.published,
        most_frames=options.max_frames,
        seed=options.seed,
        learning_rate=options.learning_rate,
    )
    model = ModelSource(options.model, options.classes, options.device, options.allow_download, options.allow_pickle)
    input_size = None if options.input_size is None else (options.input_size[1], options.input_size[0])
    return DrivesJob(model, options.method, config, input_size, options.long_side, not options.no_restoration)


def _tell(options: argparse.Namespace, adapted: AdaptedDrives) -> None:
    """Print what came of it, and write the summary."""
    configuration = {name: value for name, value in vars(options).items() if name not in ("command", "rest")}
    for name, value in facts(adapted).items():
        print(f"{name:<20}{value}")
    classes = f" --classes {shlex.quote(options.classes)}" if options.classes else ""
    print(f"{'use':<20}ditta node --model {shlex.quote(f'adapted:{options.out}')}{classes}")
    write_adapt_report(adapted, configuration, options.report)
    print(f"{'summary':<20}{options.report / 'report.html'}")


class Bars:
    """Progress in the terminal: frames read, then steps with their named losses. Outside of one there is none."""

    def __init__(self, interruption: Interruption) -> None:
        self._interruption = interruption
        self._bar: Any = None
        self._kind = ""

    def read(self, done: int, of: int) -> None:
        """So many of so many frames were read."""
        if self._kind != "read" or done == 1:
            self._begin("read", "reading", of, "frame")
        self._bar.update(done - self._bar.n)

    def show(self, progress: OfflineProgress) -> None:
        """Where the training is."""
        if self._kind != "train":
            self._begin("train", "training", 1000, "‰")
        self._interruption.stepping = progress.phase == "steps"
        if progress.phase == "labels":
            self._bar.set_description("labelling")
            return
        self._bar.set_description(f"step {progress.step}", refresh=False)
        self._bar.set_postfix({name: f"{value:.3f}" for name, value in progress.losses.items()}, refresh=False)
        self._bar.update(round(1000 * progress.done) - self._bar.n)

    def _begin(self, kind: str, description: str, total: int, unit: str) -> None:
        self.close()
        self._kind = kind
        self._bar = tqdm(total=total, desc=description, unit=unit, dynamic_ncols=True, disable=None)

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()
