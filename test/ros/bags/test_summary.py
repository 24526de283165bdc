"""What an evaluation would use of a bag."""

from __future__ import annotations

from pathlib import Path

from bag_harness import mask, picture, write

from ditta_ros.bags.reader import GROUND_TRUTH_TOPIC
from ditta_ros.bags.sequence import BagSequence
from ditta_ros.bags.summary import summarise


def test_the_summary_counts_what_is_odd(tmp_path: Path) -> None:
    stamps = [0, 100, 200, 150, 300, 300, 400, 800, 900]
    messages = [("/image", picture(stamp, index), 100 * index) for index, stamp in enumerate(stamps)]
    messages += [(GROUND_TRUTH_TOPIC, mask(stamp), 900) for stamp in (0, 200, 850)]
    summary = summarise(BagSequence(write(tmp_path / "bag", messages)))
    assert (summary.out_of_order, summary.duplicates, summary.gaps) == (1, 1, 1)
    assert (summary.frames, summary.frame_rate, summary.duration) == (9, 10.0, 0.9)
    assert (summary.labels, summary.matched, summary.classes) == (3, 2, None)
    assert len(summary.missing) == 3
    assert "name those of the labels" in summary.missing[0]
    assert summary.missing[1:] == ("7 of 9 images have no label", "1 of 3 label images belong to no image")
