"""The files of a bag: which there are, what they are where they are no bag that can be read, and what is left to do."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from ditta_core.datasets.names import natural_key
from ditta_core.datasets.paths import expanded
from ditta_core.types import quoted

_STORAGE_SUFFIXES = (".mcap", ".db3")
_OTHER_SUFFIXES = (".bag", ".zstd")
"""Of files that are named for what they are: bags of ROS 1, and storage files that were compressed as a whole."""

_MCAP_MAGIC = b"\x89MCAP0\r\n"
"""First and last bytes of every complete mcap file: https://mcap.dev/spec."""
_MCAP_SCHEMAS = ("ros2msg", "ros2idl", "omgidl", "ros1msg", "jsonschema", "protobuf", "flatbuffer")
"""Encodings of schemas that mcap knows; rosbags gives the one that it cannot read as the text of a KeyError."""

_IN_A_URI = str.maketrans({"%": "%25", "?": "%3F", "#": "%23"})


def is_bag(path: str | Path) -> bool:
    """Whether there is a bag at a path, whole or not: a folder with a metadata or storage file, or a storage file."""
    path = expanded(path)
    if path.is_dir():
        return (path / "metadata.yaml").is_file() or bool(storage_files(path, compressed=True))
    return path.suffix in (*_STORAGE_SUFFIXES, *_OTHER_SUFFIXES)


def storage_files(path: Path, compressed: bool = False) -> list[Path]:
    """The storage files of a bag in the order of their numbers, with those that were compressed as a whole or not."""
    suffixes = (*_STORAGE_SUFFIXES, *(f"{suffix}.zstd" for suffix in _STORAGE_SUFFIXES if compressed))
    files = (file for file in path.iterdir() if not file.name.startswith(".")) if path.is_dir() else [path]
    return sorted((file for file in files if file.name.endswith(suffixes)), key=lambda file: natural_key(file.name))


def check_files(path: Path) -> None:
    """Whether a bag looks whole from outside, however large it is.

    Raises:
        FileNotFoundError: There is nothing at the path.
        ValueError: It is no bag, one of ROS 1, a compressed file, or a damaged one; the message says what to do.
    """
    if not path.exists():
        raise FileNotFoundError(f"expected a bag, but {path} does not exist")
    others = [path] if path.is_file() else [] if is_bag(path) else sorted(path.glob("*.bag"))
    for ros1 in (file for file in others if file.suffix == ".bag"):
        command = shlex.join(["rosbags-convert", "--src", str(ros1), "--dst", ros1.stem])
        raise ValueError(f"expected a bag of ROS 2, but {ros1} is one of ROS 1; convert it with `{command}`")
    if path.suffix == ".zstd" and path.is_file():
        raise ValueError(
            f"expected a bag, but {path} is a compressed file of one; give its folder, if it has a metadata.yaml, or "
            f"unpack it with `zstd -d {shlex.quote(str(path))}`"
        )
    if not is_bag(path):
        raise ValueError(f"expected a bag: a folder with metadata.yaml, a .mcap or a .db3 file, but {path} is none")
    if path.is_dir() and not (path / "metadata.yaml").is_file():
        raise ValueError(damage(path, "metadata.yaml is missing"))
    for file in storage_files(path):
        name = shlex.quote(str(file))
        if _is_cut(file):
            raise ValueError(
                f"expected a whole bag in {path}, but {file.name} is cut short; recover what is left of it with "
                f"`mcap recover {name} -o recovered.mcap`"
            )
        waiting = Path(f"{file}-wal")
        if waiting.is_file() and waiting.stat().st_size > 0:
            raise ValueError(
                f"expected a whole bag in {path}, but messages in {waiting.name} have not come into {file.name}: it is "
                f"being recorded, or its recorder was killed; end it, or join the two with "
                f"`sqlite3 {name} 'PRAGMA wal_checkpoint(TRUNCATE)'`"
            )


def damage(path: Path, reason: str) -> str:
    """The message for a bag that cannot be read, or not to its end.

    Args:
        path: Folder of the bag, or its only storage file.
        reason: What is wrong with it, in rosbags' words or ours.
    """
    folder = shlex.quote(str(path if path.is_dir() else path.parent))
    reindex = f"`ros2 bag reindex {folder}`"
    files = storage_files(path)
    schema = reason.strip("'")
    if schema in _MCAP_SCHEMAS:
        topics = "`mcap list channels <file>` and `mcap filter <file> -o ros.mcap --exclude-topic-regex <topic>`"
        return (
            f"expected channels of ROS 2 alone in {path}, but got one with a schema in {schema}; the bag is whole: "
            f"leave the channel out with {topics}"
        )
    if "Profile is not ros2" in reason:
        profiles = sorted({_profile(file) for file in files if file.suffix == ".mcap"} - {"ros2"})
        return (
            f"expected an mcap file with the profile 'ros2' in {path}, but got {quoted(profiles)}; the file is whole: "
            f"if ROS 2 can play it, write it anew with `ros2 bag convert`; `rosbags-convert` reads bags of ROS 1"
        )
    if any(text in reason for text in ("Serialization format", "not supported", "Unsupported")):
        return (
            f"expected a bag in mcap or sqlite3 that rosbags can read in {path}, but {reason.rstrip('.')}; convert it "
            f"with `ros2 bag convert`, or try a newer rosbags"
        )
    if "not in timestamp order" in reason:
        return (
            f"expected messages in the order of their times in {path}, but got an mcap file without an index and out "
            f"of order; sort it with `mcap sort <file> -o sorted.mcap`"
        )
    start = f"expected a whole bag in {path}, but {reason.rstrip('.')}; "
    if "database files are missing" in reason:
        return f"{start}copy these too, or go without them and restore the metadata with {reindex}"
    if any(text in reason for text in ("metadata.yaml", "metadata key is missing", "Invalid bag metadata")):
        return f"{start}copy it again, or restore the metadata with {reindex}"
    remedies = {
        ".mcap": "recover a damaged .mcap with `mcap recover <file> -o recovered.mcap`",
        ".db3": "recover a damaged .db3 with `sqlite3 <file> .recover | sqlite3 recovered.db3`",
    }
    ways = ["copy it again", *(remedies[suffix] for suffix in sorted({file.suffix for file in files}))]
    return f"{start}{', '.join(ways)}, or restore the metadata with {reindex}"


def _is_cut(file: Path) -> bool:
    """Whether a file begins as mcap files do, but does not end as they do."""
    with file.open("rb") as content:
        if content.read(len(_MCAP_MAGIC)) != _MCAP_MAGIC:
            return False
        content.seek(max(len(_MCAP_MAGIC), file.stat().st_size - len(_MCAP_MAGIC)), os.SEEK_SET)
        return content.read() != _MCAP_MAGIC


def _profile(file: Path) -> str:
    """The profile in the header of an mcap file: after the magic, the type of the record and its length."""
    with file.open("rb") as content:
        header = content.read(1024)[len(_MCAP_MAGIC) + 9 :]
    return header[4 : 4 + int.from_bytes(header[:4], "little")].decode(errors="replace")


class UriPath(type(Path())):  # type: ignore[misc]
    """A path for rosbags, which makes the URI of an SQLite file of its text, where ``#``, ``?`` and ``%`` mean more."""

    def __str__(self) -> str:
        return super().__str__().translate(_IN_A_URI)

    def __fspath__(self) -> str:
        return str(super().__str__())
