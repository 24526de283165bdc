"""Annotated frames alone: which they are, in which order, with their own stamps and labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from trees import HEIGHT, WIDTH, write_image, write_labels

from ditta_core.datasets.annotated import annotated_frames
from ditta_core.datasets.cityscapes import cityscapes_sequences


def write_snippet(root: Path, city: str, annotated: tuple[int, ...], split: str = "val") -> None:
    """Five frames, some of them with labels that say which frame they are of."""
    for index in range(5):
        name = f"{city}_000000_{index:06}"
        write_image(root / "leftImg8bit_sequence" / split / city / f"{name}_leftImg8bit.png", index)
        if index in annotated:
            labels = np.full((HEIGHT, WIDTH), 7 + index % 2, np.uint8)
            write_labels(root / "gtFine" / split / city / f"{name}_gtFine_labelIds.png", labels)


def test_each_annotated_frame_with_the_one_before_it(tmp_path: Path) -> None:
    for city, annotated in (("aachen", (3,)), ("bonn", (0, 2, 3)), ("ulm", (4,))):
        write_snippet(tmp_path, city, annotated)
    found = annotated_frames(cityscapes_sequences(tmp_path))
    assert [sequence.name for sequence in found] == [f"{city}_000000_000000" for city in ("aachen", "bonn", "ulm")]
    every = cityscapes_sequences(tmp_path)
    for sequence, whole, indices in zip(found, every, ((2, 3), (0, 1, 2, 3), (3, 4)), strict=True):
        assert len(sequence) == len(indices)
        for place, index in enumerate(indices):
            np.testing.assert_array_equal(sequence.image(place), whole.image(index))
            assert sequence.stamp(place) == whole.stamp(index) and sequence.origin(place) == whole.origin(index)
            theirs, ours = whole.labels(index), sequence.labels(place)
            assert (ours is None) == (theirs is None) and (ours is None or np.array_equal(ours, theirs))


@pytest.mark.filterwarnings("ignore:1 of 2 sequences")
def test_sequences_without_annotated_frames_are_left_out(tmp_path: Path) -> None:
    write_snippet(tmp_path, "aachen", (3,))
    write_snippet(tmp_path, "bonn", ())
    sequences = cityscapes_sequences(tmp_path)
    assert [each.name for each in annotated_frames(sequences)] == ["aachen_000000_000000"]
    with pytest.raises(ValueError, match=r"expected annotated frames in .*bonn.*, but got none"):
        annotated_frames(sequences[1:])
