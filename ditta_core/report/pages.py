"""HTML pages from the packaged templates: single files that need nothing else, not even a network."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from ditta_core.classes import ClassList


def render(template: str, **values: Any) -> str:
    """Fill in a packaged template; all text is escaped, and what UTF-8 does not have is a question mark."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ditta_core.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(template).render(values)
    return page.encode("utf-8", "replace").decode("utf-8")  # the name of a file may be any bytes


@contextlib.contextmanager
def files_at_once(folder: Path) -> Iterator[Path]:
    """A folder to write files into. They come into ``folder``, which is made, when all are whole; else none does."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".unfinished-") as unfinished:
        yield Path(unfinished)
        for file in sorted(Path(unfinished).iterdir()):
            file.replace(folder / file.name)


@dataclass(frozen=True)
class Swatch:
    """A class beside its colour."""

    name: str
    color: str


def swatches(classes: ClassList) -> list[Swatch]:
    """One per class."""
    return [
        Swatch(name, "#{:02x}{:02x}{:02x}".format(*color))
        for name, color in zip(classes.names, classes.colors, strict=True)
    ]
