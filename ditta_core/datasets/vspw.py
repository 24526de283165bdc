"""VSPW, video scene parsing in the wild: ``data/<video>/origin/*.jpg`` and ``data/<video>/mask/*.png``.

The release in 480p (VSPW_480p), which results are published on, is laid out alike.
"""

from __future__ import annotations

from pathlib import Path

from ditta_core.classes import ClassList
from ditta_core.datasets.images import ImageSequence, id_table
from ditta_core.datasets.names import image_files, natural_key
from ditta_core.datasets.paths import expanded
from ditta_core.datasets.timing import Timing
from ditta_core.types import UNLABELLED, quoted, text_of

FRAME_RATE = 15.0
"""Frames per second that VSPW is annotated at."""

OTHER = 0
"""Mask value of what is none of the 124 classes; those are 1..124."""
IGNORED = (254, UNLABELLED)
"""Mask values of pixels that were left out."""


class VspwSequence(ImageSequence):
    """One video: a folder of its name with ``origin/`` and, where it is annotated, ``mask/``.

    The class id of a pixel is its mask value less one, as in the scripts of the data set.

    Raises:
        FileNotFoundError: there is no folder ``origin``.
        ValueError: there is no image in it, or none of them has a mask although there are some.
    """

    def __init__(self, folder: str | Path, frame_rate: float = FRAME_RATE) -> None:
        folder = expanded(folder)
        images, masks = folder / "origin", folder / "mask"
        if not images.is_dir():
            raise FileNotFoundError(f"expected the folder origin in {folder}, but it is not there")
        image_paths = image_files(images)
        labels = {path.stem: path for path in image_files(masks)} if masks.is_dir() else {}
        label_paths = [labels.get(path.stem) for path in image_paths]
        if masks.is_dir() and not any(label_paths):
            found = f"masks such as {quoted(min(labels))}" if labels else "no mask at all"
            raise ValueError(
                f"expected masks named like the {len(image_paths)} images in {images}, but got {found} in {masks}; "
                f"remove the folder to go without labels"
            )
        classes = ClassList.packaged("vspw124")
        ids = {value: value - 1 for value in range(1, len(classes) + 1)}
        ids |= dict.fromkeys((OTHER, *IGNORED), UNLABELLED)
        super().__init__(folder.absolute().name, Timing(frame_rate), image_paths, label_paths, classes, id_table(ids))


def vspw_sequences(root: str | Path, split: str | None = None, frame_rate: float = FRAME_RATE) -> list[VspwSequence]:
    """The videos of a copy of VSPW.

    Args:
        root: Folder that holds ``data/`` and, mostly, ``train.txt``, ``val.txt`` and ``test.txt``, which name a
            video per line.
        split: Name of a list without ``.txt``; by default ``val``, and all videos where there is no ``val.txt``.

    Raises:
        FileNotFoundError: there is no folder ``data`` or no such list, or a video that it names is not there.
        ValueError: there is no video.
    """
    root = expanded(root)
    if not (root / "data").is_dir():
        raise FileNotFoundError(f"expected data/<video>/origin/ in {root}, but there is no folder data")
    if split is None and (root / "val.txt").is_file():
        split = "val"
    if split is None:
        folders = [path for path in (root / "data").iterdir() if (path / "origin").is_dir()]
        names = sorted((path.name for path in folders), key=natural_key)
    else:
        video_list = root / f"{split}.txt"
        if not video_list.is_file():
            known = sorted(path.stem for path in root.glob("*.txt"))
            raise FileNotFoundError(f"expected one of the splits {known} of {root}, but got {split!r}")
        lines = text_of(video_list).splitlines()
        names = [line.strip() for line in lines if line.strip()]
        missing = [name for name in names if not (root / "data" / name / "origin").is_dir()]
        if missing:
            raise FileNotFoundError(
                f"expected the {len(names)} videos of {video_list} in {root / 'data'}, but {len(missing)} are not "
                f"there, such as {quoted(missing[0])}"
            )
    if not names:
        raise ValueError(
            f"expected at least one video in {root / 'data' if split is None else video_list}, but got none"
        )
    return [VspwSequence(root / "data" / name, frame_rate) for name in names]
