"""Which classes there are, what they are called, how they are coloured, and how a model's outputs map onto them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from torch import Tensor

from ditta_core.types import UNLABELLED

Color = tuple[int, int, int]


def default_color(index: int) -> Color:
    """The colour of a class id in the Pascal VOC palette: distinct for every id below 256."""
    red = green = blue = 0
    for shift in range(7, -1, -1):
        red |= (index & 1) << shift
        green |= (index >> 1 & 1) << shift
        blue |= (index >> 2 & 1) << shift
        index >>= 3
    return red, green, blue


@dataclass(frozen=True)
class ClassList:
    """Classes by id: position is the class id.

    Attributes:
        names: one per class, unique.
        colors: RGB 0..255, one per class.
        members: for each class, the names that other vocabularies have for it (its own name included).
    """

    names: tuple[str, ...]
    colors: tuple[Color, ...]
    members: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        if not self.names:
            raise ValueError("expected at least one class, but got none")
        repeated = sorted({name for name in self.names if self.names.count(name) > 1})
        if repeated:
            raise ValueError(f"expected every class once, but got {repeated} more than once")
        if not len(self.names) == len(self.colors) == len(self.members):
            raise ValueError(
                f"expected a colour and members for each of {len(self.names)} classes, but got {len(self.colors)} "
                f"colours and {len(self.members)} member lists"
            )
        seen: dict[str, str] = {}
        for name, members in zip(self.names, self.members, strict=True):
            for member in members:
                if seen.setdefault(member, name) != name:
                    raise ValueError(f"expected {member!r} in one class, but got it in {seen[member]!r} and {name!r}")

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def of_names(cls, names: Sequence[str]) -> ClassList:
        """Classes from their names alone, coloured by the VOC palette (id 0 black only where it is a background)."""
        offset = 0 if names and names[0].lower() in ("background", "unlabelled", "void") else 1
        colors = tuple(default_color(index + offset) for index in range(len(names)))
        return cls(tuple(names), colors, tuple((name,) for name in names))

    @classmethod
    def from_yaml_value(cls, value: Any, origin: str = "the class list") -> ClassList:
        """A list of names, of ``{name, color, members}`` mappings, of ``{name: [members]}`` mappings, or one such dict.

        Raises:
            ValueError: anything else.
        """
        if isinstance(value, Mapping) and "classes" in value:
            value = value["classes"]
        if isinstance(value, Mapping):
            value = [{"name": name, "members": members} for name, members in value.items()]
        if not isinstance(value, list) or not value:
            raise ValueError(f"expected a list of classes in {origin}, but got {value!r}")
        names: list[str] = []
        colors: list[Color] = []
        members: list[tuple[str, ...]] = []
        for index, entry in enumerate(value):
            if isinstance(entry, str):
                entry = {"name": entry}
            elif isinstance(entry, Mapping) and "name" not in entry and len(entry) == 1:
                ((name, its_members),) = entry.items()
                entry = {"name": name, "members": its_members}
            if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
                raise ValueError(f"expected a class name or a mapping with one in {origin}, but got {entry!r}")
            unknown = sorted(set(entry) - {"name", "id", "color", "members"})
            if unknown or entry.get("id", index) != index:
                raise ValueError(
                    f"expected the keys name, id (its position, {index}), color, members in {origin}, but got "
                    f"{dict(entry)!r}"
                )
            color = tuple(entry.get("color") or default_color(index + 1))
            if len(color) != 3 or not all(isinstance(part, int) and 0 <= part <= 255 for part in color):
                raise ValueError(f"expected a colour [r, g, b] of 0..255 for {entry['name']!r}, but got {list(color)}")
            its_members = entry.get("members") or [entry["name"]]
            if isinstance(its_members, str):
                its_members = [its_members]
            names.append(entry["name"])
            colors.append((color[0], color[1], color[2]))
            members.append(tuple(str(member) for member in its_members))
        return cls(tuple(names), tuple(colors), tuple(members))

    @classmethod
    def packaged(cls, name: str) -> ClassList:
        """One of the lists that the package ships.

        Raises:
            ValueError: there is no such list; the message names those there are.
        """
        folder = resources.files("ditta_core") / "class_lists"
        file = folder / f"{name}.yaml"
        if not file.is_file():
            known = sorted(
                entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")
            )
            raise ValueError(f"expected one of the packaged class lists {known}, but got {name!r}")
        return cls.from_yaml_value(yaml.safe_load(file.read_text(encoding="utf-8")), name)

    @classmethod
    def parse(cls, text: str) -> ClassList:
        """A packaged list by name, a YAML file by path, or YAML text: ``[road, person]``, ``{free: [road, grass]}``.

        Raises:
            ValueError: none of the three; the message says what was tried.
        """
        text = text.strip()
        if text.endswith((".yaml", ".yml")):
            path = Path(text).expanduser()
            if not path.is_file():
                raise ValueError(f"expected a class list file, but {path} does not exist")
            text, origin = path.read_text(encoding="utf-8"), str(path)
        else:
            origin = "the parameter classes"
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ValueError(f"expected YAML in {origin}, but got {text!r}: {error}") from error
        if isinstance(value, str):
            return cls.packaged(value)
        return cls.from_yaml_value(value, origin)

    def colorize(self, class_ids: NDArray[Any]) -> NDArray[np.uint8]:
        """Class ids [H, W] -> RGB uint8 [H, W, 3]; unlabelled pixels are black."""
        palette = np.zeros((int(np.iinfo(class_ids.dtype).max) + 1, 3), np.uint8)
        palette[: len(self)] = self.colors
        return palette[class_ids]


@dataclass(frozen=True)
class ClassMap:
    """How the outputs of a model (``source``) become the published ``classes``.

    Attributes:
        source: the outputs of the model.
        classes: what is published.
        assignment: for each output the published class id, or ``UNLABELLED`` for those in none.
    """

    source: ClassList
    classes: ClassList
    assignment: tuple[int, ...]

    @classmethod
    def identity(cls, source: ClassList) -> ClassMap:
        """Publish the outputs as they are."""
        return cls(source, source, tuple(range(len(source))))

    @classmethod
    def between(cls, source: ClassList, classes: ClassList) -> ClassMap:
        """Assign every output to the class that lists its name as a member.

        Raises:
            ValueError: a class has no output of the model as a member.
        """
        owner = {member: index for index, members in enumerate(classes.members) for member in members}
        assignment = tuple(owner.get(name, UNLABELLED) for name in source.names)
        empty = [name for index, name in enumerate(classes.names) if index not in assignment]
        if empty:
            raise ValueError(
                f"expected classes made of the model's outputs {list(source.names)}, but got {empty}, of which the "
                f"model knows no member; correct the names or remove these classes"
            )
        return cls(source, classes, assignment)

    @property
    def is_identity(self) -> bool:
        return self.assignment == tuple(range(len(self.classes)))

    @property
    def channels(self) -> int:
        """Channels of the merged logits: one per class, and one more if some outputs belong to no class."""
        return len(self.classes) + int(UNLABELLED in self.assignment)

    def merge_logits(self, logits: Tensor) -> Tensor:
        """Logits [N, len(source), h, w] -> [N, channels, h, w] by log-sum-exp over the members of each class."""
        if self.is_identity:
            return logits
        merged = []
        for target in [*range(len(self.classes)), UNLABELLED]:
            members = [index for index, owner in enumerate(self.assignment) if owner == target]
            if len(members) == 1:
                merged.append(logits[:, members[0]])
            elif members:
                merged.append(torch.logsumexp(logits[:, members], 1))
        return torch.stack(merged, 1)

    def label_image(self, channel_ids: NDArray[Any]) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """Winning channel [H, W] -> class ids uint8 (uint16 above 255 classes), the rest channel as unlabelled."""
        wide = len(self.classes) > UNLABELLED
        ids = channel_ids.astype(np.uint16 if wide else np.uint8)
        if self.channels > len(self.classes):
            ids[channel_ids == len(self.classes)] = 65535 if wide else UNLABELLED
        return ids


def translate_labels(labels: ClassList, published: ClassList) -> NDArray[np.uint8]:
    """For each label 0..255 the published class id, or unlabelled.

    Raises:
        ValueError: a published class is none of the labels'.
    """
    lookup = np.full(256, UNLABELLED, np.uint8)
    lookup[: len(labels)] = ClassMap.between(labels, published).assignment
    return lookup
