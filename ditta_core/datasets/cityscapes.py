"""Cityscapes: the video around its annotated frames, and the annotated frames alone.

``leftImg8bit_sequence/<split>/<city>/<city>_<sequence>_<frame>_leftImg8bit.png`` are snippets of 30 frames at 17 Hz.
One frame of each is annotated: ``gtFine/<split>/<city>/<city>_<sequence>_<frame>_gtFine_labelIds.png``.
``leftImg8bit/`` holds these frames alone.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path

from ditta_core.classes import ClassList
from ditta_core.datasets.images import ImageSequence, id_table
from ditta_core.datasets.names import DataWarning
from ditta_core.datasets.paths import expanded
from ditta_core.datasets.timing import Timing
from ditta_core.types import UNLABELLED, quoted

FRAME_RATE = 17.0
"""Frames per second of the snippets."""
STILLS_FRAME_RATE = 1.0
"""Frames per second that stills are given: none is the neighbour of the next, and none should look like it."""

LABELS = "gtFine_labelIds.png"
"""How the name of a label image ends."""

SNIPPETS, STILLS = "leftImg8bit_sequence", "leftImg8bit"

EVALUATED = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""Label ids of the 19 evaluated classes, in the order of their class ids 0 (road) to 18 (bicycle):
helpers/labels.py of github.com/mcordts/cityscapesScripts."""
LABEL_IDS = (*range(34), UNLABELLED)
"""Values of a label image; 255 is the id -1 (licence plate)."""

_FRAME = re.compile(r"(.+)_(\d+)_(\d+)_leftImg8bit\.(?:png|jpg)")
"""City, number of the recording and number of the frame in the name of an image."""


class CityscapesSequence(ImageSequence):
    """Frames of one snippet, or the stills of one city, with labels for those that are annotated.

    Args:
        image_paths: Images in order, below ``leftImg8bit_sequence`` or ``leftImg8bit`` of the root.

    Raises:
        ValueError: there is no frame.
    """

    def __init__(self, name: str, image_paths: list[Path], frame_rate: float = FRAME_RATE) -> None:
        ids = dict.fromkeys(LABEL_IDS, UNLABELLED) | {label_id: index for index, label_id in enumerate(EVALUATED)}
        label_paths = [_label_path(path) for path in image_paths]
        classes = ClassList.packaged("cityscapes19")
        super().__init__(name, Timing(frame_rate), image_paths, label_paths, classes, id_table(ids))


def _label_path(image_path: Path) -> Path | None:
    """The label image of a frame; None where there is none."""
    city = image_path.parent
    name = re.sub(r"_leftImg8bit\.\w+$", f"_{LABELS}", image_path.name)
    path = city.parents[2] / "gtFine" / city.parent.name / city.name / name
    return path if path.is_file() else None


def _check_labels(root: Path, sequences: list[CityscapesSequence]) -> None:
    """A ValueError where there are annotations, but none that is read; a warning where some sequences have none.

    Colours, polygons and ``labelTrainIds`` are not read, nor is ``gtCoarse``.
    """
    unlabelled = [sequence for sequence in sequences if sequence.classes is None]
    annotations = [kind for kind in ("gtFine", "gtCoarse") if (root / kind).is_dir()]
    expected = f"gtFine/<split>/<city>/<city>_<sequence>_<frame>_{LABELS}"
    if annotations and len(unlabelled) == len(sequences):
        raise ValueError(
            f"expected labels {expected} in {root}, but got none for any frame, although there is {annotations[0]}; "
            f"unpack gtFine_trainvaltest.zip there, or remove {' and '.join(annotations)} to go without labels"
        )
    if annotations and unlabelled:
        warnings.warn(
            f"{len(unlabelled)} of {len(sequences)} sequences in {root} have no labels {expected}, such as "
            f"{quoted(unlabelled[0].name)}",
            DataWarning,
            stacklevel=3,
        )


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
        ValueError: there is no frame, or there are annotations of which none are ``labelIds``.
    """
    root = expanded(root)
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
        for path in sorted((root / kind).glob(f"{split or '*'}/*/*"))  # of two of a name, the PNG comes last and stays
        if not path.name.startswith(".") and (match := _FRAME.fullmatch(path.name)) is not None
    }
    if not paths:
        names = f"{kind}/{split or '<split>'}/<city>/<city>_<sequence>_<frame>_leftImg8bit.png"
        raise ValueError(f"expected frames {names} in {root}, but got none")
    groups: dict[str, list[Path]] = {}
    key = ""
    for (city, recording, frame), path in sorted(paths.items()):
        if kind == STILLS:
            key = city
        elif (city, recording, frame - 1) not in paths:  # another snippet begins
            key = f"{city}_{recording:06}_{frame:06}"
        groups.setdefault(key, []).append(path)
    rate = frame_rate or (FRAME_RATE if kind == SNIPPETS else STILLS_FRAME_RATE)
    sequences = [CityscapesSequence(key, images, rate) for key, images in groups.items()]
    _check_labels(root, sequences)
    return sequences
