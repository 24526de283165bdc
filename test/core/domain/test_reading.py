"""Which frames of drives are learned from, and what is said where there are none."""

from __future__ import annotations

import numpy as np
import pytest
from drives import CLASSES, PanningDrive
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ditta_core.classes import ClassList
from ditta_core.datasets.base import SequenceView, VideoSequence
from ditta_core.datasets.excerpt import Excerpt
from ditta_core.domain.reading import STRETCH, DrivesError, choose_stretches, read_drives
from ditta_core.inference.restoration import ImageRestorer

SIZE = (96, 128)
LONG = PanningDrive(60, (8, 16))


class Jumping(SequenceView):
    """A recording that stopped for a minute after its first ten frames."""

    def stamp(self, index: int) -> int:
        return super().stamp(index) + (60 * 10**9 if index >= 10 else 0)


class Standing(SequenceView):
    """A camera that stands still, with its noise, from the fifth frame on."""

    def image(self, index: int) -> NDArray[np.uint8]:
        return super().image(min(index, 4))


class Covered(SequenceView):
    """A lens that is covered in every frame but the first few."""

    def __init__(self, shown: int) -> None:
        super().__init__(PanningDrive(30))
        self.shown = shown

    def image(self, index: int) -> NDArray[np.uint8]:
        return super().image(index) if index < self.shown else np.zeros((*SIZE, 3), np.uint8)


def test_all_frames_of_short_drives_in_order() -> None:
    drive = PanningDrive(20)
    frames = read_drives([drive], SIZE, 100)
    assert len(frames) == 18 and len(frames.held_out) == 2
    assert frames.stretches == [range(18)]
    np.testing.assert_array_equal(frames.image(3), drive.image(3))
    np.testing.assert_array_equal(frames.held_out[0], drive.image(18))


def test_long_drives_give_stretches_of_all_of_their_length() -> None:
    drives = [PanningDrive(200, (8, 16)), PanningDrive(100, (8, 16), seed=1)]
    chosen = choose_stretches(drives, 60)
    assert len(chosen) == 6 and all(len(stretch) <= STRETCH for stretch in chosen)
    assert chosen[0][0] == (0, 0) and chosen[-1][-1] == (1, 99)
    assert {drive for stretch in chosen for drive, _ in stretch} == {0, 1}
    assert all(stretch == [(stretch[0][0], stretch[0][1] + step) for step in range(len(stretch))] for stretch in chosen)


def test_no_stretch_spans_a_gap_in_time() -> None:
    frames = read_drives([Jumping(PanningDrive(20))], SIZE, 100)
    assert frames.stretches == [range(9), range(9, 18)]  # one of each is held out
    assert (9, 8) not in list(frames.pairs())


def test_still_frames_are_left_out() -> None:
    with pytest.raises(DrivesError, match="expected at least 8 frames that differ, but got 5 of 20; record longer"):
        read_drives([Standing(PanningDrive(20))], SIZE, 100)


def test_frames_that_show_nothing_are_left_out() -> None:
    assert len(read_drives([Covered(20)], SIZE, 100)) == 18
    with pytest.raises(DrivesError, match="but 25 of 30 frames are of one colour or mere noise"):
        read_drives([Covered(5)], SIZE, 100)


def test_drives_of_two_cameras() -> None:
    with pytest.raises(DrivesError, match=r"expected drives of one camera.*adapt to each camera on its own"):
        read_drives([PanningDrive(10), PanningDrive(10, (96, 96), seed=1)], SIZE, 100)


def test_frames_may_be_kept_larger_than_the_network_takes_them() -> None:
    frames = read_drives([PanningDrive(10)], (48, 64), 100, stored_size=SIZE)
    assert frames.images[0].shape == (*SIZE, 3) and frames.image(0).shape == (48, 64, 3)
    assert frames.map_size == (24, 32)


