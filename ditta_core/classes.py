"""Which classes there are, what they are called, how they are coloured, and how a model's outputs map onto them."""

from __future__ import annotations

import difflib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from numpy.typing import NDArray

from ditta_core.types import UNLABELLED, quoted, text_of

if TYPE_CHECKING:
    from torch import Tensor

Color = tuple[int, int, int]

MOST_CLASSES = 65535
"""The id after the last one is that of unlabelled pixels, and label images have 16 bits."""

LIKENESS = 0.75
"""How alike two names have to be, by difflib's ratio, to be suggested for one another."""

MOST_SUGGESTIONS = 8
"""Names for which similar ones are looked for in an error, which takes time, and room in the message."""

MOST_CHECKED = 500
"""Members of which :meth:`ClassMap.likely_misspelt` looks for similar outputs."""


def default_color(index: int) -> Color:
    """The colour of a class id in the Pascal VOC palette: distinct for every id below 256."""
    red = green = blue = 0
    for shift in range(7, -1, -1):
        red |= (index & 1) << shift
        green |= (index >> 1 & 1) << shift
        blue |= (index >> 2 & 1) << shift
        index >>= 3
    return red, green, blue


def comparable(name: str) -> str:
    """A name without case, spaces and punctuation, which is where checkpoints of one data set differ.

    >>> comparable("dining table"), comparable("diningtable"), comparable("TV/monitor ")
    ('diningtable', 'diningtable', 'tvmonitor')
    """
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def most_alike(name: str, known: Sequence[str]) -> str | None:
    """The one of the ``known`` names that is most like ``name``; None where none is like it.

    >>> most_alike("side walk", ["road", "sidewalk"]), most_alike("giraffe", ["road", "sidewalk"])
    ('sidewalk', None)
    """
    by_spelling = {comparable(candidate): candidate for candidate in known}
    found = difflib.get_close_matches(comparable(name), by_spelling, n=1, cutoff=LIKENESS)
    return by_spelling[found[0]] if found else None


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
        if len(self.names) > MOST_CLASSES:
            raise ValueError(
                f"expected at most {MOST_CLASSES} classes, as label images have 16 bits, but got {len(self.names)}"
            )
        repeated = sorted(name for name, count in Counter(self.names).items() if count > 1)
        if repeated:
            raise ValueError(f"expected every class once, but got {quoted(repeated)} more than once")
        count, colors, lists = len(self.names), len(self.colors), len(self.members)
        if not count == colors == lists:
            raise ValueError(f"expected colours and member lists of {count} classes, but got {colors} and {lists}")
        seen: dict[str, str] = {}
        for name, members in zip(self.names, self.members, strict=True):
            for member in members:
                if seen.setdefault(member, name) != name:
                    both = f"{quoted(seen[member])} and {quoted(name)}"
                    raise ValueError(f"expected {quoted(member)} in one class, but got it in {both}")

    def __len__(self) -> int:
        return len(self.names)

    @property
    def unlabelled(self) -> int:
        """The id of pixels without a class: 255, or 65535 where there are too many classes for 8 bits."""
        return UNLABELLED if len(self) <= UNLABELLED else MOST_CLASSES

    @classmethod
    def of_names(cls, names: Sequence[str]) -> ClassList:
        """Classes from their names alone, coloured by the VOC palette (id 0 black only where it is a background)."""
        offset = 0 if names and names[0].lower() in ("background", "unlabelled", "void") else 1
        colors = tuple(default_color(index + offset) for index in range(len(names)))
        return cls(tuple(names), colors, tuple((name,) for name in names))

    @classmethod
    def of_outputs(cls, names: Sequence[str]) -> ClassList:
        """Classes of a model's outputs: the packaged list of comparable names, colours too, else :meth:`of_names`."""
        spelling = [comparable(name) for name in names]
        for known in packaged_names():
            packaged = cls.packaged(known)
            if [comparable(name) for name in packaged.names] == spelling:
                return packaged
        return cls.of_names(names)

    @classmethod
    def from_yaml_value(cls, value: Any, origin: str = "the class list") -> ClassList:
        """A list of names, of ``{name, color, members}`` mappings, of ``{name: [members]}`` mappings, or one such dict.

        Args:
            value: Of YAML or JSON, see :func:`read_yaml`. Numbers may also be texts.
            origin: Where it comes from, for the message.

        Raises:
            ValueError: anything else.
        """
        if isinstance(value, Mapping) and "classes" in value:
            value = value["classes"]
        if isinstance(value, Mapping):
            value = [{"name": name, "members": members} for name, members in value.items()]
        if not isinstance(value, list) or not value:
            raise ValueError(f"expected a list of classes in {origin}, but got {quoted(value)}")
        return cls(*zip(*(_entry(entry, index, origin) for index, entry in enumerate(value)), strict=True))

    @classmethod
    def packaged(cls, name: str) -> ClassList:
        """One of the lists that the package ships.

        Raises:
            ValueError: there is no such list; the message names those there are.
        """
        known = packaged_names()
        if name not in known:
            raise ValueError(f"expected one of the packaged class lists {known}, but got {quoted(name)}")
        file = resources.files("ditta_core") / "class_lists" / f"{name}.yaml"
        return cls.from_yaml_value(read_yaml(file.read_text(encoding="utf-8"), name), name)

    @classmethod
    def parse(cls, text: str) -> ClassList:
        """A packaged list by name, a YAML file by path, or YAML text: ``[road, person]``, ``{free: [road, grass]}``.

        Raises:
            ValueError: none of the three; the message says what was tried.
        """
        text = text.strip()
        if text.endswith((".yaml", ".yml")):
            path = Path(os.path.expanduser(text))  # noqa: PTH111 (Path.expanduser raises where there is no such user)
            if not path.is_file():
                raise ValueError(f"expected a class list file, but {path} does not exist")
            text, origin = text_of(path), str(path)
        else:
            origin = "the parameter classes"
        value = read_yaml(text, origin)
        if isinstance(value, str):
            return cls.packaged(value)
        return cls.from_yaml_value(value, origin)

    def colorize(self, class_ids: NDArray[Any]) -> NDArray[np.uint8]:
        """Class ids [H, W] -> RGB uint8 [H, W, 3]; unlabelled pixels are black."""
        palette = np.zeros((int(np.iinfo(class_ids.dtype).max) + 1, 3), np.uint8)
        palette[: len(self)] = self.colors
        return np.take(palette, class_ids, axis=0)  # a quarter of the time of indexing

    def overlay(self, image: NDArray[np.uint8], class_ids: NDArray[Any], opacity: float = 0.65) -> NDArray[np.uint8]:
        """The class colours over an RGB image uint8 [H, W, 3]; unlabelled pixels show the image alone.

        Args:
            class_ids: uint8 or uint16 [H, W].
            opacity: Share of the colour in 0..1.
        """
        import cv2  # whoever has an image has it; names and colours do without

        mixed = np.asarray(cv2.addWeighted(image, 1 - opacity, self.colorize(class_ids), opacity, 0), np.uint8)
        unlabelled = class_ids == np.iinfo(class_ids.dtype).max
        mixed[unlabelled] = image[unlabelled]
        return mixed


