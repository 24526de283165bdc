"""Opens whatever a path holds as video sequences."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from ditta_core.datasets import synthia, vspw
from ditta_core.datasets.base import VideoSequence
from ditta_core.datasets.camvid import CamVidSequence
from ditta_core.datasets.cityscapes import SNIPPETS, STILLS, cityscapes_sequences
from ditta_core.datasets.names import IMAGE_SUFFIXES, DataWarning, image_files, natural_key
from ditta_core.datasets.paths import expanded
from ditta_core.datasets.synthia import is_synthia_drive, synthia_sequences
from ditta_core.datasets.video import ImageFolder, VideoFile
from ditta_core.datasets.viper import viper_sequences
from ditta_core.datasets.vspw import VspwSequence, vspw_sequences
from ditta_core.types import quoted

Format = Literal["auto", "camvid", "vspw", "cityscapes", "viper", "synthia", "video", "images"]
FORMATS: tuple[Format, ...] = get_args(Format)


def open_sequences(
    path: str | Path, format: Format = "auto", frame_rate: float | None = None, split: str | None = None
) -> list[VideoSequence]:
    """Open what a path holds.

    Args:
        path: Path of one of

            - ``camvid``: a folder with ``images/`` and ``labels/``, or a folder of such folders;
            - ``vspw``: a folder with ``data/<video>/origin/`` and ``data/<video>/mask/``, or that of one video;
            - ``cityscapes``: a folder with ``leftImg8bit_sequence/`` or ``leftImg8bit/``, and ``gtFine/``;
            - ``viper``: a folder with ``<split>/img/<drive>/`` and ``<split>/cls/<drive>/``;
            - ``synthia``: a drive of SYNTHIA-Seqs with ``RGB/`` and ``GT/LABELS/``, or a folder of such drives;
            - ``video``: a video file;
            - ``images``: a folder of images.
        format: One of these; ``auto`` takes the first that fits.
        frame_rate: Frames per second; by default the file's own, that of the data set, or what names and files of times
            tell; where nothing does, one is assumed with a :class:`DataWarning`.
        split: Split of VSPW, Cityscapes or VIPER; by default their validation split, or everything where there is none.

    Returns:
        At least one sequence, in the order of their names, or of the list that names them.

    Raises:
        FileNotFoundError: there is nothing at the path, or a part that the format asks for is missing.
        ValueError: it is none of these or cannot be read, two sequences have one name, or an argument does not fit.
    """
    path = expanded(path)
    if format not in FORMATS:
        raise ValueError(f"expected one of the formats {list(FORMATS)}, but got {format!r}")
    if frame_rate is not None and not 0 < frame_rate < float("inf"):
        raise ValueError(f"expected a frame rate above 0, but got {frame_rate}")
    if not path.exists():
        raise FileNotFoundError(f"expected a video file or a folder of frames, but {path} does not exist")
    if not (path.is_file() or path.is_dir()):
        raise ValueError(f"expected a video file or a folder of frames, but {path} is a device or a pipe")
    if format == "auto":
        format = _detect_format(path)
    if split is not None and (format not in ("vspw", "cityscapes", "viper") or _is_one_vspw_video(path)):
        raise ValueError(
            f"expected a split only of a copy of VSPW, Cityscapes or VIPER, but got {split!r} for {path}, which was "
            f"read as {format}; leave it out"
        )
    sequences: Sequence[VideoSequence]
    if format == "camvid":
        folders = _camvid_folders(path) or [path]
        if folders != [path]:
            _warn_of_unlabelled(path, folders)
        sequences = [CamVidSequence(folder, frame_rate) for folder in folders]
    elif format == "vspw":
        rate = frame_rate or vspw.FRAME_RATE
        sequences = [VspwSequence(path, rate)] if _is_one_vspw_video(path) else vspw_sequences(path, split, rate)
    elif format == "cityscapes":
        sequences = cityscapes_sequences(path, split, frame_rate)
    elif format == "viper":
        sequences = viper_sequences(path, split, frame_rate)
    elif format == "synthia":
        sequences = synthia_sequences(path, frame_rate or synthia.FRAME_RATE)
    elif format == "video":
        sequences = [VideoFile(path, frame_rate)]
    else:
        sequences = [ImageFolder(path, frame_rate)]
    repeated = sorted(name for name, count in Counter(sequence.name for sequence in sequences).items() if count > 1)
    if repeated:
        raise ValueError(f"expected sequences of different names in {path}, but got {repeated} more than once")
    return list(sequences)


def open_video(path: str | Path, frame_rate: float | None = None) -> VideoSequence:
    """Open the one sequence that a path holds; arguments and errors are those of :func:`open_sequences`.

    Raises:
        ValueError: the path holds several sequences.
    """
    sequences = open_sequences(path, frame_rate=frame_rate)
    if len(sequences) > 1:
        first, *_, last = (sequence.name for sequence in sequences)
        found = f"{len(sequences)}, {first!r} to {last!r}"
        raise ValueError(f"expected one sequence in {path}, but got {found}; give the folder of one of them")
    return sequences[0]


def _detect_format(path: Path) -> Format:
    """The format of what is at a path; a ValueError that says what was looked for where it is none."""
    if path.is_file():
        return "video"
    if _camvid_folders(path):
        return "camvid"
    if _is_one_vspw_video(path) or next(path.glob("data/*/origin"), None) is not None:
        return "vspw"
    if (path / SNIPPETS).is_dir() or (path / STILLS).is_dir():
        return "cityscapes"
    if next(path.glob("*/img/*"), None) is not None:
        return "viper"
    if any(is_synthia_drive(folder) for folder in (path, *_folders(path))):
        return "synthia"
    if image_files(path):
        return "images"
    raise ValueError(
        f"expected in {path} the folders images/ and labels/, or folders that hold both (camvid), data/<video>/origin/ "
        f"or origin/ (vspw), {SNIPPETS}/ or {STILLS}/ (cityscapes), <split>/img/<drive>/ (viper), RGB/ and GT/ "
        f"(synthia), or images ({', '.join(IMAGE_SUFFIXES)}), but got none"
    )


def _camvid_folders(path: Path) -> list[Path]:
    """The folder itself, or those in it, that hold ``images/`` and ``labels/``; none if there is no such folder."""
    found = [
        folder for folder in (path, *_folders(path)) if (folder / "images").is_dir() and (folder / "labels").is_dir()
    ]
    return found[:1] if found[:1] == [path] else found


def _folders(path: Path) -> list[Path]:
    """What a folder holds, in the order of the numbers in the names, without hidden files; nothing of a file."""
    inside = [entry for entry in path.iterdir() if not entry.name.startswith(".")] if path.is_dir() else []
    return sorted(inside, key=lambda entry: natural_key(entry.name))


def _warn_of_unlabelled(path: Path, opened: Sequence[Path]) -> None:
    """A warning where folders beside those that are opened have ``images/``, but no ``labels/``."""
    others = [folder.name for folder in _folders(path) if folder not in opened and (folder / "images").is_dir()]
    if others:
        warnings.warn(
            f"{len(others)} folders in {path} have images/, but no labels/, and are passed over: {quoted(others)}",
            DataWarning,
            stacklevel=3,
        )


def _is_one_vspw_video(path: Path) -> bool:
    """Whether a folder is that of one video of VSPW rather than of all."""
    return (path / "origin").is_dir()