def test_a_labelled_source_is_labelled_in_channels_of_the_published_classes() -> None:
    published = ClassList.from_yaml_value([{"name": "cold", "members": ["green", "blue"]}, "Red"])
    drive = PanningDrive(10)
    frames = read_drives([drive], SIZE, 100, classes=published)
    assert len(frames) == 10 and frames.held_out == []
    truth = drive.labels(4)[1::2, 1::2]
    found = frames.labels[4]
    assert (found == np.array([1, 0, 0])[truth]).mean() > 0.85  # of the nearest pixel, which may be the one beside it


def test_a_source_without_labels_of_the_classes() -> None:
    with pytest.raises(DrivesError, match="give --classes that the labels have, by name"):
        read_drives([PanningDrive(10)], SIZE, 100, classes=ClassList.of_names(["road", "sky"]))
    with pytest.raises(DrivesError, match="expected a source of at least 8 labelled frames, but 0 of 10 have labels"):
        read_drives([PanningDrive(10, labelled=False)], SIZE, 100, classes=CLASSES)


class Annotated(SequenceView):
    """A drive of which one frame in so many has labels, as Cityscapes' snippets."""

    def __init__(self, original: VideoSequence, every: int) -> None:
        super().__init__(original)
        self.every, self.read = every, 0

    def is_labelled(self, index: int) -> bool:
        return index % self.every == self.every - 1

    def image(self, index: int) -> NDArray[np.uint8]:
        self.read += 1
        return super().image(index)

    def labels(self, index: int) -> NDArray[np.uint8] | None:
        return super().labels(index) if self.is_labelled(index) else None


def test_of_a_source_with_few_labels_every_labelled_frame_counts() -> None:
    drives = [Annotated(PanningDrive(40, (8, 16), seed=seed), 20) for seed in range(30)]
    frames = read_drives(drives, SIZE, 100, classes=CLASSES)
    assert len(frames) == 60 and sum(drive.read for drive in drives) == 60
    assert frames.stretches == [range(index, index + 1) for index in range(60)]
    some = choose_stretches(drives, 20, labelled=True)
    assert len(some) == 20 and {index % 20 for stretch in some for _, index in stretch} == {19}
    assert some[0][0][0] == 0 and some[-1][0][0] == 29
    with pytest.raises(DrivesError, match="expected a source of at least 8 labelled frames, but 6 of 120 have labels"):
        read_drives(drives[:3], SIZE, 100, classes=CLASSES)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=40), st.integers(8, 300), st.integers(1, 7), st.booleans())
def test_as_many_frames_as_asked_for(lengths: list[int], most: int, every: int, labelled: bool) -> None:
    drives = [Annotated(Excerpt(LONG, length), every) for length in lengths]
    chosen = choose_stretches(drives, most, labelled)
    places = [place for stretch in chosen for place in stretch]
    assert len(set(places)) == len(places)
    assert all(not labelled or drives[drive].is_labelled(index) for drive, index in places)
    there = sum(length // every if labelled else length for length in lengths)
    assert len(places) == min(there, most)


def test_progress_is_told() -> None:
    told: list[tuple[int, int]] = []
    read_drives([PanningDrive(9)], SIZE, 100, progress=lambda done, of: told.append((done, of)))
    assert told == [(done, 9) for done in range(1, 10)]


def test_restored_frames_are_those_that_the_node_serves_on() -> None:
    noisy = PanningDrive(10, noise=30, step=4)
    frames = read_drives([noisy], SIZE, 100, restored=True)
    restorer = ImageRestorer()
    for index in range(len(frames)):
        expected = restorer(noisy.frame(index)).image
        np.testing.assert_array_equal(frames.image(index), expected)
        assert (expected != noisy.image(index)).any()


def test_of_short_stretches_whole_ones_are_kept_out() -> None:
    drives = [Excerpt(PanningDrive(20, noise=index), 2) for index in range(1, 16)]
    frames = read_drives(drives, SIZE, 100)
    assert len(frames) == 24 and len(frames.held_out) == 6
    assert [len(stretch) for stretch in frames.stretches] == [2] * 12
    single = read_drives([Excerpt(PanningDrive(20), 2)], SIZE, 100, fewest=1)
    assert len(single) == 2 and not single.held_out