def packaged_names() -> list[str]:
    """The names of the class lists that the package ships."""
    folder = resources.files("ditta_core") / "class_lists"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def read_yaml(text: str, origin: str) -> Any:
    """YAML as lists, mappings and texts: every scalar as it is written, since ``no``, ``on`` and ``010`` are names.

    Raises:
        ValueError: it is no YAML, or a mapping has a key twice; names the ``origin``.
    """
    try:
        return yaml.load(text, Loader=_AsWritten)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"expected YAML in {origin}, but got {quoted(text)}: {str(error)[:500]}") from error


class _AsWritten(yaml.BaseLoader):
    """The loader of PyYAML that leaves scalars alone, and takes no second value of a key for the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        mapping = super().construct_mapping(node, deep)
        if len(mapping) < len(node.value):
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            repeated = [key for key, count in Counter(keys).items() if count > 1]
            raise yaml.constructor.ConstructorError(None, None, f"{quoted(repeated)} more than once", node.start_mark)
        return mapping


def _entry(entry: Any, index: int, origin: str) -> tuple[str, Color, tuple[str, ...]]:
    """Name, colour and members of the class ``index``; a ValueError where the entry of a list is no class."""
    if isinstance(entry, str):
        entry = {"name": entry}
    elif isinstance(entry, Mapping) and "name" not in entry and len(entry) == 1:
        ((name, its_members),) = entry.items()
        entry = {"name": name, "members": its_members}
    if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str) or not entry["name"]:
        raise ValueError(f"expected a class name or a mapping with one in {origin}, but got {quoted(entry)}")
    name = entry["name"]
    if set(entry) - {"name", "id", "color", "members"} or _number(entry.get("id", index)) != index:
        raise ValueError(
            f"expected the keys name, id (its position, {index}), color, members in {origin}, but got "
            f"{quoted(dict(entry))}"
        )
    color = entry.get("color") or default_color(index + 1)
    parts = [_number(part) for part in color] if isinstance(color, (list, tuple)) and len(color) == 3 else []
    if not parts or not all(0 <= part <= 255 for part in parts):
        raise ValueError(f"expected a colour [r, g, b] of 0..255 for {quoted(name)}, but got {quoted(color)}")
    members = entry.get("members") or [name]
    if isinstance(members, str):
        members = [members]
    if not isinstance(members, list) or not all(isinstance(member, str) for member in members):
        raise ValueError(
            f"expected a name or a list of names as members of {quoted(name)} in {origin}, but got {quoted(members)}"
        )
    return name, (parts[0], parts[1], parts[2]), tuple(members)


def _number(value: Any) -> int:
    """A whole number of YAML or JSON; -1 for anything else."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else -1


