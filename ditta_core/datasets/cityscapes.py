"""Cityscapes: the video around its annotated frames, and the annotated frames alone.

``leftImg8bit_sequence/<split>/<city>/<city>_<sequence>_<frame>_leftImg8bit.png`` are snippets of 30 frames at 17 Hz.
One frame of each is annotated: ``gtFine/<split>/<city>/<city>_<sequence>_<frame>_gtFine_labelIds.png``.
``leftImg8bit/`` holds these frames alone.
"""

from __future__ import annotations

import re
from pathlib import Path

from ditta_core.classes import ClassList
from ditta_core.datasets.images import ImageSequence, id_table
from ditta_core.types import UNLABELLED

FRAME_RATE = 17.0
"""Frames per second of the snippets."""
STILLS_FRAME_RATE = 1.0
"""Frames per second that stills are given: none is the neighbour of the next, and none should look like it."""

SNIPPETS, STILLS = "leftImg8bit_sequence", "leftImg8bit"

TRAINING_IDS = {
    7: 0,  # road
    8: 1,  # sidewalk
    11: 2,  # building
    12: 3,  # wall
    13: 4,  # fence
    17: 5,  # pole
    19: 6,  # traffic light
    20: 7,  # traffic sign
    21: 8,  # vegetation
    22: 9,  # terrain
    23: 10,  # sky
    24: 11,  # person
    25: 12,  # rider
    26: 13,  # car
    27: 14,  # truck
    28: 15,  # bus
    31: 16,  # train
    32: 17,  # motorcycle
    33: 18,  # bicycle
}
"""Class ids of the 19 evaluated classes by label id: helpers/labels.py of github.com/mcordts/cityscapesScripts."""
LABEL_IDS = (*range(34), UNLABELLED)
"""Values of a label image; 255 is the id -1 (licence plate)."""


_FRAME = re.compile(r"(.+)_(\d+)_(\d+)_leftImg8bit\.(?:png|jpg)")
"""City, number of the recording and number of the frame in the name of an image."""


class CityscapesSequence(ImageSequence):
    """Frames of one snippet, or the stills of one city, with labels for those that are annotated.

    Args:
        name: Name of the sequence.
        image_paths: Images in order, below ``leftImg8bit_sequence`` or ``leftImg8bit`` of the root.
        frame_rate: Frames per second.

    Raises:
        ValueError: there is no frame.
    """

    def __init__(self, name: str, image_paths: list[Path], frame_rate: float = FRAME_RATE) -> None:
        ids = {label_id: TRAINING_IDS.get(label_id, UNLABELLED) for label_id in LABEL_IDS}
        super().__init__(
            name,
            frame_rate,
            image_paths,
            [_label_path(path) for path in image_paths],
            ClassList.packaged("cityscapes19"),
            id_table(ids),
        )


def _label_path(image_path: Path) -> Path | None:
    """The label image of a frame; None where there is none."""
    city = image_path.parent
    root = city.parents[2]
    name = re.sub(r"_leftImg8bit\.\w+$", "_gtFine_labelIds.png", image_path.name)
    path = root / "gtFine" / city.parent.name / city.name / name
    return path if path.is_file() else None


def cityscapes_sequences(
    root: str | Path, split: str | None = None, frame_rate: float | None = None
) -> list[CityscapesSequence]:
    """The snippets of a copy of Cityscapes, each a sequence; without ``leftImg8bit_sequence``, the stills of each city.

    Args:
        root: Folder that holds ``leftImg8bit_sequence`` or ``leftImg8bit``, and ``gtFine``.
        split: train, val or test; by default ``val``, and all that are there where there is no ``val``.
        frame_rate: Frames per second; by default 17 for snippets and 1 for stills.

    Raises:
        FileNotFoundError: neither folder is there, or it has no such split.
        ValueError: there is no frame.
    """
    root = Path(root).expanduser()
    kind = next((kind for kind in (SNIPPETS, STILLS) if (root / kind).is_dir()), None)
    if kind is None:
        raise FileNotFoundError(f"expected the folder {SNIPPETS} or {STILLS} in {root}, but neither is there")
    splits = sorted(path.name for path in (root / kind).iterdir() if path.is_dir())
    if split is not None and split not in splits:
        raise FileNotFoundError(f"expected one of the splits {splits} of {root / kind}, but got {split!r}")
    if split is None and "val" in splits:
        split = "val"
    paths = {
        (match[1], int(match[2]), int(match[3])): path
        for path in (root / kind).glob(f"{split or '*'}/*/*")
        if (match := _FRAME.fullmatch(path.name)) is not None
    }
    if not paths:
        raise ValueError(
            f"expected frames {kind}/{split or '<split>'}/<city>/<city>_<sequence>_<frame>_leftImg8bit.png in {root}, "
            f"but got none"
        )
    groups: dict[str, list[Path]] = {}
    key = ""
    for (city, recording, frame), path in sorted(paths.items()):
        if kind == STILLS:
            key = city
        elif (city, recording, frame - 1) not in paths:  # another snippet begins
            key = f"{city}_{recording:06}_{frame:06}"
        groups.setdefault(key, []).append(path)
    rate = frame_rate or (FRAME_RATE if kind == SNIPPETS else STILLS_FRAME_RATE)
    return [CityscapesSequence(key, images, rate) for key, images in groups.items()]
