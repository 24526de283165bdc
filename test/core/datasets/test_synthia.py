"""Drives of SYNTHIA-Seqs on disk: 16-bit labels with instances, and the rows that are cut off."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from trees import coloured_image, write_array, write_image, write_labels

from ditta_core.classes import ClassList, translate_labels
from ditta_core.datasets.synthia import synthia_sequences

CAMERA = Path("Stereo_Left", "Omni_F")
# Values of the published scenario by class; everything else is ignored.
PUBLISHED = {
    "road": 3,
    "sidewalk": 4,
    "building": 2,
    "fence": 5,
    "pole": 7,
    "traffic light": 15,
    "traffic sign": 9,
    "vegetation": 6,
    "sky": 1,
    "person": 10,
    "rider": 11,
    "car": 8,
}
ROWS, COLUMNS = 19, 24
"""The shape of 760×1280 in small: 16 rows are shown."""


def write_frame(drive: Path, number: int, values: np.ndarray | None = None) -> None:
    write_array(drive / "RGB" / CAMERA / f"{number:06}.png", np.resize(coloured_image(number), (ROWS, COLUMNS, 3)))
    if values is not None:
        instances = np.arange(values.size, dtype=np.uint16).reshape(values.shape) * 99
        image = np.stack([np.zeros_like(instances), instances, values.astype(np.uint16)], -1)  # BGR
        write_array(drive / "GT" / "LABELS" / CAMERA / f"{number:06}.png", image)


def test_every_value_has_the_class_of_the_published_scenario(tmp_path: Path) -> None:
    values = np.resize(np.arange(16), (ROWS, COLUMNS))
    write_frame(tmp_path, 0, values)
    (sequence,) = synthia_sequences(tmp_path)
    assert sequence.classes is not None and sequence.classes.names == tuple(PUBLISHED)
    owner = {value: index for index, value in enumerate(PUBLISHED.values())}
    found = sequence.labels(0)
    assert found is not None and found.dtype == np.uint8
    assert found.tolist() == [[owner.get(value, 255) for value in row] for row in values[:16].tolist()]
    assert sequence.image(0).shape == (16, COLUMNS, 3)


def test_drives_in_a_folder(tmp_path: Path) -> None:
    for name in ("SYNTHIA-SEQS-04-DAWN", "SYNTHIA-SEQS-01-DAWN"):
        for number in range(3):
            write_frame(tmp_path / name, number)
    (tmp_path / "notes").mkdir()
    sequences = synthia_sequences(tmp_path)
    assert [sequence.name for sequence in sequences] == ["SYNTHIA-SEQS-01-DAWN", "SYNTHIA-SEQS-04-DAWN"]
    assert [sequences[0].stamp(index) for index in range(3)] == [0, 200_000_000, 400_000_000]
    assert sequences[0].classes is None and sequences[0].labels(0) is None


def test_other_label_images(tmp_path: Path) -> None:
    """Grey ones do; class ids above 255 are a mistake."""
    write_frame(tmp_path, 0)
    labels = tmp_path / "GT" / "LABELS" / CAMERA / "000000.png"
    write_labels(labels, np.full((ROWS, COLUMNS), 8, np.uint8))
    (sequence,) = synthia_sequences(tmp_path)
    found = sequence.labels(0)
    assert found is not None and (found == 11).all()
    write_array(labels, np.full((ROWS, COLUMNS, 3), 999, np.uint16))
    with pytest.raises(ValueError, match=r"class ids of at most 255 in the first channel, but .* has 999"):
        sequence.labels(0)


def test_a_folder_without_a_drive(tmp_path: Path) -> None:
    write_image(tmp_path / "0.png")
    with pytest.raises(FileNotFoundError, match="expected the folder RGB/Stereo_Left/Omni_F"):
        synthia_sequences(tmp_path)


def test_it_is_measured_without_fences() -> None:
    trained, measured = ClassList.packaged("synthia12"), ClassList.packaged("synthia11")
    table = translate_labels(trained, measured)
    assert {name for name, own in zip(trained.names, table, strict=False) if own == 255} == {"fence"}
    assert [measured.names[own] for own in table[:12] if own != 255] == list(measured.names)