@dataclass(frozen=True)
class ClassMap:
    """How the outputs of a model (``source``) become the published ``classes``.

    Attributes:
        source: the outputs of the model.
        classes: what is published.
        assignment: for each output the published class id, or ``classes.unlabelled`` for those in none.
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
        """Assign every output to the class that has its name as a member, else to that of a :func:`comparable` name.

        Raises:
            ValueError: a class has no output of the model as a member, so that it can never appear; the message
                suggests similar names.
        """
        owner = {member: index for index, members in enumerate(classes.members) for member in members}
        alike: dict[str, set[int]] = {}
        for member, index in owner.items():
            alike.setdefault(comparable(member), set()).add(index)

        def owner_of(name: str) -> int:
            if name in owner:
                return owner[name]
            candidates = alike.get(comparable(name), set())
            return next(iter(candidates)) if len(candidates) == 1 else classes.unlabelled

        assignment = tuple(owner_of(name) for name in source.names)
        empty = sorted(set(range(len(classes))).difference(assignment))
        if empty:
            similar = {
                member: output
                for index in empty[:MOST_SUGGESTIONS]
                for member in classes.members[index][:MOST_SUGGESTIONS]
                if (output := most_alike(member, source.names)) is not None
            }
            pairs = [f"; for {quoted(member)} perhaps {quoted(output)}" for member, output in similar.items()]
            suggestion = "".join(pairs[:MOST_SUGGESTIONS])
            raise ValueError(
                f"expected classes made of the model's {len(source)} outputs {quoted(source.names)}, but got "
                f"{quoted([classes.names[index] for index in empty])}, of which the model knows no member{suggestion}; "
                f"correct the names or remove these classes"
            )
        return cls(source, classes, assignment)

    @property
    def unused_outputs(self) -> tuple[str, ...]:
        """The outputs that belong to no class: what is published as unlabelled."""
        owners = zip(self.source.names, self.assignment, strict=True)
        return tuple(name for name, owner in owners if owner == self.classes.unlabelled)

    def likely_misspelt(self) -> dict[str, str]:
        """Members of classes that are no outputs, but like an output that belongs to no class: by member that output.

        Members that the model does not know are not wrong in themselves, since a list may serve several models.
        """
        known = {comparable(name) for name in self.source.names}
        members = [member for members in self.classes.members for member in members if comparable(member) not in known]
        unused = self.unused_outputs
        similar = {member: most_alike(member, unused) for member in members[:MOST_CHECKED]} if unused else {}
        return {member: output for member, output in similar.items() if output is not None}

    @property
    def is_identity(self) -> bool:
        return self.assignment == tuple(range(len(self.classes)))

    @property
    def channels(self) -> int:
        """Channels of the merged logits: one per class, and one more if some outputs belong to no class."""
        return len(self.classes) + int(self.classes.unlabelled in self.assignment)

    @property
    def output_channels(self) -> tuple[int, ...]:
        """Channel of the merged logits that each output of the model counts for."""
        return tuple(min(owner, len(self.classes)) for owner in self.assignment)

    def merge_logits(self, logits: Tensor) -> Tensor:
        """Logits [N, len(source), h, w] -> [N, channels, h, w] by log-sum-exp over the members of each class."""
        if self.is_identity:
            return logits
        import torch  # whoever has logits has it; whoever only wants names need not wait 1.4 s for it

        members: dict[int, list[int]] = {}
        for index, owner in sorted(enumerate(self.assignment), key=lambda pair: pair[1]):  # unlabelled has the last id
            members.setdefault(owner, []).append(index)
        merged = [
            logits[:, outputs[0]] if len(outputs) == 1 else torch.logsumexp(logits[:, outputs], 1)
            for outputs in members.values()
        ]
        return torch.stack(merged, 1)

    def label_image(self, channel_ids: NDArray[Any]) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """Winning channel [H, W] -> class ids uint8 (uint16 above 255 classes), the rest channel as unlabelled."""
        unlabelled = self.classes.unlabelled
        ids = channel_ids.astype(np.uint8 if unlabelled == UNLABELLED else np.uint16)
        if self.channels > len(self.classes):
            ids[channel_ids == len(self.classes)] = unlabelled
        return ids


def translate_labels(labels: ClassList, published: ClassList) -> NDArray[np.uint8]:
    """For each label 0..255 the published class id, or unlabelled.

    Raises:
        ValueError: a published class is none of the labels'.
    """
    lookup = np.full(256, UNLABELLED, np.uint8)
    lookup[: len(labels)] = ClassMap.between(labels, published).assignment
    return lookup
