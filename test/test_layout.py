"""The laws of the layout, held by reading the imports: which room may import which, and how large a thing may become.

The laws and their reasons are in CONTRIBUTING.md. Nothing is imported here: the files are parsed.
"""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("ditta_core", "ditta_ros")
PREFIXES = tuple(f"{package}." for package in PACKAGES)

LOOSE = "loose files"
"""The room of the files that lie in no folder of ditta_core."""
CORE_ROOMS = (
    "report",
    "evaluation",
    "stream",
    "domain",
    "adaptation",
    "catalog",
    "inference",
    "teacher",
    "segmentation",
    "datasets",
    LOOSE,
)
"""From top to bottom: a room imports only from rooms below it, and from itself."""
ROS_ROOMS = (
    "cli",
    "doctor",
    "demo",
    "evaluation",
    "node",
    "adaptation",
    "camera",
    "replay",
    "bags",
    "messages",
    "parameters",
    "process",
)
"""The same of ditta_ros; node and parameters are files."""

PIXEL_LIBRARIES = ("cv2", "torch", "torchvision", "safetensors.torch")
PIXEL_FILES = {
    "ditta_ros/adaptation/worker.py": "sets the number of threads of the worker process",
    "ditta_ros/bags/writer.py": "compresses the images of a bag as JPEG or PNG",
    "ditta_ros/messages/images.py": "converts the encodings of images, which is what a message conversion is",
    "ditta_ros/node.py": "sets the number of threads of the node",
    "ditta_ros/replay/recording.py": "keeps masks as PNG files",
}
"""Files of ditta_ros that may import these, and what for; none of it is mathematics on pixels."""

MOST_LINES = 450
MOST_PUBLIC_METHODS = 25
MOST_LOOSE = {"ditta_core": 6, "ditta_ros": 3}
MOST_LINES_OF_README = 150


@dataclass(frozen=True)
class Import:
    """One imported module.

    Attributes:
        importer: Dotted name of the module that imports.
        target: Dotted name of the imported module.
        line: Line of the import.
        at_import: Whether importing the importer runs it: not inside a function, not under ``TYPE_CHECKING``.
    """

    importer: str
    target: str
    line: int
    at_import: bool

    def __str__(self) -> str:
        return f"{path_of(self.importer).relative_to(ROOT)}:{self.line} imports {self.target}"


# --- what there is --------------------------------------------------------------------------------------------------


@cache
def modules() -> dict[str, Path]:
    """The files of both packages by dotted name; a package goes by its folder's name."""
    found = {}
    for path in sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def path_of(module: str) -> Path:
    return modules()[module]


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@cache
def imports_of(module: str) -> tuple[Import, ...]:
    """Everything that a module imports, wherever in its text."""
    return tuple(_imports(module, tree_of(path_of(module)), at_import=True))


