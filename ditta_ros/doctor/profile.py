"""What a profile of Fast DDS says about large images."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ditta_ros.doctor.findings import Finding, error, ok, warning
from ditta_ros.process.shared_memory import OLD_PROFILE_VARIABLE, PROFILE_VARIABLE, share_folder

IMAGE_BYTES = 1280 * 720 * 3
"""An rgb8 image of the size that most cameras send."""

DEFAULT_SEGMENT = 512 * 1024
"""Bytes of a shared memory segment of Fast DDS where nothing else is said."""

BUILTIN_VARIABLE = "FASTDDS_BUILTIN_TRANSPORTS"


@dataclass(frozen=True)
class Transports:
    """What a profile gives every participant.

    Attributes:
        kinds: of the transports, such as SHM and UDPv4; LARGE_DATA stands for Fast DDS's own choice for large data.
        segment: bytes of shared memory per participant; 0 without shared memory.
    """

    kinds: tuple[str, ...]
    segment: int

    @property
    def holds_images(self) -> bool:
        """Whether an image goes through shared memory, or in some other way that loses none."""
        return self.segment >= IMAGE_BYTES or "LARGE_DATA" in self.kinds


def read_transports(file: Path) -> Transports:
    """The transports of the default participant.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no XML, or has no default participant.
    """
    try:
        root = ElementTree.fromstring(file.read_bytes())
    except ElementTree.ParseError as problem:
        raise ValueError(f"expected XML in {file}, but {problem}") from problem
    participants = [each for each in named(root, "participant") if each.get("is_default_profile") == "true"]
    if not participants:
        raise ValueError(f'expected a <participant is_default_profile="true"> in {file}, but found none')
    participant = participants[0]
    descriptors = {text(each, "transport_id"): each for each in named(root, "transport_descriptor")}
    used = [(each.text or "").strip() for each in named(participant, "transport_id")]
    chosen = [descriptors[name] for name in used if name in descriptors]
    kinds = tuple(text(each, "type") for each in chosen)
    segments = [int(text(each, "segment_size") or DEFAULT_SEGMENT) for each in chosen if text(each, "type") == "SHM"]
    builtin = text(participant, "builtinTransports")
    if builtin:
        kinds = (*kinds, builtin)
    if text(participant, "useBuiltinTransports") != "false" and not builtin:
        kinds, segments = (*kinds, "built-in"), [*segments, DEFAULT_SEGMENT]
    return Transports(kinds, max(segments, default=0))


def named(element: ElementTree.Element, tag: str) -> Iterator[ElementTree.Element]:
    """All elements below with a tag, in whatever namespace."""
    return (each for each in element.iter() if each.tag.rpartition("}")[2] == tag)


def text(element: ElementTree.Element, tag: str) -> str:
    """The text of the first such element below; empty where there is none."""
    return next(((each.text or "").strip() for each in named(element, tag)), "")


def export_profile(variables: tuple[str, ...]) -> str:
    """The command that chooses the profile of this package."""
    return f"export {variables[0]}={share_folder() / 'config' / 'fastdds.xml'}"


def check_profile(environment: Mapping[str, str], variables: tuple[str, ...]) -> Finding:
    """The profile in an environment.

    Args:
        environment: of the shell from which the camera driver is started.
        variables: that the installed ROS reads.
    """
    name, mend = "Fast DDS profile", f"{export_profile(variables)} before the camera driver is started"
    read = [variable for variable in variables if environment.get(variable)]
    if not read:
        others = [name for name in (PROFILE_VARIABLE, OLD_PROFILE_VARIABLE) if environment.get(name)]
        if others:
            return warning(name, f"{others[0]} is set, but this ROS reads {variables[0]}", mend)
        if environment.get(BUILTIN_VARIABLE, "").startswith("LARGE_DATA"):
            return ok(name, f"none, but {BUILTIN_VARIABLE}={environment[BUILTIN_VARIABLE]}, which suits images")
        return warning(
            name,
            "none: a camera driver started here loses most best-effort images of 640×360 and more on their way (ditta "
            "node and ditta.launch.py set it for themselves, but it is the publisher that needs it)",
            mend,
        )
    file = Path(environment[read[0]])
    try:
        transports = read_transports(file)
    except (OSError, ValueError) as problem:
        return error(name, f"{read[0]} names what Fast DDS cannot read, and ignores: {problem}", mend)
    if transports.holds_images:
        held = f"{transports.segment / 2**20:.0f} MB of shared memory" if transports.segment else "LARGE_DATA"
        return ok(name, f"{file}: {', '.join(transports.kinds)}; {held}")
    lacks = (
        f"a shared memory segment of {transports.segment / 2**20:.1f} MB, smaller than an image of 1280×720 "
        f"({IMAGE_BYTES / 2**20:.1f} MB)"
        if transports.segment
        else "no shared memory"
    )
    return warning(
        name,
        f"{file} has {lacks}, so that most large best-effort images are lost",
        f"give its SHM transport <segment_size>67108864</segment_size>, or {mend}",
    )
