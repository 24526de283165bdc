"""Opens whatever a path holds as video sequences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from ditta_core.datasets import camvid, vspw
from ditta_core.datasets.base import VideoSequence
from ditta_core.datasets.camvid import CamVidSequence
from ditta_core.datasets.cityscapes import SNIPPETS, STILLS, cityscapes_sequences
from ditta_core.datasets.images import image_files
from ditta_core.datasets.video import FOLDER_FRAME_RATE, ImageFolder, VideoFile
from ditta_core.datasets.vspw import VspwSequence, vspw_sequences

Format = Literal["auto", "camvid", "vspw", "cityscapes", "video", "images"]
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
            - ``video``: a video file;
            - ``images``: a folder of images.
        format: One of these; ``auto`` takes the first that fits.
        frame_rate: Frames per second; by default the file's own, or that of the data set.
        split: Split of VSPW or Cityscapes; by default their validation split, or everything where there is none.

    Returns:
        At least one sequence, in the order of their names, or of the list that names them.

    Raises:
        FileNotFoundError: there is nothing at the path, or a part that the format asks for is missing.
        ValueError: it is none of these or cannot be read, two sequences have one name, or an argument does not fit.
    """
    path = Path(path).expanduser()
    if format not in FORMATS:
        raise ValueError(f"expected one of the formats {list(FORMATS)}, but got {format!r}")
    if frame_rate is not None and not 0 < frame_rate < float("inf"):
        raise ValueError(f"expected a frame rate above 0, but got {frame_rate}")
    if not path.exists():
        raise FileNotFoundError(f"expected a video file or a folder of frames, but {path} does not exist")
    if format == "auto":
        format = _detect_format(path)
    if split is not None and (format not in ("vspw", "cityscapes") or _is_one_vspw_video(path)):
        raise ValueError(
            f"expected a split only of a copy of VSPW or Cityscapes, but got {split!r} for {path}, which was read as "
            f"{format}; leave it out"
        )
    sequences: Sequence[VideoSequence]
    if format == "camvid":
        rate = frame_rate or camvid.FRAME_RATE
        sequences = [CamVidSequence(folder, rate) for folder in _camvid_folders(path) or [path]]
    elif format == "vspw":
        rate = frame_rate or vspw.FRAME_RATE
        sequences = [VspwSequence(path, rate)] if _is_one_vspw_video(path) else vspw_sequences(path, split, rate)
    elif format == "cityscapes":
        sequences = cityscapes_sequences(path, split, frame_rate)
    elif format == "video":
        sequences = [VideoFile(path, frame_rate)]
    else:
        sequences = [ImageFolder(path, frame_rate or FOLDER_FRAME_RATE)]
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
    if image_files(path):
        return "images"
    raise ValueError(
        f"expected in {path} the folders images/ and labels/, or folders that hold both (camvid), data/<video>/origin/ "
        f"or origin/ (vspw), {SNIPPETS}/ or {STILLS}/ (cityscapes), or .png, .jpg or .jpeg images, but got none"
    )


def _camvid_folders(path: Path) -> list[Path]:
    """The folder itself, or those in it, that hold ``images/`` and ``labels/``; none if there is no such folder."""
    candidates = [path, *sorted(path.iterdir())] if path.is_dir() else []
    found = [folder for folder in candidates if (folder / "images").is_dir() and (folder / "labels").is_dir()]
    return found[:1] if found[:1] == [path] else found


def _is_one_vspw_video(path: Path) -> bool:
    """Whether a folder is that of one video of VSPW rather than of all."""
    return (path / "origin").is_dir()