def _imports(module: str, node: ast.AST, at_import: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(module, alias.name, child.lineno, at_import)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"{path_of(module)}:{child.lineno}: expected absolute imports"
            assert child.module is not None
            for alias in child.names:
                submodule = f"{child.module}.{alias.name}"
                yield Import(module, submodule if submodule in modules() else child.module, child.lineno, at_import)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for part, counts in ((child.body, False), (child.orelse, at_import)):
                yield from _imports(module, ast.Module(part, []), counts)
        else:
            function = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            yield from _imports(module, child, at_import and not function)


def room_of(module: str) -> str:
    """The folder that a module lies in, or the module itself where it is a loose file."""
    package, *rest = module.split(".")
    if package == "ditta_core":
        return rest[0] if rest and (ROOT / package / rest[0]).is_dir() else LOOSE
    return rest[0] if rest else package


def in_room(package: str, *rooms: str) -> list[str]:
    found = [name for name in modules() if name.startswith(f"{package}.") and room_of(name) in rooms]
    assert found, f"expected the rooms {rooms} in {package}"
    return found


def upward_imports(package: str, rooms: tuple[str, ...]) -> list[str]:
    """The imports that go to a room above; those of the package itself, whose names come from everywhere, too."""
    wrong = []
    for name in modules():
        if not name.startswith(f"{package}."):
            continue
        for each in imports_of(name):
            if each.target == package:
                wrong.append(f"{each}, the package itself: import the module that has the name")
            elif each.target.startswith(PREFIXES) and each.target not in modules():
                wrong.append(f"{each}, which does not exist")
            elif each.target.startswith(f"{package}."):
                here, there = room_of(name), room_of(each.target)
                if rooms.index(there) < rooms.index(here):
                    wrong.append(f"{each}, but {here} lies below {there}")
    return wrong


def reached_at_import(module: str) -> dict[str, list[Import]]:
    """Every module that is loaded with one, and the way of imports to it. Packages on the way are loaded, too."""
    reached: dict[str, list[Import]] = {module: []}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        way = reached[name]
        if name not in modules():
            continue
        for each in (each for each in imports_of(name) if each.at_import):
            parts = each.target.split(".")
            for target in (".".join(parts[:length]) for length in range(1, len(parts) + 1)):
                if target not in reached:
                    reached[target] = [*way, each]
                    waiting.append(target)
    return reached


def report(violations: list[str]) -> str:
    return "\n".join(["", *dict.fromkeys(violations)])


# --- the laws -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("package", "rooms"), zip(PACKAGES, (CORE_ROOMS, ROS_ROOMS), strict=True), ids=PACKAGES)
def test_every_room_has_its_place(package: str, rooms: tuple[str, ...]) -> None:
    assert {room_of(name) for name in modules() if name.startswith(f"{package}.")} <= set(rooms)


@pytest.mark.parametrize(("package", "rooms"), zip(PACKAGES, (CORE_ROOMS, ROS_ROOMS), strict=True), ids=PACKAGES)
def test_a_room_imports_only_from_rooms_below_it(package: str, rooms: tuple[str, ...]) -> None:
    wrong = upward_imports(package, rooms)
    assert not wrong, report(wrong)


def test_one_frame_knows_no_stream() -> None:
    rooms = in_room("ditta_core", "inference", "evaluation", "report")
    wrong = [str(each) for name in rooms for each in imports_of(name) if each.target.startswith("ditta_core.stream")]
    assert not wrong, report(wrong)


def test_bags_and_replay_need_neither_node_nor_adaptation() -> None:
    above = ("ditta_ros.node", "ditta_ros.camera", "ditta_ros.adaptation", "ditta_core.adaptation", "ditta_core.stream")
    rooms = in_room("ditta_ros", "bags", "replay")
    wrong = [str(each) for name in rooms for each in imports_of(name) if each.target.startswith(above)]
    assert not wrong, report(wrong)


def test_core_imports_no_ros() -> None:
    manifest = ElementTree.parse(ROOT / "package.xml")
    depends = {depend.text or "" for depend in manifest.iter("exec_depend")}
    ros = {"ditta_ros", *(name for name in depends if not name.startswith("python3-"))}
    assert "rclpy" in ros
    names = [name for name in modules() if name.startswith("ditta_core")]
    wrong = [str(each) for name in names for each in imports_of(name) if each.target.partition(".")[0] in ros]
    assert not wrong, report(wrong)


def settings_modules() -> list[str]:
    """Everything that is numbers and strings only, and the commands, which are to answer at once."""
    configs = [name for name in modules() if name.rpartition(".")[2] == "config"]
    assert len(configs) >= 5
    return [*configs, "ditta_core", "ditta_core.segmentation.source", "ditta_ros.parameters", "ditta_ros.cli.main"]


@pytest.mark.parametrize("module", settings_modules())
def test_settings_need_no_torch(module: str) -> None:
    reached = reached_at_import(module)
    wrong = [" → ".join(map(str, reached[name])) for name in PIXEL_LIBRARIES if name in reached]
    assert not wrong, report(wrong)


def test_the_node_does_no_mathematics_on_pixels() -> None:
    importing = {
        path_of(name).relative_to(ROOT).as_posix()
        for name in modules()
        if name.startswith("ditta_ros")
        for each in imports_of(name)
        if each.target.startswith(PIXEL_LIBRARIES)
    }
    assert importing <= set(PIXEL_FILES), "each of them needs a reason in PIXEL_FILES, or belongs into ditta_core"
    assert set(PIXEL_FILES) <= importing, "no longer needed in PIXEL_FILES"


def test_imports_make_no_circles() -> None:
    graph = {name: [each for each in imports_of(name) if each.at_import] for name in modules()}
    circles = []
    finished: set[str] = set()

    def walk(name: str, way: list[Import]) -> None:
        for each in graph[name]:
            if each.target == name or each.target not in graph:
                continue
            begun = [step.importer for step in way] + [name]
            if each.target in begun:
                circles.append(" → ".join(map(str, [*way, each][begun.index(each.target) :])))
            elif each.target not in finished:
                walk(each.target, [*way, each])
        finished.add(name)

    for name in graph:
        if name not in finished:
            walk(name, [])
    assert not circles, report(circles)


# --- the sizes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("package", PACKAGES)
def test_few_files_lie_loose(package: str) -> None:
    loose = sorted(path.name for path in (ROOT / package).glob("*.py"))
    assert len(loose) <= MOST_LOOSE[package], loose


FLAT = ("launch", "tools", "benchmarks", "test")
"""Folders beside the packages."""


def test_a_file_is_one_concept() -> None:
    sources = [*modules().values(), *(path for folder in FLAT for path in (ROOT / folder).rglob("*.py"))]
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in sources}
    long = [f"{path.relative_to(ROOT)}: {length} lines" for path, length in lengths.items() if length > MOST_LINES]
    assert not long, report(long)


def test_a_class_has_few_public_methods() -> None:
    large = []
    for path in modules().values():
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ClassDef):
                names = {each.name for each in node.body if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef))}
                public = [name for name in names if not name.startswith("_")]
                if len(public) > MOST_PUBLIC_METHODS:
                    large.append(f"{path.relative_to(ROOT)}: {node.name} has {len(public)} public methods")
    assert not large, report(large)


def test_the_readme_is_short() -> None:
    length = len((ROOT / "README.md").read_text(encoding="utf-8").splitlines())
    assert length <= MOST_LINES_OF_README


def test_test_files_have_names_of_their_own() -> None:
    """pytest imports them by name, one a run."""
    names = [file.name for file in (ROOT / "test").rglob("*.py") if file.name != "conftest.py"]
    assert sorted(names) == sorted(set(names))


def test_no_wheel_is_tracked() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a checkout of git")
    assert not [name for name in listed.stdout.splitlines() if name.endswith(".whl")]
