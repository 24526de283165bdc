"""What README.md, CONTRIBUTING.md and docs/ print can be typed, and every link in them and in the code resolves.

Commands are taken from blocks of ``bash`` and from inline code. The Python example is run. Of the others, ``ditta`` is
parsed by the real parser, ``make`` and ``ros2`` are compared with the Makefile and the launch files.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path
from unittest.mock import MagicMock

import cv2
import numpy as np
import pytest

from ditta_ros.cli.main import parser
from ditta_ros.messages.state import StreamState

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LINKING = [*PAGES, ROOT / "ditta_core/weights/MODEL_CARD.md", *sorted((ROOT / "benchmarks/results").glob("*.md"))]
CODE_FOLDERS = ("ditta_core", "ditta_ros", "launch", "config", "test", "benchmarks", "tools")

FENCE = re.compile(r"^[ ]*```(\w*)\n(.*?)^[ ]*```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
NAMED_PAGE = re.compile(r"docs/[\w-]+\.md(?:#[\w-]+)?")


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> list[str]:
    return [text for name, text in FENCE.findall(text_of(page)) if name == language]


def inline(page: Path) -> list[str]:
    """Inline code, with a line break as a space."""
    return [" ".join(code.split()) for code in INLINE.findall(FENCE.sub("", text_of(page)))]


def words_of(command: str) -> Iterator[list[str]]:
    """The words of a line of shell, each of the commands in it."""
    words: list[str] = []
    for word in [*shlex.split(command, comments=True), "&&"]:
        if word != "&&":
            words.append(word)
        elif words:
            yield words
            words = []


def commands(program: str) -> list[tuple[str, list[str], bool]]:
    """Where a program is called: the page, the words after its name, and whether in a block (else in a sentence)."""
    found = []
    for page in PAGES:
        lines = [(line, True) for text in blocks(page, "bash") for line in text.replace("\\\n", " ").splitlines()]
        lines += [(code, False) for code in inline(page) if code.startswith(f"{program} ")]
        for line, in_block in lines:
            found += [(page.name, words[1:], in_block) for words in words_of(line) if words[0] == program]
    assert found, f"expected {program} on one of the pages"
    return found


def shown(found: tuple[str, list[str], bool]) -> str:
    return f"{found[0]}: {' '.join(found[1])}"


# --- Python ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(320)
def test_the_python_of_the_readme_runs(tmp_path: Path) -> None:
    (program,) = blocks(README, "python")
    frames, width, height = 12, 160, 120
    writer = cv2.VideoWriter(str(tmp_path / "drive.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (width, height))
    assert writer.isOpened()
    street = np.random.default_rng(0).integers(0, 256, (height // 8, width // 4, 3), np.uint8)
    street = cv2.resize(street, (2 * width, height), interpolation=cv2.INTER_CUBIC)
    for index in range(frames):
        writer.write(np.ascontiguousarray(street[:, 4 * index : 4 * index + width]))
    writer.release()
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    # One thread: several that wait for each other by spinning take ten times as long where the cores are busy.
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    assert len(lines) == frames
    for line in lines:
        assert re.fullmatch(rf"(BASE|COLLECTING|ADAPTING|ADAPTED|FAILED) \d+ \({height}, {width}\)", line), line


def test_the_python_of_the_readme_is_short() -> None:
    (program,) = blocks(README, "python")
    assert len([line for line in program.splitlines() if line.strip()]) <= 6


# --- ditta ----------------------------------------------------------------------------------------------------------


def names_a_command(words: list[str]) -> bool:
    """Whether these words, without arguments, lead to a command, such as ``bag make``."""
    current: argparse.ArgumentParser = parser()
    for word in words:
        choices = next(
            (action.choices for action in current._actions if isinstance(action, argparse._SubParsersAction)), None
        )
        if choices is None or word not in choices:
            return False
        current = choices[word]
    return True


@pytest.mark.parametrize("found", commands("ditta"), ids=shown)
def test_the_command_ditta_takes_these_arguments(
    found: tuple[str, list[str], bool], capsys: pytest.CaptureFixture[str]
) -> None:
    _, words, in_block = found
    if not in_block and names_a_command(words):
        return
    if words == ["--help"]:
        return
    try:
        _, rest = parser().parse_known_args(words)
    except SystemExit:
        pytest.fail(capsys.readouterr().err)
    assert not rest or words[0] == "node"


# --- make -----------------------------------------------------------------------------------------------------------


@cache
def targets() -> set[str]:
    return set(re.findall(r"^([a-z0-9-]+):", text_of(ROOT / "Makefile"), re.MULTILINE))


@pytest.mark.parametrize("found", commands("make"), ids=shown)
def test_make_has_these_targets(found: tuple[str, list[str], bool], capsys: pytest.CaptureFixture[str]) -> None:
    target, *settings = found[1]
    assert target in targets()
    for name, value in (setting.split("=", 1) for setting in settings):
        assert re.search(rf"^{name} \?=|\$\({name}\)", text_of(ROOT / "Makefile"), re.MULTILINE), name
        if (target, name) == ("demo", "ARGS"):
            try:
                parser().parse_args(["demo", *shlex.split(value)])
            except SystemExit:
                pytest.fail(capsys.readouterr().err)


def test_the_readme_names_both_sets_of_tests() -> None:
    assert {"test", "test-all"} <= set(re.findall(r"make ([a-z0-9-]+)", text_of(README)))
    assert "make test-all" in text_of(ROOT / ".ci" / "run")


# --- ros2 and pip ---------------------------------------------------------------------------------------------------


def launch_arguments(file: Path, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The arguments that a launch file declares. ``launch`` and ``launch_ros`` are not on PyPI: stand-ins note them."""
    imported = {
        node.module or "" for node in ast.walk(ast.parse(text_of(file))) if isinstance(node, ast.ImportFrom)
    } | {"launch", "launch_ros"}
    for module in (module for module in imported if module.partition(".")[0] in ("launch", "launch_ros")):
        monkeypatch.setitem(sys.modules, module, MagicMock(name=module))
    spec = importlib.util.spec_from_file_location(file.name.partition(".")[0] + "_launch_file", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.generate_launch_description()
    declare = sys.modules["launch.actions"].DeclareLaunchArgument
    return {call.args[0] for call in declare.call_args_list}


@pytest.mark.parametrize(
    "found", [each for each in commands("ros2") if each[1][:2] == ["launch", "ditta_ros"]], ids=shown
)
def test_launch_files_have_these_arguments(found: tuple[str, list[str], bool], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rclpy")
    file, *arguments = found[1][2:]
    given = {name for name, separator, _ in (each.partition(":=") for each in arguments) if separator}
    assert given <= launch_arguments(ROOT / "launch" / file, monkeypatch)
    assert {each for each in arguments if ":=" not in each} <= {"--show-args"}


ROS2_COMMANDS = ("bag", "launch", "lifecycle", "node", "param", "pkg", "run", "security", "service", "topic")


def test_ros2_runs_what_is_installed() -> None:
    for page, words, _ in commands("ros2"):
        assert words[0] in ROS2_COMMANDS, page
        if words[:2] == ["run", "ditta_ros"]:
            assert (ROOT / "scripts" / words[2]).is_file()


def test_python_finds_these_files() -> None:
    for page, words, _ in commands("python"):
        assert (ROOT / words[0]).is_file(), page


def test_pip_finds_these_extras() -> None:
    extras = {
        name.value
        for node in ast.walk(ast.parse(text_of(ROOT / "setup.py")))
        if isinstance(node, ast.keyword) and node.arg == "extras_require" and isinstance(node.value, ast.Dict)
        for name in node.value.keys
        if isinstance(name, ast.Constant)
    }
    assert "evaluate" in extras
    for page, words, _ in commands("pip"):
        for asked in re.findall(r"\.\[([\w,-]+)\]", " ".join(words)):
            assert set(asked.split(",")) <= extras, page


# --- parameters -----------------------------------------------------------------------------------------------------


def test_parameters_are_those_of_the_node() -> None:
    pytest.importorskip("rclpy")
    from ditta_ros.parameters import PARAMETERS

    defaults = {spec.name: spec.default for spec in PARAMETERS}
    table = re.findall(r"^\| `(\w+)` \| (`?)([^|`]*)`? \| ", text_of(README), re.MULTILINE)
    assert len(table) == 6
    for name, quoted, default in table:
        assert not quoted or default == defaults[name], name
    settings = [re.match(r"(\w+): \S", code) for page in PAGES for code in inline(page)]
    others = {"could", "bond_timeout"}  # could not configure: …; a parameter of Nav2
    assert {match.group(1) for match in settings if match} <= {*defaults, *others}


# --- figures --------------------------------------------------------------------------------------------------------


@cache
def study() -> dict[tuple[str, str, str], dict[str, str]]:
    """mIoU and VC8 by model, length of the warm-up and method; of each condition, without the spread."""
    found = {}
    sections = re.findall(
        r"^## (\w+), (\d+ %) warm-up\n\n(\|.*?)\n\n", text_of(ROOT / "benchmarks/results/study.md"), re.M | re.DOTALL
    )
    for model, length, table in sections:
        head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
        for method, *cells in rows:
            scores = (re.sub(r" ± [\d.]+", "", cell) for cell in cells)
            found[model, length, method.strip("`")] = dict(zip(head[1:], scores, strict=True))
    return found


def table_rows(page: Path, start: str) -> list[list[str]]:
    """Cells of the rows whose first cell begins so, without bold type."""
    lines = (line.replace("**", "") for line in text_of(page).splitlines() if line.startswith(f"| {start}"))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_results_of_the_readme_are_those_of_the_study() -> None:
    methods = {"frame by frame": "source", "DiTTA as published": "ditta_parity", "DiTTA here": "ditta"}
    conditions = ("clean", "fog:3", "low_light:3", "noise:3", "motion_blur:3")
    rows = [*table_rows(README, "Cityscapes, "), *table_rows(README, "`camvid`, ")]
    assert len(rows) == 6
    for label, *cells in rows:
        model, method = label.split(", ")
        scores = study()["city" if model == "Cityscapes" else "camvid", "10 %", methods[method]]
        assert cells == [scores[condition] for condition in conditions], label


def test_the_results_of_the_rivals_are_those_that_were_measured() -> None:
    measured = json.loads((ROOT / "benchmarks/results/evaluation_camvid.json").read_text(encoding="utf-8"))["results"]
    others = {
        (each["method"], f"{each['warmup_ratio']} %"): f"{each['miou']:.1f} / {each['vc8']:.1f}" for each in measured
    }
    page = text_of(ROOT / "docs/evaluation.md")
    rows = re.findall(r"^\| `(\w+)` \|((?: [\d.]+ \|){6})$", page.replace("**", ""), re.MULTILINE)
    assert len(rows) == 11
    for method, cells in rows:
        pairs = re.findall(r"([\d.]+) \| ([\d.]+)", cells)
        for length, pair in zip(("10 %", "25 %", "50 %"), pairs, strict=True):
            scores = study().get(("city", length, method), {}).get("clean") or others[method, length]
            assert " / ".join(pair) == scores, (method, length)


def test_what_learning_from_drives_gives_is_what_was_measured() -> None:
    measured = {
        line
        for name in ("live_study", "domain_study", "along_time_study")
        for line in text_of(ROOT / f"benchmarks/results/{name}.md").splitlines()
    }
    section = text_of(ROOT / "docs/adapt.md").split("\n## What it gives\n")[1].split("\n## ")[0].replace("**", "")
    rows = [line for line in section.splitlines() if line.startswith("|")]
    assert len(rows) > 10
    assert [row for row in rows if row not in measured] == []


def test_the_results_with_labelled_data_are_those_of_the_study() -> None:
    page = text_of(ROOT / "docs/adapt.md")
    tables = text_of(ROOT / "benchmarks/results/source_study.md").strip().split("\n\n")
    assert len(tables) == 2, "weather, and pans"
    for table in tables:
        assert table in page


def test_the_page_of_the_evaluation_names_all_methods() -> None:
    from ditta_core.evaluation.methods.registry import METHODS

    section = text_of(ROOT / "docs/evaluation.md").partition("## Methods")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.*?`) \| ", section, re.MULTILINE)
    assert {name for row in rows for name in INLINE.findall(row)} == set(METHODS)


# --- links ----------------------------------------------------------------------------------------------------------


@cache
def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text_of(page)), re.MULTILINE)
    slugs = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
    seen: Counter[str] = Counter()
    found = set()
    for slug in slugs:
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found


def broken(target: str, base: Path, page: Path | None = None) -> str:
    """Why a link leads nowhere; empty where it leads somewhere."""
    path, _, anchor = target.partition("#")
    file = (base / path).resolve() if path else page
    assert file is not None
    if not file.exists():
        return f"{target}: there is no {path}"
    if anchor and anchor not in anchors(file):
        return f"{target}: {file.name} has no such heading, but {sorted(anchors(file))}"
    return ""


@pytest.mark.parametrize("page", LINKING, ids=lambda page: page.name)
def test_links_of_pages_resolve(page: Path) -> None:
    targets = [target for target in LINK.findall(text_of(page)) if not re.match(r"\w+:", target)]
    wrong = [each for each in (broken(target, page.parent, page) for target in targets) if each]
    assert not wrong, "\n".join(wrong)


def test_pages_named_in_code_are_there() -> None:
    files = [
        ROOT / name for name in ("Makefile", "setup.py", "pyproject.toml", "package.xml", "CHANGELOG.rst", ".ci/run")
    ]
    files += [
        path
        for folder in CODE_FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".yaml", ".xml", ".j2", ".md")
    ]
    wrong = []
    for path in files:
        for target in NAMED_PAGE.findall(text_of(path)):
            problem = broken(target, ROOT)
            if problem:
                wrong.append(f"{path.relative_to(ROOT)}: {problem}")
    assert not wrong, "\n".join(wrong)


def test_every_page_is_linked_from_the_readme() -> None:
    linked = {target.partition("#")[0] for target in LINK.findall(text_of(README))}
    assert {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")} <= linked


def test_every_key_of_the_state_is_explained() -> None:
    _, section = text_of(ROOT / "docs/robot.md").split("### Keys of the state\n")
    rows = [line.split("|")[1] for line in section.split("\n## ")[0].splitlines() if line.startswith("| `")]
    explained = [name for row in rows for name in INLINE.findall(row)]
    assert sorted(explained) == sorted(field.name for field in fields(StreamState))
